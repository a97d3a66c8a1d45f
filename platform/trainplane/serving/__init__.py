"""Registered models under traffic.

routing, admission, rollout  which version answers, who waits, how a share grows; pure
live_versions, follow  versions that are open, and what the audit trail says of them
engine, service  what computes answers, and one server's requests
metrics  counters for Prometheus
traces   records of answers and votes, on disk until MLflow has them
mlflow_trace, upload_traces  how MLflow shows them, and what sends them
recorded_traces  reads them back
"""
