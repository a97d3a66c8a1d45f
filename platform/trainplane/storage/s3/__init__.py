"""S3 store: requests, retries, reads, uploads."""
