"""Searches over ISNet settings: files, objectives, records."""
