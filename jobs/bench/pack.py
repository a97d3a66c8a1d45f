"""`isnet bench pack`: packing rates, and the saving by resuming.

    ways    the same pictures to a fresh folder each time, in turns; all must give one digest
    resumed a packing that was interrupted in the middle and is run again, against one from the start

Pictures are read from disk (from memory, mostly: they were read before), decoded and checked; with `--max-side` the
larger ones are re-encoded. Not covered: S3, whose part is the network's; several machines.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from jobs.bench.common import in_turns, machine, median, median_ratio
from jobs.cli.main import emit
from jobs.data.packing import Recode, pack_pictures
from jobs.data.sources import PictureSource, Skip, open_pictures
from trainplane.cluster.ray_session import ray_session
from trainplane.data.manifest import Dataset
from trainplane.data.pack.executor import LocalExecutor, PackExecutor
from trainplane.data.pack.ray_executor import RayExecutor
from trainplane.errors import UserError


def pack(args: argparse.Namespace) -> int:
    """`isnet bench pack PHOTOS`."""
    tasks = _tasks(args.tasks)
    with open_pictures(Path(args.photos).expanduser()) as entries:
        # Repeated under further names, so that there is enough to pack.
        photos = _repeated(entries, args.repeat)
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as name:
        packer = _PhotoPacker(photos, Recode(max_side=args.max_side), args.shard_bytes, Path(name))
        with ray_session(num_cpus=max(tasks)) as ray:
            executors = {str(number): RayExecutor(ray, number) if number else LocalExecutor() for number in tasks}
            ways = {name: functools.partial(packer.whole, executor) for name, executor in executors.items()}
            timings = in_turns(ways, rounds=args.rounds)
        resumed = packer.resumed()
    # All are compared with the first number of tasks given.
    first = timings[str(tasks[0])]
    report: dict[str, Any] = {
        "machine": machine(),
        "pictures": len(photos),
        "bytes": sum(photo.size for photo in photos),
        "max_side": args.max_side,
        "digest": packer.digest,
        "pictures_per_s": {way: len(photos) / median(runs) for way, runs in timings.items()},
        "faster": {way: median_ratio(first, runs) for way, runs in timings.items()},
        "resumed": resumed,
    }
    emit(args, report, _text(report))
    return 0


def _tasks(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")) or not any(int(part) for part in text.split(",")):
        raise UserError(f"--tasks {text!r}: need numbers of Ray tasks separated by commas, 0 for none, such as 0,1,2")
    return [int(part) for part in text.split(",")]


def _repeated(entries: Iterable[PictureSource | Skip], times: int) -> list[PictureSource]:
    sources = [entry for entry in entries if isinstance(entry, PictureSource) and not entry.only_here]
    if not sources:
        raise UserError("there is no picture to pack; give a folder, a list or a plain tar of pictures")
    return [replace(source, name=f"{number}/{source.name}") for number in range(times) for source in sources]


class _PhotoPacker:
    """Packs the same photos, each time to a fresh folder."""

    def __init__(self, photos: list[PictureSource], recode: Recode, shard_bytes: int, folder: Path) -> None:
        self._photos = photos
        self._recode = recode
        self._shard_bytes = shard_bytes
        self._fresh = (folder / str(number) for number in count())
        self.digest = ""

    def whole(self, executor: PackExecutor) -> None:
        """Packs from start to end; checks the digest."""
        dataset = self._pack(self._photos, next(self._fresh), executor)
        if self.digest not in ("", dataset.digest):
            raise RuntimeError(f"packed {dataset.digest}, before it was {self.digest}")
        self.digest = dataset.digest

    def resumed(self) -> dict[str, float]:
        """Interrupts a packing at half, resumes it, and measures that.

        Returns `pictures_read` and `seconds` as shares of a whole packing.
        """
        folder = next(self._fresh)

        # Ctrl-C in the middle, as a user would press it.
        def half() -> Iterator[PictureSource]:
            yield from self._photos[: len(self._photos) // 2]
            raise KeyboardInterrupt

        try:
            self._pack(half(), folder, LocalExecutor())
        except KeyboardInterrupt:
            shards_kept = len(list(folder.glob("shard-*.tar")))
        # Resumed: pictures of finished shards must not be read again.
        read = 0

        def counted(source: PictureSource) -> bytes:
            nonlocal read
            read += 1
            return source.read()

        # The second run gets the same pictures, which count how often they are read.
        watched = [replace(source, read=functools.partial(counted, source)) for source in self._photos]
        start = time.perf_counter()
        dataset = self._pack(watched, folder, LocalExecutor())
        again = time.perf_counter() - start
        # Beside it a packing from the start, of the same moment.
        start = time.perf_counter()
        self.whole(LocalExecutor())
        whole = time.perf_counter() - start
        # A resumed packing must end on the same dataset.
        if dataset.digest != self.digest:
            raise RuntimeError(f"resumed to {dataset.digest}, whole it is {self.digest}")
        return {
            "shards_kept": shards_kept,
            "shards": dataset.num_shards,
            "pictures_read": read / len(self._photos),
            "seconds": again / whole,
        }

    def _pack(self, photos: Iterable[PictureSource], folder: Path, executor: PackExecutor) -> Dataset:
        return pack_pictures(
            photos,
            str(folder),
            name="bench",
            split="all",
            shard_bytes=self._shard_bytes,
            recode=self._recode,
            executor=executor,
        )


def _text(report: dict[str, Any]) -> str:
    where, resumed = report["machine"], report["resumed"]
    lines = [
        f"{where['processor']}, {where['cores']} cores, load {where['load_1min']}",
        f"{report['pictures']} pictures, {report['bytes'] / 2**20:.0f} MiB, digest {report['digest'][:12]}",
        f"  {'Ray tasks':>10} {'pictures/s':>12} {'faster':>8}",
    ]
    for way, speed in report["pictures_per_s"].items():
        lines.append(f"  {way:>10} {speed:12.1f} {report['faster'][way]:7.2f}×")
    lines.append(
        f"  resumed at half: {resumed['shards_kept']} of {resumed['shards']} shards kept, "
        f"{100 * resumed['pictures_read']:.0f} % of the pictures read, {100 * resumed['seconds']:.0f} % of the time"
    )
    return "\n".join(lines)
