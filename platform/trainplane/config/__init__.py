"""Frozen configuration: canonical JSON, sections, YAML, overrides."""
