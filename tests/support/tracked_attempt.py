"""One attempt of a recorded run, as a training has it, in a process that may kill itself.

A folder holds what outlives it: the spools, the run's checkpoint (a step, and what was unsent then).
"""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from trainplane.tracking.client import TrackingServer
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.runs import RunMetadata, close_run, start_run
from trainplane.tracking.tracker import Tracker

EVERY = 10


def attempt(address: str, folder: Path, key: str, steps: int, die_at: int, together: Barrier) -> None:
    """Record `steps` steps and end the run, or die by SIGKILL at step `die_at`; with 0 it lives."""
    run_spec = RunSpec("crashes", key, f"run {key}", str(folder / "artifacts"), tags={"seed": "1"})
    spool = folder / "spool" / run_spec.reserved_id
    metadata = RunMetadata(params={"train.steps": str(steps)}, texts={"config.json": "{}\n"})
    handle = start_run(TrackingServer(address), run_spec, metadata, spool=spool, require=False)
    stored = folder / f"{key}.json"
    checkpoint = json.loads(stored.read_text()) if stored.exists() else {"step": 0, "unsent": ""}
    tracker = Tracker(TrackingServer(address), handle.run_id, spool=spool, run_spec=run_spec, upload_every_s=0.2)
    tracker.resume_from(checkpoint["step"], checkpoint["unsent"].encode())
    together.wait(120)
    for step in range(checkpoint["step"] + 1, steps + 1):
        # No two attempts give the same number.
        tracker.log_metrics(step, {"train/l1": step + os.getpid() / 1e7})
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step % EVERY == 0:
            part = stored.with_suffix(".part")
            part.write_text(json.dumps({"step": step, "unsent": tracker.unsent().decode()}))
            part.replace(stored)
            tracker.commit(step)
        time.sleep(0.01)
    assert tracker.failures == 0
    tracker.close(1.0)
    close_run(TrackingServer(address), handle.run_id, "FINISHED", {"how": "well"}, spool=spool)
