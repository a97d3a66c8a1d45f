"""Checkpoints: write, read, keep, resume, fence."""
