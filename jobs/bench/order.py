"""`isnet bench order`: what the order of samples costs, and how well it shuffles.

Time and memory are those of fresh processes that do nothing else. How well it shuffles is told against a full shuffle,
for the hardest packing there is: 365 classes laid one after the other. Not covered: reading (bench loader).
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

from trainplane.data.index import Index, IndexWriter, Member, Row
from trainplane.data.order import Order
from trainplane.data.shard import Shard

DIGEST = "ab" * 32
CLASSES = 365  # of Places2
_SAMPLE_BYTES = 40_960  # of the index that is loaded: a picture of 30 to 34 KB, and its JSON


def order(args: argparse.Namespace) -> int:
    """`isnet bench order`."""
    from jobs.bench.common import machine
    from jobs.cli.main import emit

    with TemporaryDirectory(prefix="isnet-bench-") as scratch:
        index = Path(scratch, "samples.parquet")
        index.write_bytes(_index_of(args.index_samples))
        plan = _in_a_fresh_process("plan", str(args.samples), str(args.ranks))
        load = _in_a_fresh_process("index", str(index), str(args.index_samples))
    shuffling = [shuffling_of(global_batch) for global_batch in (6, 32, 256, 1024)]
    reading = {str(world): bytes_read(world) for world in (1, 2, 4, 8, 16, 32, 64)}
    figures = [
        _figure(f"plan of one of {args.ranks} ranks, {args.samples} samples", plan["wall_s"], "s", 1.0),
        _figure("its memory", plan["mib"], "MiB", 190.7),
        _figure(f"index of {args.index_samples} samples", load["wall_s"], "s", 2.0),
        _figure("bytes read in an epoch over all ranks, of the dataset", max(reading.values()), "ratio", 1.1),
    ]
    report = {
        "machine": machine(),
        "plan": plan,
        "index": load,
        "shuffling": shuffling,
        "bytes_read": reading,
        "figures": figures,
    }
    emit(args, report, _text(report))
    return 0


def plan_of(samples: int, ranks: int) -> None:
    """One rank's plan: the order, a step in the middle of the sixth epoch, and the next window after it."""
    made = Order(digest=DIGEST, shard_sizes=_shards(samples), seed=10, global_batch=16 * ranks)
    step = 5 * made.steps_per_epoch + made.steps_per_epoch // 2
    for one in range(step, step + 65):
        made.visits(one, made.slots(rank=ranks * 3 // 4, world=ranks))


def load_of(index: Path, samples: int) -> None:
    """What a reader does with `samples.parquet` once its bytes are here."""
    sizes = enumerate(_shards(samples))
    shards = [Shard(f"shard-{number:06d}.tar", size * _SAMPLE_BYTES, size, "") for number, size in sizes]
    loaded = Index(index.read_bytes(), shards=shards)
    loaded.span(samples // 2, samples // 2 + 1)


def shuffling_of(global_batch: int, *, samples: int = 2**17) -> dict[str, Any]:
    """How one epoch mixes 365 classes that were packed one after the other, beside a full shuffle of them.

    classes_in_a_batch, classes_in_64_steps -- distinct ones, mean
    displacement     -- between a sample's place in the packing and in the epoch, of the dataset: 1/3 when shuffled
    rank_correlation -- of the two places, absolute: 0 when shuffled
    same_block_next  -- how often what a slot meets next is of the block that it met before
    """
    made = Order(digest=DIGEST, shard_sizes=_shards(samples), seed=10, global_batch=global_batch)
    met = np.stack([made.batch(step) for step in range(made.steps_per_epoch)])
    full = np.random.default_rng(0).permutation(samples)[: met.size].reshape(met.shape)
    same = np.mean(met[1:] // made.block == met[:-1] // made.block)
    return {
        "global_batch": global_batch,
        "samples": samples,
        "block": made.block,
        "window": made.window,
        "same_block_next": float(same),
    } | {name: {"ours": measure(met), "full_shuffle": measure(full)} for name, measure in _measures(samples).items()}


def _measures(samples: int) -> dict[str, Callable[[np.ndarray], float]]:
    def distinct(met: np.ndarray) -> float:
        classes = met * CLASSES // samples
        return float(np.mean([len(np.unique(rows)) for rows in classes[:: max(1, len(classes) // 500)]]))

    def of_64_steps(met: np.ndarray) -> float:
        return distinct(met[: len(met) // 64 * 64].reshape(-1, 64 * met.shape[1]))

    def displacement(met: np.ndarray) -> float:
        return float(np.mean(np.abs(met.ravel() - np.arange(met.size))) / samples)

    def correlation(met: np.ndarray) -> float:
        return float(abs(np.corrcoef(met.ravel(), np.arange(met.size))[0, 1]))

    return {
        "classes_in_a_batch": distinct,
        "classes_in_64_steps": of_64_steps,
        "displacement": displacement,
        "rank_correlation": correlation,
    }


def bytes_read(world: int, *, samples: int = 2**15) -> float:
    """Bytes that all ranks together ask for in an epoch, of the dataset's: each run of neighbours once a window."""
    sizes = np.random.default_rng(1).integers(10_000, 200_000, samples)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    made = Order(digest=DIGEST, shard_sizes=_shards(samples), seed=10, global_batch=64)
    total = 0
    for rank in range(world):
        slots = made.slots(rank=rank, world=world)
        runs = {
            (visit.until, visit.first, visit.end)
            for step in range(made.steps_per_epoch)
            for visit in made.visits(step, slots)
        }
        total += sum(int(ends[end] - ends[first]) for _, first, end in runs)
    return total / int(ends[-1])


def _shards(samples: int) -> list[int]:
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
        offset = at * _SAMPLE_BYTES + 512
        picture = Member("jpg", offset, 30_000 + at, (first + at) * 2_654_435_761 % 2**32)
        yield Row(f"{first + at:09d}-abcdef", (picture, Member("json", offset + 35_328, 120, at)))


def _in_a_fresh_process(*words: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", __name__, *words], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def _figure(name: str, value: float, unit: str, target: float) -> dict[str, Any]:
    value = round(value, 3)
    return {"name": name, "value": value, "unit": unit, "target": target, "met": value <= target}


def _text(report: dict[str, Any]) -> str:
    lines = [
        f"{'met ' if figure['met'] else 'MISS'} {figure['name']}: {figure['value']} {figure['unit']} "
        f"(target {figure['target']})"
        for figure in report["figures"]
    ]
    for row in report["shuffling"]:
        told = ", ".join(
            f"{name} {value['ours']:.3f} (full shuffle {value['full_shuffle']:.3f})"
            for name, value in row.items()
            if isinstance(value, dict)
        )
        lines.append(f"global batch {row['global_batch']}: {told}, same block next {row['same_block_next']:.3f}")
    return "\n".join(lines)


def _measured(run: Callable[[], None]) -> dict[str, float]:
    before = psutil.Process().memory_info().rss
    begun, cpu = time.perf_counter(), time.process_time()
    run()
    wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
    return {"wall_s": wall_s, "cpu_s": cpu_s, "mib": max(0, _peak_bytes() - before) / 2**20}


def _peak_bytes() -> int:
    """Most memory that this program has held (Linux)."""
    # Not getrusage: its maximum outlives exec, so a child begins with that of the process that started it.
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    what, first, second = sys.argv[1:]
    runs = {
        "plan": lambda: plan_of(int(first), int(second)),
        "index": lambda: load_of(Path(first), int(second)),
    }
    print(json.dumps(_measured(runs[what])))
