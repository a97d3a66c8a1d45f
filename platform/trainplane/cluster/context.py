"""Context: addresses of Ray, tracking server and stores.

It is the one setting in which a laptop and a cluster differ. It is chosen by `--context NAME`, by `ISNET_CONTEXT`, or
by `default` in `isnet.toml` (searched here and in the folders above). Without one everything is local, under `.isnet/`
or `ISNET_HOME`: `.isnet/` lies beside the nearest `isnet.toml`, or is the nearest one here or above, and else is made
here. `isnet.toml` has references to secrets, never their values::

    default = "lab"

    [context.lab]
    ray = "http://head:8265"
    tracking = "http://mlflow:5000"
    store = "s3://bucket/isnet"            # datasets/, checkpoints/, artifacts/ and audit/ beneath it
    s3_endpoint = "http://store:9000"
    store_wait_s = 3600                    # how long a run waits for a store that is away; without it half an hour
    metrics = "file:/var/lib/node_exporter"  # or "port:9101": metrics for Prometheus, outside Ray
    log = "json"                           # log lines as JSON
    provenance = "~/signing"               # folder of certificates and a key: outputs of models are signed

    [context.lab.secrets]
    AWS_SECRET_ACCESS_KEY = "env:LAB_KEY"  # or "file:/path/to/a/file"

Who is told about events stands in `[context.lab.notify.NAME]` (`trainplane.notify.targets`).
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from trainplane.cluster import context_values as values
from trainplane.command_line import command_line
from trainplane.config.text_file import read_text
from trainplane.errors import UserError, nearest
from trainplane.notify.targets import Target, targets_of
from trainplane.observe.json_lines import VARIABLE as LOG
from trainplane.observe.json_lines import log_format
from trainplane.observe.sinks import VARIABLE as METRICS
from trainplane.observe.sinks import metrics_place
from trainplane.store_address import full_address, scheme_of
from trainplane.store_wait import VARIABLE as STORE_WAIT
from trainplane.store_wait import wait_of
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.variables import check_variables

CONFIG_FILE = "isnet.toml"
HOME_FOLDER = ".isnet"
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
    "store_wait_s",
    "secrets",
    "notify",
    "metrics",
    "log",
    "provenance",
)


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
    store: str | None = None  # Common address of the stores, if one was given
    notify: tuple[Target, ...] = ()  # Who is told about events
    provenance: str | None = None  # Folder of certificates and a key that sign outputs

    @cached_property
    def tracking_server(self) -> TrackingServer:
        """MLflow server of this context; pickled as its address."""
        return TrackingServer(self.tracking)

    def dataset(self, name: str) -> str:
        """Full address of a dataset; bare names are the store's."""
        if not name.strip():
            # Otherwise an unset shell variable would mean the whole store.
            raise UserError("the name of a dataset is empty; need s3://bucket/prefix, a folder, or a name in the store")
        if scheme_of(name.strip()):
            return full_address(name)
        if name.startswith(("/", ".", "~")):
            return str(Path(full_address(name)).resolve())
        return f"{self.datasets}/{name}"

    def activate(self) -> None:
        """Exports the variables, for boto3, pyarrow and MLflow."""
        os.environ.update(self.environment)
        check_variables(os.environ)
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
    home = Path(os.environ.get("ISNET_HOME") or project_folder(start) / HOME_FOLDER).expanduser().resolve()
    if home.exists() and not home.is_dir():
        raise UserError(f"ISNET_HOME is {home}, which is a file; name a folder")
    file, tables, default = _read(start)
    # The command line wins over the environment, and that over the file.
    chosen = name or os.environ.get("ISNET_CONTEXT") or default
    if chosen is None or (chosen == "local" and chosen not in tables):
        return local(home)
    if chosen not in tables or file is None:
        names = ", ".join(sorted(tables)) or "none"
        where = f"{file} has {names}" if file else f"there is no {CONFIG_FILE} here or above"
        remedy = f"add [context.{chosen}] to {CONFIG_FILE}"
        if chosen == "stack":
            remedy = f"start the local stack, which writes it: {command_line('stack', 'up')}"
        raise UserError(f"context {chosen!r} is not known: {where}; {remedy}")
    return _from_table(chosen, tables[chosen], home, file)


def searched_folders(start: Path) -> list[Path]:
    """Folders to search for isnet.toml and `.isnet`, upwards.

    Not those like /tmp, where any user could put them.
    """
    return [start, *(folder for folder in start.parents if not _is_public(folder))]


def project_folder(start: Path) -> Path:
    """Nearest folder with isnet.toml or `.isnet`, else `start`."""
    for folder in searched_folders(start):
        if (folder / CONFIG_FILE).is_file() or (folder / HOME_FOLDER).is_dir():
            return folder
    return start


def _is_public(folder: Path) -> bool:
    """True for a sticky folder to which all users write."""
    public = stat.S_ISVTX | stat.S_IWOTH
    return folder.stat().st_mode & public == public


def local(home: Path, name: str = "local") -> Context:
    """Local context: all stores are below `home`."""
    return Context(
        name=name,
        home=home,
        ray=None,
        tracking=f"sqlite:///{values.sqlite_path(str(home / 'mlflow.db'))}",
        datasets=str(home / "datasets"),
        checkpoints=str(home / "checkpoints"),
        artifacts=str(home / "artifacts"),
        audit=str(home / "audit"),
    )


def _read(start: Path) -> tuple[Path | None, dict[str, Any], str | None]:
    # The nearest file counts; contexts of several files are not merged.
    for folder in searched_folders(start):
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


def _from_table(name: str, table: Mapping[str, Any], home: Path, file: Path) -> Context:
    def what(key: str) -> str:
        return f"{file}: {key} of context {name!r}"

    for key in table:
        if key not in _KEYS:
            raise UserError(f"{file}: [context.{name}] has an unknown key {key!r}{nearest(key, _KEYS)}")
        if key not in ("secrets", "store_wait_s", "notify", "metrics", "log"):
            values.check_text(table[key], what(key))
    if not isinstance(table.get("secrets", {}), dict):
        raise UserError(f'{file}: secrets are a table; write [context.{name}.secrets] and NAME = "env:…" below')
    # Stores that the table does not name are below `store`, and without it they are local.
    base = local(home, name)
    store = values.store_address(table["store"], what("store"), file.parent) if "store" in table else None
    addresses = {}
    for key in ("datasets", "checkpoints", "artifacts", "audit"):
        default = f"{store}/{key}" if store else getattr(base, key)
        addresses[key] = values.store_address(table[key], what(key), file.parent) if key in table else default
    if "tracking" in table:
        addresses["tracking"] = values.tracking_address(table["tracking"], what("tracking"), file.parent)
    if "ray" in table:
        addresses["ray"] = values.ray_address(table["ray"], what("ray"))
    variables: dict[str, str] = {}
    if "s3_endpoint" in table:
        # boto3 and MLflow look for the same thing under two names.
        endpoint = values.web_address(table["s3_endpoint"], what("s3_endpoint"))
        variables["AWS_ENDPOINT_URL"] = variables["MLFLOW_S3_ENDPOINT_URL"] = endpoint
    if "s3_region" in table:
        variables["AWS_DEFAULT_REGION"] = values.region(table["s3_region"], what("s3_region"))
    if "store_wait_s" in table:
        variables[STORE_WAIT] = f"{wait_of(table['store_wait_s'], what('store_wait_s')):g}"
    if "metrics" in table:
        variables[METRICS] = metrics_place(table["metrics"], what("metrics"))
    if "log" in table:
        variables[LOG] = log_format(table["log"], what("log"))
    for variable, reference in table.get("secrets", {}).items():
        variables[variable] = values.secret(variable, reference, what(f"secret {variable}"))
    provenance = (
        values.store_address(table["provenance"], what("provenance"), file.parent) if "provenance" in table else None
    )
    targets = targets_of(table.get("notify", {}), what("notify"))
    return replace(base.at(**addresses), environment=variables, store=store, notify=targets, provenance=provenance)
