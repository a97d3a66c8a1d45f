"""Versions of datasets that share the shards of earlier ones."""
