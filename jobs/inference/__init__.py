"""Filling many pictures at once."""
