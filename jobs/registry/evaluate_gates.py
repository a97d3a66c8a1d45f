"""Evaluates the gates of a model version and promotes it.

The cheap checks come first: files, a fresh process, measurements. Evaluations that exist already (the version's, and
production's on the same list) are used again. `trainplane.registry.gates` computes the verdicts, and
`trainplane.registry.promote` moves the alias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.cli.format import KEY_METRICS, METRIC_COLUMNS, mean_texts
from jobs.data.demo_photos import ensure_demo_datasets
from jobs.evaluation import model_card
from jobs.evaluation.evaluation import Measurement, Protocol, compare, make_protocol, measure_model
from jobs.evaluation.models import open_model
from jobs.evaluation.run import evaluate_and_record
from jobs.evaluation.scores import Score, from_csv
from jobs.registry import golden
from jobs.registry.register import LICENCE
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.data.manifest import Dataset
from trainplane.errors import RunFailed, UserError
from trainplane.markdown import escaped, markdown_table
from trainplane.registry.audit import AuditRecord
from trainplane.registry.gates import GateVerdict, PackageCheck, evaluate_gates
from trainplane.registry.package import data_of, download
from trainplane.registry.promote import AuditedModel
from trainplane.registry.rules import PRODUCTION, GateRules
from trainplane.registry.smoke_test import probe
from trainplane.registry.versions import ModelVersion
from trainplane.storage import open_store

# Module that serves a registered model; its name is stored in the packages.
LOADER = "isnet.served"
# Evaluations are comparable if they agree in these fields.
_COMPARABLE = ("dataset_digest", "masks_digest", "definition")


def gate_verdicts(
    context: Context,
    audited: AuditedModel,
    version: ModelVersion,
    rules: GateRules,
    *,
    current: str | None,
    dataset: str | None,
    alias: str = PRODUCTION,
) -> list[GateVerdict]:
    """Measures a version as the rules need, and returns verdicts.

    Args:
        context: stores, tracking server and cluster.
        audited: the registered model.
        version: version to promote; an evaluation that is made here is attached to it.
        rules: requirements.
        current: version that the alias points at now.
        dataset: held-out set; None: the one that the version was evaluated on.
        alias: alias to move.
    """
    # The package comes first: a version that does not load is not measured.
    checks = check_package(context, version)
    # The check takes minutes; another process may have evaluated or deleted the version meanwhile.
    version.reload()
    if _needs_evaluation(context, version, dataset) and checks["artifact"].passed:
        assert dataset is not None, "an evaluation needs a dataset"
        evaluate_version(context, version, dataset)
        version.reload()
    evaluation = version.evaluation
    # The card comes after the evaluation, which it must describe.
    checks["card"] = _card(version)
    baselines: dict[str, Any] = {}
    comparisons: dict[str, Any] = {}
    production = None
    is_deleted = current is not None and not audited.model.has_version(current)
    # Without files or evaluation, no baseline is measured; rules that need one then fail.
    if evaluation is not None and checks["artifact"].passed:
        # All models of the comparison are measured as the version was.
        protocol = _same_protocol(context, evaluation)
        ours = _scores(context, version, protocol)
        addresses = {rule.baseline for rule in rules.beats} - {PRODUCTION}
        measured = {address: measure_model(open_model(address, context), protocol) for address in sorted(addresses)}
        if current is not None and current != version.version and not is_deleted:
            measured[PRODUCTION] = _production(context, audited.model.version(current), evaluation, protocol)
            production = measured[PRODUCTION].evaluation
        comparisons = {address: compare(ours, baseline.scores) for address, baseline in measured.items()}
        baselines = {address: baseline.evaluation for address, baseline in measured.items()}
    verdicts = evaluate_gates(
        rules,
        evaluation,
        baselines=baselines,
        production=production,
        lineage=version.lineage,
        comparisons=comparisons,
        checks=checks,
        approvers=audited.approvers(version, alias=alias),
    )
    if is_deleted:
        # Otherwise deleting the version in production would open the way for anything above the absolute bounds.
        evidence = f"version {current} in @{alias} was deleted in MLflow, so nothing can be compared with it; roll back"
        verdicts.append(GateVerdict("production is there", False, evidence, {}))
    return verdicts


def promote_version(
    audited: AuditedModel,
    version: ModelVersion,
    verdicts: Sequence[GateVerdict],
    *,
    alias: str = PRODUCTION,
    expected: str | None,
    reason: str,
    force_reason: str | None = None,
) -> AuditRecord:
    """Moves an alias if the gates passed; updates the pages.

    An alias that points at another version than `expected` (None: that exists) is not moved. A `force_reason` promotes
    in spite of failed gates.
    """
    try:
        return audited.promote(
            version, verdicts=verdicts, alias=alias, expected=expected, reason=reason, force_reason=force_reason
        )
    finally:
        # The pages show the verdicts, whether they let the version pass or not, and the evaluation that counts now.
        version.reload()
        model_card.write(version)
        update_page(audited)


def audited_model(context: Context, name: str) -> AuditedModel:
    """Opens a registered model with its audit trail."""
    return AuditedModel(context.tracking_server, name, open_store(context.audit))


def evaluate_version(context: Context, version: ModelVersion, dataset: str) -> None:
    """Evaluates a version like `isnet evaluate`, and records it."""
    models = {version.address: open_model(version.address, context)}
    protocol = make_protocol(context, dataset, masks="irregular", size=models[version.address].size or 256)
    recorded = evaluate_and_record(context, models, protocol)
    if recorded.unsent is not None:
        raise RunFailed(f"{recorded.unsent}; after that, promote the version again")


def check_package(context: Context, version: ModelVersion) -> dict[str, PackageCheck]:
    """Checks the package of a version, as far as possible.

    Returns:
        Checks by name: artifact, signature, licence, loads, golden. Only those that were reached.
    """
    # Not from the cache: the files that MLflow has now are checked.
    try:
        folder = download(version, context.home / "cache" / "models", again=True)
    except (RunFailed, UserError) as error:
        return {"artifact": PackageCheck(False, str(error))}
    checks = {
        "artifact": PackageCheck(True, f"all files have the digest that was registered, {folder.name[:12]}"),
        "signature": _signature(folder),
        "licence": _licence(folder),
    }
    # A fresh process loads the package and answers the golden requests, or any request if there are none.
    pictures = golden.read(data_of(folder))
    rows = [{name: row[name] for name in ("image", "mask")} for row in pictures] or golden.requests()[:1]
    outcome = probe(folder, rows, loader_module=LOADER)
    if outcome.error is not None:
        return checks | {"loads": PackageCheck(False, f"it does not answer in a fresh process: {outcome.error}")}
    # The package must bring its own code: this project may be absent where it runs.
    is_own = outcome.code is not None and Path(outcome.code).resolve().is_relative_to(folder.resolve())
    times = f"loaded in {outcome.seconds['load']:.2f} s, first answer after {outcome.seconds['first']:.2f} s more"
    code = "its own code" if is_own else f"code from {outcome.code}, not from the package"
    checks["loads"] = PackageCheck(
        is_own and len(outcome.answers) == len(rows), f"a fresh process {times}, with {code}", outcome.seconds
    )
    # The rules decide how large the difference may be.
    if not pictures:
        checks["golden"] = PackageCheck(False, "the package has no golden pictures; register the checkpoint again")
    else:
        worst = golden.largest_difference(pictures, outcome.answers)
        difference = "no comparable picture" if worst is None else f"{worst:g}"
        evidence = f"{len(pictures)} golden pictures differ by {difference}"
        checks["golden"] = PackageCheck(None, evidence, {"largest_difference": worst})
    return checks


def _signature(folder: Path) -> PackageCheck:
    from mlflow.models import Model

    signature = Model.load(str(folder)).signature
    if signature is None or signature.inputs is None or signature.outputs is None:
        return PackageCheck(
            False, "the version has no signature, so its inputs are unknown; register the checkpoint again"
        )
    names = signature.inputs.input_names()
    if names != ["image", "mask"]:
        return PackageCheck(False, f"its signature takes {names}, need image and mask; register the checkpoint again")
    return PackageCheck(True, f"takes {' and '.join(names)}, gives {' and '.join(signature.outputs.input_names())}")


def _licence(folder: Path) -> PackageCheck:
    try:
        text = (data_of(folder) / LICENCE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text:
        return PackageCheck(False, f"the package has no {LICENCE}; register it with --licence FILE")
    return PackageCheck(True, f"{LICENCE}: {text.splitlines()[0].strip()[:80]}")


def _card(version: ModelVersion) -> PackageCheck:
    writer = command_line("models", "card", version.name, version.version)
    if version.card_digest is None:
        return PackageCheck(False, f"there is no model card; `{writer}` writes it")
    if version.card_of != (version.evaluation_digest or "none"):
        return PackageCheck(False, f"the card is of another evaluation; `{writer}` writes a new one")
    return PackageCheck(True, f"card {version.card_digest[:12]} is of this evaluation")


def _needs_evaluation(context: Context, version: ModelVersion, dataset: str | None) -> bool:
    if dataset is None:
        return False
    # An evaluation on another dataset, or on an earlier state of this one, does not count.
    ensure_demo_datasets([dataset], context)
    evaluation = version.evaluation
    return evaluation is None or Dataset.open(context.dataset(dataset)).digest != evaluation["dataset_digest"]


def _same_protocol(context: Context, evaluation: Mapping[str, Any]) -> Protocol:
    """Makes an evaluation's protocol again; its data must be unchanged."""
    protocol = make_protocol(
        context,
        evaluation["dataset"],
        masks=evaluation["masks"],
        size=evaluation["size"],
        seed=evaluation["seed"],
        definition=evaluation["definition"],
        loading=evaluation.get("loading", "nearest"),
        pictures=evaluation.get("pictures"),
    )
    pairing = protocol.eval_set.pairing
    for kind, digest in (("dataset", pairing.dataset_digest), ("masks", pairing.digest)):
        if digest != evaluation[f"{kind}_digest"]:
            raise UserError(
                f"{evaluation[kind]}: the digest of the {kind} is {digest[:12]} now, and the version was evaluated on "
                f"{str(evaluation[f'{kind}_digest'])[:12]}; evaluate the version again"
            )
    return protocol


def _scores(context: Context, version: ModelVersion, protocol: Protocol) -> list[Score]:
    """Reads the scores behind a version's evaluation, or measures again."""
    # The scores belong to this list if there is one for each pair.
    file = version.evaluation_file("scores.csv")
    if file is not None:
        try:
            scores = from_csv(file.decode())
        except ValueError:
            scores = []
        if len(scores) == len(protocol.eval_set.pairing.pairs):
            return scores
    return measure_model(open_model(version.address, context), protocol).scores


def _production(
    context: Context, current: ModelVersion, evaluation: Mapping[str, Any], protocol: Protocol
) -> Measurement:
    """Finds or measures a comparable evaluation of production."""
    # An existing one on the same list is used again.
    existing = current.evaluation
    if existing is not None and all(existing.get(field) == evaluation[field] for field in _COMPARABLE):
        return Measurement(existing, _scores(context, current, protocol))
    return measure_model(open_model(current.address, context), protocol)


def update_page(audited: AuditedModel) -> None:
    """Updates MLflow's page of the model."""
    # First the last move of each alias, then a table of versions.
    model = audited.model.as_json()
    trail = audited.stored_trail()
    lines = []
    for alias in trail.aliases():
        last = trail.moves(alias)[-1]
        how = {"promote": "promoted", "rollback": "rolled back to", "force": "**FORCED**"}[last.action]
        why = f": {escaped(last.reason)}" if last.reason else ""
        lines.append(
            f"- **@{alias}** is version {last.to_version}, {how} {last.time[:16]} UTC by {escaped(last.who)}{why}"
        )
    # MLflow limits descriptions, so only the newest versions are listed.
    rows = [
        [f"{v['version']}", " ".join(f"@{a}" for a in v["aliases"]), *mean_texts(_means(v)), _gates(v)]
        for v in model["versions"]
    ]
    columns = ["version", "aliases", *(METRIC_COLUMNS[metric][0] for metric in KEY_METRICS), "gates"]
    text = "\n".join([*lines, "", markdown_table(columns, rows[:20])])
    audited.model.set_description(text[: model_card.MAX_DESCRIPTION])


def _means(version: Mapping[str, Any]) -> Mapping[str, Any]:
    return ((version["evaluation"] or {}).get("bins") or {}).get("all") or {}


def _gates(version: Mapping[str, Any]) -> str:
    failed = sum(not verdict["passed"] for verdict in version["gates"])
    if not version["gates"]:
        return "not judged"
    return f"**{failed} of {len(version['gates'])} failed**" if failed else f"{len(version['gates'])} passed"
