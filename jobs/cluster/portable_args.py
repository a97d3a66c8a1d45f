"""What of a command can be sent to a cluster: which of its words are places on this machine, and what becomes of them.

A cluster on this machine shares its files: relative paths are made whole, because a job has another current folder.
Another cluster does not: such a word is refused here, before the job fails there. YAML files that are named as preset
travel with the job.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainplane.cluster.context import Context
from trainplane.cluster.jobs.client import is_loopback
from trainplane.errors import UserError

# Arguments that are files or folders in any case, and those that may be a name or an address as well.
_PATHS = ("source", "lists", "repair", "image", "mask", "output", "gates", "photos", "sheet", "licence")
_PLACES = ("destination", "dataset", "masks")
_YAML = (".yaml", ".yml")


def is_remote(context: Context) -> bool:
    """Whether the cluster is another machine, which sees none of our files."""
    return context.ray is not None and not is_loopback(context.ray)


def check_context(context: Context) -> None:
    """Refuse a context whose places a remote cluster cannot reach."""
    if not is_remote(context):
        return
    if context.is_local or not context.tracking.startswith("http"):
        raise UserError(
            f"context {context.name!r}: the cluster at {context.ray} cannot see this machine's folders "
            f"({context.checkpoints}, {context.tracking.partition('?')[0]}); "
            'give the context store = "s3://…" and tracking = "http://…"'
        )
    endpoint = context.environment.get("AWS_ENDPOINT_URL")
    for name, address in (("s3_endpoint", endpoint), ("tracking", context.tracking)):
        if address and is_loopback(address):
            raise UserError(
                f"context {context.name!r}: {name} = {_bare(address)} is this machine's loopback, which the cluster at "
                f"{context.ray} cannot reach; give the address that both of them reach"
            )


def sendable(words: list[str], parsed: argparse.Namespace, context: Context) -> list[str]:
    """The words as the job will get them; `UserError` names a place that the cluster cannot see."""
    sent = list(words)
    for position, value in _local_places(words, parsed):
        if is_remote(context):
            raise UserError(
                f"{value!r} is a place on this machine, which the cluster at {context.ray} cannot see; put it into the "
                "store (isnet data pack SRC s3://…) and give that address"
            )
        word = words[position]
        sent[position] = word[: len(word) - len(value)] + str(Path(value).expanduser().absolute())
    return sent


def check_settings(config: Any, context: Context) -> None:
    """Refuse settings of a run, whichever file they come from, that name places on this machine."""
    if not is_remote(context):
        return
    for name, value in (
        ("data.train", config.data.train),
        ("data.val", config.data.val),
        ("data.masks", config.data.masks),
        ("loss.perceptual_weights", config.loss.perceptual_weights),
    ):
        if isinstance(value, str) and _looks_like_path(value):
            raise UserError(
                f"{name} = {value!r} is a place on this machine, which the cluster at {context.ray} cannot see; put it "
                "into the store and give its address, s3://… or a name"
            )


def addresses(context: Context) -> list[str]:
    """What the job must reach, as addresses of `trainplane.cluster.health`."""
    found = []
    for address in (context.environment.get("AWS_ENDPOINT_URL"), context.tracking):
        parts = urlsplit(address or "")
        if parts.scheme in ("http", "https") and parts.hostname:
            found.append(f"tcp://{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}")
    return found


def _local_places(words: list[str], parsed: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """(position, path) of the words that are places here; the path is the word's end (`--lists=DIR`, `a.b=DIR`)."""
    surely = {value for name in _PATHS if isinstance(value := getattr(parsed, name, None), str)}
    maybe = {value for name in _PLACES if isinstance(value := getattr(parsed, name, None), str)}
    for position, word in enumerate(words):
        value = word.partition("=")[2] if "=" in word and not Path(word).exists() else word
        if not value or "://" in value or value.partition("+")[0].endswith(_YAML):
            continue
        if value in surely or _looks_like_path(value) or (value in maybe and Path(value).exists()):
            yield position, value


def _looks_like_path(value: str) -> bool:
    """`/…`, `~…`, `./…`, `../…`, or something with a slash that is there."""
    if "://" in value or ":" in value.partition("/")[0]:
        return False
    return value.startswith(("/", "~", "./", "../")) or ("/" in value and Path(value).exists())


def _bare(address: str) -> str:
    """Without a password, if somebody wrote one into it."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
