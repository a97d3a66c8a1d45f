"""Pictures: finding, decoding, keeping what belongs to a photo, and writing it back."""
