"""Pictures: finding, decoding and writing them with their metadata."""
