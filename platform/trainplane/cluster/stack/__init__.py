"""Local stack: its components, one file each, and their processes."""
