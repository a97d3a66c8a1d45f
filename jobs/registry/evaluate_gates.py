"""Everything a verdict on a version needs, found out in the order of cost: files, a fresh process, measurements.

What is known already (the version's evaluation, production's on the same list) is not measured again. The verdicts
themselves are pure (`registry.gates`); moving the alias is `registry.promote`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.format import KEY_METRICS, METRIC_COLUMNS, mean_texts
from jobs.data.demo_photos import ensure_demo_datasets
from jobs.evaluation import model_card
from jobs.evaluation.evaluation import Protocol, compare, make_protocol, measure_model
from jobs.evaluation.models import open_model
from jobs.evaluation.run import evaluate_and_record
from jobs.evaluation.scores import Score, from_csv
from jobs.registry import golden
from jobs.registry.register import LICENCE
from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.errors import RunFailed, UserError
from trainplane.markdown import escaped, markdown_table
from trainplane.registry import audit, versions
from trainplane.registry.gates import Check, Verdict, judge
from trainplane.registry.package import data_of, download
from trainplane.registry.promote import subject
from trainplane.registry.rules import PRODUCTION, Rules
from trainplane.registry.smoke_test import probe
from trainplane.storage import open_store
from trainplane.tracking.client import client_for

LOADER = "isnet.served"
_COMPARABLE = ("dataset_digest", "masks_digest", "definition")


@dataclass(frozen=True)
class Known:
    """An evaluation and its scores on one list of pairs."""

    evaluation: dict[str, Any]
    scores: list[Score]


def judge_version(
    context: Context,
    name: str,
    version: str,
    rules: Rules,
    *,
    current: str | None,
    dataset: str | None,
    alias: str = PRODUCTION,
) -> list[Verdict]:
    """Verdicts on a version; what the rules compare with and is not known yet is measured first."""
    checks = check_package(context, name, version)
    entry = versions.show_version(context.tracking, name, version)
    if _wants_evaluation(context, entry, dataset) and checks["artifact"].fine:
        assert dataset is not None, "nothing is evaluated unasked"
        evaluate_version(context, name, version, dataset)
        entry = versions.show_version(context.tracking, name, version)
    evaluation = entry["evaluation"]
    checks["card"] = _card(entry)
    baselines: dict[str, Any] = {}
    comparisons: dict[str, Any] = {}
    production = None
    is_gone = current is not None and not versions.has_version(context.tracking, name, current)
    # What cannot be opened is not measured; rules that needed it then say that nothing was.
    if evaluation is not None and checks["artifact"].fine:
        same = _same_protocol(context, evaluation)
        ours = _scores(context, name, version, evaluation, same)
        wanted = {rule.baseline for rule in rules.beats} - {PRODUCTION}
        others = {address: _measured(context, address, same) for address in sorted(wanted)}
        if current is not None and current != version and not is_gone:
            others[PRODUCTION] = _production(context, name, current, evaluation, same)
            production = others[PRODUCTION].evaluation
        comparisons = {address: compare(ours, found.scores) for address, found in others.items()}
        baselines = {address: found.evaluation for address, found in others.items()}
    what = subject(entry["model_digest"], entry["evaluation_digest"])
    verdicts = judge(
        rules,
        evaluation,
        baselines=baselines,
        production=production,
        lineage={fact: entry[fact] for fact in ("run_id", *versions.FACTS)},
        comparisons=comparisons,
        checks=checks,
        approvers=approvers(context, name, version, what, alias=alias),
    )
    if is_gone:
        # Without this whoever deletes what is in production has opened the way for anything above the floors.
        evidence = f"version {current} in @{alias} was deleted in MLflow, so nothing can be compared with it; roll back"
        verdicts.append(Verdict("production is there", False, evidence, {}))
    return verdicts


def approvers(context: Context, name: str, version: str, what: str, *, alias: str) -> list[str]:
    """Who approved of exactly these files with this evaluation, whoever asks left out."""
    trail = audit.read_trail(open_store(context.audit), name)
    return [entry.who for entry in trail.approvals(alias, version, what) if entry.who != audit.whoami()]


def evaluate_version(context: Context, name: str, version: str, dataset: str) -> None:
    """As `isnet evaluate models:/NAME/VERSION DATASET` does it."""
    address = f"models:/{name}/{version}"
    models = {address: open_model(address, context)}
    rules = make_protocol(context, dataset, masks="irregular", size=models[address].size or 256)
    found = evaluate_and_record(context, models, rules)
    if found.unsent is not None:
        raise RunFailed(f"{found.unsent}, and then the version can be judged")


def check_package(context: Context, name: str, version: str) -> dict[str, Check]:
    """What the package itself shows: whole, signed, licensed, and answering in a process of its own."""
    address = f"models:/{name}/{version}"
    try:
        folder = download(context.tracking, address, context.home / "cache" / "models", again=True)
    except (RunFailed, UserError) as error:
        return {"artifact": Check(False, str(error))}
    checks = {
        "artifact": Check(True, f"all files have the digest that was registered, {folder.name[:12]}"),
        "signature": _signature(folder),
        "licence": _licence(folder),
    }
    kept = golden.read(data_of(folder))
    rows = [{name: row[name] for name in ("image", "mask")} for row in kept] or golden.requests()[:1]
    found = probe(folder, rows, loader_module=LOADER)
    if found.error is not None:
        return checks | {"loads": Check(False, f"it does not answer in a fresh process: {found.error}")}
    own = found.code is not None and Path(found.code).resolve().is_relative_to(folder.resolve())
    took = f"loaded in {found.seconds['load']:.2f} s, first answer after {found.seconds['first']:.2f} s more"
    code = "its own code" if own else f"code from {found.code}, not from the package"
    checks["loads"] = Check(
        own and len(found.answers) == len(rows), f"a fresh process {took}, with {code}", found.seconds
    )
    if not kept:
        checks["golden"] = Check(False, "the package holds no golden pictures; register the checkpoint again")
    else:
        worst = golden.largest_difference(kept, found.answers)
        evidence = f"{len(kept)} golden pictures differ by {'no comparable picture' if worst is None else f'{worst:g}'}"
        checks["golden"] = Check(None, evidence, {"largest_difference": worst})
    return checks


def _signature(folder: Path) -> Check:
    from mlflow.models import Model

    signature = Model.load(str(folder)).signature
    if signature is None or signature.inputs is None or signature.outputs is None:
        return Check(
            False, "the version has no signature, so nobody knows what it takes; register the checkpoint again"
        )
    names = signature.inputs.input_names()
    if names != ["image", "mask"]:
        return Check(False, f"its signature takes {names}, need image and mask; register the checkpoint again")
    return Check(True, f"takes {' and '.join(names)}, gives {' and '.join(signature.outputs.input_names())}")


def _licence(folder: Path) -> Check:
    try:
        first = next(
            (
                line.strip()
                for line in (data_of(folder) / LICENCE).read_text(encoding="utf-8").splitlines()
                if line.strip()
            ),
            None,
        )
    except (OSError, UnicodeDecodeError):
        first = None
    if first is None:
        return Check(False, f"the package has no {LICENCE}; register it with --licence FILE")
    return Check(True, f"{LICENCE}: {first[:80]}")


def _card(entry: Mapping[str, Any]) -> Check:
    of, digest = entry["card_of"], entry["card_digest"]
    if digest is None:
        return Check(False, "there is no model card; `isnet models card` writes it")
    if of != (entry["evaluation_digest"] or "none"):
        return Check(False, "the card tells of another evaluation; `isnet models card` writes it anew")
    return Check(True, f"card {digest[:12]} tells of this evaluation")


def _wants_evaluation(context: Context, entry: Mapping[str, Any], dataset: str | None) -> bool:
    if dataset is None:
        return False
    ensure_demo_datasets([dataset], context)
    known = entry["evaluation"]
    return known is None or Dataset.open(context.dataset(dataset)).digest != known["dataset_digest"]


def _same_protocol(context: Context, evaluation: Mapping[str, Any]) -> Protocol:
    """The protocol an evaluation was made with; refused where dataset or masks have changed since."""
    found = make_protocol(
        context,
        evaluation["dataset"],
        masks=evaluation["masks"],
        size=evaluation["size"],
        seed=evaluation["seed"],
        definition=evaluation["definition"],
        loading=evaluation.get("loading", "nearest"),
        pictures=evaluation.get("pictures"),
    )
    pairing = found.eval_set.pairing
    for what, now in (("dataset", pairing.dataset_digest), ("masks", pairing.digest)):
        if now != evaluation[f"{what}_digest"]:
            shown = evaluation[what]
            raise UserError(
                f"{shown}: the {what} now have digest {now[:12]}, and the version was evaluated on "
                f"{str(evaluation[f'{what}_digest'])[:12]}; evaluate it again on what is there now"
            )
    return found


def _measured(context: Context, address: str, rules: Protocol) -> Known:
    found = measure_model(open_model(address, context), rules)
    return Known(found.evaluation, found.scores)


def _scores(
    context: Context, name: str, version: str, evaluation: Mapping[str, Any], rules: Protocol
) -> Sequence[Score]:
    """The scores behind a version's evaluation: as they were kept, or measured again."""
    kept = versions.evaluation_file(context.tracking, name, version, "scores.csv")
    if kept is not None:
        try:
            scores = from_csv(kept.decode())
        except ValueError:
            scores = []
        if len(scores) == len(rules.eval_set.pairing.pairs):
            return scores
    return measure_model(open_model(f"models:/{name}/{version}", context), rules).scores


def _production(context: Context, name: str, current: str, evaluation: Mapping[str, Any], rules: Protocol) -> Known:
    known = versions.show_version(context.tracking, name, current)["evaluation"]
    if known is not None and all(known.get(field) == evaluation[field] for field in _COMPARABLE):
        return Known(known, list(_scores(context, name, current, known, rules)))
    return _measured(context, f"models:/{name}/{current}", rules)


def update_page(context: Context, name: str) -> None:
    """Bring MLflow's page of the model up to date: what is where, since when, by whom, and what it earned."""
    shown = versions.show(context.tracking, name)
    trail = audit.read_trail(open_store(context.audit), name)
    lines = []
    for alias in trail.aliases():
        last = trail.moves(alias)[-1]
        how = {"promote": "promoted", "rollback": "rolled back to", "force": "**FORCED**"}[last.action]
        why = f": {escaped(last.reason)}" if last.reason else ""
        lines.append(
            f"- **@{alias}** is version {last.to_version}, {how} {last.time[:16]} UTC by {escaped(last.who)}{why}"
        )
    rows = [
        [f"{v['version']}", " ".join(f"@{a}" for a in v["aliases"]), *mean_texts(_means(v)), _gates(v)]
        for v in shown["versions"]
    ]
    columns = ["version", "aliases", *(METRIC_COLUMNS[metric][0] for metric in KEY_METRICS), "gates"]
    text = "\n".join([*lines, "", markdown_table(columns, rows[:20])])
    client_for(context.tracking).update_registered_model(name, description=text[: model_card.MAX_DESCRIPTION])


def _means(version: Mapping[str, Any]) -> Mapping[str, Any]:
    return ((version["evaluation"] or {}).get("bins") or {}).get("all") or {}


def _gates(version: Mapping[str, Any]) -> str:
    failed = sum(not verdict["passed"] for verdict in version["gates"])
    if not version["gates"]:
        return "not judged"
    return f"**{failed} of {len(version['gates'])} failed**" if failed else f"{len(version['gates'])} passed"
