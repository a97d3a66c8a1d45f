"""Frozen configuration: YAML files, overrides, sections, canonical JSON."""
