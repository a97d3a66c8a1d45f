"""One attempt on a Ray cluster: a group of ranks under Ray Train, from its start to how it ended.

Not covered: whether there is another attempt (`launch`), what a rank does (`loop`).
"""

from __future__ import annotations

import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from trainplane.cluster.ray_session import ended_parts
from trainplane.errors import RunFailed, UserError
from trainplane.train.config import TrainConfig
from trainplane.train.errors import CodeFailed, Halted, Resized, WorkerLost, out_of_memory
from trainplane.train.launch.capacity import Room
from trainplane.train.launch.placement import Places, current_place
from trainplane.train.launch.progress_actor import Messenger, Post
from trainplane.train.spec import Job, Outcome, Progress, Report, TrackingTarget, keep_going


class Group:
    """Ranks under Ray Train."""

    def __init__(self, ray: Any, config: TrainConfig, room: Room, ranks: int, scratch: str) -> None:
        self._ray = ray
        self._config = config
        self._room = room
        self._ranks = ranks
        self._scratch = scratch
        # Where the driver is: on a worker's node it would be lost with that node, and with it the word that it was.
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._post = ray.remote(num_cpus=0)(Post).options(scheduling_strategy=here).remote()
        self._shown: Any = None
        self._told = 0
        self._num_reported = 0
        self._place: str | None = None
        self._places = Places(ray)

    def train(
        self, settings: dict[str, Any], progress: Progress, interrupted: Callable[[], bool], report: Report = keep_going
    ) -> Outcome:
        """Run the group to its end. Raises what ended it before: see `failures`."""
        try:
            return self._train(settings, progress, interrupted, report)
        finally:
            # What ran on a cluster that is gone is gone, too; asking it would take a minute.
            if not ended_parts():
                self._places.clear(self._post)

    def _train(
        self, settings: dict[str, Any], progress: Progress, interrupted: Callable[[], bool], report: Report
    ) -> Outcome:
        trainer = self._trainer({**settings, "post": self._post})
        ended: list[BaseException | None] = []

        def fit() -> None:
            try:
                trainer.fit()
                ended.append(None)
            # Whatever it was: it is raised again where `ended` is read; in a thread it would only be printed.
            except BaseException as error:
                ended.append(error)

        # Not the main thread: there Ray Train would take Ctrl-C for itself and end the ranks before they could save.
        thread = threading.Thread(target=fit, name="fit", daemon=True)
        thread.start()
        stopping = resizing = False
        next_look = time.monotonic() + self._config.resize_every_s
        while thread.is_alive():
            thread.join(0.5)
            if gone := ended_parts():
                raise _cluster_lost(gone, interrupted=interrupted())
            self._show(progress)
            wanted = self._pass_on(report)
            if (interrupted() or not wanted) and not stopping:
                if self._place is None:
                    # No rank has begun: nothing is to be saved, and Ray may wait for minutes for room.
                    raise KeyboardInterrupt
                stopping = True
                self._post.ask_to_stop.remote()
            if not resizing and time.monotonic() > next_look and self._ranks < self._config.world_sizes[-1]:
                next_look = time.monotonic() + self._config.resize_every_s
                resizing = self._room.grown(self._ranks)
                if resizing:
                    self._post.ask_to_stop.remote()
        if gone := ended_parts():
            raise _cluster_lost(gone, interrupted=interrupted())
        self._pass_on(report)
        return self._outcome(ended[0], progress, stopping=stopping, resizing=resizing)

    def _trainer(self, settings: dict[str, Any]) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from trainplane.train.launch.preemption import NoticedTorchConfig

        return TorchTrainer(
            worker,
            train_loop_config=settings,
            torch_config=NoticedTorchConfig(),
            scaling_config=ScalingConfig(
                num_workers=self._ranks, use_gpu=self._room.use_gpu, resources_per_worker=self._room.need
            ),
            run_config=RunConfig(
                name=f"attempt-{uuid.uuid4().hex[:12]}",
                storage_path=self._scratch,
                # Which failure deserves another attempt is decided by cause, in `failures`.
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            ),
        )

    def _show(self, progress: Progress) -> None:
        """Pass on what the ranks told since the last time."""
        try:
            state, sentences, _, _, self._place = self._ray.get(self._post.state.remote(), timeout=5)
        except self._ray.exceptions.RayError:
            return
        for sentence in sentences[self._told :]:
            progress.tell(sentence)
        self._told = len(sentences)
        if state is not None and state != self._shown:
            progress.update(*state)
            self._shown = state

    def _pass_on(self, report: Report) -> bool:
        """Tell what validations found since the last time; False where training shall stop."""
        try:
            found = self._ray.get(self._post.measured.remote(self._num_reported), timeout=5)
        except self._ray.exceptions.RayError:
            return True
        self._num_reported += len(found)
        wanted = [report(step, metrics) for step, metrics in found]
        return all(wanted)

    def _outcome(self, ended: BaseException | None, progress: Progress, *, stopping: bool, resizing: bool) -> Outcome:
        self._show(progress)
        _, _, outcome, told, _ = self._ray.get(self._post.state.remote())
        if isinstance(told, Halted):
            if stopping:
                raise KeyboardInterrupt
            raise Resized(str(told)) if resizing else told
        if told is not None:
            raise told
        if isinstance(ended, Exception):
            raise by_cause(ended) from ended
        if ended is not None:
            raise ended
        if outcome is None:
            raise WorkerLost("the workers ended without telling how")
        return Outcome(**outcome)


def _cluster_lost(gone: list[str], *, interrupted: bool) -> BaseException:
    """What to raise where Ray itself has ended: nothing can be saved any more, nor can the ranks be asked."""
    return KeyboardInterrupt() if interrupted else WorkerLost(f"Ray's {' and '.join(gone)} on this machine ended")


def worker(settings: dict[str, Any]) -> None:
    """What each rank runs."""
    import ray

    from trainplane.train.launch import preemption
    from trainplane.train.loop import run
    from trainplane.train.world import World

    post, job = settings["post"], settings["job"]
    tracking = TrackingTarget(**job["tracking"]) if job["tracking"] else None
    if World.current().is_first and (place := current_place()) is not None:
        ray.get(post.take_place.remote(place))
    messenger = Messenger(post)
    preemption.watch_for_drain()
    try:
        outcome = run(
            Job(**{**job, "tracking": tracking}),
            progress=messenger,
            report=messenger.measured,
            interrupted=lambda: preemption.given() or messenger.asked_to_stop(),
        )
    except KeyboardInterrupt:
        ray.get(post.fail.remote(Halted("all ranks saved where they stood and stopped")))
        return
    except (UserError, RunFailed) as error:
        # Ray reports failures as text; the sentence and its kind reach the user through the post.
        ray.get(post.fail.remote(error))
        raise
    except Exception as error:
        # What a rank meets because another one ended is no failure of its own.
        if not was_cut_off(error):
            ray.get(post.fail.remote(_of_the_code(error, World.current().rank)))
        raise
    if World.current().is_first:
        ray.get(post.finish.remote(asdict(outcome)))


def _of_the_code(error: Exception, rank: int) -> CodeFailed:
    text = "".join(traceback.format_exception(error)).rstrip()
    return CodeFailed(
        f"the task's code failed on rank {rank}; every rank meets the same, so it is not tried again\n{text}"
    )


def by_cause(error: Exception) -> Exception:
    """Tell a lost worker from an error of the code: what Ray raised for each rank decides.

    An error of the code stays Ray's own, which carries the ranks' tracebacks.
    """
    causes = list(getattr(error, "worker_failures", {}).values())
    if not causes:
        return WorkerLost(f"the group of workers could not be started or kept: {_last_line(error)}")
    if any(out_of_memory(cause) for cause in causes):
        return WorkerLost(
            "a worker was ended because its node ran out of memory; give it more, or lower train.micro_batch"
        )
    lost = [cause for cause in causes if _died(cause)]
    # Peers of a rank that raised only see their connection close: that is no loss of its own.
    if not lost and not all(was_cut_off(cause) for cause in causes):
        return error
    return WorkerLost(f"{len(lost)} of {len(causes)} workers died" if lost else "the workers lost each other")


def _died(cause: BaseException) -> bool:
    names = {kind.__name__ for kind in type(cause).__mro__}
    return bool(
        names
        & {
            "WorkerHealthCheckFailedError",
            "WorkerHealthCheckTimeoutError",
            "RayActorError",
            "ActorDiedError",
            "WorkerCrashedError",
            "NodeDiedError",
        }
    )


def was_cut_off(cause: BaseException) -> bool:
    """What the surviving ranks raise when a peer goes away in the middle of a sum."""
    words = ("Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe")
    return any(text in str(cause) for text in words)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
