"""Runs one attempt on a Ray cluster under Ray Train."""

from __future__ import annotations

import math
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from trainplane.cluster.ray_session import dead_processes
from trainplane.errors import RunFailed, UserError, error_line
from trainplane.notify.event import Notice
from trainplane.storage import StorageError, open_store
from trainplane.store_wait import store_wait_s
from trainplane.train.config import TrainConfig
from trainplane.train.errors import Halted, Resized, Stalled, WorkerLost, out_of_memory
from trainplane.train.launch.capacity import ClusterCapacity
from trainplane.train.launch.error_kinds import ErrorKind, first_line, kind_of, kind_of_text
from trainplane.train.launch.heartbeat import send_pulse, stack_of
from trainplane.train.launch.node_usage import OtherNodes, send_usage
from trainplane.train.launch.placement import PlacementGroups, current_placement_group
from trainplane.train.launch.progress_actor import ActorProgress, ProgressActor
from trainplane.train.launch.rank_failures import RankFailure, error_of
from trainplane.train.launch.stall import StallWatch
from trainplane.train.pulse import PULSE
from trainplane.train.spec import Outcome, Progress, Report, TrackingTarget, TrainJob, keep_going
from trainplane.train.world import World

# Ray's label of a node's id.
NODE_LABEL = "ray.io/node-id"


class WorkerGroup:
    """Ranks of one attempt under Ray Train."""

    def __init__(self, ray: Any, config: TrainConfig, capacity: ClusterCapacity, ranks: int, scratch: str) -> None:
        self._ray = ray
        self._config = config
        self._capacity = capacity
        self._ranks = ranks
        self._scratch = scratch
        # The actor runs on the driver's node. On a worker's node it would be lost together with that node.
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor = ray.remote(num_cpus=0)(ProgressActor).options(scheduling_strategy=here).remote()
        # Progress, messages and validations that were passed on already.
        self._last_progress: Any = None
        self._num_messages = 0
        self._num_validations = 0
        self._placement_group: str | None = None
        self._has_ended = False
        self._watch = StallWatch(config.stall_s)
        self._placement_groups = PlacementGroups(ray)

    def train(
        self, settings: dict[str, Any], progress: Progress, interrupted: Callable[[], bool], report: Report = keep_going
    ) -> Outcome:
        """Runs the group to its end, or raises the cause.

        Every rank gets `settings`, plain values. True from `interrupted`, or False from `report`, makes all ranks save
        and stop.
        """
        try:
            return self._train(settings, progress, interrupted, report)
        finally:
            # If Ray itself died, so did the ranks; asking the actor would take a minute.
            if not dead_processes():
                self._placement_groups.remove(self._actor)

    def _train(
        self, settings: dict[str, Any], progress: Progress, interrupted: Callable[[], bool], report: Report
    ) -> Outcome:
        trainer = self._trainer({**settings, "actor": self._actor})
        errors: list[BaseException | None] = []

        def fit() -> None:
            try:
                trainer.fit()
                errors.append(None)
            # Any error is raised again where `errors` is read; in a thread it would only be printed.
            except BaseException as error:
                errors.append(error)

        # In the main thread Ray Train would handle Ctrl-C itself and end the ranks before they could save.
        thread = threading.Thread(target=fit, name="fit", daemon=True)
        thread.start()
        stopping = resizing = had_room = False
        next_check = time.monotonic() + self._config.resize_every_s
        while thread.is_alive():
            thread.join(0.5)
            if dead := dead_processes():
                raise _cluster_lost(dead, interrupted=interrupted())
            # Pass progress and validations on.
            self._forward_progress(progress)
            continues = self._forward_validations(report)
            self._check_stall(settings["job"]["checkpoints"], progress)
            # Stop, on request of the user or of the report.
            if (interrupted() or not continues) and not stopping:
                if self._placement_group is None:
                    # No rank has started, so there is nothing to save, and Ray may wait for minutes for capacity.
                    raise KeyboardInterrupt
                stopping = True
                self._actor.request_stop.remote()
            # Stop, to start again with more ranks.
            if not resizing and time.monotonic() > next_check and self._ranks < self._config.world_sizes[-1]:
                next_check = time.monotonic() + self._config.resize_every_s
                # Room at two looks in a row: a node that comes and goes would restart the ranks each time.
                has_room = self._capacity.can_grow(self._ranks)
                resizing, had_room = has_room and had_room, has_room
                if resizing:
                    self._actor.request_stop.remote()
        if dead := dead_processes():
            raise _cluster_lost(dead, interrupted=interrupted())
        self._forward_validations(report)
        return self._outcome(errors[0], progress, stopping=stopping, resizing=resizing)

    def _trainer(self, settings: dict[str, Any]) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from trainplane.train.launch.preemption import PreemptibleTorchConfig

        excluded = self._capacity.excluded
        # A new run name for every attempt; Ray's own retries are off.
        return TorchTrainer(
            worker,
            train_loop_config=settings,
            # A rank may wait for the store while the others wait for it in a sum.
            torch_config=PreemptibleTorchConfig(
                timeout_s=math.ceil(self._config.collective_timeout_s + store_wait_s())
            ),
            scaling_config=ScalingConfig(
                num_workers=self._ranks,
                use_gpu=self._capacity.use_gpu,
                resources_per_worker=self._capacity.resources,
                # Nodes whose GPUs failed get no ranks.
                label_selector={NODE_LABEL: f"!in({','.join(sorted(excluded))})"} if excluded else None,
            ),
            run_config=RunConfig(
                name=f"attempt-{uuid.uuid4().hex[:12]}",
                storage_path=self._scratch,
                # `failure_policy` decides about another attempt, not Ray.
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            ),
        )

    def _forward_progress(self, progress: Progress) -> None:
        """Passes on new messages and the newest progress."""
        # A busy actor is asked again at the next round.
        try:
            state, messages, outcome, error, self._placement_group = self._ray.get(
                self._actor.state.remote(), timeout=5
            )
        except self._ray.exceptions.RayError:
            return
        self._has_ended = outcome is not None or error is not None
        for message in messages[self._num_messages :]:
            progress.emit(message)
        self._num_messages = len(messages)
        if state is not None and state != self._last_progress:
            progress.update(*state)
            self._last_progress = state

    def _check_stall(self, checkpoints: str, progress: Progress) -> None:
        """Raises `Stalled` when no rank has moved for the limit."""
        # Ranks that have ended send no pulse, and Ray may take a while to remove them.
        if self._has_ended:
            return
        # A busy actor is asked again at the next round.
        try:
            self._watch.update(self._ray.get(self._actor.pulses.remote(), timeout=5), now_s=time.monotonic())
        except self._ray.exceptions.RayError:
            return
        stall = self._watch.stall(now_s=time.monotonic())
        if stall is None:
            return
        # The name first, as reading a stack takes a while.
        progress.emit(Notice(str(stall), "run.stalled"))
        for pulse in stall.stuck:
            name = f"stalls/step-{pulse.step:08d}-rank-{pulse.rank}.txt"
            try:
                open_store(checkpoints).write(name, f"{stall}\n\n{stack_of(self._ray, pulse)}\n".encode())
            except (StorageError, OSError) as error:
                progress.emit(f"the stack of rank {pulse.rank} could not be stored ({error})")
            else:
                progress.emit(f"stack of rank {pulse.rank}: {checkpoints}/{name}")
        # What runs of the group is ended with its placement group.
        raise Stalled(str(stall))

    def _forward_validations(self, report: Report) -> bool:
        """Reports new validations; False if training should stop."""
        try:
            validations = self._ray.get(self._actor.validations.remote(self._num_validations), timeout=5)
        except self._ray.exceptions.RayError:
            return True
        self._num_validations += len(validations)
        # All of them are reported, also after one that asks to stop.
        answers = [report(step, metrics) for step, metrics in validations]
        return all(answers)

    def _outcome(
        self, ray_error: BaseException | None, progress: Progress, *, stopping: bool, resizing: bool
    ) -> Outcome:
        """Returns rank 0's outcome, or raises the error instead."""
        self._forward_progress(progress)
        _, _, outcome, rank_error, _ = self._ray.get(self._actor.state.remote())
        # The ranks saved and stopped: because of us, or because a node shuts down.
        if isinstance(rank_error, Halted):
            if stopping:
                raise KeyboardInterrupt
            raise Resized(str(rank_error)) if resizing else rank_error
        # A rank's own error says more than Ray's.
        if rank_error is not None:
            raise rank_error
        if isinstance(ray_error, Exception):
            failures = self._ray.get(self._actor.failures.remote())
            raise classify_failure(ray_error, failures) from ray_error
        if ray_error is not None:
            raise ray_error
        if outcome is None:
            raise WorkerLost("the workers ended and reported no outcome")
        return Outcome(**outcome)


def _cluster_lost(dead: list[str], *, interrupted: bool) -> BaseException:
    """Error for a dead Ray, whose ranks cannot save."""
    return KeyboardInterrupt() if interrupted else WorkerLost(f"Ray's {' and '.join(dead)} on this machine ended")


def worker(settings: dict[str, Any]) -> None:
    """Runs one rank, in a worker of Ray Train."""
    import ray
    from ray import train

    from trainplane.train.launch import preemption
    from trainplane.train.loop import run

    actor, job = settings["actor"], settings["job"]
    # Rebuild the job from plain values.
    tracking = TrackingTarget(**job["tracking"]) if job["tracking"] else None
    # Before training, so that the group can be removed however this attempt ends.
    if World.current().is_first and (placement_group := current_placement_group()) is not None:
        ray.get(actor.set_placement_group.remote(placement_group))
    progress = ActorProgress(actor)
    send_pulse(actor, rank=World.current().rank, node=ray.get_runtime_context().get_node_id())
    preemption.start_drain_poll()
    # Rank 0 samples its own node.
    context = train.get_context()
    if context.get_local_rank() == 0 and context.get_world_rank() > 0:
        send_usage(actor, node=context.get_node_rank())
    try:
        outcome = run(
            TrainJob(**{**job, "tracking": tracking}),
            progress=progress,
            report=progress.report,
            interrupted=lambda: preemption.is_preempted() or progress.is_stop_requested(),
            other_nodes=OtherNodes(actor),
        )
    except KeyboardInterrupt:
        ray.get(actor.fail.remote(Halted("all ranks saved a checkpoint and stopped")))
        return
    except (UserError, RunFailed) as error:
        # Ray reports failures as text. The actor keeps the error with its class, for the user.
        ray.get(actor.fail.remote(error))
        raise
    except Exception as error:
        ray.get(actor.add_failure.remote(_failure(error)))
        raise
    if World.current().is_first:
        ray.get(actor.finish.remote(asdict(outcome)))


def _failure(error: Exception) -> RankFailure:
    """Describes an error of this rank for the driver."""
    import ray

    text = "".join(traceback.format_exception(error)).rstrip()
    node = ray.get_runtime_context().get_node_id()
    rank, host = World.current().rank, socket.gethostname()
    return RankFailure(rank, host, node, PULSE.step, kind_of(error), first_line(error), text)


def classify_failure(error: Exception, failures: Sequence[RankFailure] = ()) -> Exception:
    """Separates lost workers from errors of the code.

    Args:
        error: Ray's error, with what it collected from the ranks.
        failures: Errors that ranks reported themselves.
    """
    causes = list(getattr(error, "worker_failures", {}).values())
    # Without errors of ranks, Ray itself failed.
    if not causes and not failures:
        return WorkerLost(f"the workers could not be started, or Ray ended them: {error_line(error, last=True)}")
    if any(out_of_memory(cause) for cause in causes):
        return WorkerLost(
            "a worker's node ran out of memory and the worker was killed; use nodes with more, or lower "
            "train.micro_batch"
        )
    num_dead = sum(_is_death(cause) for cause in causes)
    if (reason := error_of(failures, num_dead=num_dead, ranks=len(causes))) is not None:
        return reason
    # When one rank raises, the others see their connection close: then the error is that of the code.
    if not all(kind_of_text(str(cause)) is ErrorKind.DISCONNECT for cause in causes):
        return error
    return WorkerLost("the connections between the workers broke, and none of them reported why")


# Names of Ray's errors for dead workers and nodes.
_DEATHS = {"WorkerHealthCheckFailedError", "WorkerHealthCheckTimeoutError", "RayActorError"}
_DEATHS |= {"ActorDiedError", "WorkerCrashedError", "NodeDiedError"}


def _is_death(cause: BaseException) -> bool:
    return any(kind.__name__ in _DEATHS for kind in type(cause).__mro__)
