"""Removes what nothing needs any more: `isnet gc`."""
