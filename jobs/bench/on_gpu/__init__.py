"""Sections of `isnet bench gpu`, each run in a process of its own."""
