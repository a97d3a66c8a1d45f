"""Trains runs: `isnet train` and `isnet runs branch`."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

from jobs.api.session import session
from jobs.api.settings import Settings, words_of
from jobs.config import ISNetConfig, build_run, load_run_config
from jobs.data.demo_photos import ensure_demo_datasets
from jobs.data.mask_datasets import with_located_masks
from jobs.data.mean_color import with_mean_color
from jobs.evaluation.model_address import run_id_of
from jobs.presets import is_shipped
from jobs.registry.register import try_register
from jobs.train.run import run_training
from trainplane.cluster.context import Context
from trainplane.errors import RunFailed, UserError
from trainplane.tracking.pages import run_page
from trainplane.tracking.run_record import RunRecord
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.run_config import RunConfig
from trainplane.train.run_page import Typed
from trainplane.train.spec import Outcome
from trainplane.train.start.checkpoint import step_of


@dataclass(frozen=True, kw_only=True)
class TrainedRun(Outcome):
    """A run that was trained, with its record.

    Attributes:
        run_id: Of MLflow, or the one reserved while MLflow is away.
        page: Address of the run's page, where MLflow is served.
        register_as: Name that its model was to be registered under, if any.
        version: Number of the registered version, if one was made.
        registration: Sentence about the registration.
    """

    run_id: str
    page: str | None = None
    register_as: str | None = None
    version: str | None = None
    registration: str = ""

    @property
    def is_done(self) -> bool:
        """True if it went through, and was registered if asked."""
        return self.status == "finished" and (self.register_as is None or self.version is not None)

    def to_json(self) -> dict[str, Any]:
        """Returns what `isnet train --json` prints."""
        hidden = ("register_as", "version", "registration", "attempts_s", "rank_s")
        payload = {name: value for name, value in asdict(self).items() if name not in hidden}
        if self.register_as is not None and self.status == "finished":
            payload["registered"] = {"name": self.register_as, "version": self.version}
        return payload


def train(
    config: str | os.PathLike[str] | RunConfig,
    settings: Settings = (),
    *,
    fresh: bool = False,
    context: Context | str | None = None,
) -> TrainedRun:
    """Trains one run, or resumes it.

    The same configuration finds the same run: a run that was stopped goes on, and one that is done is measured again.
    Interrupted, it saves a checkpoint first.

    Args:
        config: Preset, YAML file, or a configuration that is built already.
        settings: On top of a preset: `{"train.steps": 200}`, or words as on the command line.
        fresh: Start a new run instead of resuming.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: Something in the call cannot be; nothing was started.
        RunFailed: The run failed; it can be resumed.
    """
    with session(context, is_recording=True, is_long=True) as opened:
        words = words_of(settings)
        if not isinstance(config, RunConfig):
            preset = os.fspath(config)
            typed = Typed(preset, words, is_shipped(preset))
            return train_config(with_located_masks(load_run_config(preset, words), opened), opened, typed, fresh=fresh)
        if words:
            raise UserError(
                f"a configuration that is built takes no settings, got {words[0]}; build it with them: "
                "load_run_config(PRESET, SETTINGS)"
            )
        return train_config(config, opened, fresh=fresh)


def branch(
    run: str,
    settings: Settings = (),
    *,
    step: int | None = None,
    fresh: bool = False,
    context: Context | str | None = None,
) -> TrainedRun:
    """Trains a new run from the whole state of another.

    Args:
        run: Its id or the beginning of it, or a model that it made.
        settings: That are changed.
        step: Checkpoint to begin at; None for the newest.
        fresh: Start a new run instead of resuming this branch.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: There is no such run or checkpoint, or a setting cannot be.
        RunFailed: The run failed; it can be resumed.
    """
    with session(context, is_recording=True, is_long=True) as opened:
        words = words_of(settings)
        run_id = RunRecord(opened.tracking_server, run_id_of(run, opened)).run_id
        address = step_of(run_id, step, opened)
        store, checkpoint = checkpoints.open_address(address)
        tree = checkpoints.read_meta(store, checkpoint).get("config")
        if not isinstance(tree, dict):
            raise UserError(f"checkpoint {address} has no configuration; name a run of this program")
        # The parent's own start, if it had one, is behind it.
        start = {
            "start_from": address,
            "start_from_digest": checkpoint.state_digest,
            "start_from_strict": True,
            "start_state": "all",
        }
        config = with_located_masks(build_run({**tree, "train": {**tree["train"], **start}}, words), opened)
        typed = Typed(
            run_id,
            words,
            command=("runs", "branch"),
            options=("--step", str(checkpoint.step)),
            title=f"{config.name} from step {checkpoint.step}",
        )
        return train_config(config, opened, typed, fresh=fresh)


def train_config(config: RunConfig, context: Context, typed: Typed | None = None, *, fresh: bool) -> TrainedRun:
    """Trains a configured run; registers its model if asked."""
    _check_registration(config)
    # The demo's datasets need no step of their own.
    ensure_demo_datasets([config.data.train, *config.data.mix, config.data.val], context)
    config = with_mean_color(config, context)
    prepared, outcome = run_training(config, context, fresh=fresh, typed=typed)
    run_id, name = prepared.run_id, config.tracking.register_as
    run = TrainedRun(**vars(outcome), run_id=run_id, page=_page(context, run_id), register_as=name)
    if name is None or outcome.status != "finished":
        return run
    # A registration that fails does not lose the run; the message says how to register it later.
    version, message = try_register(context, outcome.checkpoint, name=name, run_id=run_id)
    return replace(run, version=version, registration=message)


def _page(context: Context, run_id: str) -> str | None:
    """Returns the address of a run's page, if served."""
    server = context.tracking_server
    # The pages of a database are not served until somebody asks for them.
    if not server.address.startswith("http"):
        return None
    try:
        run = RunRecord(server, run_id).run
    # The run is complete; MLflow gets it later.
    except (UserError, RunFailed):
        return None
    return run_page(server.public_address, run.info.experiment_id, run.info.run_id)


def _check_registration(config: RunConfig) -> None:
    """Refuses to register another task's model, before anything is trained."""
    name = config.tracking.register_as
    if name is not None and not isinstance(config, ISNetConfig):
        raise UserError(
            f"tracking.register_as={name}: only ISNet's models are registered by `isnet`; leave it out, and register "
            f"the model of {config.task} with trainplane.registry.package"
        )
