"""The held-out pictures that every validation measures: always the same, each rank its share."""

from __future__ import annotations

from trainplane.data.manifest import Dataset
from trainplane.data.read.fetch import read_samples
from trainplane.data.types import Sample
from trainplane.task import Task
from trainplane.tracking.tracker import Recorder
from trainplane.train.run_config import RunConfig
from trainplane.train.world import World


class HeldOut:
    """This rank's share of the held-out samples, verified and kept in memory; those of the gallery are all rank 0's."""

    def __init__(
        self, address: str | None, config: RunConfig, world: World, *, expected_digest: str | None = None
    ) -> None:
        self._gallery = range(config.tracking.gallery)
        self._world = world
        self._samples: list[tuple[int, Sample]] | None = None
        if address is None:
            return
        dataset = Dataset.open(address, cache=config.data.cache, expected_digest=expected_digest)
        count = min(dataset.num_samples, config.data.val_samples)
        shown = min(config.tracking.gallery, count)
        rest = range(shown + world.rank, count, world.size)
        indices = [*(range(shown) if world.is_first else ()), *rest]
        self._samples = list(zip(indices, read_samples(dataset, indices), strict=True))

    def measure(self, task: Task, tracker: Recorder, *, done: int) -> dict[str, float]:
        """Validate, record, and return the metrics as `val/NAME`; nothing where there is no held-out dataset."""
        if self._samples is None:
            return {}
        found = task.validate(self._samples, reduce=self._world, gallery=self._gallery)
        metrics = {f"val/{name}": value for name, value in found.metrics.items()}
        tracker.log_metrics(done, metrics)
        for picture in found.pictures:
            tracker.log_picture(picture.name, picture.pixels, done)
        return metrics
