"""`isnet doctor`: is everything that a context names reachable and allowed, and what to do where it is not."""

from __future__ import annotations

import argparse
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal

from jobs.cli import emit
from trainplane.cluster.context import Context, resolve
from trainplane.cluster.submit import client as ray_client
from trainplane.errors import RunFailed, UserError
from trainplane.storage import open_store
from trainplane.tracking.client import client_for, unreachable


@dataclass(frozen=True)
class Finding:
    """One answer. Level `error` makes the command exit with 1."""

    level: Literal["ok", "note", "warning", "error"]
    what: str
    remedy: str = ""


def doctor(args: argparse.Namespace) -> int:
    """The command."""
    context = resolve(args.context)
    context.activate()
    findings = [finding for check in CHECKS for finding in check(context)]
    is_fine = all(finding.level != "error" for finding in findings)
    lines = [f"{f.level:<6} {f.what}" + (f"; {f.remedy}" if f.remedy else "") for f in findings]
    emit(args, {"ok": is_fine, "findings": [asdict(finding) for finding in findings]}, "\n".join(lines))
    return 0 if is_fine else 1


def stores(context: Context) -> Iterator[Finding]:
    """Put, get, list and delete at every place the context writes to."""
    for name in ("datasets", "checkpoints", "artifacts", "audit"):
        address = getattr(context, name)
        try:
            store = open_store(address)
            key = f"doctor-{uuid.uuid4().hex}"
            store.write(key, b"well?")
            read, listed = store.read(key), [entry.key for entry in store.list(key)]
            store.delete(key)
        except (UserError, RunFailed, OSError) as error:
            yield Finding("error", f"{name} at {address}: {error}", "correct the context or the store's permissions")
            continue
        if read != b"well?" or listed != [key]:
            yield Finding("error", f"{name} at {address}: what was written is not what is read", "use another store")
        else:
            yield Finding("ok", f"{name} at {address}: put, get, list, delete")


def tracking(context: Context) -> Iterator[Finding]:
    """MLflow answers."""
    from mlflow.exceptions import MlflowException

    try:
        found = client_for(context.tracking).search_experiments()
    except MlflowException as error:
        yield Finding("error", str(unreachable(context.tracking, error)))
        return
    yield Finding("ok", f"MLflow at {context.tracking.partition('?')[0]}: {len(found)} experiments")


def cluster(context: Context) -> Iterator[Finding]:
    """The Ray head answers, if the context names one."""
    if context.ray is None:
        yield Finding("note", "no Ray cluster in this context: runs use a private one on this machine")
        return
    try:
        version = ray_client(context).get_version()
    except (UserError, RuntimeError) as error:
        yield Finding("error", f"Ray at {context.ray}: {error}")
        return
    ours = metadata.version("ray")
    if version != ours:
        yield Finding("error", f"Ray at {context.ray} is {version}, here it is {ours}", "install the same version")
    else:
        yield Finding("ok", f"Ray at {context.ray}: {version}")


def machine(context: Context) -> Iterator[Finding]:
    """Disk, memory, GPU and versions here."""
    import psutil
    import torch

    context.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(context.home).free / 2**30
    level: Literal["ok", "error"] = "ok" if free >= 1 else "error"
    yield Finding(level, f"disk: {free:.1f} GiB free at {context.home}", "" if free >= 1 else "free some")
    yield Finding("ok", f"memory: {psutil.virtual_memory().available / 2**30:.1f} GiB available")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Finding("ok" if gpus else "note", f"GPU: {', '.join(gpus) or 'none; training runs on the CPU'}")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "ray", "mlflow", "timm"))
    yield Finding("ok", f"versions: {versions}")


CHECKS: tuple[Callable[[Context], Iterator[Finding]], ...] = (stores, tracking, cluster, machine)
