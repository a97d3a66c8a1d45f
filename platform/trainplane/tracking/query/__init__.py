"""Finds runs by what they measured, and reads their curves."""
