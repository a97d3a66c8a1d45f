"""Starts a training on Ray Train, attempt by attempt."""
