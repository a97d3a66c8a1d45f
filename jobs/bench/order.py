"""`isnet bench order`: cost and quality of the sample order.

Time and memory are those of fresh processes that do nothing else. Shuffling is compared with a full shuffle, for the
hardest packing there is: 365 classes laid one after the other. Not covered: reading (bench loader).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from jobs.bench.common import Figure, figure, figures_text, peak_bytes, report
from trainplane.data.index import Index, IndexWriter, Member, Row
from trainplane.data.order import Order
from trainplane.data.shard import Shard

DIGEST = "ab" * 32
CLASSES = 365  # of Places2
_SAMPLE_BYTES = 40_960  # of the index that is loaded: a picture of 30 to 34 KB, and its JSON


def order(args: argparse.Namespace) -> int:
    """`isnet bench order`."""
    with TemporaryDirectory(prefix="isnet-bench-") as scratch:
        # Only the cost of loading is measured: the index is built before.
        index = Path(scratch, "samples.parquet")
        index.write_bytes(_index_of(args.index_samples))
        plan = _in_a_fresh_process("plan", str(args.samples), str(args.ranks))
        load = _in_a_fresh_process("index", str(index), str(args.index_samples))
        # The first process of a host writes the file that the second one maps.
        build = _in_a_fresh_process("shared", str(index), str(args.index_samples))
        mapped = _in_a_fresh_process("shared", str(index), str(args.index_samples))
        file_bytes = sum(path.stat().st_size for path in Path(scratch).glob("*/*.index"))
    shuffling = [shuffling_of(global_batch) for global_batch in (6, 32, 256, 1024)]
    reading = {str(world): bytes_read(world) for world in (1, 2, 4, 8, 16, 32, 64)}
    again = found_again(8, epochs=6)
    figures = [
        figure(f"plan of one of {args.ranks} ranks, {args.samples} samples", plan["wall_s"], "s", 1.0),
        figure("its memory", plan["mib"], "MiB", 190.7),
        figure(f"index of {args.index_samples} samples", load["wall_s"], "s", 2.0),
        figure("its file, once a host", file_bytes / args.index_samples, "bytes a sample", 60.0),
        figure("mapping it, in each process", mapped["wall_s"], "s", 0.1),
        figure("memory of a process that maps it", mapped["own_mib"], "MiB", 5.0),
        figure("bytes read in an epoch over all ranks, of the dataset", max(reading.values()), "ratio", 1.1),
        figure("found again by 8 hosts with room for all, second epoch", again[1], "of its samples"),
        figure("the same, sixth epoch", again[5], "of its samples"),
    ]
    text = _text(figures, shuffling)
    report(
        args,
        figures,
        text,
        plan=plan,
        index=load,
        build=build,
        mapped=mapped,
        shuffling=shuffling,
        bytes_read=reading,
        found_again=again,
    )
    return 0


def plan_of(samples: int, ranks: int) -> None:
    """Plans one rank's steps amid the sixth epoch."""
    order = Order(digest=DIGEST, shard_sizes=_shards(samples), seed=10, global_batch=16 * ranks)
    first = 5 * order.steps_per_epoch + order.steps_per_epoch // 2
    # 65 steps reach into the next window.
    for step in range(first, first + 65):
        order.visits(step, order.slots(rank=ranks * 3 // 4, world=ranks))


def load_of(index: Path, samples: int) -> None:
    """Reads an index into the memory of one process."""
    loaded = Index.parse(index.read_bytes(), shards=_described(samples))
    loaded.span(samples // 2, samples // 2 + 1)


def share_of(index: Path, samples: int) -> None:
    """Opens an index as readers of a large dataset do."""
    shards = _described(samples)
    mapped = Index.shared(str(index.parent), DIGEST, shards=shards, read=lambda parse: parse(index.read_bytes()))
    for number in range(0, samples, max(1, samples // 1000)):
        mapped.span(number, number + 1)


def _described(samples: int) -> list[Shard]:
    sizes = enumerate(_shards(samples))
    return [Shard(f"shard-{number:06d}.tar", size * _SAMPLE_BYTES, size, "") for number, size in sizes]


def shuffling_of(global_batch: int, *, samples: int = 2**17) -> dict[str, Any]:
    """Mixing of classes in one epoch, beside a full shuffle.

    All 365 classes were packed one after the other.

    Returns:
        classes_in_a_batch, classes_in_64_steps: distinct classes, mean.
        displacement: distance of a sample's places in the packing and in the epoch, of the dataset; 1/3 when shuffled.
        rank_correlation: of the two places, absolute; 0 when shuffled.
        same_block_next: share of a slot's samples whose next sample is of the same block.
    """
    order = Order(digest=DIGEST, shard_sizes=_shards(samples), seed=10, global_batch=global_batch)
    # Sample numbers of the epoch, (steps, global_batch).
    epoch = np.stack([order.batch(step) for step in range(order.steps_per_epoch)])
    full = np.random.default_rng(0).permutation(samples)[: epoch.size].reshape(epoch.shape)
    same = np.mean(epoch[1:] // order.block == epoch[:-1] // order.block)
    return {
        "global_batch": global_batch,
        "samples": samples,
        "block": order.block,
        "window": order.window,
        "same_block_next": float(same),
    } | {name: {"ours": measure(epoch), "full_shuffle": measure(full)} for name, measure in _measures(samples).items()}


def _measures(samples: int) -> dict[str, Callable[[np.ndarray], float]]:
    def distinct(epoch: np.ndarray) -> float:
        classes = epoch * CLASSES // samples
        # About 500 batches are enough for a mean.
        return float(np.mean([len(np.unique(rows)) for rows in classes[:: max(1, len(classes) // 500)]]))

    def distinct_in_64_steps(epoch: np.ndarray) -> float:
        return distinct(epoch[: len(epoch) // 64 * 64].reshape(-1, 64 * epoch.shape[1]))

    def displacement(epoch: np.ndarray) -> float:
        return float(np.mean(np.abs(epoch.ravel() - np.arange(epoch.size))) / samples)

    def correlation(epoch: np.ndarray) -> float:
        return float(abs(np.corrcoef(epoch.ravel(), np.arange(epoch.size))[0, 1]))

    return {
        "classes_in_a_batch": distinct,
        "classes_in_64_steps": distinct_in_64_steps,
        "displacement": displacement,
        "rank_correlation": correlation,
    }


def bytes_read(world: int, *, samples: int = 2**15) -> float:
    """Bytes requested by all ranks, relative to the dataset."""
    # Pictures of 10 to 200 kB.
    sizes = np.random.default_rng(1).integers(10_000, 200_000, samples)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    order = Order(digest=DIGEST, shard_sizes=_shards(samples), seed=10, global_batch=64)
    total = 0
    for rank in range(world):
        slots = order.slots(rank=rank, world=world)
        # Each run of neighbours is requested once in a window.
        runs = {
            (visit.until, visit.first, visit.end)
            for step in range(order.steps_per_epoch)
            for visit in order.visits(step, slots)
        }
        total += sum(int(ends[end] - ends[first]) for _, first, end in runs)
    return total / int(ends[-1])


def found_again(hosts: int, *, epochs: int, samples: int = 2**15) -> list[float]:
    """Share of each epoch's samples that hosts have cached.

    Each host has room for the whole dataset, and begins with nothing.
    """
    order = Order(digest=DIGEST, shard_sizes=_shards(samples), seed=10, global_batch=64)
    cached = np.zeros((hosts, samples), dtype=bool)
    shares = []
    for epoch in range(epochs):
        num_found = 0
        for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
            rows = order.batch(step).reshape(hosts, -1)
            hits = np.take_along_axis(cached, rows, axis=1)
            num_found += int(hits.sum())
            np.put_along_axis(cached, rows, True, axis=1)
        shares.append(num_found / (order.steps_per_epoch * order.global_batch))
    return shares


def _shards(samples: int) -> list[int]:
    # Shards of 4,096 samples, the last one smaller.
    whole, rest = divmod(samples, 4096)
    return [4096] * whole + ([rest] if rest else [])


def _index_of(samples: int) -> bytes:
    writer = IndexWriter()
    number = 0
    for shard, size in enumerate(_shards(samples)):
        writer.add(f"shard-{shard:06d}.tar", list(_rows(number, size)))
        number += size
    return writer.finish()


def _rows(first: int, size: int) -> Iterator[Row]:
    for at in range(size):
        # Two members a sample, as `data pack` lays them out.
        offset = at * _SAMPLE_BYTES + 512
        picture = Member("jpg", offset, 30_000 + at, (first + at) * 2_654_435_761 % 2**32)
        yield Row(f"{first + at:09d}-abcdef", (picture, Member("json", offset + 35_328, 120, at)))


def _in_a_fresh_process(*args: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", __name__, *args], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def _text(figures: list[Figure], shuffling: list[dict[str, Any]]) -> str:
    lines = [figures_text(figures)]
    for row in shuffling:
        measures = ", ".join(
            f"{name} {value['ours']:.3f} (full shuffle {value['full_shuffle']:.3f})"
            for name, value in row.items()
            if isinstance(value, dict)
        )
        lines.append(f"global batch {row['global_batch']}: {measures}, same block next {row['same_block_next']:.3f}")
    return "\n".join(lines)


def _measured(run: Callable[[], None]) -> dict[str, float]:
    before, own_before = psutil.Process().memory_info().rss, psutil.Process().memory_full_info().uss
    start, cpu = time.perf_counter(), time.process_time()
    run()
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    own = psutil.Process().memory_full_info().uss - own_before
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "mib": max(0, peak_bytes() - before) / 2**20,
        # Without pages of a file that other processes map, too.
        "own_mib": max(0, own) / 2**20,
    }


if __name__ == "__main__":
    run_name, first, second = sys.argv[1:]
    runs = {
        "plan": lambda: plan_of(int(first), int(second)),
        "index": lambda: load_of(Path(first), int(second)),
        "shared": lambda: share_of(Path(first), int(second)),
    }
    print(json.dumps(_measured(runs[run_name])))
