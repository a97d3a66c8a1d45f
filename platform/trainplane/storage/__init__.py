"""Object storage over `s3://` and folders.

    store = open_store("s3://bucket/datasets/places2")      # connects at the first operation, not before
    store.write("manifest.json", data)                      # the object is there whole or not at all
    store.read("shard-000000.tar", start=512, length=4096)

`store.py` defines the interface; `folder.py` and `s3/store.py` implement it. Retries exist only in this package:
`s3/retry.py` and `s3/errors.py` decide (without I/O) whether and when, `s3/request.py` executes. Not covered: caching,
and the meaning of the bytes (readers check their digests).
"""

from trainplane.storage.address import ensure_bucket, open_store
from trainplane.storage.host_files import find_object, host_copy
from trainplane.storage.s3.retry import RetryPolicy
from trainplane.storage.store import AccessDenied, Entry, NoBucket, NotFound, StorageError, Store, StoreAway

__all__ = [
    "AccessDenied",
    "Entry",
    "NoBucket",
    "NotFound",
    "RetryPolicy",
    "StorageError",
    "Store",
    "StoreAway",
    "ensure_bucket",
    "find_object",
    "host_copy",
    "open_store",
]
