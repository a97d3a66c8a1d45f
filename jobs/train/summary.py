"""What `isnet train` says of a run: its arithmetic before the first step, and at the end what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from isnet.masks import RATIO_BINS
from jobs.cli.progress import duration
from trainplane.train.batch_size import arithmetic
from trainplane.train.setup import Prepared
from trainplane.train.spec import Outcome
from trainplane.train.timing import advice, shares

# Metric -> column of the table, and how it is printed there.
COLUMNS = {"psnr": ("PSNR dB", "{:.2f}"), "ssim": ("SSIM", "{:.4f}"), "l1_percent": ("L1 %", "{:.2f}")}
WORTH_SAYING = 0.005


def plan_line(prepared: Prepared) -> str:
    """The derived arithmetic, said once before the first step."""
    train = prepared.config.train
    sizes = train.world_sizes
    cut = arithmetic(global_batch=train.global_batch, ranks=sizes[-1], micro_batch=train.fixed_micro)
    elastic = f", or {' or '.join(map(str, sizes[:-1]))} ranks where there is less room" if sizes[1:] else ""
    return f"run {prepared.place.folder}: {train.steps} steps; {cut}{elastic}; " + (
        f"attempt {prepared.run.attempt}" if prepared.run.resumed else "new"
    )


def away_line(prepared: Prepared) -> str:
    """What is said where nobody answered at the tracking address."""
    return (
        f"isnet: MLflow does not answer ({prepared.run.away}); the run is recorded on this disk as "
        f"{prepared.run.run_id} and sent when it does (tracking.require=true would refuse to start)"
    )


def report(prepared: Prepared, outcome: Outcome) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "run_id": prepared.run_id,
        "status": outcome.status,
        "step": outcome.step,
        "metrics": outcome.metrics,
        "checkpoint": outcome.checkpoint,
        "state_digest": outcome.state_digest,
        "pictures_per_s": outcome.pictures_per_s,
        "seconds": outcome.seconds,
        "unsent": outcome.unsent,
        "damage": outcome.damage,
        "told": outcome.told,
    }


def summary(prepared: Prepared, outcome: Outcome) -> str:
    """What people read."""
    lines = [
        f"{outcome.status} at step {outcome.step}; run {prepared.run_id}",
        *_metrics(outcome.metrics),
        f"  checkpoint    {outcome.checkpoint}",
        f"  state digest  {outcome.state_digest}",
    ]
    if outcome.pictures_per_s:
        lines += _time(outcome)
    if outcome.unsent:
        lines.append(f"  {outcome.unsent} records wait on this machine; `isnet runs sync` sends them")
    if outcome.damage:
        lines.append(f"  {len(outcome.damage)} damaged samples were replaced")
    return "\n".join(lines)


def _metrics(metrics: Mapping[str, float]) -> Iterator[str]:
    """Held-out metrics as a table by hole ratio; whatever else was measured, by name."""
    rows = {"all": ""} | {f"holes of {bin} %": f"_{bin}" for bin in RATIO_BINS}
    names = {f"val/{name}{suffix}" for name in COLUMNS for suffix in rows.values()}
    if names & metrics.keys():
        yield f"  {'held-out pictures':<19}" + "".join(f"{title:>9}" for title, _ in COLUMNS.values())
    for label, suffix in rows.items():
        cells = [(form, metrics.get(f"val/{name}{suffix}")) for name, (_, form) in COLUMNS.items()]
        if any(value is not None for _, value in cells):
            yield f"    {label:<17}" + "".join(
                f"{'–' if value is None else form.format(value):>9}" for form, value in cells
            )
    for name in sorted(metrics.keys() - names):
        yield f"  {name:<19}{metrics[name]:>9.4f}"


def _time(outcome: Outcome) -> Iterator[str]:
    """Where the time went, the largest part first, parts of a phase behind it, and what to change."""
    went = shares(outcome.seconds)
    yield f"  {outcome.pictures_per_s:.1f} pictures/s; the {duration(outcome.seconds['wall'])} went to"
    for name, share in went.items():
        if "/" in name or share < WORTH_SAYING:
            continue
        parts = [
            f"{part.partition('/')[2]} {100 * s:.0f} %"
            for part, s in went.items()
            if part.startswith(f"{name}/") and s >= WORTH_SAYING
        ]
        yield f"    {name:<12}{100 * share:>4.0f} %" + (f"   of it {', '.join(parts)}" if parts else "")
    yield f"  to be faster, change first: {advice(outcome.seconds)}"
