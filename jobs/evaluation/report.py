"""Formats an evaluation report as Markdown, CSV and terminal text.

Models are ranked; the first one that was named ("ours") is compared with the others. Pure: no I/O. The HTML page is in
`report_html`, its pictures in `figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from isnet.metrics import METRICS
from jobs.cli.format import EXTRA_COLUMNS, KEY_METRICS, METRIC_COLUMNS, mean_text, metric_names, quantity, ratio_rows
from jobs.evaluation.evaluation import BETTER
from jobs.evaluation.headline import headline, ranking
from jobs.evaluation.paper_tables import (
    OTHER_SCALE_NOTES,
    PAPER_TITLE,
    SAME_SCALE_NOTE,
    Paper,
    Table,
    differences,
    paper_tables,
    paper_view,
    side_by_side,
)
from jobs.evaluation.scores import ALL_BINS
from trainplane.markdown import cell_text, escaped, markdown_table
from trainplane.registry.significance import MIN_GROUPS, smallest_p

# Column of the means over the paper's four bins.
PAPER_VIEW = "10-50"
_COST_NOTE = (
    "memory: estimated maximum of weights and activations; latency: median on this machine, which may have been busy"
)
# Said once for all tables and charts of a report.
_READING = (
    "In brackets and as bars: the 95 % interval of a mean over pictures, holes of one picture counted together. p is "
    "the two-sided chance of such a difference if the two were equally good. Both come from one sign-flip test over "
    "pictures, not corrected for the number of comparisons."
)
_STUDY_NOTE = (
    "the same model, pictures and masks; `>0`: the author's loader, whose bilinear resize shrinks the hole, "
    "more with JPEG files"
)


@dataclass(frozen=True)
class Report:
    """Content of a report."""

    evaluations: Mapping[str, Mapping[str, Any]]  # by label, ours first
    # Ours minus another: {label: {bin: {metric: …}}}.
    comparisons: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    study: Sequence[Mapping[str, Any]] = ()
    worst: Sequence[Mapping[str, Any]] = ()  # pairs of ours with the lowest PSNR, the worst first
    facts: Mapping[str, str] = field(default_factory=dict)  # what was measured, lines by name
    paper: Paper | None = None  # test set of the paper whose table is set beside ours by each definition
    lead: Mapping[str, Any] | None = None  # PSNR of the best model minus the second's; None with one model

    @property
    def ours(self) -> str:
        """Label of the first model."""
        return next(iter(self.evaluations))

    def to_json(self) -> dict[str, Any]:
        """Returns the output of `isnet evaluate --json`."""
        return {
            # The evaluation of ours is at the top level, everything else beside it.
            **self.evaluations[self.ours],
            "label": self.ours,
            "headline": headline(self.evaluations, self.lead),
            "ranking": ranking(self.evaluations),
            "models": [{"label": label, **evaluation} for label, evaluation in self.evaluations.items()],
            "comparisons": self.comparisons,
            "mask_study": list(self.study),
            "worst": list(self.worst),
            "paper": tables_of_paper(self),
            "facts": dict(self.facts),
        }


def tables(report: Report) -> list[Table]:
    """Returns the tables of the report, without the paper's."""
    by_ratio = METRICS if "lpips" not in _extra_metrics(report) else (*METRICS, "lpips")
    ordered = [leaderboard(report), *(_metric_table(report, metric) for metric in by_ratio)]
    ordered += [_difference_table(report.ours, label, by_bin) for label, by_bin in report.comparisons.items()]
    if report.study:
        ordered.append(_study_table(report.study))
    return [*ordered, _cost_table(report)]


def tables_of_paper(report: Report) -> list[Table]:
    """Returns the paper's tables, or those of one set."""
    tables = paper_tables(report.evaluations)
    if report.paper is None:
        return tables
    # Its ablations were measured on Places2.
    ablations = tables[:2] if report.paper == "places2" else []
    return [*side_by_side(report.evaluations, report.paper), *ablations]


def leaderboard(report: Report) -> Table:
    """Ranks the models by their means over all holes."""
    # Metrics that were asked for, such as LPIPS, stand behind the usual three.
    columns = [*KEY_METRICS, *_extra_metrics(report)]
    rows = []
    for place, label in enumerate(ranking(report.evaluations), start=1):
        cells = [_cell(report.evaluations[label], "all", metric) for metric in columns]
        rows.append([str(place), label, *cells])
    titles = ["", "model", *(_title(metric) for metric in columns)]
    return {"title": "Leaderboard, all holes", "columns": titles, "rows": rows, "notes": _extra_notes(report)}


def _extra_metrics(report: Report) -> list[str]:
    """Metrics beside the usual ones that every model has."""
    means = [evaluation["bins"]["all"] for evaluation in report.evaluations.values()]
    return [name for name in EXTRA_COLUMNS if all(row.get(name) is not None for row in means)]


def _extra_notes(report: Report) -> list[str]:
    # LPIPS on two backbones is on two scales.
    names = report.evaluations[report.ours].get("perceptual", [])
    notes = [f"LPIPS 0.1 on {name.removeprefix('lpips-')}, lower is better" for name in names if name != "fid"]
    if "fid" in names:
        notes.append("FID: lower is better; P-IDS and U-IDS: higher is better, at most 0.5")
    return notes


def _title(metric: str) -> str:
    return (METRIC_COLUMNS | EXTRA_COLUMNS)[metric][0]


def reading_notes(report: Report) -> list[str]:
    """Caveats of the whole report, each once."""
    few = min(evaluation["pictures"] for evaluation in report.evaluations.values())
    notes = [_READING]
    if few < MIN_GROUPS:
        least = 2 * smallest_p(few)
        notes.append(
            f"{quantity(few, 'picture')} cannot say less than p = {least:.2g}; 95 % intervals need "
            f"{MIN_GROUPS} pictures."
        )
    return notes


def paper_notes(report: Report) -> list[str]:
    """Reasons why the paper's numbers are not comparable, each once."""
    reasons: dict[str, list[str]] = {}
    for label, evaluation in report.evaluations.items():
        for dataset in ("places2", "celeba") if report.paper is None else (report.paper,):
            for reason in differences(evaluation, dataset):
                labels = reasons.setdefault(reason, [])
                labels += [label] if label not in labels else []
    everybody = list(report.evaluations)
    scale_note, loader_note = OTHER_SCALE_NOTES
    return [
        scale_note if report.paper is None else SAME_SCALE_NOTE,
        loader_note,
        *(reason if labels == everybody else f"{', '.join(labels)}: {reason}" for reason, labels in reasons.items()),
    ]


def _metric_table(report: Report, metric: str) -> Table:
    """Means of one metric with intervals; the best are bold."""
    # Only bins that have pairs.
    bins = [name for name in ALL_BINS if any(name in e["bins"] for e in report.evaluations.values())]
    columns = ["all", PAPER_VIEW, *bins]
    # Find the best value of each column.
    values = {label: [_means(e, name).get(metric) for name in columns] for label, e in report.evaluations.items()}
    best = [_best(column, metric) for column in zip(*values.values(), strict=True)]
    # Format the rows, and mark those values where there are models to compare.
    rows = []
    for label in ranking(report.evaluations):
        cells = [_cell(report.evaluations[label], name, metric) for name in columns]
        marked = [
            f"**{cell}**" if len(values) > 1 and value is not None and value == top else cell
            for cell, value, top in zip(cells, values[label], best, strict=True)
        ]
        rows.append([label, *marked])
    # All models have the same pairs, so one row counts them.
    counts = [str(_means(report.evaluations[report.ours], name).get("n", 0)) for name in columns]
    return {
        "title": f"{_title(metric)} by hole ratio",
        "columns": ["model", *(f"{name}{'' if name == 'all' else ' %'}" for name in columns)],
        "rows": [*rows, ["pairs", *counts]],
        "notes": [f"{BETTER[metric]} is better"],
    }


def _means(evaluation: Mapping[str, Any], name: str) -> Mapping[str, float]:
    """Means of a bin, or of the paper's bins together."""
    return (paper_view(evaluation) if name == PAPER_VIEW else evaluation["bins"].get(name)) or {}


def _best(values: Sequence[float | None], metric: str) -> float | None:
    present = [value for value in values if value is not None]
    return max(present, default=None) if BETTER[metric] == "higher" else min(present, default=None)


def _cell(evaluation: Mapping[str, Any], name: str, metric: str) -> str:
    # The paper's view has no interval.
    interval = (evaluation.get("intervals", {}).get(name) or {}).get(metric)
    return mean_text(metric, _means(evaluation, name).get(metric), interval)


def _cost_table(report: Report) -> Table:
    # Classical methods have no parameters and no steps: None is an empty cell.
    rows = []
    for label, evaluation in report.evaluations.items():
        cost = evaluation["cost"]
        rows.append(
            [
                label,
                None if cost["parameters"] is None else f"{cost['parameters']:,}",
                None if cost["memory_bytes"] is None else f"{cost['memory_bytes'] / 2**20:.0f}",
                f"{cost['latency_ms']:.1f}",
                None if cost["package_bytes"] is None else f"{cost['package_bytes'] / 2**20:.1f}",
                None if evaluation["steps"] is None else f"{evaluation['steps']:,}",
            ]
        )
    # Memory and latency depend on the size of the picture.
    size = report.evaluations[report.ours]["size"]
    return {
        "title": "What a model costs",
        "columns": ["model", "parameters", "memory MiB", "latency ms", "package MiB", "trained steps"],
        "rows": rows,
        "notes": [f"one picture of {size}x{size}", _COST_NOTE],
    }


def _difference_table(ours: str, theirs: str, by_bin: Mapping[str, Any]) -> Table:
    rows = []
    for name, metrics in by_bin.items():
        cells = [_difference(metric, comparison) for metric, comparison in metrics.items()]
        rows.append([f"{name}{'' if name == 'all' else ' %'}", str(metrics["psnr"]["num_values"]), *cells])
    return {
        "title": f"{ours} minus {theirs}, pair by pair",
        "columns": ["hole", "pairs", *(_title(metric) for metric in by_bin["all"])],
        "rows": rows,
        "notes": [],
    }


def _difference(metric: str, comparison: Mapping[str, Any]) -> str:
    return f"{_gain(metric, comparison)} p={comparison['p_value']:.2g}"


def _gain(metric: str, comparison: Mapping[str, Any]) -> str:
    return mean_text(metric, comparison["difference"], comparison["interval"], is_difference=True)


def _study_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    # Way of loading -> name in the table, as in the paper's code.
    ways = {"nearest": "nearest", "legacy-png": ">0, PNG", "legacy-jpeg": ">0, JPEG"}
    cells = [
        [
            f"{row['bin']} %",
            str(row["n"]),
            *(f"{100 * row['ratio'][way]:.1f}" for way in ways),
            *(mean_text("psnr", row["psnr"][way]) for way in ways),
            *(_gain("psnr", row["gain"][way]) for way in ("legacy-png", "legacy-jpeg")),
        ]
        for row in rows
    ]
    titles = [*(f"hole %, {way}" for way in ways.values()), *(f"PSNR, {way}" for way in ways.values())]
    return {
        "title": "Effect of the way masks are loaded",
        "columns": ["drawn hole", "pairs", *titles, "PNG gains dB", "JPEG gains dB"],
        "rows": cells,
        "notes": [_STUDY_NOTE],
    }


def markdown(report: Report, *, pictures: Mapping[str, str] | None = None) -> str:
    """Formats the report; `pictures` are files beside it by caption."""
    # Labels and addresses are typed by users, so they are escaped.
    lines = [f"# Evaluation of {escaped(report.ours)}", "", escaped(headline(report.evaluations, report.lead)), ""]
    for caption, file in (pictures or {}).items():
        lines += [f"![{caption}]({file})", ""]
    lines += [f"- {escaped(name)}: {escaped(value)}" for name, value in report.facts.items()]
    lines += ["", *(f"*{note}*  " for note in reading_notes(report))]
    for table in [*tables(report), *tables_of_paper(report)]:
        lines += ["", f"## {escaped(table['title'])}", "", markdown_table(table["columns"], table["rows"])]
        # Notes of the paper's tables repeat each other; they stand once, at the end.
        if not table["title"].startswith(PAPER_TITLE):
            lines += ["", *(f"*{note}*  " for note in table["notes"])]
    lines += ["", *(f"*{escaped(note)}*  " for note in paper_notes(report))]
    return "\n".join(lines) + "\n"


def csv(report: Report) -> str:
    """Formats means, a line each, for spreadsheets at full precision."""
    lines = ["model,address,bin,metric,mean,low,high,pairs,better"]
    for label, evaluation in report.evaluations.items():
        for name, row in evaluation["bins"].items():
            for metric in metric_names(row):
                # A bin of one picture has no interval.
                low, high = (evaluation["intervals"].get(name) or {}).get(metric) or ("", "")
                cells = [label, evaluation["model"], name, metric, row[metric], low, high, row["n"], BETTER[metric]]
                lines.append(",".join(_quoted(cell) for cell in cells))
    return "\n".join(lines) + "\n"


def _quoted(cell: Any) -> str:
    # Negative numbers stay numbers; other cells that start like a formula become text.
    text = repr(cell) if isinstance(cell, float) else str(cell)
    if text[:1] in ("=", "+", "-", "@") and not isinstance(cell, float):
        # A spreadsheet would run it as a formula.
        text = f"'{text}"
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text


def terminal_text(report: Report) -> str:
    """Formats the ranking and PSNR by ratio for a terminal."""
    lines = [headline(report.evaluations, report.lead), "", *_aligned(leaderboard(report))]
    by_ratio = _metric_table(report, "psnr")
    if len(report.evaluations) == 1:
        [evaluation] = report.evaluations.values()
        rows = ratio_rows(evaluation["bins"], evaluation.get("intervals"))
        columns = ["hole %", "pairs", *(title for title, _ in METRIC_COLUMNS.values())]
        by_ratio = {"title": "By hole ratio", "columns": columns, "rows": rows, "notes": []}
    else:
        # Means alone: a line has no space for more.
        by_ratio["rows"] = [[cell.replace("**", "").partition(" [")[0] for cell in row] for row in by_ratio["rows"]]
    lines += ["", by_ratio["title"], *_aligned(by_ratio), ""]
    for label, by_bin in report.comparisons.items():
        psnr = by_bin["all"]["psnr"]
        lines.append(f"{report.ours} minus {label}: {_gain('psnr', psnr)} dB PSNR, p = {psnr['p_value']:.2g}")
    if report.study:
        study = _study_table(report.study)
        lines += ["how masks are loaded:", markdown_table(study["columns"], study["rows"])]
    if report.paper is not None:
        for table in side_by_side(report.evaluations, report.paper)[: len(KEY_METRICS)]:
            lines += ["", table["title"], *_aligned(table)]
        lines += ["", "what differs from the paper:", *(f"- {note}" for note in paper_notes(report))]
    lines += reading_notes(report)[1:]
    return "\n".join(lines).rstrip()


def _aligned(table: Table) -> list[str]:
    """Lines of a table in columns, names to the left."""
    cells = [[cell_text(cell) for cell in row] for row in (table["columns"], *table["rows"])]
    widths = [max(len(row[index]) for row in cells) for index in range(len(table["columns"]))]
    is_name = [column in ("model", "hole %", "row", "whose", "definition", "") for column in table["columns"]]
    return [
        "  ".join(
            cell.ljust(width) if name else cell.rjust(width)
            for cell, width, name in zip(row, widths, is_name, strict=True)
        ).rstrip()
        for row in cells
    ]
