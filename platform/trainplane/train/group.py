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

from trainplane.errors import RunFailed, UserError
from trainplane.train import batches
from trainplane.train.channel import Messenger, Post
from trainplane.train.failures import CodeFailed, Halted, Resized, WorkerLost, out_of_memory
from trainplane.train.job import Job, Outcome, Progress, Report, TrackingTarget, keep_going
from trainplane.train.settings import TrainConfig

ROOM_WAIT_S = 30.0


class Room:
    """How many ranks the cluster has room for."""

    def __init__(self, ray: Any, config: TrainConfig) -> None:
        self._ray = ray
        self._config = config
        gpus = ray.cluster_resources().get("GPU", 0)
        self.use_gpu = config.use_gpu is True or (config.use_gpu == "auto" and gpus > 0)
        self.need = {"CPU": config.cpus_per_worker, **({"GPU": 1.0} if self.use_gpu else {})}

    def ranks(self) -> int:
        """Ranks of the next attempt: the largest admissible number there is room for now.

        Raises `UserError` where the cluster is too small for the smallest; Ray would wait for ever.
        """
        self.most()
        sizes = self._config.world_sizes
        # What an attempt before held is given back a little later.
        deadline = time.monotonic() + ROOM_WAIT_S
        while True:
            found = batches.ranks_for(sizes, room=self._fitting(self._free()))
            if found == sizes[-1] or (time.monotonic() > deadline and found is not None):
                return found
            if len(sizes) == 1 and time.monotonic() > deadline:
                return sizes[0]
            time.sleep(0.5)

    def most(self) -> int:
        """The largest admissible number of ranks that the cluster could hold if it did nothing else.

        Raises `UserError` where the cluster is too small for the smallest.
        """
        sizes = self._config.world_sizes
        found = batches.ranks_for(sizes, room=self._fitting(self._total()))
        if found is None:
            raise UserError(self._refusal(sizes[0]))
        return found

    def grown(self, ranks: int) -> bool:
        """Whether more ranks than these would fit now, beside whatever else the cluster does."""
        free = {name: amount + ranks * self.need[name] for name, amount in self._free().items()}
        return (batches.ranks_for(self._config.world_sizes, room=self._fitting(free)) or 0) > ranks

    def _free(self) -> dict[str, float]:
        free = self._ray.available_resources()
        return {name: free.get(name, 0.0) for name in self.need}

    def _total(self) -> dict[str, float]:
        total = self._ray.cluster_resources()
        return {name: total.get(name, 0.0) for name in self.need}

    def _fitting(self, amounts: dict[str, float]) -> int:
        """Ranks for which there is room: by what is there, and by what each node could hold at most."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        by_node = sum(
            min(int((node.get(name, 0.0) + 1e-9) // amount) for name, amount in self.need.items()) for node in nodes
        )
        return min(by_node, *(int((amounts[name] + 1e-9) // amount) for name, amount in self.need.items()))

    def _refusal(self, smallest: int) -> str:
        has, cpus = self._total(), smallest * self._config.cpus_per_worker
        if self.use_gpu and has["GPU"] < smallest:
            return (
                f"{smallest} workers need {smallest} GPUs, one each, and the cluster has {has['GPU']:g}; "
                "set train.workers to that number, or train.use_gpu=false"
            )
        fits = int(has["CPU"] // self._config.cpus_per_worker)
        return (
            f"train.workers={smallest} × train.cpus_per_worker={self._config.cpus_per_worker:g} need {cpus:g} CPUs and "
            f"the cluster has {has['CPU']:g}; set train.workers={max(fits, 1)}"
            + ("" if fits else f" and train.cpus_per_worker={has['CPU']:g}")
        )


class Group:
    """Ranks under Ray Train."""

    def __init__(self, ray: Any, config: TrainConfig, room: Room, ranks: int, scratch: str) -> None:
        self._ray = ray
        self._config = config
        self._room = room
        self._ranks = ranks
        self._scratch = scratch
        self._post = ray.remote(num_cpus=0)(Post).remote()
        self._shown: Any = None
        self._told = 0
        self._num_reported = 0

    def train(
        self, settings: dict[str, Any], progress: Progress, interrupted: Callable[[], bool], report: Report = keep_going
    ) -> Outcome:
        """Run the group to its end. Raises what ended it before: see `failures`."""
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
            self._show(progress)
            wanted = self._pass_on(report)
            if (interrupted() or not wanted) and not stopping:
                stopping = True
                self._post.ask_to_stop.remote()
            if not resizing and time.monotonic() > next_look and self._ranks < self._config.world_sizes[-1]:
                next_look = time.monotonic() + self._config.resize_every_s
                resizing = self._room.grown(self._ranks)
                if resizing:
                    self._post.ask_to_stop.remote()
        self._pass_on(report)
        return self._outcome(ended[0], progress, stopping=stopping, resizing=resizing)

    def _trainer(self, settings: dict[str, Any]) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from trainplane.train.notice import NoticedTorchConfig

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
            state, sentences, _, _ = self._ray.get(self._post.state.remote(), timeout=5)
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
        _, _, outcome, told = self._ray.get(self._post.state.remote())
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


def worker(settings: dict[str, Any]) -> None:
    """What each rank runs."""
    import ray

    from trainplane.train import notice
    from trainplane.train.loop import run
    from trainplane.train.world import World

    post, job = settings["post"], settings["job"]
    tracking = TrackingTarget(**job["tracking"]) if job["tracking"] else None
    messenger = Messenger(post)
    notice.watch_for_drain()
    try:
        outcome = run(
            Job(**{**job, "tracking": tracking}),
            progress=messenger,
            report=messenger.measured,
            interrupted=lambda: notice.given() or messenger.asked_to_stop(),
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
        & {"WorkerHealthCheckFailedError", "RayActorError", "ActorDiedError", "WorkerCrashedError", "NodeDiedError"}
    )


def was_cut_off(cause: BaseException) -> bool:
    """What the surviving ranks raise when a peer goes away in the middle of a sum."""
    words = ("Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe")
    return any(text in str(cause) for text in words)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
