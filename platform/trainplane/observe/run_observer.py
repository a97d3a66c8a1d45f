"""Shows one rank of a run to the outside.

Messages go to the display, the record and the targets of events; metrics to Prometheus; profiles to the
artifacts. Nothing here changes what is computed.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainplane.notify.event import Notice
from trainplane.observe.profiler import StepProfiler
from trainplane.observe.sinks import Metrics, sinks_here
from trainplane.storage import open_store
from trainplane.storage.s3.retry import RETRIES
from trainplane.tracking.tracker import Recorder
from trainplane.train.config import TrainConfig
from trainplane.train.spec import Progress, TrainJob
from trainplane.train.world import World


class RunObserver:
    """Eyes of the outside on one rank."""

    def __init__(
        self,
        job: TrainJob,
        config: TrainConfig,
        world: World,
        *,
        tracker: Recorder,
        progress: Progress,
        messages: list[str],
    ) -> None:
        """Starts nothing yet, but says that the rank is active.

        Args:
            job: The run.
            config: Its section `train`.
            world: This rank.
            tracker: Records messages and profiles, on rank 0.
            progress: Displays messages.
            messages: Gets all messages, for the outcome.
        """
        self._world, self._tracker, self._progress, self._messages = world, tracker, progress, messages
        name = job.checkpoints.rstrip("/").rpartition("/")[2]
        labels = {"run": name, "rank": str(world.rank)}
        self._metrics = Metrics(sinks_here(name, rank=world.rank), labels)
        store = open_store(job.checkpoints)
        self._profiler = StepProfiler(config.profile, store=store, world=world, tracker=tracker)
        self._bad_steps = 0
        self._metrics.show({"isnet_run_active": 1.0, "isnet_run_steps": float(config.steps)})

    def emit(self, done: int, message: str, faults: int | None = None) -> None:
        """Shows and records a message; `faults` counts bad steps."""
        if not self._world.is_first:
            return
        self._messages.append(message)
        # A message of the guard has its count of faults.
        self._progress.emit(message if faults is None else Notice(message, "run.bad_step"))
        self._tracker.set_tags({"trainplane.told": message[:500]})
        self._tracker.log_text(f"told/step-{done:08d}.txt", message + "\n")
        if faults is not None:
            self._bad_steps = faults
            self._tracker.log_metrics(done, {"guard/faults": faults})

    def before_step(self, step: int) -> None:
        """Prepares global step `step`, counted from 1, on every rank."""
        self._profiler.before(step)

    def after_step(self, step: int) -> None:
        """Called on every rank after it."""
        if message := self._profiler.after(step):
            self.emit(step, message)

    def recorded(
        self, done: int, *, samples_per_s: float, seconds: Mapping[str, float], saved: int, warning: str
    ) -> None:
        """Shows the state whenever metrics are recorded.

        Args:
            done: Global steps done.
            samples_per_s: Speed of this attempt, all ranks together.
            seconds: Seconds of this rank by phase.
            saved: Step of the newest stored checkpoint.
            warning: What people should be told, or empty.
        """
        values = {
            "isnet_run_step": float(done),
            "isnet_run_samples_per_second": samples_per_s,
            "isnet_run_store_retries": float(RETRIES.value),
        }
        if self._world.is_first:
            values |= {"isnet_run_checkpoint_step": float(saved), "isnet_run_bad_steps": float(self._bad_steps)}
            if warning:
                self._progress.emit(Notice(warning, "budget.near"))
        self._metrics.show(values)
        for phase, spent in seconds.items():
            self._metrics.show({"isnet_run_phase_seconds": spent}, phase=phase)
        self._metrics.flush()

    def finish(self, done: int) -> None:
        """Ends a running profile; all ranks call it together."""
        if message := self._profiler.finish():
            self.emit(done, message)

    def close(self) -> None:
        """Says that the rank has ended."""
        self._profiler.close()
        self._metrics.show({"isnet_run_active": 0.0})
        self._metrics.close()
