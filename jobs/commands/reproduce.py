"""`isnet runs reproduce RUN`: how to run it again, and whether everything that it takes is still there.

Writes a folder with the resolved configuration, the changes that the code had since its commit, and the commands.
Checked are the datasets by their digests, the commit, the changes, the packages and the checkpoint at the end. Not
covered: running it, and that another processor or number of ranks adds up in the same order.
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
from trainplane.cluster.context import Context, resolve
from trainplane.data.manifest import Dataset
from trainplane.errors import RunFailed, UserError
from trainplane.storage import NotFound, StorageError
from trainplane.tracking import lineage
from trainplane.tracking.run_record import RunRecord
from trainplane.train.checkpoint.store import open_address

PURPOSES = {"training": "train", "validation": "val"}


@dataclass(frozen=True)
class Recipe:
    """What a run was made from, as it was recorded."""

    run_id: str
    config: dict[str, Any]
    facts: dict[str, Any]
    diff: str | None
    tags: dict[str, str]
    datasets: dict[str, str]
    """Address by purpose."""


def reproduce(args: argparse.Namespace) -> int:
    """The command."""
    context = resolve(args.context)
    context.activate()
    recipe = _recorded(context, args.run)
    folder = Path(args.output or f"reproduce-{recipe.run_id[:8]}")
    commands = _write(folder, recipe)
    missing = list(_missing(recipe))
    text = "\n".join([f"written to {folder}/:", *(f"  {line}" for line in commands)])
    if missing:
        text += "\n" + "\n".join(["not as it was:", *(f"  {line}" for line in missing)])
    else:
        text += (
            f"\nall that it takes is there; it ended on state {recipe.tags.get('trainplane.state_digest', 'unknown')}"
        )
    payload = {
        "run_id": recipe.run_id,
        "folder": str(folder),
        "commands": commands,
        "missing": missing,
        "state_digest": recipe.tags.get("trainplane.state_digest"),
    }
    emit(args, payload, text)
    return 1 if missing else 0


def _recorded(context: Context, run_id: str) -> Recipe:
    record = RunRecord(context.tracking_server, run_id)
    config = record.read_text("config.json")
    if config is None:
        raise UserError(f"run {run_id} has no config.json, so it is no training run; `isnet runs list` shows those")
    facts, diff = record.read_text("lineage.json"), record.read_text("code.diff")
    datasets = {purpose: str(json.loads(dataset.source)["uri"]) for purpose, dataset in record.datasets if purpose}
    return Recipe(record.run_id, json.loads(config), json.loads(facts or "{}"), diff, record.tags, datasets)


def _write(folder: Path, recipe: Recipe) -> list[str]:
    """The files, and the commands that use them; datasets are named where the run read them."""
    config = {**recipe.config, "data": dict(recipe.config["data"])}
    for purpose, address in recipe.datasets.items():
        config["data"][PURPOSES[purpose]] = address
    if "trainplane.threads" in recipe.tags:
        # Not of the run's identity, but of its bits: another number adds up in another order.
        config["train"] = {**config["train"], "threads": int(recipe.tags["trainplane.threads"])}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
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
    """A sentence for everything that is not as it was."""
    for purpose, address in recipe.datasets.items():
        yield from _changed_dataset(purpose, address, recipe.tags.get(f"trainplane.dataset.{purpose}"))
    commit = recipe.tags.get("trainplane.commit", "unknown")
    if commit == "unknown":
        yield f"code: its commit was not recorded; set {lineage.COMMIT_VARIABLE} where code runs without its repository"
    elif not lineage.has_commit(commit):
        yield f"code: commit {commit} is not in this repository; fetch it"
    if recipe.tags.get("trainplane.dirty") == "true" and not recipe.diff:
        yield "code: it had changes since the commit, and they were not recorded"
    if recipe.diff and lineage.is_cut(recipe.diff):
        yield "code: the changes since the commit were too many to be recorded whole"
    now = lineage.environment()
    for package, version in sorted(recipe.facts.get("environment", {}).items()):
        if package != "system" and now.get(package) != version:
            yield f"package: {package} was {version} and is {now.get(package, 'not installed')}"
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
