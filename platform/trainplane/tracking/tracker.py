"""What the training loop records through: a spool on the local disk, sent to MLflow by a process beside it.

Calls return at once, whatever the server does, and never raise into training; what cannot be recorded is counted in
`failures` and logged. Steps that stand already are left out after a resume, and points stand only once a checkpoint is
behind them, so that each step stands once and all belong to one way (`branches`). Rank 0 holds a `Tracker`, every other
rank a `NullTracker`. Which MLflow run this is was decided before, by `run.find_or_create_run`.
"""

from __future__ import annotations

import io
import logging
import re
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainplane.tracking.client import TrackingServer, reason, without_secrets
from trainplane.tracking.history import Heard, recorded_steps, write_heard
from trainplane.tracking.run_id import Birth, find, is_reserved
from trainplane.tracking.spool.ledger import SYSTEM, Record, picture_mark
from trainplane.tracking.spool.meta import read_about, write_about
from trainplane.tracking.spool.spool import LOOK_S, Spool
from trainplane.tracking.spool.upload import Drained, OnVersion, count_unsent, drain
from trainplane.tracking.spool.uploader_process import Flusher
from trainplane.tracking.system_metrics import Counters, SystemMonitor

logger = logging.getLogger(__name__)

WATCH_EVERY_S = 10.0
DROPPED_TAG = "trainplane.thinned"
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Recorder(ABC):
    """What a training loop may record. Calls return at once, whatever the server does, and never raise."""

    @property
    @abstractmethod
    def recorded_through(self) -> int | None:
        """The last step whose training metrics are recorded already; None before the first."""

    @abstractmethod
    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record values of one step under keys such as `train/l1` and `val/psnr`; NaN and infinities are kept.

        A key whose step is not beyond the last recorded one is left out: each step stands once.
        """

    @abstractmethod
    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings. A later attempt cannot change one; a changed one is refused and counted."""

    @abstractmethod
    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    @abstractmethod
    def log_picture(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Record an RGB picture of shape (H, W, 3), uint8, for the step slider of MLflow's pages."""

    @abstractmethod
    def log_text(self, name: str, text: str) -> None:
        """Record a small text or JSON artifact under the relative path `name`."""

    @abstractmethod
    def end(self, status: Status, tags: Mapping[str, str] | None = None) -> None:
        """Record how the run ended; sent after everything that was recorded before."""

    @abstractmethod
    def unsent(self) -> bytes:
        """What MLflow has not acknowledged, for a checkpoint to carry."""

    @abstractmethod
    def go_on_from(self, step: int, unsent: bytes = b"") -> None:
        """Training begins, or goes on, from `step`: points beyond it stand once a checkpoint is behind them.

        Until then they show under `live/`; those of an earlier attempt that still wait are given up. `unsent` is what
        the checkpoint carried.
        """

    @abstractmethod
    def commit(self, step: int) -> None:
        """The checkpoint of `step` is stored. Saying it again costs nothing."""

    @abstractmethod
    def watch(self, counters: Counters) -> None:
        """Record under `system/` what the machine does from now on, and how fast these counters grow."""

    @abstractmethod
    def close(self, timeout_s: float = 30.0) -> int:
        """Send for at most `timeout_s` seconds; returns how many records stay on the disk for `sync`."""


class NullTracker(Recorder):
    """The recorder of every rank but the first: it records nothing."""

    @property
    def recorded_through(self) -> int | None:
        return None

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def log_params(self, params: Mapping[str, Any]) -> None: ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    def log_picture(self, key: str, pixels: NDArray[np.uint8], step: int) -> None: ...

    def log_text(self, name: str, text: str) -> None: ...

    def end(self, status: Status, tags: Mapping[str, str] | None = None) -> None: ...

    def unsent(self) -> bytes:
        return b""

    def go_on_from(self, step: int, unsent: bytes = b"") -> None: ...

    def commit(self, step: int) -> None: ...

    def watch(self, counters: Counters) -> None: ...

    def close(self, timeout_s: float = 30.0) -> int:
        return 0


@dataclass
class _DroppedMetrics:
    """Count and range of the steps whose metrics a full disk dropped."""

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
    """The recorder of rank 0. One process at a time may record a run on a machine: a second one is a `UserError`."""

    def __init__(
        self,
        server: TrackingServer,
        run_id: str,
        *,
        spool: str | Path,
        birth: Birth | None = None,
        patience_s: float = LOOK_S,
        flush_every_s: float = 2.0,
        watch_every_s: float = WATCH_EVERY_S,
    ) -> None:
        """Record run `run_id` by way of the folder `spool`, which belongs to that run alone.

        Another process that records the run is waited for during `patience_s` seconds.
        A run that MLflow has not heard of goes by its reserved id, and `birth` says what to make it with. What is
        recorded already is learnt from the spool and, where it answers, from MLflow: after a move to another node the
        spool is empty and MLflow is not.
        """
        self.failures = 0
        self._dropped = _DroppedMetrics()
        self._monitor: SystemMonitor | None = None
        self._watch_every_s = watch_every_s
        self._spool = Spool(
            Path(spool), run_id=run_id, tracking=server.public_address, birth=birth, patience_s=patience_s
        )
        self._run_id = self._spool.about.run_id
        self._ledger = self._spool.ledger
        self._closed: int | None = None
        has_unsent = bool(self._spool.unsent())
        heard = _steps_if_reachable(server, self._run_id)
        if heard is not None and not has_unsent:
            # Left out from here on, as they come: nobody needs to leave them out later.
            write_heard(Path(spool), Heard())
        self._in_mlflow = heard or {}
        self._ledger.at_least(self._in_mlflow)
        if has_unsent:
            # An earlier attempt's end may be among what is still to be sent; this attempt is alive.
            self._append({"k": "status", "v": "RUNNING", "ts": _now_ms()})
        self._flusher = Flusher(Path(spool), server.address, every_s=flush_every_s)

    @property
    def recorded_through(self) -> int | None:
        return max((step for key, step in self._ledger.marks.items() if key.startswith("train/")), default=None)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        def write() -> None:
            marks = self._ledger.marks
            values = {key: float(value) for key, value in metrics.items() if step > marks.get(key, step - 1)}
            if values:
                self._append_metrics({"k": "metrics", "step": int(step), "ts": _now_ms(), "v": values})

        self._guarded(write)

    def log_params(self, params: Mapping[str, Any]) -> None:
        self._append({"k": "params", "v": {key: str(value) for key, value in params.items()}})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._append({"k": "tags", "v": {key: str(value) for key, value in tags.items()}})

    def log_picture(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        def write() -> None:
            # MLflow's pages read key, step and time from the file's name and show the .webp beside the .png.
            file_key = re.sub(r"[^A-Za-z0-9_./ -]", "_", key).replace("/", "~")
            mark = picture_mark(file_key)
            if step <= self._ledger.marks.get(mark, step - 1):
                return
            name = uuid.uuid5(uuid.NAMESPACE_URL, f"{self._run_id}/{file_key}/{step}")
            stem = f"{file_key}+step+{step}+timestamp+{_now_ms()}+{name}"
            picture = Image.fromarray(np.asarray(pixels))
            files = []
            for file_name, data in (
                (f"{stem}.png", _encoded(picture, "PNG", compress_level=1)),
                (f"{stem}+compressed.webp", _encoded(picture, "WEBP", quality=80, method=0)),
            ):
                files.append([self._spool.attach(file_name, data), f"images/{file_name}"])
            self._spool.append({"k": "tags", "v": {"mlflow.loggedImages": "True"}})
            self._keep({"k": "file", "files": files, "key": mark, "step": int(step)})

        self._guarded(write)

    def log_text(self, name: str, text: str) -> None:
        def write() -> None:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.name:
                raise ValueError(f"artifact name {name!r} is no relative path")
            local = self._spool.attach(path.name, text.encode())
            self._spool.append({"k": "file", "files": [[local, str(path)]]})

        self._guarded(write)

    def end(self, status: Status, tags: Mapping[str, str] | None = None) -> None:
        if tags:
            self.set_tags(tags)
        self._append({"k": "status", "v": status, "ts": _now_ms()})

    def unsent(self) -> bytes:
        return self._spool.unsent()

    def go_on_from(self, step: int, unsent: bytes = b"") -> None:
        self._guarded(lambda: self._spool.go_on_from(int(step), unsent))
        # A checkpoint older than what another node has sent: its points stay, and each step stands once.
        self._ledger.at_least(self._in_mlflow)

    def commit(self, step: int) -> None:
        if self._ledger.committed is not None and step > self._ledger.committed:
            self._append({"k": "commit", "step": int(step)})

    def watch(self, counters: Counters) -> None:
        if self._monitor is None:
            self._monitor = SystemMonitor(self._log_sample, every_s=self._watch_every_s)
        self._monitor.watch(counters)

    def _log_sample(self, values: Mapping[str, float]) -> None:
        metrics = {f"{SYSTEM}{name}": value for name, value in values.items()}
        # The number of the sample: one for all keys, and going on where an earlier attempt ended.
        marks = [step for key, step in list(self._ledger.marks.items()) if key.startswith(SYSTEM)]
        self.log_metrics(max(marks, default=-1) + 1, metrics)

    def close(self, timeout_s: float = 30.0) -> int:
        if self._closed is not None:
            return self._closed
        if self._monitor is not None:
            self._monitor.close()
        self._guarded(self._report_dropped)
        self._closed = left = self._flusher.close(timeout_s)
        self._spool.close()
        if left:
            # Whoever closes the run tries once more, and says what is left then.
            logger.info("tracking: %d records wait in %s", left, self._spool.folder)
        return left

    def _append(self, record: Record) -> None:
        self._guarded(lambda: self._keep(record))

    def _keep(self, record: Record) -> None:
        self._spool.append(record)
        self._ledger.take(record)

    def _append_metrics(self, record: Record) -> None:
        """Appends metrics; a full disk drops and counts them."""
        try:
            self._keep(record)
        except OSError as error:
            self._dropped.add(record["step"])
            if self._dropped.count == 1:
                logger.warning("tracking: metrics are dropped until the disk has room, training continues (%s)", error)
        else:
            self._report_dropped()

    def _report_dropped(self) -> None:
        """Records how many metrics were dropped since the last report."""
        if self._dropped.count == self._dropped.reported:
            return
        logger.warning("tracking: %s", self._dropped)
        self._keep({"k": "tags", "v": {DROPPED_TAG: str(self._dropped)}})
        self._dropped.reported = self._dropped.count

    def _guarded(self, write: Callable[[], object]) -> None:
        try:
            write()
        except (OSError, ValueError, TypeError) as error:
            self.failures += 1
            if self.failures == 1:
                logger.warning("tracking: a record was lost, training goes on (%s)", error)


def sync(
    root: Path, server: TrackingServer, *, also: str | None = None, on_version: OnVersion | None = None
) -> dict[str, Drained]:
    """Send what the spools under `root` hold for this address, or held for the address `also`; outcomes by run id."""
    client = server.client
    addresses = {without_secrets(address) for address in (server.address, also) if address}
    outcomes = {}
    # Reserved ids first: a result, whose folder has MLflow's id, may refer to runs that their own spools create.
    for described in sorted(root.glob("*/about.json"), key=lambda path: (not is_reserved(path.parent.name), path)):
        if (whose := read_about(described.parent)).tracking in addresses:
            write_about(described.parent, replace(whose, tracking=server.public_address))
            outcome = drain(described.parent, client, on_version=on_version)
            outcomes[read_about(described.parent).run_id] = outcome
    return outcomes


@dataclass(frozen=True)
class UnsentSpool:
    """Records of one run that wait on this disk for a tracking address."""

    run_id: str
    tracking: str
    records: int


def unsent_spools(root: Path) -> list[UnsentSpool]:
    """The spools under `root` with records that MLflow has not acknowledged."""
    found = []
    for described in sorted(root.glob("*/about.json")):
        whose, records = read_about(described.parent), count_unsent(described.parent)
        if records:
            found.append(UnsentSpool(whose.run_id, whose.tracking, records))
    return found


def _steps_if_reachable(server: TrackingServer, run_id: str) -> dict[str, int] | None:
    """What MLflow has of the run; None where it does not answer."""
    try:
        server.knock()
        client = server.client
        if not is_reserved(run_id):
            return recorded_steps(client, run_id)
        found = find(client, run_id)
        return recorded_steps(client, found.info.run_id) if found else {}
    # Whatever a server, a database or the store of its artifacts raises: training goes on.
    except Exception as error:
        logger.warning("tracking: MLflow does not say what run %s has recorded (%s)", run_id, reason(error))
        return None


def _encoded(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
