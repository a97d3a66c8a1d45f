"""Commands about a shared cluster."""
