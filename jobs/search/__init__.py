"""Searches over ISNet settings."""
