"""Ranks of a gloo group as forked processes: torch is imported already, so they start in milliseconds."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainplane.train.world import World

LIMIT_S = 60.0


def run_ranks(function: Callable[[World], Any], size: int) -> list[Any]:
    """Runs `function` on every rank and returns what each of them returned."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_rank, args=(function, rank, size, Path(folder, "store"), theirs))
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            answers = [pipe.recv() if pipe.poll(LIMIT_S) else (None, "no answer") for pipe in pipes]
        finally:
            for process in processes:
                process.join(5.0)
                process.kill()
    errors = [error for _, error in answers if error]
    assert not errors, "\n".join(errors)
    return [result for result, _ in answers]


def _rank(function: Callable[[World], Any], rank: int, size: int, store: Path, pipe: Any) -> None:
    # A forked process has none of its parent's threads, which OpenMP does not know.
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        pipe.send((function(World.current()), ""))
    except BaseException:
        pipe.send((None, traceback.format_exc()))
    finally:
        pipe.close()
