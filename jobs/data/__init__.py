"""From photos and masks to datasets."""
