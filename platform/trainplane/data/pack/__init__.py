"""From files to shards with a manifest."""
