"""Tables 1 to 4 of the paper beside our evaluations.

Li et al., ICIP 2020. The rows for ISNet use the author's definitions (`isnet.metrics`, definition `isnet`). Rows of
Tables 3 and 4 for other methods were copied from EdgeConnect, which defines PSNR, SSIM and L1 differently. The author's
loader makes the holes of test masks smaller (`isnet.mask_files`). So none of these numbers is a target by itself.
`side_by_side` puts each of them beside ours by its own definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from isnet.masks import GENERATORS
from isnet.metrics import METRICS, Definition
from jobs.cli.format import KEY_METRICS, METRIC_COLUMNS

# (row, parameters in units of 2^20, PSNR dB, L1 %, SSIM): means over the Places2 test set.
TABLE_1 = (
    ("BaseModel", 15.75, 27.9095, 2.12, 0.8800),
    ("BaseModel+FF", 13.93, 28.2757, 2.06, 0.8860),
    ("ISNet", 23.63, 28.5304, 1.91, 0.8854),
    ("UNet-like", 23.27, 25.9900, 2.51, 0.8508),
)
TABLE_2 = (
    ("ISNet, 4 blocks", 23.63, 28.5304, 1.91, 0.8854),
    ("ISNet, 3 blocks", 22.08, 28.4679, 1.97, 0.8843),
    ("ISNet, 2 blocks", 20.53, 28.4707, 1.97, 0.8841),
    ("ISNet, 1 block", 18.99, 28.0165, 2.05, 0.8816),
)
PAPER_BINS = ("10-20", "20-30", "30-40", "40-50")
# {method: {bin: (PSNR dB, SSIM, L1 %)}}
TABLE_3 = {
    "CA": ((24.36, 0.893, 2.41), (21.19, 0.815, 4.23), (19.13, 0.739, 6.15), (17.75, 0.662, 8.03)),
    "GLCIC": ((23.49, 0.862, 2.66), (20.45, 0.771, 4.70), (18.50, 0.686, 6.78), (17.17, 0.603, 8.85)),
    "PConv": ((28.02, 0.869, 1.14), (24.90, 0.777, 1.98), (22.45, 0.685, 3.02), (20.86, 0.589, 4.11)),
    "EdgeConnect": ((27.95, 0.920, 1.50), (24.92, 0.861, 2.59), (22.84, 0.799, 3.77), (21.16, 0.731, 5.14)),
    "ISNet": ((31.41, 0.960, 0.63), (26.88, 0.912, 1.38), (23.90, 0.854, 2.34), (21.34, 0.778, 3.74)),
}
TABLE_4 = {
    "CA": ((25.32, 0.888, 2.48), (22.09, 0.819, 3.98), (19.94, 0.750, 5.64), (18.41, 0.678, 7.35)),
    "GLCIC": ((24.09, 0.865, 2.53), (20.71, 0.771, 4.67), (18.50, 0.689, 6.95), (17.09, 0.609, 9.18)),
    "EdgeConnect": ((33.51, 0.961, 0.76), (30.02, 0.928, 1.38), (27.39, 0.890, 2.13), (25.28, 0.846, 3.03)),
    "ISNet": ((37.31, 0.980, 0.33), (32.13, 0.954, 0.75), (28.69, 0.921, 1.30), (25.37, 0.869, 2.26)),
}
Paper = Literal["places2", "celeba"]
# Test set -> number of its table, and its rows.
TABLES_BY_RATIO: dict[Paper, tuple[int, Mapping[str, Any]]] = {"places2": (3, TABLE_3), "celeba": (4, TABLE_4)}
# Definition of the rows for ISNet, of those copied from EdgeConnect, and of papers of today.
OF_ISNET: Definition = "isnet"
OF_OTHERS: Definition = "edge_connect"
OF_THE_FIELD: Definition = "skimage"
# Side of the paper's pictures, pixels.
PAPER_SIZE = 256
# The author's example configuration: 100 epochs of 5,000 steps.
PAPER_STEPS = 500_000
# Name of the network -> row of Table 1.
_FAMILY = {"base": "BaseModel", "base_ff": "BaseModel+FF", "unet_like": "UNet-like"}
# Name of the network -> row of Tables 3 and 4, and channels of the authors' network.
_METHODS = {
    "ca": ("CA", 32),
    "glcic": ("GLCIC", 64),
    "pconv": ("PConv", 64),
    "edgeconnect": ("EdgeConnect", 64),
    "isnet": ("ISNet", 32),
}

# Beginning of the title of each table.
PAPER_TITLE = "Table "
OTHER_SCALE_NOTES = (
    (
        "the paper's columns other than ISNet were copied from EdgeConnect: PSNR and SSIM on gray, SSIM window 51, "
        "L1 as a quotient of sums; they are not on one scale with the others"
    ),
    "the author's loader makes holes smaller than their file says, 10-20 % from JPEG to 8.9 % on average",
)
# Instead of the first of them where ours are measured like each row.
SAME_SCALE_NOTE = (
    "the paper's rows other than ISNet were copied from EdgeConnect, which has PSNR and SSIM on gray, SSIM window 51 "
    "and L1 as a quotient of sums (`edge_connect`); ours below them are measured so, too"
)

# Name of the paper's row for an architecture.
RowOf = Callable[[Mapping[str, Any]], str | None]
# {title, columns, rows, notes}: rows are lists of cells, numbers or text; None is an empty cell.
Table = dict[str, Any]


def paper_tables(evaluations: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Returns the four tables with our evaluations where they fit."""
    return [
        _ablation("Table 1: models with different components (Places2)", TABLE_1, evaluations, _row_of_table_1),
        _ablation("Table 2: residual blocks in each stage (Places2)", TABLE_2, evaluations, _row_of_table_2),
        _by_ratio("Table 3: ISNet and others on Places2", TABLE_3, evaluations, "places2"),
        _by_ratio("Table 4: ISNet and others on CelebA", TABLE_4, evaluations, "celeba"),
    ]


def side_by_side(evaluations: Mapping[str, Mapping[str, Any]], paper: Paper) -> list[Table]:
    """Returns the paper's methods with ours below each row.

    The evaluations have been made by all three definitions. A table for each metric, by the definition of each row of
    the paper; and one for each by scikit-image's definition, as papers of today report.
    """
    number, rows_of_paper = TABLES_BY_RATIO[paper]
    tables = []
    for index, metric in enumerate(KEY_METRICS):
        rows = [
            row for name in rows_of_paper for row in _method_rows(name, rows_of_paper[name], evaluations, metric, index)
        ]
        # Models that the paper has no row for, by its own definition.
        others = [label for label, evaluation in evaluations.items() if _method_row(evaluation) not in rows_of_paper]
        rows += [_our_row("not in the paper", label, evaluations[label], metric, OF_ISNET) for label in others]
        title = f"Table {number} with ours, {METRIC_COLUMNS[metric][0]}"
        tables.append(_bins_table(title, ["row", "whose", "definition"], rows))
    for metric in KEY_METRICS:
        rows = [
            [label, OF_THE_FIELD, *_our_row("", label, evaluation, metric, OF_THE_FIELD)[3:]]
            for label, evaluation in evaluations.items()
        ]
        title = f"As papers of today report, {METRIC_COLUMNS[metric][0]}"
        tables.append(_bins_table(title, ["model", "definition"], rows))
    return tables


def _method_rows(
    name: str, of_paper: Sequence[Any], evaluations: Mapping[str, Mapping[str, Any]], metric: str, index: int
) -> Iterator[list[str | None]]:
    """The paper's row, and ours by the same definition."""
    definition = OF_ISNET if name == "ISNet" else OF_OTHERS
    yield [name, "paper", definition, *(_value(metric, values[index]) for values in of_paper)]
    for label, evaluation in evaluations.items():
        if _method_row(evaluation) == name:
            yield _our_row("", label, evaluation, metric, definition)


def _method_row(evaluation: Mapping[str, Any]) -> str | None:
    architecture = evaluation.get("architecture")
    return _METHODS.get(architecture["name"], (None, 0))[0] if architecture is not None else None


def _our_row(
    row: str, label: str, evaluation: Mapping[str, Any], metric: str, definition: Definition
) -> list[str | None]:
    bins = evaluation["bins"] if definition == evaluation["definition"] else evaluation["also"][definition]["bins"]
    return [row, f"here: {label}", definition, *(_value(metric, bins.get(name, {}).get(metric)) for name in PAPER_BINS)]


def _bins_table(title: str, names: list[str], rows: list[list[str | None]]) -> Table:
    return {"title": title, "columns": [*names, *(f"{name} %" for name in PAPER_BINS)], "rows": rows, "notes": []}


def _value(metric: str, value: float | None) -> str | None:
    return _digits(value, 3 if metric == "ssim" else 2)


def _row_of_table_1(architecture: Mapping[str, Any]) -> str | None:
    if architecture["name"] == "isnet":
        return "ISNet" if architecture["blocks"] == 4 else None
    # Another method has no row here.
    return _FAMILY.get(architecture["name"])


def _row_of_table_2(architecture: Mapping[str, Any]) -> str | None:
    if architecture["name"] != "isnet" or (blocks := architecture["blocks"]) not in (1, 2, 3, 4):
        return None
    return f"ISNet, {blocks} block{'s' if blocks > 1 else ''}"


def _ablation(title: str, paper: Sequence[Any], evaluations: Mapping[str, Any], row_of: RowOf) -> Table:
    """Table of architectures: ours below each row of the paper."""
    rows: list[list[Any]] = []
    notes: dict[str, None] = {}
    for name, millions, psnr, l1, ssim in paper:
        rows.append([name, "paper", *_formatted(millions, psnr, l1, ssim)])
        for label, evaluation in evaluations.items():
            # Classical methods have no architecture and no row here.
            architecture = evaluation.get("architecture")
            if architecture is None or row_of(architecture) != name:
                continue
            row = paper_view(evaluation)
            cells = [row["psnr"], row["l1_percent"], row["ssim"]] if row else [None] * 3
            millions_here = evaluation["cost"]["parameters"] / 2**20
            rows.append(["", f"here: {label}", *_formatted(millions_here, *cells)])
            notes |= dict.fromkeys(f"{label}: {text}" for text in differences(evaluation, "places2"))
    columns = ["row", "whose", "parameters, 2^20", "PSNR dB", "L1 %", "SSIM"]
    return {"title": title, "columns": columns, "rows": rows, "notes": list(notes)}


def _formatted(millions: float, psnr: float | None, l1: float | None, ssim: float | None) -> list[str | None]:
    return [_digits(millions, 2), _digits(psnr, 2), _digits(l1, 2), _digits(ssim, 4)]


def _digits(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _by_ratio(title: str, paper: Mapping[str, Any], evaluations: Mapping[str, Any], dataset: str) -> Table:
    """Table of methods: a column for each, ours last."""
    rows: list[list[Any]] = []
    for bin_index, name in enumerate(PAPER_BINS):
        for metric_index, metric in enumerate(KEY_METRICS):
            ours = [evaluation["bins"].get(name, {}).get(metric) for evaluation in evaluations.values()]
            theirs = [bins[bin_index][metric_index] for bins in paper.values()]
            cells = [_value(metric, value) for value in (*theirs, *ours)]
            rows.append([f"{name} %", METRIC_COLUMNS[metric][0], *cells])
    notes = list(OTHER_SCALE_NOTES)
    for label, evaluation in evaluations.items():
        notes += [f"{label}: {text}" for text in differences(evaluation, dataset)]
    columns = ["hole", "metric", *paper, *(f"here: {label}" for label in evaluations)]
    return {"title": title, "columns": columns, "rows": rows, "notes": notes}


def paper_view(evaluation: Mapping[str, Any]) -> dict[str, float] | None:
    """Means over the paper's four bins, if they have pairs."""
    rows = [evaluation["bins"][name] for name in PAPER_BINS if name in evaluation["bins"]]
    if not rows:
        return None
    # The mean over pairs, so each bin counts by its number of pairs.
    count = sum(row["n"] for row in rows)
    # Those that are means over pairs: FID is none.
    names = (*METRICS, "lpips") if all("lpips" in row for row in rows) else METRICS
    means = {metric: sum(row[metric] * row["n"] for row in rows) / count for metric in names}
    return {**means, "n": count}


def differences(evaluation: Mapping[str, Any], dataset: str) -> list[str]:
    """Reasons why ours and the paper's numbers are not comparable."""
    reasons = []
    # `dataset` is that of the paper's table, places2 or celeba.
    if dataset not in str(evaluation["dataset"]).lower().replace("_", ""):
        theirs = {"places2": "Places2's 328,500 test pictures", "celeba": "CelebA's"}[dataset]
        reasons.append(f"measured on {evaluation['dataset']} ({evaluation['pictures']} pictures), not on {theirs}")
    if evaluation["size"] != PAPER_SIZE:
        reasons.append(f"pictures of {evaluation['size']} pixels, the paper's have {PAPER_SIZE}")
    if evaluation["definition"] != "isnet":
        reasons.append(f"definition {evaluation['definition']}, the paper's ISNet rows use `isnet`")
    if (masks := evaluation.get("masks")) in GENERATORS:
        reasons.append(f"holes drawn by `{masks}`, the paper's are the test masks of Liu et al.")
    if evaluation.get("loading", "nearest") == "nearest":
        reasons.append("holes keep their size when masks are loaded, the author's do not")
    reasons += _network_differences(evaluation.get("architecture"), evaluation.get("steps"))
    return reasons


def _network_differences(architecture: Mapping[str, Any] | None, steps: int | None) -> list[str]:
    # The figures are those of the authors' own networks.
    if architecture is None or (name := architecture["name"]) not in (*_METHODS, *_FAMILY):
        return []
    if name in _METHODS and name != "isnet":
        width = _METHODS[name][1]
        narrow = [f"width {architecture['width']}, its authors' {width}"] if architecture["width"] != width else []
        # Released weights do not say how long they were trained.
        trained = [f"trained here for {steps:,} steps, the paper's row is of its authors' weights"]
        return [*narrow, *(trained if steps is not None else [])]
    reasons = [
        f"{what} {architecture[option]}, the paper's {paper}"
        for option, what, paper in (("width", "width", 32), ("in_channels", "input channels", 3))
        if architecture[option] != paper
    ]
    if steps is not None and steps < PAPER_STEPS:
        reasons.append(f"trained for {steps:,} steps, the author's example for {PAPER_STEPS:,}")
    return reasons
