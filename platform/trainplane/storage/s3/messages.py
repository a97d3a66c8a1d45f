"""Words the failures of S3 requests, and what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from botocore.exceptions import (
    ConfigNotFound,
    ConfigParseError,
    InvalidConfigError,
    InvalidRegionError,
    NoRegionError,
    ProfileNotFound,
)
from botocore.parsers import ResponseParserError

from trainplane.errors import UserError
from trainplane.storage.s3.errors import SIGN_IN_ERRORS, NotS3, Reaction, error_name, is_outage
from trainplane.storage.store import AccessDenied, NoBucket, NotFound, StorageError, StoreAway

# Variables of one line each. A line end in them is a header that cannot be sent, or an address that is none.
VARIABLES = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
AMAZON = "Amazon S3"


class ConditionFailed(StorageError):
    """A conditional request met the condition that stops it."""


class PastEnd(StorageError):
    """The range begins after the last byte of its object."""


def endpoint_name(url: str | None) -> str:
    """Host and port of an endpoint; None is Amazon's."""
    try:
        parts = urlsplit(url or "")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an unreadable endpoint"
    host = parts.hostname or ""
    if not url or host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return AMAZON
    return f"{host or 'an unreadable endpoint'}{port}"


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuses variables with which no request can be sent.

    It shows no value but an address without a user.
    """
    for name in VARIABLES:
        value = environment.get(name, "")
        if value != value.strip() or _CONTROL.search(value):
            raise UserError(f"{name} has a blank or a line end in its value; set it again without")
    for name in _ENDPOINTS:
        url = environment.get(name)
        if not url:
            continue
        if endpoint_name(url).startswith("an unreadable") or not url.startswith(("http://", "https://")):
            hint = f"; set {name}=http://{url}" if re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?/?", url) else ""
            raise UserError(f"{name} is not the address of a server; need http://HOST:PORT or https://HOST:PORT{hint}")


def no_client(error: Exception, endpoint: str) -> UserError:
    """Says why there is no client, or are no credentials."""
    profile = os.environ.get("AWS_PROFILE") or "default"
    if isinstance(error, SIGN_IN_ERRORS):
        return UserError(
            f"the sign-in of AWS profile {profile!r} is missing or over ({error_name(error)}); "
            f"run: aws sso login --profile {profile}"
        )
    if isinstance(error, ProfileNotFound):
        return UserError(
            f"there is no AWS profile {profile!r}; set AWS_PROFILE to one that `aws configure list-profiles` shows, or "
            "unset it"
        )
    if isinstance(error, (ConfigNotFound, ConfigParseError, InvalidConfigError)):
        return UserError(
            f"AWS's configuration files cannot be used ({error_name(error)}); correct ~/.aws/config and "
            "~/.aws/credentials, or the files that AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name"
        )
    if isinstance(error, (NoRegionError, InvalidRegionError)):
        return UserError(f"the region of {endpoint} is missing or no region's name; set AWS_DEFAULT_REGION")
    return UserError(
        f"no credentials for {endpoint} ({error_name(error)}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "AWS_PROFILE"
    )


def final_error(
    error: Exception, kind: Reaction, *, verb: str, address: str, bucket: str, endpoint: str, failing_s: float = 0.0
) -> Exception:
    """Error of an operation that is not tried again."""
    name = error_name(error)
    if kind is Reaction.NO_CREDENTIALS:
        return UserError(f"{address}: {no_client(error, endpoint)}")
    error_type, template = _MESSAGES.get(kind, (StorageError, _FAILING))
    # A store that has a bucket lists it, and takes what is new.
    if kind is Reaction.NOT_FOUND and not verb.startswith(_OF_WHAT_IS_THERE):
        error_type, template = StorageError, _NOT_S3
    if isinstance(error, (NotS3, ResponseParserError)):
        template, name = _NOT_S3, str(error) if isinstance(error, NotS3) else "no XML of S3"
    elif is_outage(error):
        error_type = StoreAway
    # FORBIDDEN, but with another remedy.
    elif name == "RequestTimeTooSkewed":
        template = _SKEWED
    elif verb.startswith(tuple(_CONDITIONS)) and kind in (Reaction.NOT_IMPLEMENTED, Reaction.FATAL):
        template = _NO_CONDITION
    waited = f"{failing_s / 60:.0f} min" if failing_s >= 120 else f"{failing_s:.0f} s"
    values = {"verb": verb, "name": name, "bucket": bucket, "endpoint": endpoint, "waited": waited}
    values["condition"] = _CONDITIONS.get(verb.partition(" ")[0] + " ", "")
    return error_type(f"{address}: " + template.format_map(values))


# Header of an operation that has a condition.
_CONDITIONS = {"create ": "If-None-Match: *", "replace ": "If-Match"}
# Operations on an object or upload that may be absent.
_OF_WHAT_IS_THERE = ("read ", "look at ", "replace ", "delete ", "write part ", "finish ", "abort ")
_REFUSED = "{endpoint} refuses to {verb} ({name}); check the credentials in the environment and their permissions"
_SKEWED = (
    "{endpoint} refuses to {verb}, the clock of this machine and the store's differ by more than it allows; "
    "set the clock (NTP)"
)
_FAILING = (
    "cannot {verb}, {endpoint} keeps failing ({name}) for {waited} now; "
    "check AWS_ENDPOINT_URL, the network and the store's health, then run again"
)
_NO_CONDITION = (
    "cannot {verb}, {endpoint} does not take the condition `{condition}` ({name}); use a store that does: packing, "
    "searches and promotions rely on it"
)
_NOT_S3 = (
    "cannot {verb}, {endpoint} answers as no S3 store does ({name}); check that AWS_ENDPOINT_URL (s3_endpoint of a "
    "context) is the port of the store's S3 interface, not of its web pages, and that no proxy answers instead"
)
_MESSAGES: dict[Reaction, tuple[type[Exception], str]] = {
    Reaction.NOT_FOUND: (NotFound, "cannot {verb}, there is no such object"),
    Reaction.NO_BUCKET: (NoBucket, "cannot {verb}, there is no bucket {bucket!r}; make it first"),
    Reaction.PRECONDITION: (ConditionFailed, "cannot {verb}, the object exists already"),
    Reaction.PAST_END: (PastEnd, "cannot {verb}, the object ends before the range"),
    Reaction.FORBIDDEN: (AccessDenied, _REFUSED),
    Reaction.RENEW_SESSION: (StorageError, _REFUSED),
    Reaction.NOT_IMPLEMENTED: (
        StorageError,
        "cannot {verb}, {endpoint} lacks that operation of S3 ({name}); use a store that has it",
    ),
    Reaction.FATAL: (StorageError, "cannot {verb} ({name}); check the address and the store at {endpoint}"),
}
