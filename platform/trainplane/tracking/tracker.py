"""Recorder of a training loop.

It writes into a local spool, which a process beside it sends to MLflow. Calls return at once, however the server
behaves, and never raise into training; a record that cannot be written is counted in `failures` and logged. Recorded
steps are left out after a resume, and a point becomes final when a checkpoint commits it (`spool.ledger`). Rank 0 has a
`Tracker`, every other rank a `Recorder`.
"""

from __future__ import annotations

import io
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainplane.tracking.client import TrackingServer, reason
from trainplane.tracking.history import RecordedSteps, fetch_recorded_steps, write_recorded_steps
from trainplane.tracking.mlflow_names import valid_key
from trainplane.tracking.run_id import RunSpec, find_reserved_run, is_reserved
from trainplane.tracking.spool.ledger import SYSTEM, SpoolRecord, image_mark
from trainplane.tracking.spool.spool import LOCK_PATIENCE_S, Spool
from trainplane.tracking.spool.uploader_process import Uploader
from trainplane.tracking.system_metrics import Counters, Gauges, SystemMonitor

logger = logging.getLogger(__name__)

MONITOR_EVERY_S = 10.0
# Later than any other time of as many digits: files are listed by name.
_LATEST_MS = 9_999_999_999_999
# The tag is older than its meaning: metrics used to be thinned on a full disk.
DROPPED_TAG = "trainplane.thinned"
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Recorder:
    """Interface of a training loop's recorder; records nothing itself."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records one step's values under keys such as `train/l1`.

        NaN and infinities are kept. A key whose step is not beyond its last recorded step is left out.
        """

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Records tags of the run."""

    def log_image(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Records an RGB image for MLflow's step slider.

        Shape (H, W, 3), uint8. A step that is not beyond the last one of its key is left out.
        """

    def log_text(self, name: str, text: str) -> None:
        """Records a small text artifact under a relative path."""

    def log_file(self, name: str, data: bytes) -> None:
        """Records an artifact under a relative path."""

    def unsent(self) -> bytes:
        """Unacknowledged records, for a checkpoint to carry."""
        return b""

    def resume_from(self, step: int, unsent: bytes = b"") -> None:
        """Starts at a checkpoint's step, with records that it carried.

        Points beyond it are pending until a checkpoint commits them; pending points of an earlier attempt are
        discarded.
        """

    def commit(self, step: int) -> None:
        """Makes points up to a stored checkpoint final; repeatable."""

    def monitor(self, counters: Counters, gauges: Gauges = dict) -> None:
        """Records system metrics, growth of `counters`, and `gauges` periodically."""

    def close(self, timeout_s: float = 30.0) -> int:
        """Sends for at most `timeout_s` seconds; returns the records left."""
        return 0


@dataclass
class _DroppedMetrics:
    """Steps whose metrics a full disk dropped."""

    count: int = 0
    first: int = 0
    last: int = 0
    reported: int = 0

    def add(self, step: int) -> None:
        self.first = step if self.count == 0 else self.first
        self.count, self.last = self.count + 1, step

    def __str__(self) -> str:
        return f"metrics of {self.count} steps from {self.first} to {self.last} were lost to a full disk"


class Tracker(Recorder):
    """Recorder of rank 0, for one process at a time."""

    def __init__(
        self,
        server: TrackingServer,
        run_id: str,
        *,
        spool: str | Path,
        run_spec: RunSpec | None = None,
        patience_s: float = LOCK_PATIENCE_S,
        upload_every_s: float = 2.0,
        monitor_every_s: float = MONITOR_EVERY_S,
    ) -> None:
        """Opens the spool and starts the uploader.

        Recorded steps are read from the spool and, if it answers, from MLflow: after a move to another node only MLflow
        has them.

        Args:
            server: Server of the run.
            run_id: MLflow's id; a reserved id if MLflow does not have the run yet.
            spool: Folder of this run alone.
            run_spec: Arguments to create the run, if its id is reserved.
            patience_s: Seconds to wait for another process that records the run; `UserError` after that.
            upload_every_s: Seconds between two uploads.
            monitor_every_s: Seconds between two samples of system metrics.
        """
        self.failures = 0
        self._dropped = _DroppedMetrics()
        self._system_monitor: SystemMonitor | None = None
        self._monitor_every_s = monitor_every_s
        self._spool = Spool(
            Path(spool), run_id=run_id, tracking=server.public_address, run_spec=run_spec, patience_s=patience_s
        )
        self._run_id = self._spool.meta.run_id
        self._ledger = self._spool.ledger
        self._num_left: int | None = None
        has_unsent = bool(self._spool.unsent())
        # Learn which steps MLflow has.
        recorded_steps = _fetch_if_reachable(server, self._run_id)
        if recorded_steps is not None and not has_unsent:
            # This recorder leaves them out, so the uploader need not.
            write_recorded_steps(Path(spool), RecordedSteps())
        self._in_mlflow = recorded_steps or {}
        self._ledger.merge(self._in_mlflow)
        if has_unsent:
            # The end of an earlier attempt may be among the unsent records; this attempt is alive.
            self._append({"k": "status", "v": "RUNNING", "ts": _now_ms()})
        self._uploader = Uploader(Path(spool), server.address, every_s=upload_every_s)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records values of one step, unless the disk is full."""

        def write() -> None:
            # A replayed step was recorded by an earlier attempt.
            marks = self._ledger.marks
            named = {valid_key(key): float(value) for key, value in metrics.items()}
            values = {key: value for key, value in named.items() if step > marks.get(key, step - 1)}
            if values:
                self._append_metrics({"k": "metrics", "step": int(step), "ts": _now_ms(), "v": values})

        self._guarded(write)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Records tags of the run."""
        self._append({"k": "tags", "v": {key: str(value) for key, value in tags.items()}})

    def log_image(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Records an image as MLflow's own `log_image` names its files."""

        def write() -> None:
            # MLflow's pages read key, step and time from the file's name and show the .webp beside the .png.
            file_key = _file_key(key)
            mark = image_mark(file_key)
            if step <= self._ledger.marks.get(mark, step - 1):
                return
            image = Image.fromarray(np.asarray(pixels))
            png, webp = _encoded(image, "PNG", compress_level=1), _encoded(image, "WEBP", quality=80, method=0)
            files = []
            name = uuid.uuid5(uuid.NAMESPACE_URL, f"{self._run_id}/{file_key}/{step}")
            own = f"images/{file_key}+step+{step}+timestamp+{_now_ms()}+{name}"
            for stem in (own, newest_image(key).removesuffix(".png")):
                for path, data in ((f"{stem}.png", png), (f"{stem}+compressed.webp", webp)):
                    files.append([self._spool.attach(PurePosixPath(path).name, data), path])
            # The pages show the gallery of runs with this tag only.
            self._spool.append({"k": "tags", "v": {"mlflow.loggedImages": "True"}})
            self._spool.append({"k": "file", "files": files, "key": mark, "step": int(step)})

        self._guarded(write)

    def log_text(self, name: str, text: str) -> None:
        """Records a text; only a relative path is accepted."""
        self.log_file(name, text.encode())

    def log_file(self, name: str, data: bytes) -> None:
        """Records a file; only a relative path is accepted."""

        def write() -> None:
            # A name must not lead out of the run's artifacts.
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.name:
                raise ValueError(f"artifact name {name!r} is no relative path")
            local = self._spool.attach(path.name, data)
            self._spool.append({"k": "file", "files": [[local, str(path)]]})

        self._guarded(write)

    def unsent(self) -> bytes:
        """Lines of the spool that MLflow has not acknowledged."""
        return self._spool.unsent()

    def resume_from(self, step: int, unsent: bytes = b"") -> None:
        """Starts an attempt at `step` with its checkpoint's records."""
        self._guarded(lambda: self._spool.resume_from(int(step), unsent))
        # Another node may have sent points beyond this checkpoint: they stay, and each step stands once.
        self._ledger.merge(self._in_mlflow)

    def commit(self, step: int) -> None:
        """Makes points up to `step` final, unless they are already."""
        # Before the first branch nothing is pending.
        if self._ledger.committed is not None and step > self._ledger.committed:
            self._append({"k": "commit", "step": int(step)})

    def monitor(self, counters: Counters, gauges: Gauges = dict) -> None:
        """Starts the system monitor, or replaces what it watches."""
        if self._system_monitor is None:
            self._system_monitor = SystemMonitor(self._log_sample, every_s=self._monitor_every_s)
        self._system_monitor.watch(counters, gauges)

    def _log_sample(self, values: Mapping[str, float]) -> None:
        metrics = {f"{SYSTEM}{name}": value for name, value in values.items()}
        # The step is the number of the sample: one for all keys, continued from an earlier attempt.
        marks = [step for key, step in list(self._ledger.marks.items()) if key.startswith(SYSTEM)]
        self.log_metrics(max(marks, default=-1) + 1, metrics)

    def close(self, timeout_s: float = 30.0) -> int:
        """Ends monitor, uploader and spool. May be repeated."""
        if self._num_left is not None:
            return self._num_left
        if self._system_monitor is not None:
            self._system_monitor.close()
        self._guarded(self._report_dropped)
        # The uploader first: it sends what the monitor and this report have appended.
        self._num_left = self._uploader.close(timeout_s)
        self._spool.close()
        if self._num_left:
            # No warning yet: the process that closes the run tries once more, and reports what is left then.
            logger.info("tracking: %d records wait in %s", self._num_left, self._spool.folder)
        return self._num_left

    def _append(self, record: SpoolRecord) -> None:
        self._guarded(lambda: self._spool.append(record))

    def _append_metrics(self, record: SpoolRecord) -> None:
        try:
            self._spool.append(record)
        except OSError as error:
            self._dropped.add(record["step"])
            if self._dropped.count == 1:
                logger.warning("tracking: metrics are dropped until the disk has room, training continues (%s)", error)
        else:
            self._report_dropped()

    def _report_dropped(self) -> None:
        """Records how many metrics were dropped, if that is news."""
        if self._dropped.count == self._dropped.reported:
            return
        logger.warning("tracking: %s", self._dropped)
        self._spool.append({"k": "tags", "v": {DROPPED_TAG: str(self._dropped)}})
        self._dropped.reported = self._dropped.count

    def _guarded(self, write: Callable[[], object]) -> None:
        try:
            write()
        except (OSError, ValueError, TypeError) as error:
            self.failures += 1
            if self.failures == 1:
                logger.warning("tracking: a record was lost, training continues (%s)", error)


def _fetch_if_reachable(server: TrackingServer, run_id: str) -> dict[str, int] | None:
    """Fetches a run's recorded steps; None without an answer."""
    try:
        server.knock()
        client = server.client
        if not is_reserved(run_id):
            return fetch_recorded_steps(client, run_id)
        run = find_reserved_run(client, run_id)
        return fetch_recorded_steps(client, run.info.run_id) if run else {}
    # A server, a database or the store of its artifacts may raise anything: training continues.
    except Exception as error:
        logger.warning("tracking: the recorded steps of run %s cannot be read from MLflow (%s)", run_id, reason(error))
        return None


def gallery_key(index: int) -> str:
    """Key of the images of a held-out sample."""
    return f"gallery/{index:03d}"


def newest_image(key: str) -> str:
    """Artifact with the newest image of a key.

    MLflow's pages open each image at step 0, so the newest one stands there, too, always in the same file. Of several
    files of a step they show the one with the latest time.
    """
    file_key = _file_key(key)
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{file_key}/newest")
    return f"images/{file_key}+step+0+timestamp+{_LATEST_MS}+{name}.png"


def _file_key(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_./ -]", "_", key).replace("/", "~")


def _encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
