"""Peak memory of one way of training, in a process of its own.

    python -m jobs.bench.step_memory SIZE BATCH BLOCKS DEVICE WAY

Prints MiB: on the CPU the highest resident memory above that after the imports; on a GPU what torch allocated.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import psutil
import torch

from jobs.bench.step_ways import Case, make_step

STEPS = 2


def peak_mib(case: Case, way: str) -> float:
    """Peak memory of two steps of `way`, measured in a fresh process, MiB."""
    words = [str(case.size), str(case.batch), str(case.blocks), case.device, way]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.bench.step_memory", *words],
        capture_output=True,
        text=True,
        check=False,
        # Large blocks go back to the system when they are freed, so that what is resident is what is in use.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 * 1024), "MALLOC_TRIM_THRESHOLD_": str(128 * 1024)},
    )
    if done.returncode:
        raise RuntimeError(f"the measuring process of {way!r} ended with {done.returncode}: {done.stderr[-500:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    size, batch, blocks, device, way = sys.argv[1:]
    case = Case(int(size), int(batch), int(blocks), device)
    # What a first convolution loads into a process is nobody's step.
    torch.nn.functional.conv2d(torch.rand(1, 3, 32, 32), torch.rand(3, 3, 3, 3))
    before = psutil.Process().memory_info().rss
    step = make_step(case, way)
    for seed in range(STEPS):
        step(seed)
    if device == "cuda":
        torch.cuda.synchronize()
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print((_peak_bytes() - before) / 2**20)


def _peak_bytes() -> int:
    """Highest resident memory of this process so far. `ru_maxrss` begins with what the parent had, so Linux's own."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
