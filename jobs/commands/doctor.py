"""`isnet doctor`: checks access to everything that a context names."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from jobs.cli.findings import Finding
from jobs.cli.format import quantity
from jobs.cli.main import emit
from trainplane.cluster.context import Context
from trainplane.cluster.jobs import client, status
from trainplane.cluster.jobs.queue import head_args
from trainplane.cluster.stack.down import down_message
from trainplane.errors import RunFailed, UserError
from trainplane.storage import NotFound, Store, open_store

# Packages whose versions are printed.
_SHOWN = ("torch", "ray", "mlflow", "timm")


def doctor(args: argparse.Namespace, context: Context) -> int:
    """Runs all checks on the context."""
    # Each server of a stack that is down would be waited for.
    stack = list(local_stack(context))
    checks = (machine,) if stack else CHECKS
    findings = stack + [finding for check in checks for finding in check(context)]
    is_fine = all(finding.level != "error" for finding in findings)
    lines = [f"{finding.level:<6} {finding}" for finding in findings]
    emit(args, {"ok": is_fine, "findings": [asdict(finding) for finding in findings]}, "\n".join(lines))
    return 0 if is_fine else 1


def _from_error(where: str, error: Exception, remedy: str) -> Finding:
    """Turns an error into a finding."""
    # Our own messages have a remedy behind the semicolon; `remedy` serves all others.
    what, _, own_remedy = (
        str(error).partition("; ") if isinstance(error, UserError | RunFailed) else (str(error), "", "")
    )
    return Finding("error", f"{where}: {what}", own_remedy or remedy)


def local_stack(context: Context) -> Iterator[Finding]:
    """Finds out that the context's local stack is down."""
    if (message := down_message(context)) is not None:
        what, _, remedy = message.partition("; ")
        yield Finding("error", what, remedy)


def stores(context: Context) -> Iterator[Finding]:
    """Checks all stores: list, get, put, create if absent, delete."""
    for name in ("datasets", "checkpoints", "artifacts", "audit"):
        where, key = f"{name} at {getattr(context, name)}", f"doctor-{uuid.uuid4().hex}"
        # Reading: listing and getting an object that does not exist.
        if (finding := _future_folder(where, getattr(context, name))) is not None:
            yield finding
            continue
        try:
            store = open_store(getattr(context, name))
            next(iter(store.list(key)), None)
            with suppress(NotFound):
                store.read(key)
        except (UserError, RunFailed, OSError) as error:
            yield _from_error(where, error, "correct the context or the store's permissions")
            continue
        # An audit record can never be deleted, not even by this check.
        if name == "audit":
            yield Finding("ok", f"{where}: list, get; a record cannot be deleted, so none was put")
            continue
        # Writing.
        try:
            yield _check_writing(where, store, key)
        except (UserError, RunFailed, OSError) as error:
            finding = _from_error(where, error, "correct the context or the store's permissions")
            # The policies of infra/s3 let roles that train or promote only read datasets.
            only_read = "list and get work, which is enough to train; packing needs other keys"
            yield replace(finding, level="warning", remedy=only_read) if name == "datasets" else finding


def _future_folder(where: str, address: str) -> Finding | None:
    """Returns a finding about a local store not made yet."""
    if "://" in address or Path(address).exists():
        return None
    # This command leaves nothing behind, so it does not make the folder.
    parent = existing_parent(Path(address))
    if os.access(parent, os.W_OK | os.X_OK):
        return Finding("ok", f"{where}: not there yet; its first object makes it")
    return Finding("error", f"{where}: cannot be made in {parent}", "set ISNET_HOME to a folder of yours")


def existing_parent(path: Path) -> Path:
    """Nearest folder above that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _check_writing(where: str, store: Store, key: str) -> Finding:
    """Puts an object and deletes it; raises the store's errors."""
    store.write(key, b"probe")
    try:
        data, keys = store.read(key), [entry.key for entry in store.list(key)]
        # Promotions, searches and batch jobs rely on this.
        is_protected = not store.create(key, b"another")
    except NotFound:
        return Finding("error", f"{where}: an object is not there a moment after it was put", "use another store")
    finally:
        store.delete(key)
    if data != b"probe" or keys != [key]:
        return Finding("error", f"{where}: an object reads back other than it was written", "use another store")
    if not is_protected:
        remedy = "use a store that supports `If-None-Match: *`: promotions and searches need it"
        return Finding("error", f"{where}: an existing object was created a second time", remedy)
    return Finding("ok", f"{where}: put, get, list, create if absent, delete")


def tracking(context: Context) -> Iterator[Finding]:
    """Checks that MLflow answers."""
    server = context.tracking_server
    if not server.exists:
        yield Finding("ok", f"MLflow at {server.public_address}: not there yet; the first run makes it")
        return
    from mlflow.exceptions import MlflowException

    try:
        experiments = server.client.search_experiments()
    except MlflowException as error:
        yield _from_error("MLflow", server.unreachable(error), "start the server, or correct the address")
        return
    yield Finding("ok", f"MLflow at {context.tracking.partition('?')[0]}: {quantity(len(experiments), 'experiment')}")


def cluster(context: Context) -> Iterator[Finding]:
    """Checks the Ray head: its version, its nodes, its queue."""
    if context.ray is None:
        yield Finding("note", "no Ray cluster in this context: runs use a private one on this machine")
        return
    try:
        connection = client.connect(context)
        version, resources = status.ray_version(connection), status.cluster_resources(connection)
    except (UserError, RuntimeError, OSError, KeyError) as error:
        # RuntimeError and KeyError come from answers that no Ray head gives.
        yield _from_error(f"Ray at {context.ray}", error, "correct `ray` of the context: the address of a dashboard")
        return
    # Ray does not talk to another version of itself.
    ours = metadata.version("ray")
    if version != ours:
        yield Finding("error", f"Ray at {context.ray} is {version}, here it is {ours}", "install the same version")
    else:
        yield Finding("ok", f"Ray at {context.ray}: {version}")
    nodes = quantity(resources.nodes, "node")
    what = f"the cluster has {nodes}, {resources.cpus:g} processors and {resources.gpus:g} GPUs for work"
    if resources.cpus or resources.gpus:
        yield Finding("ok", what)
    else:
        yield Finding("warning", what, "start workers, or wait until the autoscaler has them when a job asks")
    # A resource of the head limits the number of drivers (`trainplane.cluster.jobs.queue`).
    if resources.drivers >= 1:
        yield Finding("ok", f"its head takes {resources.drivers:g} drivers at once; further jobs wait in its queue")
    else:
        remedy = f"start the head with {shlex.join(head_args(4))} to have them wait in a queue"
        yield Finding("note", "its head takes any number of drivers at once, each of some hundred megabytes", remedy)


def exposure(context: Context) -> Iterator[Finding]:
    """Finds servers that other machines reach without authentication or TLS."""
    # An open Ray head runs the code of everyone who reaches it.
    if context.ray and not client.is_loopback(context.ray) and "RAY_AUTH_TOKEN" not in context.environment:
        remedy = "start it with RAY_AUTH_MODE=token, and give RAY_AUTH_TOKEN among the context's secrets"
        yield Finding("warning", f"Ray at {context.ray} is not on loopback, and this context has no token", remedy)
    for name, address in (("MLflow", context.tracking), ("the store", context.environment.get("AWS_ENDPOINT_URL", ""))):
        if address.startswith("http://") and not client.is_loopback(address):
            where = address.rpartition("@")[2].removeprefix("http://")
            yield Finding("note", f"{name} at {where} is reached without TLS", "put TLS before it where others listen")


def machine(context: Context) -> Iterator[Finding]:
    """Checks disk, memory, GPU and versions of this machine."""
    import psutil

    from jobs.train.gpus import gpu_findings, read_gpus

    free = shutil.disk_usage(existing_parent(context.home)).free / 2**30
    what = f"disk: {free:.1f} GiB free at {context.home}"
    if free >= 1:
        yield Finding("ok", what)
    else:
        yield Finding("error", what, "free some, or set ISNET_HOME to a folder of another disk")
    available = psutil.virtual_memory().available / 2**30
    what = f"memory: {available:.1f} GiB available"
    if available >= 2:
        yield Finding("ok", what)
    else:
        yield Finding("warning", what, "end other programs: a private Ray cluster takes about one")
    yield from gpu_findings(read_gpus())
    yield from _versions()


def _versions() -> Iterator[Finding]:
    """Compares installed versions with the tested ones."""
    yield Finding("ok", f"versions: {', '.join(f'{name} {metadata.version(name)}' for name in _SHOWN)}")
    try:
        required = metadata.requires("isnet-platform") or []
    except metadata.PackageNotFoundError:
        return
    # Requirements of the core, not of extras.
    for line in required:
        requirement = Requirement(line)
        if requirement.marker is None and not requirement.specifier.contains(metadata.version(requirement.name)):
            what = f"{requirement.name} is {metadata.version(requirement.name)}, tested with {requirement.specifier}"
            yield Finding("warning", what, "pip install -c constraints.txt -e .")


CHECKS: tuple[Callable[[Context], Iterator[Finding]], ...] = (stores, tracking, cluster, exposure, machine)
