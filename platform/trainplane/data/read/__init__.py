"""Verified reads of shards, through a cache."""
