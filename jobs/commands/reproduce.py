"""`isnet runs reproduce RUN`: writes and checks a recipe.

The recipe is a folder with the resolved configuration, the changes of the code since its commit, and the commands. Not
covered: running it, and the order of sums on another processor or with another number of ranks.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs.cli.main import emit
from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.errors import RunFailed, UserError
from trainplane.storage import NotFound, StorageError
from trainplane.tracking import lineage
from trainplane.tracking.run_record import RunRecord
from trainplane.train.checkpoint.store import open_address

# Purpose of a dataset in MLflow -> its setting in section `data`.
PURPOSES = {"training": "train", "validation": "val"}


@dataclass(frozen=True)
class Recipe:
    """Inputs of a run, as recorded in MLflow."""

    run_id: str
    config: dict[str, Any]
    lineage: dict[str, Any]  # versions of packages and other facts
    diff: str | None  # changes of the code since its commit; None if there were none
    tags: dict[str, str]
    datasets: dict[str, str]  # address by purpose


def reproduce(args: argparse.Namespace, context: Context) -> int:
    """Writes the recipe of a run."""
    recipe = _recipe(context, args.run)
    folder = Path(args.output or f"reproduce-{recipe.run_id[:8]}")
    commands = _write(folder, recipe)
    missing = list(_missing(recipe))
    text = "\n".join([f"written to {folder}/:", *(f"  {line}" for line in commands)])
    if missing:
        text += "\n" + "\n".join(["missing or changed since then:", *(f"  {line}" for line in missing)])
    else:
        digest = recipe.tags.get("trainplane.state_digest", "unknown")
        text += f"\nall inputs are there and unchanged; the run ended with state {digest}"
    payload = {
        "run_id": recipe.run_id,
        "folder": str(folder),
        "commands": commands,
        "missing": missing,
        "state_digest": recipe.tags.get("trainplane.state_digest"),
    }
    emit(args, payload, text)
    return 1 if missing else 0


def _recipe(context: Context, run_id: str) -> Recipe:
    record = RunRecord(context.tracking_server, run_id)
    config = record.read_text("config.json")
    if config is None:
        raise UserError(f"run {run_id} has no config.json, so it is no training run; `isnet runs list` shows those")
    facts, diff = json.loads(record.read_text("lineage.json") or "{}"), record.read_text("code.diff")
    datasets = {purpose: str(json.loads(dataset.source)["uri"]) for purpose, dataset in record.datasets if purpose}
    return Recipe(record.run_id, json.loads(config), facts, diff, record.tags, datasets)


def _write(folder: Path, recipe: Recipe) -> list[str]:
    """Writes the files, and returns the commands that use them."""
    config = {**recipe.config, "data": dict(recipe.config["data"])}
    for purpose, address in recipe.datasets.items():
        # The address where the run read it, not the name that was typed.
        config["data"][PURPOSES[purpose]] = address
    if "trainplane.threads" in recipe.tags:
        # Not part of the run's identity, but it decides the order of sums, hence the bits.
        config["train"] = {**config["train"], "threads": int(recipe.tags["trainplane.threads"])}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        # The commands restore the code, then train a new run.
        commands = []
        commit = recipe.tags.get("trainplane.commit", "unknown")
        if commit != "unknown":
            commands.append(f"git checkout {commit}")
        if recipe.diff:
            (folder / "code.diff").write_text(recipe.diff)
            commands.append(f"git apply {shlex.quote(str(folder.resolve() / 'code.diff'))}")
        commands.append(f"isnet train {shlex.quote(str(folder.resolve() / 'config.yaml'))} --fresh")
        (folder / "commands.sh").write_text("\n".join(["set -e", *commands]) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); name another folder with -o") from error
    return commands


def _missing(recipe: Recipe) -> Iterator[str]:
    """Yields a message for each missing or changed input."""
    # The digest shows whether a dataset was packed again from other pictures.
    for purpose, address in recipe.datasets.items():
        yield from _changed_dataset(purpose, address, recipe.tags.get(f"trainplane.dataset.{purpose}"))
    # Code: the commit, and the changes that were not committed.
    commit = recipe.tags.get("trainplane.commit", "unknown")
    if commit == "unknown":
        yield f"code: its commit was not recorded; set {lineage.COMMIT_VARIABLE} where code runs without its repository"
    elif not lineage.has_commit(commit):
        yield f"code: commit {commit} is not in this repository; fetch it"
    if recipe.tags.get("trainplane.dirty") == "true" and not recipe.diff:
        yield "code: it had changes since the commit that were not recorded"
    if recipe.diff and lineage.is_truncated(recipe.diff):
        yield "code: the changes since the commit were too large to be recorded completely"
    # Packages; the operating system may differ.
    now = lineage.environment()
    for package, version in sorted(recipe.lineage.get("environment", {}).items()):
        if package != "system" and now.get(package) != version:
            yield f"package: {package} was {version} and is {now.get(package, 'not installed')}"
    # The checkpoint at the end, which the result can be compared with.
    checkpoint = recipe.tags.get("trainplane.checkpoint")
    if checkpoint:
        try:
            open_address(checkpoint)
        except (UserError, RunFailed, StorageError, OSError) as error:
            yield f"checkpoint: {error}"


def _changed_dataset(purpose: str, address: str, digest: str | None) -> Iterator[str]:
    try:
        now = Dataset.open(address).digest
    except (UserError, RunFailed, StorageError, NotFound, OSError) as error:
        yield f"{purpose} dataset: {error}"
        return
    if now != digest:
        yield f"{purpose} dataset: {address} has digest {now} now, and had {digest}; pack the same pictures again"
