"""Makes a command's paths portable before it is submitted.

A cluster on this machine shares its files: relative paths become absolute, because a job has another current folder.
Another cluster does not: such an argument is refused here, before the job fails there. YAML files given as preset
travel with the job.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainplane.cluster.context import Context
from trainplane.cluster.jobs.client import is_loopback
from trainplane.command_line import command_line
from trainplane.config.canonical import flatten
from trainplane.errors import UserError

# Arguments that are always files or folders, and those that may also be a name or an address.
PATH_ARGS = (
    *("source", "lists", "repair", "image", "mask", "output", "gates", "photos", "sheet", "licence"),
    *("bench", "check", "folder", "html", "key", "keys", "out"),
)
PATH_OR_NAME_ARGS = ("destination", "dataset", "into", "masks")
_YAML = (".yaml", ".yml")


def is_remote(context: Context) -> bool:
    """True if the cluster is another machine, without our files."""
    return context.ray is not None and not is_loopback(context.ray)


def check_context(context: Context) -> None:
    """Refuses addresses that a remote cluster cannot reach."""
    if not is_remote(context):
        return
    if context.is_local or not context.tracking.startswith("http"):
        raise UserError(
            f"context {context.name!r}: the cluster at {context.ray} cannot see this machine's folders "
            f"({context.checkpoints}, {context.tracking.partition('?')[0]}); "
            'give the context store = "s3://…" and tracking = "http://…"'
        )
    # Stores are in S3 here; their server may still be on this machine.
    endpoint = context.environment.get("AWS_ENDPOINT_URL")
    for name, address in (("s3_endpoint", endpoint), ("tracking", context.tracking)):
        if address and is_loopback(address):
            raise UserError(
                f"context {context.name!r}: {name} = {_without_password(address)} is this machine's loopback, which "
                f"the cluster at {context.ray} cannot reach; give the address that both of them reach"
            )


def portable_args(args: Sequence[str], parsed: argparse.Namespace, context: Context) -> list[str]:
    """Rewrites paths for the job; refuses those it cannot see."""
    portable = list(args)
    for position, path in _local_paths(args, parsed):
        if is_remote(context):
            raise UserError(
                f"{path!r} is a path on this machine, which the cluster at {context.ray} cannot see; put it into the "
                f"store ({command_line('data', 'pack', path, 'NAME')}) and give that name"
            )
        # Only the path is replaced, not the option or the setting before it.
        arg = args[position]
        portable[position] = arg[: len(arg) - len(path)] + str(Path(path).expanduser().absolute())
    return portable


def check_settings(config: Any, context: Context) -> None:
    """Refuses settings of a run that are paths here."""
    if not is_remote(context):
        return
    settings = flatten(config.model_dump(mode="json"))
    names = ("data.train", "data.val", "data.masks", "loss.perceptual_weights", "train.start_from")
    # Other tasks have no masks. A mixture has a setting for each kind of masks, or each dataset.
    mixture = [
        (table, name.removeprefix(f"{table}."))
        for table in ("data.mix", "data.masks")
        for name in settings
        if name.startswith(f"{table}.")
    ]
    for name, value in [*((name, settings.get(name)) for name in names), *mixture]:
        if isinstance(value, str) and _looks_like_path(value.removeprefix("author:")):
            raise UserError(
                f"{name} = {value!r} is a path on this machine, which the cluster at {context.ray} cannot see; put it "
                "into the store and give its address, s3://… or a name"
            )


def required_addresses(context: Context) -> list[str]:
    """Servers that a job must reach, as addresses of `trainplane.cluster.health`."""
    addresses = []
    for address in (context.environment.get("AWS_ENDPOINT_URL"), context.tracking):
        parts = urlsplit(address or "")
        if parts.scheme in ("http", "https") and parts.hostname:
            addresses.append(f"tcp://{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}")
    return addresses


def _local_paths(args: Sequence[str], parsed: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """Yields position and path of arguments that are paths here."""
    paths = {value for name in PATH_ARGS if isinstance(value := getattr(parsed, name, None), str)}
    maybe = {value for name in PATH_OR_NAME_ARGS if isinstance(value := getattr(parsed, name, None), str)}
    for position, arg in enumerate(args):
        # The path is the end of its argument (`--lists=DIR`, `a.b=DIR`).
        # A file may have `=` in its name.
        value = arg.partition("=")[2] if "=" in arg and not Path(arg).exists() else arg
        if not value or "://" in value or value.partition("+")[0].endswith(_YAML):
            continue
        # A name that is also a folder here, such as a dataset's, is a path only if it exists.
        if value in paths or _looks_like_path(value) or (value in maybe and Path(value).exists()):
            yield position, value


def _looks_like_path(value: str) -> bool:
    """True for `/…`, `~…`, `./…`, `../…`, and existing `a/b`."""
    if "://" in value or ":" in value.partition("/")[0]:
        return False
    return value.startswith(("/", "~", "./", "../")) or ("/" in value and Path(value).exists())


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
