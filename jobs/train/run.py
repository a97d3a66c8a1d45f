"""Runs one training from preparation to the closed MLflow run."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from jobs.cli.progress import Bar
from jobs.config import ISNetConfig
from jobs.train.plan_artifact import PlanRecord
from jobs.train.resources import ranks_here
from jobs.train.summary import away_line, plan_line
from trainplane.cluster.context import Context
from trainplane.cluster.ray_session import in_ray_job
from trainplane.errors import UserError
from trainplane.tracking.runs import ending, reap
from trainplane.train.errors import Superseded
from trainplane.train.launch.launch import is_done
from trainplane.train.launch.launch import train as launch
from trainplane.train.setup import Prepared, device_of, prepared_run
from trainplane.train.spec import Outcome


def run_training(config: ISNetConfig, context: Context, *, fresh: bool, label: str = "") -> tuple[Prepared, Outcome]:
    """Prepare, train, and close the MLflow run as it ended."""
    preparing = prepared_run(config, context, fresh=fresh, label=label, may_start=lambda done: _room_for(config, done))
    with preparing as prepared:
        return prepared, _train_prepared(prepared, context)


def _room_for(config: ISNetConfig, done: int) -> None:
    """`UserError` where what is left of the run needs more than there is."""
    if done >= config.train.steps:
        # A finished run is only measured, in this process.
        device_of(config)
    elif (refusal := ranks_here(config).refusal) is not None:
        raise UserError(refusal)
    # Ranks of a cluster may have files that this machine has not.
    if not in_ray_job():
        config.loss.check_files()


def _train_prepared(prepared: Prepared, context: Context) -> Outcome:
    train = prepared.config.train
    bar = Bar()
    try:
        print(plan_line(prepared), file=sys.stderr)
        if prepared.run.away is not None:
            print(away_line(prepared), file=sys.stderr)
        else:
            # Others' runs: no reason not to train.
            with suppress(UserError):
                reap(context.tracking, context.home)
        # A run that is finished is only measured again: not worth a cluster.
        distributed = (train.max_workers > 1 or in_ray_job()) and not is_done(prepared.job, train.steps)
        plan = PlanRecord(prepared, context)
        with _interruptible() as flag:
            outcome = launch(prepared.job, train, progress=bar, interrupted=flag, distributed=distributed)
    except Superseded:
        # The record is its successor's now.
        raise
    except BaseException as error:
        prepared.end(*ending(error))
        raise
    finally:
        bar.close()
    try:
        plan.close(outcome)
    finally:
        tags = {"trainplane.state_digest": outcome.state_digest, "trainplane.checkpoint": outcome.checkpoint}
        left = prepared.end("FINISHED" if outcome.status == "finished" else "FAILED", tags)
    return replace(outcome, unsent=max(left, outcome.unsent) if distributed else left)


@dataclass
class _Flag:
    raised: bool = field(default=False)

    def __call__(self) -> bool:
        return self.raised


def _no_more(number: int, frame: Any) -> None:
    """Nothing: what can be asked for was asked for."""


@contextmanager
def _interruptible() -> Iterator[_Flag]:
    """Turn the first Ctrl-C, SIGTERM or closing of the terminal into a flag that the loop reads between steps.

    The second one ends at once, which takes down what was started; further ones change nothing about that. Under
    `nohup`, closing the terminal goes on being nothing.
    """
    flag = _Flag()

    def ask(number: int, frame: Any) -> None:
        if flag.raised:
            for each in wanted:
                signal.signal(each, _no_more)
            raise KeyboardInterrupt
        flag.raised = True
        # The terminal may be gone.
        with suppress(OSError):
            print("\nisnet: stopping after this step, saving where it stands (again to stop at once)", file=sys.stderr)

    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        wanted.append(signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in wanted}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
