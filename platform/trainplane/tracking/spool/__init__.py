"""The durable queue from a run to MLflow."""
