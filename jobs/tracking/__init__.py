"""Recorded runs: their settings, comparisons and curves."""
