"""Start a run's ranks: here for one, under Ray Train for more, and again after failures that are worth it.

Ray Train starts the group and its process group, and notices when a worker dies. It never resumes by itself: every
attempt has a fresh Ray run name, and where training goes on is read from our own checkpoints.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from trainplane.cluster.session import in_ray_job, ray_session, scratch_folder
from trainplane.config import TrainConfig
from trainplane.errors import RunFailed, UserError
from trainplane.train.loop import Job, Outcome, Progress, TrackingTarget, run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AfterFailure:
    """What to do about an attempt that failed."""

    again: bool
    reason: str


def after_failure(error: BaseException, *, attempt: int, progressed: bool, max_attempts: int = 4) -> AfterFailure:
    """Pure: is another attempt worth its cost? `progressed`: it committed a checkpoint since the attempt before."""
    if not isinstance(error, WorkerLost):
        return AfterFailure(False, "another attempt would meet the same cause")
    if progressed:
        return AfterFailure(True, "a worker was lost after new progress")
    if attempt >= max_attempts:
        return AfterFailure(False, f"{attempt} attempts in a row lost workers without any progress")
    return AfterFailure(True, "a worker was lost")


class WorkerLost(RunFailed):
    """A rank's process or node went away."""


def train(
    job: Job,
    config: TrainConfig,
    *,
    progress: Progress,
    interrupted: Callable[[], bool] = lambda: False,
    distributed: bool | None = None,
) -> Outcome:
    """Train `job` to its end. `distributed`: under Ray Train; by default with more than one worker or in a Ray job."""
    if distributed is None:
        distributed = config.workers > 1 or in_ray_job()
    if not distributed:
        return run(job, progress=progress, interrupted=interrupted)
    with ExitStack() as stack:
        ray = stack.enter_context(ray_session())
        _check_room(ray, config)
        scratch = stack.enter_context(scratch_folder())
        attempt, reached = 0, -1
        while True:
            attempt += 1
            watcher = ray.remote(num_cpus=0)(_Watcher).remote()
            try:
                return _attempt(ray, job, config, watcher, scratch, progress)
            except WorkerLost as error:
                step = newest_step(job)
                decision = after_failure(error, attempt=attempt, progressed=step > reached)
                if not decision.again:
                    raise
                reached, attempt = step, 1 if step > reached else attempt
                log.warning("%s (%s); starting again from step %d", error, decision.reason, max(step, 0))


class _Watcher:
    """An actor through which rank 0 tells the driver how far it is and how it ended."""

    def __init__(self) -> None:
        self._progress: tuple[int, int, float, dict[str, float]] | None = None
        self._outcome: dict[str, Any] | None = None
        self._error: Exception | None = None

    def tell(self, step: int, steps: int, pictures_per_s: float, metrics: dict[str, float]) -> None:
        self._progress = (step, steps, pictures_per_s, metrics)

    def finish(self, outcome: dict[str, Any]) -> None:
        self._outcome = outcome

    def fail(self, error: Exception) -> None:
        self._error = self._error or error

    def state(self) -> tuple[Any, Any, Any]:
        return self._progress, self._outcome, self._error


class _Messenger:
    """Progress of a rank in another process: at most two messages a second, never waited for."""

    def __init__(self, watcher: Any) -> None:
        self._watcher = watcher
        self._next = 0.0

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now >= self._next or step == steps:
            self._next = now + 0.5
            self._watcher.tell.remote(step, steps, pictures_per_s, dict(metrics))


def _worker(settings: dict[str, Any]) -> None:
    """What each rank runs."""
    import ray

    watcher = settings["watcher"]
    job = Job(**{**settings["job"], "tracking": _target(settings["job"]["tracking"])})
    try:
        outcome = run(job, progress=_Messenger(watcher))
    except (UserError, RunFailed) as error:
        # Ray reports failures as text; the sentence and its kind reach the user through the watcher.
        ray.get(watcher.fail.remote(error))
        raise
    from trainplane.train.world import World

    if World.current().is_first:
        ray.get(watcher.finish.remote(asdict(outcome)))


def _target(values: dict[str, str] | None) -> TrackingTarget | None:
    return TrackingTarget(**values) if values else None


def _attempt(ray: Any, job: Job, config: TrainConfig, watcher: Any, scratch: str, progress: Progress) -> Outcome:
    import threading

    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    use_gpu = config.use_gpu is True or (config.use_gpu == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": asdict(job), "watcher": watcher},
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=use_gpu, resources_per_worker=_resources(config, use_gpu=use_gpu)
        ),
        run_config=RunConfig(
            name=f"attempt-{uuid.uuid4().hex[:12]}",
            storage_path=scratch,
            # Which failure deserves another attempt is decided by cause, in `after_failure`.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    done = threading.Event()
    shower = threading.Thread(target=_show, args=(ray, watcher, progress, done), name="progress", daemon=True)
    shower.start()
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        _, _, told = ray.get(watcher.state.remote())
        if told is not None:
            raise told from None
        raise _by_cause(error) from error
    except SystemExit as stop:
        # Ray Train's own handler of Ctrl-C takes its workers down and then exits.
        raise KeyboardInterrupt from stop
    finally:
        done.set()
        shower.join()
    _, outcome, _ = ray.get(watcher.state.remote())
    if outcome is None:
        raise WorkerLost("the workers ended without telling how")
    return Outcome(**outcome)


def _by_cause(error: Exception) -> Exception:
    """Tell a lost worker from an error of the code: what Ray raised for each rank decides.

    An error of the code stays Ray's own, which carries the ranks' tracebacks.
    """
    causes = list(getattr(error, "worker_failures", {}).values())
    if not causes:
        return WorkerLost(f"the group of workers could not be started or kept: {_first_line(error)}")
    lost = [cause for cause in causes if _died(cause)]
    # Peers of a rank that raised only see their connection close: that is no loss of its own.
    if not lost and not all(_was_cut_off(cause) for cause in causes):
        return error
    return WorkerLost(f"{len(lost)} of {len(causes)} workers died" if lost else "the workers lost each other")


def _died(cause: BaseException) -> bool:
    names = {kind.__name__ for kind in type(cause).__mro__}
    return bool(
        names
        & {"WorkerHealthCheckFailedError", "RayActorError", "ActorDiedError", "WorkerCrashedError", "NodeDiedError"}
    )


def _was_cut_off(cause: BaseException) -> bool:
    """What the surviving ranks raise when a peer goes away in the middle of a sum."""
    return any(text in str(cause) for text in ("Connection closed by peer", "Connection reset by peer", "NCCL"))


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _show(ray: Any, watcher: Any, progress: Progress, done: Any) -> None:
    """Poll the watcher and draw; ends with the attempt."""
    shown = None
    while not done.wait(0.5):
        try:
            state, _, _ = ray.get(watcher.state.remote(), timeout=5)
        except ray.exceptions.RayError:
            continue
        if state is not None and state != shown:
            progress.update(*state)
            shown = state


def _resources(config: TrainConfig, *, use_gpu: bool) -> dict[str, float]:
    return {"CPU": config.cpus_per_worker, **({"GPU": 1.0} if use_gpu else {})}


def _check_room(ray: Any, config: TrainConfig) -> None:
    """Refuse what can never start; Ray would retry for ever."""
    has = ray.cluster_resources()
    cpus = config.workers * config.cpus_per_worker
    if cpus > has.get("CPU", 0) + 1e-9:
        fits = int(has.get("CPU", 0) // config.cpus_per_worker)
        raise UserError(
            f"train.workers={config.workers} × train.cpus_per_worker={config.cpus_per_worker:g} need {cpus:g} CPUs and "
            f"the cluster has {has.get('CPU', 0):g}; set train.workers={max(fits, 1)}"
            + ("" if fits else f" and train.cpus_per_worker={has.get('CPU', 0):g}")
        )
    if config.use_gpu is True and has.get("GPU", 0) < config.workers:
        raise UserError(
            f"train.use_gpu=true needs {config.workers} GPUs, one a worker, and the cluster has {has.get('GPU', 0):g}; "
            "set train.workers to that number, or train.use_gpu=auto"
        )


def newest_step(job: Job) -> int:
    """The step of the run's newest checkpoint whose digests hold; -1 where it has none."""
    from trainplane.storage import open_store
    from trainplane.train.checkpoint import newest_good

    found = newest_good(open_store(job.checkpoints))
    return found.checkpoint.step if found else -1
