"""Texts that `isnet train` prints before and after training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from isnet.masks import RATIO_BINS
from jobs.cli.format import KEY_METRICS, METRIC_COLUMNS, duration, quantity, ratio_rows
from jobs.train.resources import computes_bf16
from trainplane.command_line import command_line
from trainplane.train.batch_size import split_batch
from trainplane.train.setup import PreparedRun
from trainplane.train.spec import Outcome
from trainplane.train.timing import advice, shares

# A smaller share of the time rounds to 0 % and is left out.
MIN_SHARE = 0.005


def plan_line(prepared: PreparedRun) -> str:
    """Describes the run before its first step: steps, batch, attempt."""
    train = prepared.config.train
    sizes = train.world_sizes
    batch = split_batch(global_batch=train.global_batch, ranks=sizes[-1], micro_batch=train.fixed_micro)
    elastic = f", or {' or '.join(map(str, sizes[:-1]))} ranks on a smaller cluster" if sizes[1:] else ""
    return f"run {prepared.run_dir.folder}: {train.steps} steps; {batch}{elastic}; " + (
        f"attempt {prepared.run.attempt}, {_beginning(prepared.done)}" if prepared.run.resumed else "new"
    )


def _beginning(done: int) -> str:
    return f"resumes from step {done}" if done else "from the start: no checkpoint was stored"


def start_line(prepared: PreparedRun) -> str:
    """Describes where a run begins, if not at fresh weights."""
    if prepared.start is None:
        return ""
    # What fits of another run's weights is reported by the run itself; a whole state is taken as it is.
    is_whole = prepared.config.train.start_state == "all"
    begins = str(prepared.start) if is_whole else f"begins at {prepared.start.address}"
    return f"it {begins}" + (f"; it is a new run, not {prepared.instead_of}" if prepared.instead_of else "")


def saved_line(step: int | None, steps: int) -> str:
    """Says what an interrupted run has saved, if known."""
    if step == 0:
        return " (no step is saved yet); run the same command again to begin anew"
    saved = "" if step is None else f" (step {step} of {steps} is saved)"
    return f"{saved}; run the same command again to go on from there"


def offline_line(prepared: PreparedRun) -> str:
    """Describes how a run is recorded while MLflow is unreachable."""
    return (
        f"isnet: MLflow does not answer ({prepared.run.offline_reason}); the run is recorded on this disk as "
        f"{prepared.run.run_id} and sent when MLflow answers (with tracking.require=true it would be refused)"
    )


def summary(run_id: str, outcome: Outcome) -> str:
    """Returns the summary for people."""
    lines = [
        f"{outcome.status} at step {outcome.step}; run {run_id}",
        *_metrics(outcome.metrics),
        f"  checkpoint    {outcome.checkpoint}",
        f"  state digest  {outcome.state_digest}",
    ]
    # A run that only measured has no rate.
    if outcome.pictures_per_s:
        lines += _time(outcome)
    if outcome.unsent:
        records = quantity(outcome.unsent, "record")
        lines.append(f"  {records} still on this machine, not in MLflow; to send: {command_line('runs', 'sync')}")
    if outcome.damage:
        lines.append(f"  {quantity(len(outcome.damage), 'damaged sample')} replaced")
    return "\n".join(lines)


def _metrics(metrics: Mapping[str, float]) -> Iterator[str]:
    """Formats held-out metrics as a table by hole ratio."""
    # Names of metrics: `val/psnr` over all pictures, `val/psnr_10-20` of one bin.
    keys = {"all": {metric: f"val/{metric}" for metric in KEY_METRICS}}
    keys |= {name: {metric: f"val/{metric}_{name}" for metric in KEY_METRICS} for name in RATIO_BINS}
    bins = {bin: {metric: metrics[key] for metric, key in row.items() if key in metrics} for bin, row in keys.items()}
    if any(bins.values()):
        yield f"  {'held-out pictures':<19}" + "".join(f"{METRIC_COLUMNS[metric][0]:>9}" for metric in KEY_METRICS)
    for name, _, *cells in ratio_rows(bins, metrics=KEY_METRICS, missing="–"):
        label = name if name == "all" else f"holes of {name} %"
        yield f"    {label:<17}" + "".join(f"{cell:>9}" for cell in cells)
    # Metrics that are not in the table follow by name.
    for name in sorted(metrics.keys() - {key for row in keys.values() for key in row.values()}):
        yield f"  {name:<19}{metrics[name]:>9.4f}"


def _time(outcome: Outcome) -> Iterator[str]:
    """Formats the shares of the time, and advice on speed."""
    by_phase = shares(outcome.seconds)
    yield f"  {outcome.pictures_per_s:.1f} pictures/s; the {duration(outcome.seconds['wall'])} went to"
    # The largest phase comes first, each with its parts behind it.
    for name, share in by_phase.items():
        # `step/generator` is a part of `step`.
        if "/" in name or share < MIN_SHARE:
            continue
        parts = [
            f"{part.partition('/')[2]} {100 * part_share:.0f} %"
            for part, part_share in by_phase.items()
            if part.startswith(f"{name}/") and part_share >= MIN_SHARE
        ]
        yield f"    {name:<12}{100 * share:>4.0f} %" + (f"   of it {', '.join(parts)}" if parts else "")
    yield f"  to be faster, change first: {advice(outcome.seconds, faster_step=_faster_step())}"


def _faster_step() -> str:
    """Settings that make a step faster, the most effective first."""
    return ("train.precision=bf16, " if computes_bf16() else "") + "train.compile=true, train.channels_last=true"
