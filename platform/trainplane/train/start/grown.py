"""Continues a run on a grown dataset.

Other data make another run, so `data.grown_from` says that this is meant: the new run begins at the whole state of the
one that had the same settings and the dataset before. Without it nothing is decided in silence: a command whose run
stands on an earlier version of the dataset is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from trainplane.cluster.context import Context
from trainplane.config.load import build
from trainplane.data.grow.lineage import lineage_of
from trainplane.data.grow.versions import VersionName
from trainplane.data.manifest import Dataset
from trainplane.data.mixture import Mixture, TrainingData
from trainplane.data.named import open_dataset
from trainplane.errors import UserError
from trainplane.storage import Store, open_store
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.content import parse_object
from trainplane.train.run_config import RunConfig
from trainplane.train.run_key import run_key

ConfigT = TypeVar("ConfigT", bound=RunConfig)

_ANEW = ", and --fresh begins a new run"
_START = ("start_from", "start_from_digest", "start_from_strict", "start_state")


@dataclass(frozen=True)
class _Alike:
    """Run whose settings differ in start and growth only."""

    store: Store
    config: RunConfig
    key: str  # without its number
    created: str

    def has_data(self, digest: str, validation: Collection[str | None]) -> bool:
        """Tells if it trains on this dataset."""
        return self.key in {run_key(self.config, digest, val) for val in validation}


def located_growth(config: ConfigT, context: Context, train: TrainingData, val: Dataset | None) -> ConfigT:
    """Adds the start of a run on a grown dataset.

    Args:
        config: Of the run; unchanged without `data.grown_from`.
        context: Where datasets and runs are.
        train: Training dataset.
        val: Held-out dataset.

    Raises:
        UserError: If the dataset did not grow out of that one, or no run of these settings saw it.
    """
    # A mixture does not grow; its configuration refuses to say so.
    if config.data.grown_from is None or isinstance(train, Mixture):
        return config
    digest = _ancestor(config.data.grown_from, context, train)
    config = config.model_copy(update={"data": config.data.model_copy(update={"grown_from": digest})})
    if config.train.start_from is not None:
        return config
    validation, alike = _validation(val), list(_runs_alike(config, context))
    # The run that went on already keeps its start, however far the one before has come since.
    gone_on = [run for run in alike if run.config.data.grown_from == digest and run.has_data(train.digest, validation)]
    if gone_on:
        start = max(gone_on, key=lambda run: run.created).config.train
        return _with_start(config, {name: getattr(start, name) for name in _START})
    before = sorted((run for run in alike if run.has_data(digest, validation)), key=lambda run: run.created)
    for run in reversed(before):
        if (newest := next(checkpoints.newest_first(run.store), None)) is not None:
            address = f"{run.store.address}/{newest.key}"
            return _with_start(
                config,
                {
                    "start_from": address,
                    "start_from_digest": newest.state_digest,
                    "start_from_strict": True,
                    "start_state": "all",
                },
            )
    raise UserError(
        f"data.grown_from={digest[:12]}: no run of these settings with a checkpoint trained on that version; give its "
        "settings, or leave data.grown_from out to begin anew on the larger dataset"
    )


def check_said(config: RunConfig, context: Context, train: TrainingData, val: Dataset | None) -> None:
    """Raises `UserError` where an earlier run would be left.

    Call it for a new run that was not asked for by name.
    """
    # What a mixture adds to a dataset is another training, whatever versions it has.
    if isinstance(train, Mixture):
        return
    lineage = lineage_of(train)
    if lineage is None or config.data.grown_from is not None or config.train.start_from is not None:
        return
    validation = _validation(val)
    for run in _runs_alike(config, context):
        for digest in reversed(lineage.ancestors):
            if run.has_data(digest, validation) and next(checkpoints.newest_first(run.store), None) is not None:
                raise UserError(_unsaid(f"run {run.store.address.rpartition('/')[2]}", config, train, digest) + _ANEW)


def check_state_said(config: RunConfig, train: TrainingData, state_of: str, digest: str | None) -> None:
    """Raises `UserError` where a state changes its dataset unsaid.

    Args:
        config: Of the run that begins at the state.
        train: Its training dataset.
        state_of: Address of the state.
        digest: Of the dataset that the state was trained on.
    """
    if isinstance(train, Mixture):
        return
    lineage = lineage_of(train)
    if lineage is not None and digest in lineage.ancestors and config.data.grown_from != digest:
        raise UserError(_unsaid(state_of, config, train, str(digest)))


def _unsaid(what: str, config: RunConfig, train: Dataset, digest: str) -> str:
    name = VersionName.of(config.data.train).root.partition("@")[0]
    return (
        f"{what} was trained on an earlier version of {train.name} ({digest[:12]}, this is {train.digest[:12]}); "
        f"data.grown_from={digest[:12]} goes on with its state on this one, data.train={name}@{digest[:12]} on that one"
    )


def _with_start(config: ConfigT, start: dict[str, Any]) -> ConfigT:
    return config.model_copy(update={"train": config.train.model_copy(update=start)})


def _ancestor(typed: str, context: Context, train: Dataset) -> str:
    """Digest of the version that was typed."""
    lineage = lineage_of(train)
    ancestors = lineage.ancestors if lineage else ()
    matches = [digest for digest in ancestors if len(typed) >= 8 and digest.startswith(typed)]
    digest = matches[0] if matches else open_dataset(typed, context).digest
    if digest in ancestors:
        return digest
    listed = ", ".join(digest[:12] for digest in ancestors) or "it grew out of none"
    raise UserError(
        f"data.grown_from={typed} (digest {digest[:12]}) is no version that {train.name} (digest {train.digest[:12]}) "
        f"grew out of; name one of these: {listed}"
    )


def _validation(val: Dataset | None) -> list[str | None]:
    """Digests that the held-out dataset may have had."""
    if val is None:
        return [None]
    lineage = lineage_of(val)
    return [val.digest, *(lineage.ancestors if lineage else ())]


def _runs_alike(config: RunConfig, context: Context) -> Iterator[_Alike]:
    ours = _settings(config)
    store = open_store(context.checkpoints)
    for entry in list(store.list(f"{config.name}-")):
        folder, _, name = entry.key.partition("/")
        if name != "run.json":
            continue
        try:
            about = parse_object(store.read(entry.key))
            theirs = build(type(config), about["config"])
            run = _Alike(
                store.child(folder), theirs, str(about["key"]).partition(".")[0], str(about.get("created", ""))
            )
        # Of another version, or deleted meanwhile.
        except (ValueError, LookupError):
            continue
        if _settings(theirs) == ours:
            yield run


def _settings(config: RunConfig) -> dict[str, Any]:
    """Identity without start and growth."""
    identity = config.identity()
    data = {name: value for name, value in identity["data"].items() if name != "grown_from"}
    train = {name: value for name, value in identity["train"].items() if name not in _START}
    return {**identity, "data": data, "train": train}
