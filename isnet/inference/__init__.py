"""Filling holes: predictors, tiles, and the classical methods."""
