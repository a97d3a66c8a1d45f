"""Context: addresses of Ray, tracking server and stores.

It is the one setting in which a laptop and a cluster differ. It is chosen by `--context NAME`, by `ISNET_CONTEXT`, or
by `default` in `isnet.toml` (searched here and in the folders above). Without one everything is local, under `.isnet/`
or `ISNET_HOME`. `isnet.toml` has references to secrets, never their values::

    default = "lab"

    [context.lab]
    ray = "http://head:8265"
    tracking = "http://mlflow:5000"
    store = "s3://bucket/isnet"            # datasets/, checkpoints/, artifacts/ and audit/ beneath it
    s3_endpoint = "http://store:9000"

    [context.lab.secrets]
    AWS_SECRET_ACCESS_KEY = "env:LAB_KEY"  # or "file:/path/to/a/file"
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainplane.config.text_file import read_text
from trainplane.errors import UserError, nearest
from trainplane.tracking.client import TrackingServer

CONFIG_FILE = "isnet.toml"
_KEYS = (
    "ray",
    "tracking",
    "store",
    "datasets",
    "checkpoints",
    "artifacts",
    "audit",
    "s3_endpoint",
    "s3_region",
    "secrets",
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Context:
    """Addresses of everything outside this process."""

    name: str  # Name of the context
    home: Path  # Local folder for spool, cache and locks
    ray: str | None  # `http://HEAD:8265` to submit jobs to; None runs commands here
    tracking: str  # MLflow's address, `sqlite:///…` or `http(s)://…`
    datasets: str  # `s3://…` or an absolute folder, as for the next three
    checkpoints: str  # Store of checkpoints
    artifacts: str  # Store of MLflow's artifacts
    audit: str  # Store of the registry's audit log
    # Variables for the object store and secrets; their values are never printed
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    def tracking_server(self) -> TrackingServer:
        """MLflow server of this context; pickled as its address."""
        return TrackingServer(self.tracking)

    def dataset(self, name: str) -> str:
        """Full address of a dataset; bare names are the store's."""
        if not name.strip():
            # Otherwise an unset shell variable would mean the whole store.
            raise UserError("the name of a dataset is empty; need s3://bucket/prefix, a folder, or a name in the store")
        if "://" in name or name.startswith(("/", ".", "~")):
            return name if "://" in name else str(Path(name).expanduser().resolve())
        return f"{self.datasets}/{name}"

    def activate(self) -> None:
        """Exports the variables, for boto3, pyarrow and MLflow."""
        os.environ.update(self.environment)
        # pyarrow sends trailing checksums by default, which older S3 servers refuse.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")

    def at(self, **addresses: str) -> Context:
        """Copies the context with other addresses."""
        return replace(self, **addresses)  # type: ignore[arg-type]

    @property
    def is_local(self) -> bool:
        """True if a store is reachable from this machine alone."""
        return not all(address.startswith("s3://") for address in (self.datasets, self.checkpoints, self.artifacts))


def resolve(name: str | None = None, *, start: Path | None = None) -> Context:
    """Reads a context from `isnet.toml` and the environment.

    `name` None means `ISNET_CONTEXT`, else the default of `isnet.toml` (searched from `start`, None for the current
    folder), else the local context. Raises `UserError` where it is unknown, or a value is invalid.
    """
    start = start or Path.cwd()
    home = Path(os.environ.get("ISNET_HOME") or start / ".isnet").expanduser().resolve()
    if home.exists() and not home.is_dir():
        raise UserError(f"ISNET_HOME is {home}, which is a file; name a folder")
    file, tables, default = _read(start)
    # The command line wins over the environment, and that over the file.
    chosen = name or os.environ.get("ISNET_CONTEXT") or default
    if chosen is None or (chosen == "local" and chosen not in tables):
        return local(home)
    if chosen not in tables:
        names = ", ".join(sorted(tables)) or "none"
        where = f"{file} has {names}" if file else f"there is no {CONFIG_FILE} here or above"
        raise UserError(f"context {chosen!r} is not known: {where}; add [context.{chosen}] to {CONFIG_FILE}")
    return _from_table(chosen, tables[chosen], home, file)


def local(home: Path, name: str = "local") -> Context:
    """Local context: all stores are below `home`."""
    return Context(
        name=name,
        home=home,
        ray=None,
        tracking=f"sqlite:///{home / 'mlflow.db'}",
        datasets=str(home / "datasets"),
        checkpoints=str(home / "checkpoints"),
        artifacts=str(home / "artifacts"),
        audit=str(home / "audit"),
    )


def _read(start: Path) -> tuple[Path | None, dict[str, Any], str | None]:
    # The nearest file counts; contexts of several files are not merged.
    for folder in (start, *start.parents):
        file = folder / CONFIG_FILE
        if file.is_file():
            try:
                tree = tomllib.loads(read_text(file))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise UserError(f"{file}: is not valid TOML ({error}); correct it") from error
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror}); make it readable") from error
            for key in tree:
                # With a misspelt `default` everything would be local, without a warning.
                if key not in ("context", "default"):
                    raise UserError(f"{file}: has an unknown key {key!r}{nearest(key, ('context', 'default'))}")
            tables, default = tree.get("context", {}), tree.get("default")
            if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
                raise UserError(f"{file}: contexts are tables; write [context.NAME] and its keys below")
            if default is not None and not isinstance(default, str):
                raise UserError(f'{file}: default = {default!r} is not a name; write default = "NAME"')
            return file, tables, default
    return None, {}, None


def _from_table(name: str, table: Mapping[str, Any], home: Path, file: Path | None) -> Context:
    for key in table:
        if key not in _KEYS:
            raise UserError(f"{file}: [context.{name}] has an unknown key {key!r}{nearest(key, _KEYS)}")
        if key != "secrets":
            _check_text(name, key, table[key], file)
    if not isinstance(table.get("secrets", {}), dict):
        raise UserError(f'{file}: secrets are a table; write [context.{name}.secrets] and NAME = "env:…" below')
    if "tracking" in table and not str(table["tracking"]).startswith(("http://", "https://", "sqlite:///")):
        # The address is not shown: it may hold a password.
        raise UserError(
            f"{file}: tracking of context {name!r} is not an address; need http://…, https://… or sqlite:///…"
        )
    for key in ("ray", "tracking", "s3_endpoint"):
        if "://" in table.get(key, ""):
            _check_address(name, key, table[key], file)
    # Stores that the table does not name are below `store`, and without it they are local.
    base = local(home, name)
    store = str(table["store"]).rstrip("/") if "store" in table else None
    addresses = {}
    for key in ("datasets", "checkpoints", "artifacts", "audit"):
        default = f"{store}/{key}" if store else getattr(base, key)
        addresses[key] = str(table.get(key, default)).rstrip("/")
    return base.at(**addresses, tracking=str(table.get("tracking", base.tracking))).at(
        **({"ray": _ray_address(str(table["ray"]), name)} if "ray" in table else {}),
        environment=_environment(name, table),  # type: ignore[arg-type]
    )


def _check_text(name: str, key: str, value: object, file: Path | None) -> None:
    """Refuses all but text: a number would become a folder."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'{file}: {key} of context {name!r} is not a text, or is empty; write {key} = "…"')
    if value.startswith("s3://") and not value.removeprefix("s3://").strip("/"):
        raise UserError(f"{file}: {key} of context {name!r} names no bucket; need s3://bucket/prefix")


def _check_address(name: str, key: str, address: str, file: Path | None) -> None:
    # Refuses an incomplete address, or one with a password. Messages do not show the address, because it may hold one.
    if not address.startswith(("http://", "https://")):
        return
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise UserError(
            f"{file}: {key} of context {name!r} holds a user or a password; take it out, and give it among the "
            "context's secrets, such as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, by reference"
        )
    try:
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise UserError(f"{file}: {key} of context {name!r} is not an address; need {parts.scheme}://HOST:PORT")


def _ray_address(address: str, name: str) -> str:
    if not address.startswith(("http://", "https://")):
        raise UserError(
            f"context {name!r}: ray = {address!r} is not a job address; need http://HEAD:8265, "
            "the address of the cluster's dashboard"
        )
    return address.rstrip("/")


def _environment(name: str, table: Mapping[str, Any]) -> dict[str, str]:
    variables: dict[str, str] = {}
    if "s3_endpoint" in table:
        # boto3 and MLflow look for the same thing under two names.
        variables["AWS_ENDPOINT_URL"] = variables["MLFLOW_S3_ENDPOINT_URL"] = str(table["s3_endpoint"])
    if "s3_region" in table:
        variables["AWS_DEFAULT_REGION"] = str(table["s3_region"])
    for variable, reference in table.get("secrets", {}).items():
        if not _VARIABLE.fullmatch(variable):
            raise UserError(
                f"context {name!r}: secret {variable!r} is not the name of a variable; need letters, digits, _"
            )
        variables[variable] = _secret(name, variable, str(reference))
    return variables


def _secret(name: str, variable: str, reference: str) -> str:
    # A value that is neither kind of reference is refused without being shown: it may be the secret itself.
    kind, _, target = reference.partition(":")
    if kind == "env":
        if target not in os.environ:
            raise UserError(f"context {name!r}: secret {variable} is read from ${target}, which is not set; export it")
        return os.environ[target]
    if kind == "file":
        try:
            text = read_text(Path(target).expanduser()).strip()
            if "\0" in text:
                raise ValueError("no variable holds a zero byte")
            return text
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UserError(
                f"context {name!r}: secret {variable} is read from {target}, which cannot be read ({reason})"
            ) from error
    raise UserError(
        f"context {name!r}: secret {variable} is given by value; write a reference, 'env:NAME' or 'file:PATH', "
        "so that no secret stands in a file that is shared"
    )
