"""Trains a run: setup, loop, checkpoints, guard and launch."""
