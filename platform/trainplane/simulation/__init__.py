"""Runs at sizes that are not at hand, from parts that were measured."""
