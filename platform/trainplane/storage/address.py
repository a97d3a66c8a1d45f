"""Opens stores by address; only `ensure_bucket` contacts a server."""

from __future__ import annotations

from pathlib import Path

from trainplane.storage.folder import FolderStore
from trainplane.storage.s3.retry import RetryPolicy
from trainplane.storage.store import Store, checked_key
from trainplane.store_address import full_address


def open_store(address: str, *, policy: RetryPolicy | None = None) -> Store:
    """Store at an address; connects lazily.

    S3's endpoint and credentials come from the usual environment variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …).
    """
    address = full_address(address)
    if not address.startswith("s3://"):
        return FolderStore(Path(address))
    # boto3 takes a third of a second, which folders need not pay.
    from trainplane.storage.s3.store import S3Store

    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    return S3Store(bucket, checked_key(prefix) if prefix else "", policy or RetryPolicy())


def ensure_bucket(address: str) -> None:
    """Creates the bucket or folder of an address, if absent."""
    store = open_store(address)
    if isinstance(store, FolderStore):
        store.ensure_folder()
        return
    from trainplane.storage.s3.store import S3Store

    assert isinstance(store, S3Store)
    store.ensure_bucket()
