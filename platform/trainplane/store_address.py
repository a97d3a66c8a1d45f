"""Checks addresses of stores, without the libraries that open them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from trainplane.errors import UserError

# The rules S3 gives for names of general-purpose buckets.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# A scheme is known by the slash after it (`gs:/…`), the usual ones also without (`s3:bucket`).
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/|(s3[an]?|gs|https?|file|arn):", re.IGNORECASE)
# Bucket in the host, or first in the path, of Amazon's web addresses.
_AMAZON_HOST = re.compile(r"(?:(?P<bucket>.+)\.)?s3[.-](?:[a-z0-9-]+\.)*amazonaws\.com(?:\.cn)?", re.IGNORECASE)


def full_address(address: str, *, base: Path | None = None) -> str:
    """Checks an address; returns `s3://bucket/prefix`, or a folder's absolute path.

    Takes `s3://bucket/prefix`, `file:///folder`, `/folder`, `~/folder` and `relative/folder`, which is relative to
    `base` (None: the current folder). Anything else is a `UserError`.
    """
    if not address.strip():
        raise UserError("the address of a store is empty; give s3://bucket/prefix or a folder")
    scheme = scheme_of(address.strip())
    # A folder's name may end with a blank, but nobody begins one with it.
    if address != (address.strip() if scheme else address.lstrip().rstrip("\r\n")):
        raise UserError(f"the address {without_user(address)!r} has a blank or a line end around it; take it out")
    if scheme is None:
        return _folder(address, base or Path.cwd())
    if scheme == "file":
        return _folder(_path_of_file_address(address), Path("/"))
    if scheme == "s3" and address.startswith("s3://"):
        return _s3_address(address)
    hint = _likely_meant(address, scheme)
    raise UserError(
        f"{without_user(address)!r} is no address of a store; "
        + (f"write {hint!r}" if hint else "need s3://bucket/prefix or a folder")
        + ("" if scheme.startswith("s3") else "; the server of a bucket is named by AWS_ENDPOINT_URL")
    )


def scheme_of(address: str) -> str | None:
    """Scheme in small letters; None for a path.

    A folder with a colon in its name is a path when it begins with `./` or `/`.
    """
    match = _SCHEME.match(address)
    return (match[1] or match[2]).lower() if match else None


def without_user(address: str) -> str:
    """Address without what may be secret: user, password, query."""
    return re.sub(r"(:/*)[^/@\s]*@", r"\1", address).partition("?")[0]


def _folder(path: str, base: Path) -> str:
    try:
        return str(base.absolute() / Path(path).expanduser())
    except RuntimeError as error:
        raise UserError(f"{path!r}: no home folder is known for that user; give the whole path") from error


def _path_of_file_address(address: str) -> str:
    # file:///folder, file://localhost/folder or file:/folder; no query: '?' and '#' belong to the path.
    rest = address.partition(":")[2].removeprefix("//").removeprefix("localhost")
    if not rest.startswith("/"):
        raise UserError(f"{address!r} names another host or no folder; need file:///folder")
    return unquote(rest)


def _s3_address(address: str) -> str:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    # The next two messages do not repeat the address, which likely holds a secret.
    if "@" in bucket or ":" in bucket:
        raise UserError(
            "an s3:// address holds a user, a key or a port; need s3://bucket/prefix; "
            "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL in the environment instead"
        )
    if "?" in address:
        raise UserError(
            f"{without_user(address)!r} is followed by a query; need s3://bucket/prefix alone: set AWS_ENDPOINT_URL "
            "and AWS_DEFAULT_REGION in the environment, or s3_endpoint and s3_region in a context"
        )
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise UserError(
            f"{bucket!r} is no bucket's name; need 3 to 63 lower-case letters, digits, '.' or '-', "
            "as in s3://my-bucket/prefix"
        )
    # One slash at the end means nothing. Elsewhere an empty part is another place, and a store's keys have none.
    prefix = prefix.removesuffix("/")
    if not prefix and address.count("/") < 4:
        return f"s3://{bucket}"
    if "" in prefix.split("/"):
        likely = "/".join(["s3:/", bucket, *filter(None, prefix.split("/"))])
        raise UserError(
            f"{address!r} has two slashes in a row, and keys with an empty part cannot be read here; "
            f"write {likely!r} if that is the place, or copy the objects to such a prefix"
        )
    return f"s3://{bucket}/{prefix}"


def _likely_meant(address: str, scheme: str) -> str | None:
    """Address as S3 has it, where that is clear."""
    rest = address.partition(":")[2]
    if "@" in rest or "?" in rest:
        return None
    if scheme in ("s3", "s3a", "s3n"):
        return f"s3://{rest.lstrip('/')}"
    if scheme == "arn" and rest.startswith("aws:s3:::"):
        return f"s3://{rest.removeprefix('aws:s3:::')}"
    parts = urlsplit(address)
    if scheme in ("http", "https") and (match := _AMAZON_HOST.fullmatch(parts.netloc)):
        return "s3://" + (match["bucket"] + parts.path if match["bucket"] else parts.path.lstrip("/"))
    return None
