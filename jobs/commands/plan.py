"""`isnet plan train PRESET [a.b=c …]`: what would happen, what it would take, and why it would be refused.

Nothing is started and nothing is created; datasets, stores, the tracking server and the cluster are only read. Every
reason for a refusal is told, not just the first. Not covered: whether the stores can be written (`isnet doctor`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from jobs.cli.findings import sentence
from jobs.cli.main import emit
from jobs.train.plan import Plan, make_plan
from jobs.train.throughput import Rate
from trainplane.cluster.context import resolve
from trainplane.train.batch_size import arithmetic
from trainplane.train.estimate import Estimate


def plan_train(args: argparse.Namespace) -> int:
    """The command."""
    context = resolve(args.context)
    context.activate()
    plan = make_plan(args.preset, args.overrides, context, fresh=args.fresh, measure=args.measure)
    text = "\n".join(lines_of(plan))
    refusals = [sentence(finding) for finding in plan.findings if finding.level == "error"]
    if refusals and not args.json:
        print("\n".join(f"isnet: would be refused: {refusal}" for refusal in refusals), file=sys.stderr)
    if text or args.json:
        emit(args, payload(plan), text)
    return 0 if plan.ok else 2


def payload(plan: Plan) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "ok": plan.ok,
        "findings": [asdict(finding) for finding in plan.findings],
        "run": plan.place.folder if plan.place else None,
        "done": plan.done,
        "workers": asdict(plan.ranks) if plan.ranks else None,
        "batch": _batch(plan),
        "memory": asdict(plan.memory) if plan.memory else None,
        "rate": asdict(plan.rate) if plan.rate else None,
        "estimate": asdict(plan.estimate) if plan.estimate else None,
    }


def _batch(plan: Plan) -> dict[str, int] | None:
    if plan.config is None or plan.ranks is None:
        return None
    train = plan.config.train
    cut = arithmetic(global_batch=train.global_batch, ranks=plan.ranks.most, micro_batch=train.fixed_micro)
    return {**asdict(cut), "accumulation": cut.accumulation}


def lines_of(plan: Plan) -> Iterator[str]:
    """What people read."""
    if plan.config is None:
        return
    config, train = plan.config, plan.config.train
    folder = plan.place.folder if plan.place else config.name
    yield f"{folder}: " + (f"goes on from step {plan.done}" if plan.done else "a new run")
    if plan.ranks is not None:
        cut = arithmetic(global_batch=train.global_batch, ranks=plan.ranks.most, micro_batch=train.fixed_micro)
        yield f"  workers      {plan.ranks}"
        yield f"  batch        {cut}" + (", halved while memory runs out" if train.micro_batch == "auto" else "")
    if plan.memory is not None:
        yield f"  memory       {plan.memory}"
    if plan.estimate is not None:
        yield from _estimate_lines(plan.estimate, plan.rate, train.price_per_hour)
    else:
        yield f"  steps        {train.steps:,} of {train.global_batch} pictures"
    for finding in plan.findings:
        if finding.level != "error":
            yield f"  {finding.level:<12} {sentence(finding)}"


def _estimate_lines(found: Estimate, rate: Rate | None, price: float | None) -> Iterator[str]:
    yield f"  steps        {found.steps:,} = {found.pictures:,} pictures = {found.epochs:,.1f} epochs"
    yield f"  from store   {_size(found.bytes_read)}"
    count = "as many as the clock asks for" if found.checkpoints is None else f"{found.checkpoints:,}"
    total = f" = {_size(found.bytes_written)}, {found.checkpoints_kept} kept" if found.bytes_written is not None else ""
    yield f"  checkpoints  {count} × {_size(found.checkpoint_bytes)}{total}"
    if rate is not None and found.seconds is not None:
        yield f"  time         {_duration(found.seconds)} at {rate}"
    if found.cost is not None:
        yield f"  cost         {found.cost:,.2f} at {price:g} a worker and hour"
    elif price is not None:
        yield "  cost         unknown, as the time is"


def _size(num_bytes: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}" if unit != "B" else f"{num_bytes:.0f} B"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
