"""The process that records, for `isnet bench tracking`: alone in its interpreter, as a training is, and to be killed.

    python -m jobs.bench.tracking_writer ADDRESS RUN SPOOL FIRST LAST METRICS PAUSE_S CLOSE_S

It says `ready`, waits for a line, records METRICS metrics at each of the steps FIRST to LAST with a pause between,
says every hundredth step, and at the end one JSON object: how long the calls took, and what a bare write of as many
bytes took in between, which is what this machine makes of any write.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time

from trainplane.tracking.client import TrackingServer
from trainplane.tracking.tracker import Tracker

LINE_BYTES = 700


def value_of(step: int, metric: int) -> float:
    """What is recorded: known without having been there."""
    return step + metric / 100


def main() -> None:
    address, run_id, spool = sys.argv[1:4]
    first, last, metrics = map(int, sys.argv[4:7])
    pause_s, close_s = map(float, sys.argv[7:])
    tracker = Tracker(TrackingServer(address), run_id, spool=spool)
    print("ready", flush=True)
    sys.stdin.readline()
    log_s, bare_s = [], []
    line = b"x" * LINE_BYTES
    begun = time.perf_counter()
    with tempfile.NamedTemporaryFile() as bare:
        for step in range(first, last + 1):
            values = {f"train/m{metric:02d}": value_of(step, metric) for metric in range(metrics)}
            start = time.perf_counter()
            tracker.log_metrics(step, values)
            log_s.append(time.perf_counter() - start)
            start = time.perf_counter()
            os.write(bare.fileno(), line)
            bare_s.append(time.perf_counter() - start)
            if step % 100 == 0:
                print(step, flush=True)
            if pause_s:
                time.sleep(pause_s)
    logged_s = time.perf_counter() - begun
    left = tracker.close(close_s)
    sent_s = time.perf_counter() - begun
    print(json.dumps({"log_s": log_s, "bare_s": bare_s, "logged_s": logged_s, "sent_s": sent_s, "left": left}))


if __name__ == "__main__":
    main()
