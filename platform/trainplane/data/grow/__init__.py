"""Datasets that grow: versions that share the shards of earlier ones."""
