"""MLflow's SQLite database of one machine: made, moved, listed."""
