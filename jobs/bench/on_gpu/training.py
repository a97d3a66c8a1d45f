"""Sections on what surrounds the arithmetic: loader, checkpoints, ranks, resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from jobs.bench.on_gpu.scale import Scale
from jobs.bench.overhead import pictures
from jobs.config import ISNetConfig, load_isnet_config
from jobs.isnet_task import ISNetTask
from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.data.pack.pack import pack
from trainplane.storage import open_store
from trainplane.train.checkpoint.async_writer import CheckpointWriter
from trainplane.train.checkpoint.retention import RetentionRules
from trainplane.train.checkpoint.state import capture
from trainplane.train.loop import run
from trainplane.train.spec import TrainJob
from trainplane.train.world import World

SMALL = (
    "data.val=null",
    "data.train=bench",
    "data.size=64",
    "data.resize=80",
    "train.workers=1",
    "train.log_every=2",
    "loss.perceptual_weights=random",
    "train.validate_every=1000",
)
# Bytes of a sum over the ranks: the gradients of `places2`.
SUM_BYTES = 110 << 20


@contextmanager
def _dataset(count: int = 64) -> Iterator[tuple[Path, Dataset]]:
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as folder:
        root = Path(folder)
        yield root, pack(pictures(count), str(root / "bench"), name="bench", split="train", how={})


def _config(scale: Scale, *overrides: str) -> ISNetConfig:
    use = "true" if scale.device.type == "cuda" else "false"
    return load_isnet_config("demo+laptop", [*SMALL, f"train.use_gpu={use}", *overrides])


def loading(scale: Scale) -> dict[str, Any]:
    """Checks page-locked batches, and times their copies."""
    config = _config(scale, "train.global_batch=8")
    on_gpu = scale.device.type == "cuda"
    with _dataset() as (_, dataset):
        transform = ISNetTask.transform_of(config)
        with Loader(dataset, transform=transform, seed=1, global_batch=8, workers=2) as loader:
            batches = [batch for _, batch in loader.batches(start=0, stop=6)]
    pinned = [tensor.is_pinned() for batch in batches for tensor in batch.values()] if on_gpu else []
    times = []
    for batch in batches:
        scale.wait()
        start = time.perf_counter()
        for tensor in batch.values():
            tensor.to(scale.device, non_blocking=True)
        times.append(time.perf_counter() - start)
        scale.wait()
    ok = len(batches) == 6 and all(pinned)
    return {
        "batches": len(batches),
        "pinned": all(pinned) if on_gpu else None,
        "host_ms_a_copy": 1000 * median(times),
        "ok": ok,
    }


def staging(scale: Scale) -> dict[str, Any]:
    """Stores a state beside steps, and compares its digest."""
    preset = "places2" if scale.device.type == "cuda" else "places2+laptop"
    config = load_isnet_config(preset, ["loss.perceptual=0", "loss.style=0"])
    torch.manual_seed(0)
    task = ISNetTask(config, scale.device)
    batch = task.players.example_batch(2, config.data.size)
    task.players.step([batch], global_batch=2, reduce=World())
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as folder:
        writer = CheckpointWriter(open_store(folder), RetentionRules.of(config.train))
        writer.start()
        scale.wait()
        start = time.perf_counter()
        state = capture(task, step=1)
        copied = time.perf_counter() - start
        digest = state.digest()
        writer.save(state, meta={})
        # The next steps change the weights while the copy is stored.
        steps = 0
        while writer.last is None and steps < 200:
            task.players.step([batch], global_batch=2, reduce=World())
            steps += 1
            if writer._thread is not None and not writer._thread.is_alive():
                break
        last = writer.finish()
    same = last is not None and last.state_digest == digest
    return {
        "copy_ms": 1000 * copied,
        "mib": sum(t.nbytes for t in state.tensors.values()) / 2**20,
        "steps_meanwhile": steps,
        "same_digest": same,
        "ok": same,
    }


def ranks(scale: Scale) -> dict[str, Any]:
    """Sums over one rank, and over one for each GPU."""
    on_gpu = scale.device.type == "cuda"
    most = torch.cuda.device_count() if on_gpu else 2
    rows = {str(count): _summed(count, on_gpu=on_gpu) for count in sorted({1, most})}
    return {"backend": "nccl" if on_gpu else "gloo", "ranks": rows, "ok": all(row["ok"] for row in rows.values())}


def _summed(count: int, *, on_gpu: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as folder:
        spawn(_rank, args=(count, folder, on_gpu), nprocs=count)  # type: ignore[no-untyped-call]
        times = torch.load(f"{folder}/times.pt", weights_only=True)
    seconds = float(times["seconds"])
    size = SUM_BYTES if on_gpu else SUM_BYTES // 16
    # A ring sends 2(n - 1)/n of the bytes over each link.
    link = 2 * (count - 1) / count * size / seconds / 1e9
    return {"sum_ms": 1000 * seconds, "gb_s_a_link": link, "ok": bool(times["right"])}


def _rank(rank: int, count: int, folder: str, on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    device = torch.device("cuda" if on_gpu else "cpu")
    size = (SUM_BYTES if on_gpu else SUM_BYTES // 16) // 4
    times = []
    for _ in range(6):
        tensor = torch.full((size,), float(rank + 1), device=device)
        dist.barrier()
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        # One rank of our own would send nothing: here the library itself is tried.
        dist.all_reduce(tensor)
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    right = bool((tensor == count * (count + 1) / 2).all())
    if rank == 0:
        torch.save({"seconds": torch.tensor(median(times[1:])), "right": torch.tensor(right)}, f"{folder}/times.pt")
    dist.destroy_process_group()


def resume(scale: Scale) -> dict[str, Any]:
    """Kills a deterministic run, resumes it, compares the bits."""
    config = _config(
        scale, "train.deterministic=true", "train.steps=24", "train.checkpoint_every=4", "train.global_batch=4"
    )
    with _dataset() as (root, dataset):

        def job(name: str) -> TrainJob:
            return TrainJob(config.model_dump(mode="json"), dataset.address, None, str(root / name))

        whole = run(job("whole")).state_digest
        killed = job("killed")
        process = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps([killed.config, killed.train_data, killed.checkpoints]))
        process.stdin.close()
        at = _kill_after_checkpoint(process, root / "killed")
        resumed = run(killed)
    return {
        "killed_at": at,
        "steps": resumed.step,
        "bit_equal": resumed.state_digest == whole,
        "ok": resumed.state_digest == whole and 0 < at < 24,
    }


def _kill_after_checkpoint(process: subprocess.Popen[str], folder: Path, *, limit_s: float = 240.0) -> int:
    """Kills a run that has a checkpoint; returns its step."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end and process.poll() is None:
        if done := sorted(folder.glob("step-*/manifest.json")):
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return int(done[-1].parent.name.removeprefix("step-"))
        time.sleep(0.02)
    process.kill()
    process.wait()
    return 0


if __name__ == "__main__":
    settings, data, checkpoints = json.load(sys.stdin)
    run(TrainJob(settings, data, None, checkpoints))
