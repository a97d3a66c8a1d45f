"""What is seen of a run from outside: messages, metrics for Prometheus, profiles, log lines."""
