"""Begins a run at weights or the state of another."""
