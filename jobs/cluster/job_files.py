"""Packages, files and environment that travel with a job."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import isnet as isnet_package
import jobs as jobs_package
import trainplane as trainplane_package
from jobs.cluster.portable_args import is_remote
from trainplane.cluster import context_file
from trainplane.cluster.context import CONFIG_FILE, Context
from trainplane.cluster.jobs import upload
from trainplane.command_line import CONTEXT_VARIABLE
from trainplane.config import safe_yaml
from trainplane.config.text_file import read_text
from trainplane.errors import UserError

PACKAGES = [Path(str(package.__file__)).parent for package in (isnet_package, jobs_package, trainplane_package)]


def job_python(context: Context) -> str:
    """Interpreter of the cluster's image, or of a local cluster."""
    return "python" if is_remote(context) else sys.executable


def job_environment(context: Context) -> dict[str, str]:
    """Returns the job's environment variables, none of them secret."""
    # A cluster on this machine shares our home folder.
    shared = {} if is_remote(context) else {"ISNET_HOME": str(context.home)}
    return {"PYTHONUNBUFFERED": "1", **shared}


def named_context() -> dict[str, str]:
    """Returns the variable for command lines in the job's messages."""
    return {name: value for name, value in os.environ.items() if name == CONTEXT_VARIABLE}


@contextmanager
def job_folder(context: Context, command: list[str], files: str | None) -> Iterator[tuple[Path, list[str]]]:
    """Builds the job's current folder; yields it and its command.

    It holds the context without its secrets, the YAML files that the command names with their bases, and a copy of the
    folder `files`.
    """
    with tempfile.TemporaryDirectory(prefix="isnet-job-") as name:
        folder = Path(name)
        # The user's files first, so that a name clash with the context or a YAML file is found.
        if files is not None:
            source = Path(files).expanduser()
            if not source.is_dir():
                raise UserError(f"--files {files}: there is no such folder")
            upload.check_upload(source)
            if (source / CONFIG_FILE).is_dir():
                raise UserError(f"{source / CONFIG_FILE}: the job's context is written there; rename that folder")
            shutil.copytree(source, folder, dirs_exist_ok=True)
        # YAML files travel with their bases, and the command names the copies.
        job_args = list(command)
        for position, word in enumerate(command):
            # `mine.yaml+laptop` is a file with a layer on top.
            name, plus, layers = word.partition("+")
            if name.endswith((".yaml", ".yml")) and (file := Path(name).expanduser()).is_file():
                _copy_file(file, folder / file.name)
                job_args[position] = f"./{file.name}{plus}{layers}"
                _copy_bases(file, folder, is_remote=is_remote(context))
        (folder / CONFIG_FILE).write_text(context_file.text_for_job(context), encoding="utf-8")
        yield folder, job_args


def _copy_file(file: Path, target: Path) -> None:
    if target.exists() and (not target.is_file() or target.read_bytes() != file.read_bytes()):
        raise UserError(f"{file}: another file of the name {target.name} travels with this job; rename one of them")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)


def _copy_bases(file: Path, folder: Path, *, is_remote: bool) -> None:
    """Copies a YAML file's bases under their paths."""
    visited = {file.resolve()}
    while (base := _base_of(file)) is not None and base.resolve() not in visited:
        # A cluster on this machine can read it in its place.
        if base.is_absolute() and not is_remote:
            return
        if base.is_absolute() or ".." in base.parts:
            raise UserError(f"{file}: base: {base} does not travel with the job; name a file in or below this folder")
        _copy_file(base, folder / base)
        visited.add(base.resolve())
        file = base


def _base_of(file: Path) -> Path | None:
    """Returns the file that `base:` names, if there is one."""
    try:
        tree = safe_yaml.load(read_text(file))
    # Refused later, when the file is loaded as a preset.
    except (OSError, ValueError):
        return None
    base = tree.get("base") if isinstance(tree, dict) else None
    name = base.partition("+")[0] if isinstance(base, str) else ""
    return Path(name) if name.endswith((".yaml", ".yml")) and Path(name).is_file() else None
