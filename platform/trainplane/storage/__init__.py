"""A few verbs over `s3://` and folders: read a range, write whole, create if absent, list, delete.

    store = open_store("s3://bucket/datasets/places2")      # connects at the first verb, not before
    store.write("manifest.json", data)                      # there whole or not at all
    store.read("shard-000000.tar", start=512, length=4096)

store.py says what every store promises, folder.py and s3.py keep it. Retries live here and only here: retry.py and
meaning.py decide (purely) whether and when, requesting.py acts. Not covered: caching, and what the bytes mean (their
digests are the readers' matter).
"""

from trainplane.storage.address import ensure_bucket, open_store
from trainplane.storage.s3.retry import RetryPolicy
from trainplane.storage.store import Entry, NoBucket, NotFound, StorageError, Store

__all__ = ["Entry", "NoBucket", "NotFound", "RetryPolicy", "StorageError", "Store", "ensure_bucket", "open_store"]
