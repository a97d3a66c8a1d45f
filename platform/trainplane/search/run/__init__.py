"""Driver, journal and trials of a running search."""
