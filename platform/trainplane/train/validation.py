"""Held-out samples of a run, the same at every validation."""

from __future__ import annotations

from trainplane.data.manifest import Dataset
from trainplane.data.read.fetch import read_samples
from trainplane.data.types import Sample
from trainplane.task import Task
from trainplane.tracking.images import contact_sheet
from trainplane.tracking.tracker import Recorder
from trainplane.train.pulse import Watched
from trainplane.train.run_config import RunConfig
from trainplane.train.spec import TrainJob
from trainplane.train.world import World


class ValidationSet:
    """This rank's held-out samples, verified and in memory.

    Those of the gallery all belong to rank 0, which records.
    """

    def __init__(
        self,
        address: str | None,
        config: RunConfig,
        world: World,
        *,
        expected_digest: str | None = None,
        name: str | None = None,
    ) -> None:
        """Reads the samples; a named set has no gallery."""
        gallery = config.tracking.gallery if name is None else 0
        self._gallery = range(gallery)
        self._prefix = "val/" if name is None else f"val/{name}/"
        self._world = world
        self._samples: list[tuple[int, Sample]] | None = None
        if address is None:
            return
        dataset = Dataset.open(address, cache=config.data.cache, expected_digest=expected_digest)
        # The gallery first, on rank 0; then every rank takes each `size`-th of the remaining samples.
        count = min(dataset.num_samples, config.data.val_samples)
        gallery_size = min(gallery, count)
        share = range(gallery_size + world.rank, count, world.size)
        indices = [*(range(gallery_size) if world.is_first else ()), *share]
        self._samples = list(zip(indices, read_samples(dataset, indices), strict=True))

    def measure(self, task: Task, tracker: Recorder, *, done: int) -> dict[str, float]:
        """Validates and records on all ranks; returns `val/METRIC`."""
        if self._samples is None:
            return {}
        validation = task.validate(Watched(self._samples), reduce=self._world, gallery=self._gallery)
        metrics = {f"{self._prefix}{name}": value for name, value in validation.metrics.items()}
        tracker.log_metrics(done, metrics)
        for image in validation.images:
            # The step stands in the picture: the pages open at one whose slider does not show it.
            tracker.log_image(image.name, contact_sheet([(f"step {done:,}", image.pixels)]), done)
        return metrics


class ValidationSets:
    """All held-out sets of a run, the first one first."""

    def __init__(self, job: TrainJob, config: RunConfig, world: World) -> None:
        """Reads this rank's samples of all sets."""
        self._sets = [ValidationSet(job.val_data, config, world, expected_digest=job.val_digest)]
        for name, (address, digest) in job.val_sets.items():
            self._sets.append(ValidationSet(address, config, world, expected_digest=digest, name=name))

    def measure(self, task: Task, tracker: Recorder, *, done: int) -> dict[str, float]:
        """Measures all sets; a further one's metrics are `val/SET/METRIC`."""
        metrics: dict[str, float] = {}
        for held_out in self._sets:
            metrics |= held_out.measure(task, tracker, done=done)
        return metrics
