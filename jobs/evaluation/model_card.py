"""Writes the model card of a registered version.

The card gives the version's origin, metrics, gates, limits, and how to load it, all from the records in MLflow. It is
an artifact of the run that made the version, `cards/NAME-VERSION.md`. MLflow's page of the version shows a short form.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from isnet.masks import RATIO_BINS
from jobs.cli.format import METRIC_COLUMNS, ratio_rows
from jobs.config import build_run
from jobs.evaluation.paper_tables import differences
from jobs.evaluation.recorded_evaluation import checked_entry
from trainplane.config.canonical import flatten
from trainplane.errors import UserError
from trainplane.markdown import code_span, escaped, markdown_table
from trainplane.registry.versions import FACTS, ModelVersion
from trainplane.tracking.pages import artifact_link
from trainplane.tracking.run_record import RunRecord
from trainplane.tracking.tracker import gallery_key, newest_image

# MLflow limits descriptions.
MAX_DESCRIPTION = 4800
_LICENCE = (
    "`data/exported/LICENSE` in the package says what may be done with it. The pictures it was trained on have "
    "licences of their own, which the record does not know."
)
_INVENTS = (
    "It invents the content of the hole; it cannot know what was there. Not for evidence, medicine, or the recognition "
    "of faces."
)


def write(version: ModelVersion) -> str:
    """Writes a version's card and returns it; tags the digests."""
    entry = checked_entry(version, version.model.aliases())
    files = [*version.evaluation_files(), *_gallery(version)]
    text = card(version.name, entry, _run(version), files=files, tracking=version.server.public_address)
    version.attach_card(
        text,
        path=card_path(version.name, version.version),
        description=version_description(version.name, entry, files),
    )
    return text


def card_path(name: str, version: str) -> str:
    """Path of the card among the run's artifacts."""
    return f"cards/{name}-{version}.md"


def _run(version: ModelVersion) -> dict[str, Any]:
    """Params, tags and datasets of the version's run, if any."""
    if version.run_id is None:
        return {"params": {}, "tags": {}, "datasets": []}
    run = RunRecord(version.server, version.run_id)
    datasets = [
        {"name": dataset.name, "digest": dataset.digest, "context": purpose} for purpose, dataset in run.datasets
    ]
    return {"params": _settings(run), "tags": run.tags, "datasets": datasets}


def _settings(run: RunRecord) -> dict[str, Any]:
    """Settings that differ from the defaults; else the parameters."""
    try:
        config = build_run(json.loads(run.read_text("config.json") or "{}"), [])
    # Of other code, or changed by hand: it is only shown.
    except (UserError, ValueError):
        return run.params
    return flatten(config.special())


def card(
    name: str, entry: Mapping[str, Any], run: Mapping[str, Any], *, files: Sequence[str] = (), tracking: str
) -> str:
    """Formats the card from a version's record and its run.

    Args:
        name: registered model.
        entry: the version, as `checked_entry` gives it.
        run: params, tags and datasets of its run.
        files: artifact paths of the files stored with its evaluation.
        tracking: address of the tracking server, without secrets.
    """
    version, evaluation = entry["version"], entry["evaluation"]
    # Sections in the usual order of a model card.
    parts = [
        f"# {name}, version {version}",
        "Fills the hole of a picture (inpainting): ISNet, Li et al., ICIP 2020.",
        "## Made from",
        _origin(entry, run),
        "## Settings that differ from the defaults",
        _list(run["params"]) or "none recorded",
        "## Evaluation",
        "\n\n".join([*(escaped(fault) for fault in entry.get("faults", ())), _evaluation(evaluation)]),
        "## Gates",
        _gates(entry["gates"]),
        "## Pictures",
        _pictures(files, depth=card_path(name, version).count("/")),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(evaluation)),
        "## How to load it",
        _loading(name, version, tracking),
        "## Licence",
        _LICENCE,
    ]
    return "\n\n".join(parts) + "\n"


def _gallery(version: ModelVersion) -> list[str]:
    """The newest gallery image of the version's run, if any."""
    from mlflow.exceptions import MlflowException

    path = newest_image(gallery_key(0))
    if version.run_id is None:
        return []
    try:
        images = version.server.client.list_artifacts(version.run_id, str(PurePosixPath(path).parent))
    # The store of artifacts may be away.
    except (MlflowException, OSError):
        return []
    return [path] if path in {entry.path for entry in images} else []


def version_description(name: str, entry: Mapping[str, Any], files: Sequence[str] = ()) -> str:
    """Formats the short form for MLflow's page of the version.

    `files` are the artifacts with pictures that are there.
    """
    evaluation, gates = entry["evaluation"], entry["gates"]
    # A line of state, the means, the gates, and where the whole card is.
    failed = [verdict["gate"] for verdict in gates if not verdict["passed"]]
    outcome = "not judged yet" if not gates else f"failed: {', '.join(failed)}" if failed else "all gates passed"
    aliases = ", ".join(f"@{alias}" for alias in entry["aliases"]) or "no alias"
    lines = [f"**{aliases}** · {outcome}", ""]
    # First the run's own picture, which is small; the evaluation's after its numbers.
    links = {}
    if entry["run_id"]:
        links = {path: f"![{text}]({artifact_link(entry['run_id'], path)})" for text, path in _pictures_of(files)}
    newest = newest_image(gallery_key(0))
    lines += [f"{links[newest]}\n"] if newest in links else []
    # Headings keep the tables apart on MLflow's pages.
    lines += ["### Evaluation", "", _evaluation(evaluation)]
    if gates:
        lines += ["", "### Gates", "", _gates(gates)]
    if entry["run_id"]:
        lines += ["", f"card: `{card_path(name, entry['version'])}` of run {entry['run_id']}"]
    figures = [link for path, link in links.items() if path.endswith("/figure.png")]
    pictures = "".join(f"\n\n### Pictures\n\n{figure}" for figure in figures)
    text, room = "\n".join(lines), MAX_DESCRIPTION - len(pictures)
    if len(text) > room:
        # Cut at the end of a line.
        text = text[: room - 30].rpartition("\n")[0] + "\n\n(cut; the card has all)"
    return text + pictures


def _origin(entry: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    # The version's own facts, then those of its run.
    rows = {"MLflow run": entry["run_id"], **{fact: entry[fact] for fact in FACTS}}
    dirty = run["tags"].get("trainplane.dirty")
    if dirty == "true":
        rows["code"] = "had changes that are not in the commit; the run keeps them as a diff"
    if start := run["tags"].get("trainplane.start_from"):
        step = run["tags"].get("trainplane.start_step")
        rows["begun at"] = f"{start}{f', the state of step {step}' if step else ''}"
        rows["digest of the start"] = run["tags"].get("trainplane.start_digest")
    for dataset in run["datasets"]:
        rows[f"{dataset['context'] or 'data'} set"] = f"{dataset['name']} ({dataset['digest']})"
    return _list(rows)


def _list(rows: Mapping[str, Any]) -> str:
    return "\n".join(f"- {key}: {code_span(str(value))}" for key, value in rows.items() if value not in (None, ""))


def _evaluation(evaluation: Mapping[str, Any] | None) -> str:
    if evaluation is None:
        return "not evaluated yet"
    rows = ratio_rows(evaluation["bins"], evaluation.get("intervals"))
    table = markdown_table(["hole %", "pairs", *(title for title, _ in METRIC_COLUMNS.values())], rows)
    protocol = (
        f"On {code_span(str(evaluation['dataset']))} ({str(evaluation['dataset_digest'])[:12]}), "
        f"masks {code_span(str(evaluation['masks']))} ({str(evaluation['masks_digest'])[:12]}), "
        f"{evaluation['size']} px, definition `{evaluation['definition']}`; "
        "95 % intervals over pictures in brackets."
    )
    return f"{protocol}\n\n{table}"


def _gates(gates: list[Mapping[str, Any]]) -> str:
    if not gates:
        return "not judged yet"
    rows = [["passed" if v["passed"] else "**failed**", v["gate"], v["evidence"]] for v in gates]
    return markdown_table(["verdict", "gate", "evidence"], rows)


def _pictures(files: Sequence[str], *, depth: int) -> str:
    """Pictures that were logged, relative to the card's folder."""
    lines = []
    for caption, path in _pictures_of(files):
        link = f"[{caption}]({'../' * depth}{quote(path)})"
        lines.append(f"!{link}" if path.endswith(".png") else f"- {link}")
    return "\n\n".join(lines) or "none yet; `isnet evaluate` makes some"


def _pictures_of(files: Sequence[str]) -> list[tuple[str, str]]:
    """Captions and paths of the files with pictures."""
    captions = {
        "figure.png": "the pair of median PSNR in each bin",
        "worst.png": "the worst pairs",
        PurePosixPath(newest_image(gallery_key(0))).name: "a held-out picture of the training run",
        "report.html": "the whole report",
    }
    paths = {PurePosixPath(path).name: path for path in files}
    return [(caption, paths[name]) for name, caption in captions.items() if name in paths]


def _limits(evaluation: Mapping[str, Any] | None) -> list[str]:
    limits = [
        _INVENTS,
        "Its quality on pictures of another kind than those above, and on pictures of people, was not measured.",
    ]
    if evaluation is None:
        return [*limits, "It was not measured on anything."]
    # Gaps and uncertainty of the evaluation.
    missing = [name for name in RATIO_BINS if name not in evaluation["bins"]]
    if missing:
        limits.append(f"Not measured on holes of {', '.join(missing)} %.")
    if evaluation.get("pictures") is not None and evaluation["pictures"] < 100:
        limits.append(f"Measured on {evaluation['pictures']} pictures only; the intervals show the uncertainty.")
    if evaluation.get("cost"):
        limits += [f"Compared with the paper: {text}." for text in differences(evaluation, "places2")]
    return limits


def _loading(name: str, version: str, tracking: str) -> str:
    # A request as MLflow's scoring server accepts it.
    server = f"MLFLOW_TRACKING_URI={shlex.quote(tracking)}"
    request = json.dumps({"dataframe_records": [{"image": "<base64>", "mask": "<base64, white = hole>"}]})
    return f"""```
isnet inpaint photo.jpg mask.png -o filled.png --model models:/{name}/{version}
{server} mlflow models serve -m models:/{name}/{version} --env-manager local --port 5001
curl -H 'Content-Type: application/json' -d '{request}' http://127.0.0.1:5001/invocations
```

```python
model = mlflow.pyfunc.load_model("models:/{name}/{version}")       # needs the package's requirements.txt, nothing else
model.predict(pandas.DataFrame([{{"image": image_base64, "mask": mask_base64}}]))["image"][0]
```"""
