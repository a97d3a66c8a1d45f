"""Frozen configuration: YAML files, overrides, sections, canonical JSON."""

from trainplane.config.canonical import canonical_json

__all__ = ["canonical_json"]
