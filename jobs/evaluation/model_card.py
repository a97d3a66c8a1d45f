"""The model card: what a version was made from, earned, cannot do, how to load it; written from the record.

Nothing in it is typed by hand, and nothing that the record does not know is claimed. It lies with the run that made the
version, `cards/NAME-VERSION.md`, and names the evaluation it tells of; MLflow's page of the version shows a short form.
Not here: judging (judging.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from jobs.cli.format import METRIC_COLUMNS, ratio_rows
from jobs.evaluation.paper_tables import differences
from trainplane.cluster.context import Context
from trainplane.markdown import coded, markdown_table
from trainplane.registry import versions
from trainplane.tracking.client import client_for, set_with_retry

# MLflow keeps no longer descriptions.
MAX_DESCRIPTION = 4800
_LICENCE = (
    "`data/exported/LICENSE` in the package says what may be done with it. The pictures it was trained on have "
    "licences of their own, which the record does not know."
)
_INVENTS = (
    "It invents what is in the hole; it does not find out what was there. Not for evidence, medicine, or faces by "
    "which somebody is to be recognised."
)


def write(context: Context, name: str, version: str) -> str:
    """Write the card of a version anew and return it; its digest goes into the version's tags."""
    entry = versions.show_version(context.tracking, name, version)
    client = client_for(context.tracking)
    text = card(name, entry, _run(client, entry["run_id"]))
    digest = hashlib.sha256(text.encode()).hexdigest()
    if entry["run_id"]:
        client.log_text(entry["run_id"], text, path_of(name, version))
    tags = {"card_digest": digest, "card_of": entry["evaluation_digest"] or "none"}
    for key, value in tags.items():
        set_with_retry(client.set_model_version_tag, name, version, versions.PREFIX + key, value)
    client.update_model_version(name, version, description=glance(name, entry))
    return text


def path_of(name: str, version: str) -> str:
    """Where the card lies among the run's artifacts."""
    return f"cards/{name}-{version}.md"


def _run(client: Any, run_id: str | None) -> dict[str, Any]:
    """{params, tags, datasets: [{name, digest, context}]} of the run that made the version; empty without one."""
    if not run_id:
        return {"params": {}, "tags": {}, "datasets": []}
    run = client.get_run(run_id)
    inputs = run.inputs.dataset_inputs if run.inputs else []
    datasets = [
        {
            "name": found.dataset.name,
            "digest": found.dataset.digest,
            "context": next((tag.value for tag in found.tags if tag.key == "mlflow.data.context"), ""),
        }
        for found in inputs
    ]
    return {"params": run.data.params, "tags": run.data.tags, "datasets": datasets}


def card(name: str, entry: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    version, evaluation = entry["version"], entry["evaluation"]
    parts = [
        f"# {name}, version {version}",
        "Fills the hole of a picture (inpainting): ISNet, Li et al., ICIP 2020.",
        "## Made from",
        _made_from(entry, run),
        "## Settings that differ from the defaults",
        _pairs(run["params"]) or "none recorded",
        "## What it earned",
        _earned(evaluation),
        "## Gates",
        _gates(entry["gates"]),
        "## Pictures",
        _pictures(entry),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(evaluation)),
        "## How to load it",
        _loading(name, version),
        "## Licence",
        _LICENCE,
    ]
    return "\n\n".join(parts) + "\n"


def glance(name: str, entry: Mapping[str, Any]) -> str:
    """A short form for the version's page: state, means by bin, verdicts."""
    evaluation, gates = entry["evaluation"], entry["gates"]
    failed = [verdict["gate"] for verdict in gates if not verdict["passed"]]
    judged = "not judged yet" if not gates else f"failed: {', '.join(failed)}" if failed else "all gates passed"
    aliases = ", ".join(f"@{alias}" for alias in entry["aliases"]) or "no alias"
    lines = [f"**{aliases}** · {judged}", "", _earned(evaluation)]
    if gates:
        lines += ["", _gates(gates)]
    if entry["run_id"]:
        lines += ["", f"card: `{path_of(name, entry['version'])}` of run {entry['run_id']}"]
    text = "\n".join(lines)
    if len(text) <= MAX_DESCRIPTION:
        return text
    return text[: MAX_DESCRIPTION - 30].rpartition("\n")[0] + "\n\n(cut; the card has all)"


def _made_from(entry: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    rows = {"MLflow run": entry["run_id"], **{fact: entry[fact] for fact in versions.FACTS}}
    dirty = run["tags"].get("trainplane.dirty")
    if dirty == "true":
        rows["code"] = "had changes that are not in the commit; the run keeps them as a diff"
    for found in run["datasets"]:
        rows[f"{found['context'] or 'data'} set"] = f"{found['name']} ({found['digest']})"
    return _pairs(rows)


def _pairs(rows: Mapping[str, Any]) -> str:
    return "\n".join(f"- {key}: {coded(str(value))}" for key, value in rows.items() if value not in (None, ""))


def _earned(evaluation: Mapping[str, Any] | None) -> str:
    if evaluation is None:
        return "not evaluated yet: `isnet evaluate` does that"
    rows = ratio_rows(evaluation["bins"], evaluation.get("intervals"))
    table = markdown_table(["hole %", "pairs", *(title for title, _ in METRIC_COLUMNS.values())], rows)
    where = (
        f"On {coded(str(evaluation['dataset']))} ({str(evaluation['dataset_digest'])[:12]}), "
        f"masks {coded(str(evaluation['masks']))} ({str(evaluation['masks_digest'])[:12]}), "
        f"{evaluation['size']} px, definition `{evaluation['definition']}`; "
        "95 % intervals over pictures in brackets."
    )
    return f"{where}\n\n{table}"


def _gates(gates: list[Mapping[str, Any]]) -> str:
    if not gates:
        return "not judged yet"
    rows = [["passed" if v["passed"] else "**failed**", v["gate"], v["evidence"]] for v in gates]
    return markdown_table(["verdict", "gate", "evidence"], rows)


def _pictures(entry: Mapping[str, Any]) -> str:
    if not entry["evaluation_digest"]:
        return "none yet"
    folder = f"evaluations/{entry['evaluation_digest']}"
    return (
        f"Among the run's artifacts: `{folder}/figure.png` (the median of each bin), `{folder}/worst.png` (what it "
        f"fills worst), `{folder}/report.html` (the whole report); made by `isnet evaluate`."
    )


def _limits(evaluation: Mapping[str, Any] | None) -> list[str]:
    found = [
        _INVENTS,
        "Nothing is known of how it does on pictures of another kind than those above, nor of what it makes of people.",
    ]
    if evaluation is None:
        return [*found, "It was not measured on anything."]
    worst = [name for name in ("0-10", "10-20", "20-30", "30-40", "40-50", "50-60") if name not in evaluation["bins"]]
    if worst:
        found.append(f"Not measured on holes of {', '.join(worst)} %.")
    if evaluation.get("pictures") is not None and evaluation["pictures"] < 100:
        found.append(f"Measured on {evaluation['pictures']} pictures only; the intervals say how little that is.")
    if evaluation.get("cost"):
        found += [f"Beside the paper's figures: {text}." for text in differences(evaluation, "places2")]
    return found


def _loading(name: str, version: str) -> str:
    request = json.dumps({"dataframe_records": [{"image": "<base64>", "mask": "<base64, white = hole>"}]})
    return f"""```
isnet inpaint photo.jpg mask.png -o filled.png --model models:/{name}/{version}
mlflow models serve -m models:/{name}/{version} --env-manager local --port 5001
curl -H 'Content-Type: application/json' -d '{request}' http://127.0.0.1:5001/invocations
```

```python
model = mlflow.pyfunc.load_model("models:/{name}/{version}")       # needs the package's requirements.txt, nothing else
model.predict(pandas.DataFrame([{{"image": image_base64, "mask": mask_base64}}]))["image"][0]
```"""
