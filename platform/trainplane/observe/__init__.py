"""Outside view of a run: messages, metrics, profiles, log lines."""
