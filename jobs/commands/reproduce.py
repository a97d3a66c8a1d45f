"""`isnet runs reproduce RUN`: writes and checks a recipe.

The recipe is a folder with the resolved configuration, the changes of the code since its commit, and the commands. Not
covered: running it, and the order of sums on another processor or with another number of ranks.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.main import emit
from jobs.data.catalogue import list_datasets
from jobs.evaluation.model_address import run_id_of
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.config import safe_yaml
from trainplane.data.grow.versions import pinned
from trainplane.data.manifest import Dataset
from trainplane.errors import RunFailed, UserError
from trainplane.storage import StorageError
from trainplane.task import load_task
from trainplane.tracking import lineage
from trainplane.tracking.run_record import RunRecord
from trainplane.train.checkpoint.store import open_address

logger = logging.getLogger(__name__)

# Setting in section `data` -> purpose of the dataset in MLflow.
PURPOSES = {"train": "training", "val": "validation"}
# Settings of mask datasets; `NAME_digest` beside them has their digests.
MASKS = ("masks", "val_masks")


@dataclass(frozen=True)
class DatasetInput:
    """Dataset that a run read."""

    digest: str
    typed: str  # its name in the run's configuration
    recorded: str | None  # address where the run read it; None: not recorded
    found: str | None  # address where a dataset of this digest is now


@dataclass(frozen=True)
class Recipe:
    """Inputs of a run, as recorded in MLflow."""

    run_id: str
    config: dict[str, Any]
    lineage: dict[str, Any]  # versions of packages and other facts
    diff: str | None  # changes of the code since its commit; None if there were none
    tags: dict[str, str]
    datasets: dict[str, DatasetInput]  # by setting in section `data`


def reproduce(args: argparse.Namespace, context: Context) -> int:
    """Writes the recipe of a run."""
    recipe = _recipe(context, run_id_of(args.run, context))
    folder = Path(args.output or f"reproduce-{recipe.run_id[:8]}")
    commands = _write(folder, recipe)
    missing = list(_missing(recipe, context))
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
        raise UserError(
            f"run {run_id} has no config.json, so it is no training run; `{command_line('runs', 'list')}` shows those"
        )
    facts, diff = json.loads(record.read_text("lineage.json") or "{}"), record.read_text("code.diff")
    settings = json.loads(config)
    datasets = {
        name: _located(context, digest, str(settings["data"].get(name, place.get("uri", name))), place)
        for name, digest, place in _recorded_datasets(record, settings["data"], facts)
    }
    return Recipe(record.run_id, settings, facts, diff, record.tags, datasets)


def _recorded_datasets(
    record: RunRecord, data: dict[str, Any], facts: dict[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields setting, digest and recorded place of each dataset."""
    places = facts.get("datasets", {})
    further = {f"mix.{name}": f"training.{number}" for number, name in enumerate(data.get("mix", {}), 2)}
    further |= {f"val_sets.{name}": f"validation.{name}" for name in data.get("val_sets", {})}
    for name, purpose in {**PURPOSES, **further}.items():
        if f"trainplane.dataset.{purpose}" not in record.tags:
            continue
        # An older run's address is in MLflow's row alone, which may be another run's.
        rows = [json.loads(row.source) for row_purpose, row in record.datasets if row_purpose == purpose]
        yield name, record.tags[f"trainplane.dataset.{purpose}"], places.get(purpose, rows[0] if rows else {})
    for name in MASKS:
        digests = data.get(f"{name}_digest") or {}
        by_address = digests if isinstance(digests, dict) else {data[name]: digests}
        for address, digest in by_address.items():
            # Masks were read through the same endpoint as the photos. Of several, each has its own line.
            key = name if isinstance(digests, str) else f"{name}.{address}"
            yield key, digest, {**places.get("training", {}), "uri": address}


def _located(context: Context, digest: str, typed: str, place: dict[str, Any]) -> DatasetInput:
    """Searches a dataset by address, by name, then by digest."""
    places = [place, {**place, "uri": context.dataset(typed)}]
    addresses = [each["uri"] for each in places if _may_ask(each, context)]
    current = next((address for address in addresses if _has_digest(address, digest)), None)
    try:
        stored = (entry.dataset for entry in list_datasets(context.datasets) if entry.dataset)
        current = current or next((dataset.address for dataset in stored if dataset.digest == digest), None)
    except (UserError, StorageError, OSError) as error:
        logger.warning("the datasets in %s cannot be searched (%s)", context.datasets, error)
    # The plain address of a dataset that has grown since means its newest version.
    return DatasetInput(digest, typed, place.get("uri"), pinned(current) if current else None)


def _has_digest(address: str, digest: str) -> bool:
    try:
        return Dataset.open(address).digest == digest
    except (UserError, StorageError, OSError):
        return False


def _may_ask(place: dict[str, Any], context: Context) -> bool:
    """Checks that an address still means what it meant."""
    uri = place.get("uri", "")
    if not uri.startswith("s3://") or _bucket(uri) == _bucket(context.datasets):
        return bool(uri)
    # The same bucket name behind another endpoint is another bucket, perhaps a stranger's at Amazon.
    return bool(place.get("endpoint", "unknown") == lineage.s3_endpoint())


def _bucket(address: str) -> list[str]:
    return address.split("/")[:3]


def _write(folder: Path, recipe: Recipe) -> list[str]:
    """Writes the files, and returns the commands that use them."""
    config = {**recipe.config, "data": dict(recipe.config["data"])}
    for name, dataset in recipe.datasets.items():
        # An address where the data are now, or the name under which to pack them again: never one that leads nowhere.
        place = dataset.found or dataset.typed.rstrip("/").rpartition("/")[2]
        setting, _, key = name.partition(".")
        if setting == "val_sets":
            config["data"][setting] = {**config["data"][setting], key: place}
        elif key:
            # One of several kinds of masks, or of several training datasets, by its address.
            weights = config["data"][setting]
            config["data"][setting] = {place if kind == key else kind: weight for kind, weight in weights.items()}
        else:
            config["data"][name] = place
    if "trainplane.threads" in recipe.tags:
        # Not part of the run's identity, but it decides the order of sums, hence the bits.
        config["train"] = {**config["train"], "threads": int(recipe.tags["trainplane.threads"])}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(safe_yaml.dump(config))
        # The commands restore the code, then train a new run.
        commands = []
        commit = recipe.tags.get("trainplane.commit", "unknown")
        if commit != "unknown":
            commands.append(f"git checkout {commit}")
        if recipe.diff:
            (folder / "code.diff").write_text(recipe.diff)
            commands.append(f"git apply {shlex.quote(str(folder.resolve() / 'code.diff'))}")
        commands.append(command_line("train", str(folder.resolve() / "config.yaml"), "--fresh"))
        (folder / "commands.sh").write_text("\n".join(["set -e", *commands]) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); name another folder with -o") from error
    return commands


def _missing_start(recipe: Recipe, context: Context) -> Iterator[str]:
    """Yields a message if its first weights are gone."""
    train = recipe.config["train"]
    if (address := train.get("start_from")) is None:
        return
    try:
        start = load_task(recipe.config["task"]).find_start(address, context)
    except (ValueError, RunFailed, OSError) as error:
        yield f"start: {error}"
        return
    if start.digest != train["start_from_digest"]:
        yield f"start: {address} had digest {train['start_from_digest']}, and has {start.digest} now; restore it"


def _missing(recipe: Recipe, context: Context) -> Iterator[str]:
    """Yields a message for each missing or changed input."""
    # The digest shows whether a dataset was packed again from other pictures.
    for name, dataset in recipe.datasets.items():
        if dataset.found is None:
            where = f" (it was read from {dataset.recorded})" if dataset.recorded else ""
            yield (
                f"{PURPOSES.get(name, name)} dataset: {dataset.typed!r} had digest {dataset.digest}{where}, and no "
                f"dataset in {context.datasets} has it now; pack the same pictures again"
            )
    yield from _missing_start(recipe, context)
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
