"""Decisions of a search, as pure functions of its state."""
