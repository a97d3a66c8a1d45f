"""Runs one training from preparation to the closed MLflow run."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from jobs.cli.progress import Bar
from jobs.config import ISNetConfig
from jobs.train.plan_artifact import PlanRecord
from jobs.train.resources import bf16_line, processor_line, ranks_here
from jobs.train.summary import offline_line, plan_line, saved_line, start_line
from jobs.train.throughput import check_stall_limit, last_rate
from trainplane.cluster.context import Context
from trainplane.cluster.ray_session import in_ray_job
from trainplane.errors import UserError, error_line
from trainplane.notify.notifier import Notifier
from trainplane.notify.run_events import NoticeListener, RunFacts, run_ended, run_found_dead, run_notice
from trainplane.storage import StorageError, open_store
from trainplane.store_wait import STORE_WAITS
from trainplane.task import load_task
from trainplane.tracking.heartbeat import fail_stale_runs
from trainplane.tracking.run_id import is_reserved
from trainplane.tracking.runs import exit_status
from trainplane.tracking.tracker import Status, gallery_key
from trainplane.train import run_page
from trainplane.train.checkpoint.store import newest_first
from trainplane.train.errors import Superseded
from trainplane.train.launch.launch import is_done
from trainplane.train.launch.launch import train as launch
from trainplane.train.run_config import RunConfig
from trainplane.train.run_page import Typed
from trainplane.train.setup import PreparedRun, device_of, prepared_run
from trainplane.train.spec import Outcome


def run_training(
    config: RunConfig, context: Context, *, fresh: bool, typed: Typed | None = None
) -> tuple[PreparedRun, Outcome]:
    """Prepares a run, trains it, and closes its MLflow run."""
    preparing = prepared_run(
        config, context, fresh=fresh, typed=typed, may_start=lambda done: _check_resources(config, context, done)
    )
    with preparing as prepared:
        # The run is locked until this block ends.
        return prepared, _train_prepared(prepared, context)


def _result(prepared: PreparedRun, outcome: Outcome) -> str:
    """Figures and a picture for the run's page."""
    config, task = prepared.config, load_task(prepared.config.task)
    # Only MLflow's own id leads to an artifact.
    has_images = bool(outcome.metrics) and config.tracking.gallery > 0 and not is_reserved(prepared.run_id)
    return run_page.result(
        outcome.metrics,
        task.headlines(config),
        step=outcome.step,
        run_id=prepared.run_id,
        image=gallery_key(0) if has_images else "",
    )


def _check_resources(config: RunConfig, context: Context, done: int) -> None:
    """Refuses a run that does not fit here (`UserError`)."""
    if done >= config.train.steps:
        # A finished run is only measured, in this process.
        device_of(config)
    elif (refusal := ranks_here(config).refusal) is not None:
        raise UserError(refusal)
    if isinstance(config, ISNetConfig) and "stall_s" in config.train.model_fields_set and config.train.max_workers > 1:
        # Where MLflow does not answer, the time of a step is unknown.
        rate = None
        with suppress(UserError):
            rate = last_rate(config, context, gpu=ranks_here(config).gpu)
        check_stall_limit(config.train, rate)
    # Ranks on a cluster may have files that this machine does not have.
    if isinstance(config, ISNetConfig) and not in_ray_job():
        _check_features(config)


def _check_features(config: ISNetConfig) -> None:
    """Checks the perceptual loss's weights, downloaded if need be."""
    loss = config.loss
    loss.check_files()
    if (loss.perceptual or loss.style) and loss.perceptual_weights != "random":
        from jobs.train.networks import build_perceptual

        build_perceptual(config)


def _train_prepared(prepared: PreparedRun, context: Context) -> Outcome:
    train = prepared.config.train
    notifier, facts = Notifier(context), _facts(prepared, context)
    bar = Bar()
    try:
        print(plan_line(prepared), file=sys.stderr)
        if beginning := start_line(prepared):
            print(beginning, file=sys.stderr)
        for line in (processor_line(prepared.config), bf16_line(prepared.config)):
            if line is not None and not is_done(prepared.job, train.steps):
                print(line, file=sys.stderr)
        if prepared.run.offline_reason is not None:
            print(offline_line(prepared), file=sys.stderr)
        else:
            # Closes dead runs of other processes; a failure there is no reason not to train.
            with suppress(UserError):
                for dead in fail_stale_runs(context.tracking_server, context.home):
                    notifier.tell(run_found_dead(dead))
        # A finished run is only measured again: not worth starting a cluster.
        distributed = (train.max_workers > 1 or in_ray_job()) and not is_done(prepared.job, train.steps)
        plan = PlanRecord(prepared, context)
        listener = NoticeListener(bar, lambda notice: notifier.tell(run_notice(facts, notice)))
        with _interruptible() as flag:
            outcome = launch(prepared.job, train, progress=listener, interrupted=flag, distributed=distributed)
    except Superseded:
        # Another process trains this run now, and its record is not ours to close.
        raise
    except BaseException as error:
        status, tags = exit_status(error)
        prepared.end(status, tags)
        if isinstance(error, KeyboardInterrupt):
            saved = _saved_step(prepared)
            notifier.tell(run_ended(facts, status, step=saved))
            raise KeyboardInterrupt(saved_line(saved, train.steps)) from error
        notifier.tell(run_ended(facts, status, reason=error_line(error)))
        raise
    finally:
        bar.close()
    try:
        plan.close(outcome)
    finally:
        tags = {"trainplane.state_digest": outcome.state_digest, "trainplane.checkpoint": outcome.checkpoint}
        tags["mlflow.note.content"] = _result(prepared, outcome) + prepared.description
        end: Status = "FINISHED" if outcome.status == "finished" else "FAILED"
        unsent = prepared.end(end, tags)
        names = load_task(prepared.config.task).headlines(prepared.config)
        metrics = {name: outcome.metrics[name] for name in names if name in outcome.metrics}
        notifier.tell(run_ended(facts, end, step=outcome.step, metrics=metrics))
    # Rank 0 may run on another host, whose spool is not counted here.
    return replace(outcome, unsent=max(unsent, outcome.unsent) if distributed else unsent)


def _facts(prepared: PreparedRun, context: Context) -> RunFacts:
    """Facts of a run for events, without asking MLflow."""
    server, run_id = context.tracking_server, prepared.run_id
    # Only MLflow's own id has a page.
    has_page = server.address.startswith("http") and not is_reserved(run_id)
    return RunFacts(run_id, prepared.run_dir.folder, f"{server.public_address}/#/runs/{run_id}" if has_page else "")


def _saved_step(prepared: PreparedRun) -> int | None:
    """Step that the run can go on from, if known."""
    try:
        newest = next(newest_first(open_store(prepared.run_dir.address)), None)
    except (StorageError, UserError, OSError):
        return None
    return newest.step if newest else 0


@dataclass
class _Flag:
    raised: bool = field(default=False)

    def __call__(self) -> bool:
        return self.raised


def _ignore(number: int, frame: Any) -> None:
    """Ignores a signal."""


@contextmanager
def _interruptible() -> Iterator[_Flag]:
    """Turns the first interruption into a flag for the loop.

    Interruptions are Ctrl-C, SIGTERM and closing the terminal. The second one stops the run at once and takes down what
    was started; further ones are ignored. Under `nohup`, closing the terminal stays without effect.
    """
    flag = _Flag()
    # Signals are the main thread's; a caller in another one goes without.
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    # nohup sets SIG_IGN.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def ask(number: int, frame: Any) -> None:
        if flag.raised:
            # A third interruption must not disturb the clean-up.
            for each in numbers:
                signal.signal(each, _ignore)
            raise KeyboardInterrupt
        # The loop reads it between steps.
        flag.raised = True
        STORE_WAITS.is_over = True
        # The terminal may be closed already.
        with suppress(OSError):
            print("\nisnet: stopping after this step, saving a checkpoint (again to stop at once)", file=sys.stderr)

    handlers = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield flag
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
