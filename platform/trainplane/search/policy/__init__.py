"""Pure decisions of a search."""
