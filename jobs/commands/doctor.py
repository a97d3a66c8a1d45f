"""`isnet doctor`: is everything that a context names reachable and allowed, and what to do where it is not."""

from __future__ import annotations

import argparse
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from jobs.cli.findings import Finding
from jobs.cli.main import emit
from trainplane.cluster.context import Context, resolve
from trainplane.cluster.jobs import client, status
from trainplane.cluster.jobs.queue import head_words
from trainplane.errors import RunFailed, UserError
from trainplane.storage import NotFound, Store, open_store


def doctor(args: argparse.Namespace) -> int:
    """The command."""
    context = resolve(args.context)
    context.activate()
    findings = [finding for check in CHECKS for finding in check(context)]
    is_fine = all(finding.level != "error" for finding in findings)
    lines = [f"{f.level:<6} {f.what}" + (f"; {f.remedy}" if f.remedy else "") for f in findings]
    emit(args, {"ok": is_fine, "findings": [asdict(finding) for finding in findings]}, "\n".join(lines))
    return 0 if is_fine else 1


def _from_error(where: str, error: Exception, remedy: str) -> Finding:
    """A sentence of ours has the remedy in its second half; for any other error it is `remedy`."""
    what, _, told = str(error).partition("; ") if isinstance(error, UserError | RunFailed) else (str(error), "", "")
    return Finding("error", f"{where}: {what}", told or remedy)


def stores(context: Context) -> Iterator[Finding]:
    """List and get at every place; put, create if absent and delete at all but the audit, where nothing is tried that
    could not be taken back."""
    for name in ("datasets", "checkpoints", "artifacts", "audit"):
        where, key = f"{name} at {getattr(context, name)}", f"doctor-{uuid.uuid4().hex}"
        try:
            store = open_store(getattr(context, name))
            next(iter(store.list(key)), None)
            with suppress(NotFound):
                store.read(key)
        except (UserError, RunFailed, OSError) as error:
            yield _from_error(where, error, "correct the context or the store's permissions")
            continue
        if name == "audit":
            yield Finding("ok", f"{where}: list, get; a record could not be taken back, so none was put")
            continue
        try:
            yield _written(where, store, key)
        except (UserError, RunFailed, OSError) as error:
            found = _from_error(where, error, "correct the context or the store's permissions")
            # As the policies of infra/s3 have it for whoever trains or promotes.
            only_read = "list and get work, which is enough to train; packing needs other keys"
            yield replace(found, level="warning", remedy=only_read) if name == "datasets" else found


def _written(where: str, store: Store, key: str) -> Finding:
    """What came of putting an object and taking it away again; raises what the store raises."""
    store.write(key, b"well?")
    try:
        read, listed = store.read(key), [entry.key for entry in store.list(key)]
        is_kept = not store.create(key, b"another")
    finally:
        store.delete(key)
    if read != b"well?" or listed != [key]:
        return Finding("error", f"{where}: what was written is not what is read", "use another store")
    if not is_kept:
        remedy = "use a store that knows `If-None-Match: *`: promotions and searches need it"
        return Finding("error", f"{where}: what is there already was created once more", remedy)
    return Finding("ok", f"{where}: put, get, list, create if absent, delete")


def tracking(context: Context) -> Iterator[Finding]:
    """MLflow answers."""
    from mlflow.exceptions import MlflowException

    server = context.tracking_server
    try:
        found = server.client.search_experiments()
    except MlflowException as error:
        yield _from_error("MLflow", server.unreachable(error), "start the server, or correct the address")
        return
    yield Finding("ok", f"MLflow at {context.tracking.partition('?')[0]}: {len(found)} experiments")


def cluster(context: Context) -> Iterator[Finding]:
    """The Ray head answers, is of our version, and has nodes to work on, if the context names one."""
    if context.ray is None:
        yield Finding("note", "no Ray cluster in this context: runs use a private one on this machine")
        return
    try:
        connection = client.client(context)
        version, room = status.ray_version(connection), status.room(connection)
    except (UserError, RuntimeError, OSError, KeyError) as error:
        # What is no sentence of ours is an answer that no Ray head gives.
        yield _from_error(f"Ray at {context.ray}", error, "correct `ray` of the context: the address of a dashboard")
        return
    ours = metadata.version("ray")
    if version != ours:
        yield Finding("error", f"Ray at {context.ray} is {version}, here it is {ours}", "install the same version")
    else:
        yield Finding("ok", f"Ray at {context.ray}: {version}")
    what = f"the cluster has {room.nodes} nodes, {room.cpus:g} processors and {room.gpus:g} GPUs for work"
    if room.cpus or room.gpus:
        yield Finding("ok", what)
    else:
        yield Finding("warning", what, "start workers, or wait until the autoscaler has them when a job asks")
    if room.drivers >= 1:
        yield Finding("ok", f"its head takes {room.drivers:g} drivers at once; further jobs wait in line")
    else:
        remedy = f"start the head with {shlex.join(head_words(4))} to have them wait in line"
        yield Finding("note", "its head takes any number of drivers at once, each of some hundred megabytes", remedy)


def exposure(context: Context) -> Iterator[Finding]:
    """A cluster or a server that others reach and that asks for nothing."""
    if context.ray and not client.is_loopback(context.ray) and "RAY_AUTH_TOKEN" not in context.environment:
        remedy = "start it with RAY_AUTH_MODE=token, and give RAY_AUTH_TOKEN among the context's secrets"
        yield Finding("warning", f"Ray at {context.ray} is not on loopback, and this context has no token", remedy)
    for name, address in (("MLflow", context.tracking), ("the store", context.environment.get("AWS_ENDPOINT_URL", ""))):
        if address.startswith("http://") and not client.is_loopback(address):
            where = address.rpartition("@")[2].removeprefix("http://")
            yield Finding("note", f"{name} at {where} is reached without TLS", "put TLS before it where others listen")


def machine(context: Context) -> Iterator[Finding]:
    """Disk, memory, GPU and versions here."""
    import psutil
    import torch

    context.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(context.home).free / 2**30
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
        yield Finding("warning", what, "end other programs: a private Ray cluster alone takes about one")
    yield from _gpus(torch)
    yield from _versions()


def _gpus(torch: Any) -> Iterator[Finding]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if gpus:
        yield Finding("ok", f"GPU: {', '.join(gpus)}")
    elif shutil.which("nvidia-smi"):
        remedy = "install torch's CUDA build (pip install torch==2.13.0 from PyPI) and a driver that it can use"
        yield Finding("warning", "GPU: this machine has NVIDIA's driver, and torch sees no GPU", remedy)
    else:
        yield Finding("note", "GPU: none; training runs on the CPU")


def _versions() -> Iterator[Finding]:
    """What is installed, and what is not what this project was tried with."""
    yield Finding("ok", f"versions: {', '.join(f'{name} {metadata.version(name)}' for name in _SHOWN)}")
    try:
        required = metadata.requires("isnet-platform") or []
    except metadata.PackageNotFoundError:
        return
    for line in required:
        requirement = Requirement(line)
        if requirement.marker is None and not requirement.specifier.contains(metadata.version(requirement.name)):
            what = f"{requirement.name} is {metadata.version(requirement.name)}, tried with {requirement.specifier}"
            yield Finding("warning", what, "pip install -c constraints.txt -e .")


_SHOWN = ("torch", "ray", "mlflow", "timm")

CHECKS: tuple[Callable[[Context], Iterator[Finding]], ...] = (stores, tracking, cluster, exposure, machine)
