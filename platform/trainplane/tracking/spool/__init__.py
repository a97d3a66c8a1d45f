"""Durable queue from a run to MLflow."""
