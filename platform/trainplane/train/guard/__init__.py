"""Detects bad gradients and decides what to do."""
