"""`isnet bench gpu`: proves a GPU in one call.

Sections, each in a process of its own with a share of the time: Adam and the guard's switch; our step in every
precision against the author's; graphs and breaks of the compiler; launches and the worst kernels; memory against the
plan; inference by batch; every method; page-locked batches; checkpoints stored beside steps; sums over ranks; kill and
resume. A section that fails or runs out of its time is reported and stops no other. Without `--device cpu`, which runs
the same lines in small, a GPU is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.bench.common import machine
from jobs.bench.on_gpu.page import page
from jobs.bench.on_gpu.section import SECTIONS
from jobs.cli.main import emit
from jobs.train.gpus import gpu_findings, read_gpus
from trainplane.command_line import command_line
from trainplane.errors import UserError
from trainplane.storage import open_store


def gpu(args: argparse.Namespace) -> int:
    """`isnet bench gpu`."""
    names = _chosen(args.only)
    findings = list(gpu_findings(read_gpus()))
    if args.device == "cuda" and not _has_gpu():
        raise UserError(
            f"{findings[0].what}, and this bench needs an NVIDIA GPU, its driver and torch's CUDA build; run it on "
            f"such a machine, or `{command_line('bench', 'gpu', '--device', 'cpu')}` to try its code in small"
        )
    started = time.monotonic()
    sections: dict[str, Any] = {}
    for number, name in enumerate(names):
        # What earlier sections left of their time belongs to the later ones.
        left = 60 * args.minutes - (time.monotonic() - started)
        limit_s = left * SECTIONS[name][1] / sum(SECTIONS[later][1] for later in names[number:])
        sections[name] = run_section(name, args.device, limit_s=limit_s)
        if not args.json:
            state = sections[name].get("failed") or ("ok" if sections[name]["ok"] else "does not hold")
            print(f"{name}: {state} ({sections[name]['seconds']:.0f} s)", file=sys.stderr)
    report = {
        "machine": machine(),
        "device": args.device,
        "findings": [asdict(finding) for finding in findings],
        "seconds": time.monotonic() - started,
        "sections": sections,
    }
    text = page(report)
    store = open_store(args.out)
    store.write("bench-gpu.json", json.dumps(report, indent=2).encode())
    store.write("bench-gpu.md", text.encode())
    emit(args, report, text)
    return 0 if all(row.get("ok") for row in sections.values()) else 1


def run_section(name: str, device: str, *, limit_s: float) -> dict[str, Any]:
    """Runs a section for at most `limit_s` seconds; raises nothing.

    Returns its figures with `ok` and `seconds`, or the reason in `failed`.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, "-m", "jobs.bench.on_gpu.section", name, device, str(file)]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            _, errors = process.communicate(timeout=max(1.0, limit_s))
            failed = None if process.returncode == 0 else (errors.strip().splitlines() or ["no message"])[-1][:300]
        except subprocess.TimeoutExpired:
            # Its ranks and runs are in its session.
            os.killpg(process.pid, 9)
            process.communicate()
            failed = f"not done after {limit_s:.0f} s, its share of --minutes"
        result: dict[str, Any] = {"ok": False, "failed": failed} if failed else json.loads(file.read_text("utf-8"))
    return {**result, "seconds": time.monotonic() - started}


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _chosen(only: str | None) -> list[str]:
    if only is None:
        return list(SECTIONS)
    names = [name.strip() for name in only.split(",")]
    if unknown := [name for name in names if name not in SECTIONS]:
        raise UserError(f"--only {only}: there is no section {unknown[0]!r}; need some of {','.join(SECTIONS)}")
    return names
