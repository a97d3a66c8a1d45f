"""Profiles a few steps of every rank with torch's profiler.

Each rank's trace (Chrome's format, gzip) goes into the run's folder in the store, and from there, by rank 0, to the
artifacts of the MLflow run. Profiling reads clocks only: a run ends on the same bits with it and without.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from trainplane.observe.profiled_steps import steps_of
from trainplane.storage import NotFound, StorageError, Store
from trainplane.tracking.tracker import Recorder
from trainplane.train.world import World

FOLDER = "profiles"


class StepProfiler:
    """Profiles the chosen steps of one rank, once."""

    def __init__(self, chosen: str | None, *, store: Store, world: World, tracker: Recorder) -> None:
        self._steps = steps_of(chosen) if chosen else range(0)
        self._store, self._world, self._tracker = store, world, tracker
        self._profile: Any = None

    def before(self, step: int) -> None:
        """Starts with the first chosen step that this attempt computes."""
        if self._profile is None and step in self._steps:
            from torch.profiler import profile

            # Processor, and GPU where there is one.
            self._profile = profile()
            self._profile.start()

    def after(self, step: int) -> str | None:
        """Ends with the last chosen step; returns a message then.

        All ranks call it with the same step.
        """
        return None if step + 1 in self._steps else self.finish()

    def finish(self) -> str | None:
        """Ends a running profile; all ranks call it together."""
        if self._profile is None:
            return None
        self._steps = range(0)
        problem = self._store_trace()
        # Every rank's trace is stored now.
        self._world.barrier()
        return self._record() if problem is None else problem

    def close(self) -> None:
        """Ends the profile of a rank that failed."""
        if self._profile is not None:
            self._store_trace()

    def _store_trace(self) -> str | None:
        """Stores this rank's trace; a reason where it cannot."""
        profile, self._profile = self._profile, None
        profile.stop()
        try:
            with tempfile.TemporaryDirectory(prefix="isnet-profile-") as folder:
                file = Path(folder, "trace.json.gz")
                profile.export_chrome_trace(str(file))
                self._store.write(self._key(self._world.rank), file)
        except (OSError, StorageError) as error:
            return f"the profile of rank {self._world.rank} is not stored ({error})"
        return None

    def _record(self) -> str | None:
        """Records all stored traces as artifacts, on rank 0."""
        if not self._world.is_first:
            return None
        count = 0
        for rank in range(self._world.size):
            try:
                self._tracker.log_file(f"{FOLDER}/rank-{rank}.json.gz", self._store.read(self._key(rank)))
                count += 1
            except (NotFound, StorageError):
                continue
        return f"profiles of {count} of {self._world.size} ranks are among the run's artifacts, {FOLDER}/"

    def _key(self, rank: int) -> str:
        return f"{FOLDER}/rank-{rank}.json.gz"
