"""What every reader's program does: read on request, and say what it took.

The parent writes one JSON object a line: {"workers", "start" (first sample), "warmup", "batches"}; the answer is one
JSON object a line. `first_batch_s` is from asking for the stream to its first batch; the rates leave the first
`warmup` batches out, so that they are those of a stream under way.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TextIO

import psutil

Spec = dict[str, Any]
"""address, size, resize, batch, seed, samples, endpoint and whatever else one reader needs."""

Open = Callable[..., AbstractContextManager[Iterator[int]]]
"""(workers=, start=) to a stream that gives the number of pictures of each batch."""


def serve(opened: Callable[[Spec], Open], *, facts: Callable[[], dict[str, Any]] = dict) -> None:
    """Answer requests on standard input until it ends. `facts` are told once, in the first line."""
    answers = _standard_output_alone()
    opener = opened(json.loads(sys.argv[1]))
    _answer(answers, facts())
    for line in sys.stdin:
        _answer(answers, _measured(opener, **json.loads(line)))


def _measured(opener: Open, *, workers: int, start: int, warmup: int, batches: int) -> dict[str, float]:
    begun = time.perf_counter()
    with opener(workers=workers, start=start) as stream:
        next(stream)
        first_batch_s = time.perf_counter() - begun
        for _ in range(warmup - 1):
            next(stream)
        wall, cpu = time.perf_counter(), cpu_s()
        pictures = sum(next(stream) for _ in range(batches))
        wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    return {"first_batch_s": first_batch_s, "pictures": pictures, "wall_s": wall, "cpu_s": cpu}


def cpu_s() -> float:
    """Processor time of this process and its living descendants, seconds to a hundredth."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _standard_output_alone() -> TextIO:
    """What libraries print goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(kept, "w", encoding="utf-8")


def _answer(answers: TextIO, payload: dict[str, Any]) -> None:
    print(json.dumps(payload), file=answers, flush=True)
