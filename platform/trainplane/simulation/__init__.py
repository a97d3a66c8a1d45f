"""Runs on many machines, from measured parts."""
