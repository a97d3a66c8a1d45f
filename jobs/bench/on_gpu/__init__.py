"""Sections of `isnet bench gpu`, one process each."""
