"""Opens stores by address; only `ensure_bucket` contacts a server."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from trainplane.errors import UserError
from trainplane.storage.folder import FolderStore
from trainplane.storage.s3.retry import RetryPolicy
from trainplane.storage.s3.store import S3Store
from trainplane.storage.store import Store, checked_key

# The rules S3 gives for names of general-purpose buckets.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def open_store(address: str, *, policy: RetryPolicy | None = None) -> Store:
    """Store at an address; connects lazily.

    Addresses are `s3://bucket/prefix`, `file:///folder`, `/folder` or `relative/folder`. S3's endpoint and
    credentials come from the usual environment variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …).
    """
    if not address.strip():
        raise UserError("the address of a store is empty; give s3://bucket/prefix or a folder")
    # A path has no scheme.
    scheme, separator, _ = address.partition("://")
    if not separator:
        return FolderStore(Path(address).absolute())
    if scheme == "s3":
        bucket, prefix = _bucket_and_prefix(address)
        return S3Store(bucket, prefix, policy or RetryPolicy())
    if scheme == "file":
        parts = urlsplit(address)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise UserError(f"{address!r} names another host or no folder; need file:///folder")
        return FolderStore(Path(unquote(parts.path)))
    raise UserError(f"stores of kind {scheme!r} are unknown; need s3://bucket/prefix or a folder")


def ensure_bucket(address: str) -> None:
    """Creates the bucket or folder of an address, if absent."""
    store = open_store(address)
    if isinstance(store, S3Store):
        store.ensure_bucket()
    elif isinstance(store, FolderStore):
        store.ensure_folder()


def _bucket_and_prefix(address: str) -> tuple[str, str]:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    if "@" in bucket or ":" in bucket:
        # The message does not repeat the address, which likely holds a secret.
        raise UserError(
            "an s3:// address holds a user, a key or a port; need s3://bucket/prefix; "
            "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL in the environment instead"
        )
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise UserError(
            f"{bucket!r} is no bucket's name; need 3 to 63 lower-case letters, digits, '.' or '-', "
            "as in s3://my-bucket/prefix"
        )
    prefix = prefix.strip("/")
    return bucket, checked_key(prefix) if prefix else ""
