"""Registering ISNet models and judging them by gates."""
