"""Lineage of a run: code, environment, hardware and datasets.

Everything is identified by digest or version, never by a path. A gate decides what it requires (`registry.gates`).
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import pwd
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trainplane.tracking.client import TrackingServer, without_secrets
from trainplane.tracking.mlflow_names import dataset
from trainplane.tracking.run_id import set_tags

# For code without its repository; `isnet submit` and the image's Dockerfile set them.
COMMIT_VARIABLE = "TRAINPLANE_COMMIT"
DIRTY_VARIABLE = "TRAINPLANE_DIRTY"
# Name of the job, set by whoever submits it; and the tag of the runs that it trained.
JOB_VARIABLE = "TRAINPLANE_JOB"
JOB_TAG = "trainplane.job"
# MLflow's limit.
DATASET_DIGEST_LENGTH = 36
MAX_DIFF_BYTES = 200_000
_TRUNCATED = "[cut here:"
# Packages that decide what a run computes.
_PACKAGES = ("torch", "ray", "mlflow", "numpy", "timm", "webdataset", "safetensors", "pillow")


def code_tags() -> dict[str, str]:
    """Tags with the commit of this code and its changes.

    Without its repository (a wheel, an image) the commit comes from TRAINPLANE_COMMIT, which `isnet submit` sets
    together with TRAINPLANE_DIRTY (`code_variables`), else it is "unknown", which no gate on lineage accepts.
    """
    commit = _git("rev-parse", "HEAD") if _is_checkout() else None
    if commit is None:
        variables = {"trainplane.commit": COMMIT_VARIABLE, "trainplane.dirty": DIRTY_VARIABLE}
        return {tag: os.environ.get(variable) or "unknown" for tag, variable in variables.items()}
    # Untracked files do not count as changes.
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return {
        "mlflow.source.git.commit": commit,
        "trainplane.commit": commit,
        "trainplane.dirty": "true" if dirty else "false",
    }


def job_tags() -> dict[str, str]:
    """Tag with the cluster job of this process, if any."""
    job = os.environ.get(JOB_VARIABLE)
    return {JOB_TAG: job} if job else {}


def code_variables() -> dict[str, str]:
    """Environment variables for a process without this code's repository."""
    tags = code_tags()
    variables = {COMMIT_VARIABLE: tags["trainplane.commit"], DIRTY_VARIABLE: tags["trainplane.dirty"]}
    return {name: value for name, value in variables.items() if value != "unknown"}


def user() -> str:
    """User name of the environment, for MLflow's pages, or "unknown"."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def account() -> str:
    """System account of this process, or `uid-N` without a name.

    For records of decisions: the environment (LOGNAME, USER) cannot change it.
    """
    number = os.getuid()
    # A container's user often has no entry.
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid-{number}"


def code_diff(*, max_bytes: int = MAX_DIFF_BYTES) -> str | None:
    """Changes since the commit; None without changes.

    Beyond `max_bytes` they are truncated, and the last line says so.
    """
    diff = _git("diff", "HEAD") if _is_checkout() else None
    if not diff:
        return None
    # Bytes, not characters: the limit is one of storage.
    encoded = diff.encode()
    if len(encoded) <= max_bytes:
        return diff + "\n"
    beginning = encoded[:max_bytes].decode(errors="ignore")
    return f"{beginning}\n{_TRUNCATED} {len(encoded) - max_bytes} of {len(encoded)} bytes are not recorded]\n"


def is_truncated(diff: str) -> bool:
    """Checks whether `code_diff` truncated this diff."""
    return diff.rstrip("\n").rpartition("\n")[2].startswith(_TRUNCATED)


def has_commit(commit: str) -> bool:
    """Checks that the repository of this code has a commit."""
    return _is_checkout() and _git("cat-file", "-e", f"{commit}^{{commit}}") is not None


def environment() -> dict[str, str]:
    """Versions of Python, the system and the packages that compute."""
    versions = {"python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """Processor, usable CPUs, memory and GPUs; sizes in bytes."""
    # Imported here, because commands that record no lineage should not wait for torch.
    import psutil
    import torch

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
    }


def lineage_record(datasets: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """Content of the artifact `lineage.json`; `datasets` has addresses by purpose."""
    return {
        "code": code_tags(),
        "environment": environment(),
        "hardware": hardware(),
        "datasets": {purpose: dataset_place(address) for purpose, address in datasets.items()},
    }


def s3_endpoint() -> str | None:
    """Address of this process's S3 endpoint, without secrets; None: Amazon's."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return without_secrets(url) if url else None


def dataset_place(address: str) -> dict[str, str | None]:
    """Address of a dataset, and the endpoint of a bucket.

    None is Amazon's endpoint. Without it the name of a bucket would lead to another owner's bucket at Amazon.
    """
    if "://" not in address:
        return {"uri": str(Path(address).resolve())}
    return {"uri": without_secrets(address), "endpoint": s3_endpoint()}


def dataset_input(*, name: str, digest: str, address: str) -> dict[str, str]:
    """Name, digest and address of a dataset, as MLflow's input.

    MLflow keeps one row for an experiment's runs of equal name and digest, with the first run's address; a run's own
    address is in its `lineage.json`.
    """
    # MLflow's digests have 36 characters at most, so this has the first 36 of the 64, and a tag has all of them.
    place = dataset_place(address)
    return {
        "name": name,
        "digest": digest[:DATASET_DIGEST_LENGTH],
        "source_type": "s3" if "endpoint" in place else "local",
        "source": json.dumps(place),
    }


def log_dataset(server: TrackingServer, run_id: str, *, name: str, digest: str, address: str, context: str) -> None:
    """Records that a run reads a dataset; repeating changes nothing.

    `digest` has 64 hexadecimal digits, `context` is a purpose such as `evaluation`. An unreachable server is a
    `UserError`.
    """
    client = server.client
    from mlflow.entities import DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    entry = dataset(**dataset_input(name=name, digest=digest, address=address))
    try:
        client.log_inputs(run_id, [DatasetInput(entry, [InputTag("mlflow.data.context", context)])])
        set_tags(client, run_id, {f"trainplane.dataset.{context}": digest})
    except MlflowException as error:
        raise server.unreachable(error) from error


# Variables that lead git to another repository.
_GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


def _is_checkout() -> bool:
    # Checks that this very file is under version control. A repository above site-packages is another one.
    return _git("ls-files", "--error-unmatch", str(Path(__file__).resolve())) is not None


def _git(*arguments: str) -> str | None:
    """Output of git here; None without git or repository."""
    # The folder of this file, because the process may run anywhere; in a hook GIT_DIR names another repository. Git
    # refuses a checkout of another user, as on shared disks and in images: its configuration could run programs. This
    # very process runs the code of that checkout already.
    command = ["git", "-c", "safe.directory=*", "-C", str(Path(__file__).resolve().parent), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_PLACES}
    try:
        process = subprocess.run(command, capture_output=True, timeout=20, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.decode(errors="replace").strip() if process.returncode == 0 else None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
