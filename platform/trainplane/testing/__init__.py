"""Servers and simulations for tests and benchmarks."""
