"""What a run was made from: code, environment, hardware and datasets, as facts for its record.

Everything is identified by digest or version, nothing by a path that may change. Which of these facts a gate demands
is the gate's business (`registry.gates`); the configuration has its own digest (`config.RunConfig.digest`).
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import pwd
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from trainplane.tracking.client import TrackingServer, without_secrets

COMMIT_VARIABLE = "TRAINPLANE_COMMIT"
DIRTY_VARIABLE = "TRAINPLANE_DIRTY"
DATASET_DIGEST_LENGTH = 36
MAX_DIFF_BYTES = 200_000
_CUT = "[cut here:"
_PACKAGES = ("torch", "ray", "mlflow", "numpy", "timm", "webdataset", "safetensors", "pillow")


def code_tags() -> dict[str, str]:
    """The commit of this code and whether it was changed since, as tags of a run.

    Code that was installed without its repository (a wheel, an image) has no commit of its own: the environment
    variable TRAINPLANE_COMMIT tells it, otherwise it is "unknown", which no gate on lineage accepts. `isnet submit`
    sets it for its jobs (`travelling`), with TRAINPLANE_DIRTY.
    """
    commit = _git("rev-parse", "HEAD") if _is_checkout() else None
    if commit is None:
        told = {"trainplane.commit": COMMIT_VARIABLE, "trainplane.dirty": DIRTY_VARIABLE}
        return {tag: os.environ.get(variable) or "unknown" for tag, variable in told.items()}
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return {
        "mlflow.source.git.commit": commit,
        "trainplane.commit": commit,
        "trainplane.dirty": "true" if dirty else "false",
    }


def travelling() -> dict[str, str]:
    """The same facts as variables of a process to which this code travels without its repository."""
    tags = code_tags()
    told = {COMMIT_VARIABLE: tags["trainplane.commit"], DIRTY_VARIABLE: tags["trainplane.dirty"]}
    return {variable: value for variable, value in told.items() if value != "unknown"}


def user() -> str:
    """Who runs this, as the environment has it; "unknown" where the system does not say."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def account() -> str:
    """The system's account that runs this, whatever the environment (LOGNAME, USER) says; `uid-N` where it has no name.

    For records of who did something; `user` is for pages that people browse.
    """
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid-{number}"


def code_diff(*, max_bytes: int = MAX_DIFF_BYTES) -> str | None:
    """The changes since the commit, cut at `max_bytes` with a line that says so; None when there are none."""
    diff = _git("diff", "HEAD") if _is_checkout() else None
    if not diff:
        return None
    encoded = diff.encode()
    if len(encoded) <= max_bytes:
        return diff + "\n"
    cut = encoded[:max_bytes].decode(errors="ignore")
    return f"{cut}\n{_CUT} {len(encoded) - max_bytes} of {len(encoded)} bytes are not recorded]\n"


def is_cut(diff: str) -> bool:
    """Whether `code_diff` left out a part of these changes."""
    return diff.rstrip("\n").rpartition("\n")[2].startswith(_CUT)


def has_commit(commit: str) -> bool:
    """Whether the repository of this code has that commit."""
    return _is_checkout() and _git("cat-file", "-e", f"{commit}^{{commit}}") is not None


def environment() -> dict[str, str]:
    """Versions of Python, of the system and of the packages that decide what a run computes."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, number of CPUs this process may use, memory in bytes, and GPUs with their memory in bytes."""
    import psutil
    import torch

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
    }


def facts() -> dict[str, Any]:
    """All of the above in one JSON-able value, for the artifact `lineage.json` of a run."""
    return {"code": code_tags(), "environment": environment(), "hardware": hardware()}


def dataset_input(*, name: str, digest: str, address: str) -> dict[str, str]:
    """A dataset as an input of a run in MLflow's pages: its name, digest, and where it was read.

    MLflow's digests have 36 characters at most, so this carries the first 36 of the 64, and a tag all of them.
    """
    place = without_secrets(address) if "://" in address else str(Path(address).resolve())
    return {
        "name": name,
        "digest": digest[:DATASET_DIGEST_LENGTH],
        "source_type": "s3" if place.startswith("s3://") else "local",
        "source": json.dumps({"uri": place}),
    }


def log_dataset(server: TrackingServer, run_id: str, *, name: str, digest: str, address: str, context: str) -> None:
    """Record at once that the run read a dataset for the purpose `context`; doing it twice changes nothing.

    Raises `UserError` when the address does not answer.
    """
    client = server.client
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    dataset = Dataset(**dataset_input(name=name, digest=digest, address=address))
    try:
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])
        client.set_tag(run_id, f"trainplane.dataset.{context}", digest, synchronous=True)
    except MlflowException as error:
        raise server.unreachable(error) from error


def _is_checkout() -> bool:
    """Whether this very file is under version control: a repository above site-packages is not ours."""
    return _git("ls-files", "--error-unmatch", str(Path(__file__).resolve())) is not None


def _git(*arguments: str) -> str | None:
    """Output of a git command in the folder of this file; None when git or the repository is not there."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
