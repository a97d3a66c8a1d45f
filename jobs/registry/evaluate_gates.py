"""Evaluates the gates of a model version and promotes it.

The cheap checks come first: files, a fresh process, measurements (`measure`). `trainplane.registry.gates` computes the
verdicts, and `trainplane.registry.promote` moves the alias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.cli.format import KEY_METRICS, METRIC_COLUMNS, mean_texts
from jobs.evaluation import model_card
from jobs.evaluation.evaluation import compare, measure_model
from jobs.evaluation.models import open_model
from jobs.evaluation.recorded_evaluation import checked_entry
from jobs.registry.check_package import check_card, check_package
from jobs.registry.golden_set import golden_sets
from jobs.registry.measure import Judged, judged_protocol, measure_version, record_measurement
from jobs.registry.votes import preferences
from trainplane.cluster.context import Context
from trainplane.markdown import escaped, markdown_table
from trainplane.notify.notifier import Notifier
from trainplane.registry.audit import AuditRecord
from trainplane.registry.gates import GateVerdict, evaluate_gates
from trainplane.registry.promote import AuditedModel
from trainplane.registry.recorded import PREFIX
from trainplane.registry.rules import PRODUCTION, GateRules
from trainplane.registry.versions import ModelVersion
from trainplane.storage import open_store

# MLflow limits descriptions, so only the newest versions are listed.
_MAX_ROWS = 20


def gate_verdicts(
    context: Context,
    audited: AuditedModel,
    version: ModelVersion,
    rules: GateRules,
    *,
    current: str | None,
    judged: Judged,
    alias: str = PRODUCTION,
) -> list[GateVerdict]:
    """Measures a version as the rules need, and returns verdicts.

    Args:
        context: stores, tracking server and cluster.
        audited: the registered model.
        version: version to promote; what is measured is recorded with it.
        rules: requirements.
        current: version that the alias points at now.
        judged: pictures and holes to measure on, as the promoter names them.
        alias: alias to move.
    """
    # The package comes first: a version whose files were changed is not measured.
    checks = check_package(context, version, trusted_code=rules.trusted_code, signed_by=rules.signed_by)
    # The check takes minutes; another process may have evaluated or deleted the version meanwhile.
    version.reload()
    evaluation, note = None, None
    baselines: dict[str, Any] = {}
    comparisons: dict[str, Any] = {}
    is_deleted = current is not None and not audited.model.has_version(current)
    protocol = judged_protocol(context, version, rules, judged) if checks["artifact"].passed else None
    # Without files or pictures nothing is measured; rules that need a number then fail.
    if protocol is not None:
        ours = measure_version(context, audited.store, version, protocol)
        evaluation = ours.evaluation
        note = record_measurement(context, version, protocol, ours)
        # All models of the comparison are measured on the same pairs.
        addresses = {rule.baseline for rule in rules.beats} - {PRODUCTION}
        measured = {address: measure_model(open_model(address, context), protocol) for address in sorted(addresses)}
        if current is not None and current != version.version and not is_deleted:
            measured[PRODUCTION] = measure_version(context, audited.store, audited.model.version(current), protocol)
        comparisons = {address: compare(ours.scores, baseline.scores) for address, baseline in measured.items()}
        baselines = {address: baseline.evaluation for address, baseline in measured.items()}
    production = baselines.pop(PRODUCTION, None)
    served = None if current is None or is_deleted else audited.model.version(current)
    # The card comes after the evaluation, which it must describe.
    checks["card"] = check_card(version)
    verdicts = evaluate_gates(
        rules,
        evaluation,
        baselines=baselines,
        production=production,
        lineage=version.lineage,
        comparisons=comparisons,
        checks=checks,
        approvers=audited.approvers(version, alias=alias),
        preferences=preferences(context, rules, version, served),
        golden_sets=golden_sets(context, audited.store, rules, version, served) if checks["artifact"].passed else None,
    )
    if note is not None:
        verdicts.insert(1, GateVerdict("measured", True, note, {}))
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
    return AuditedModel(context.tracking_server, name, open_store(context.audit), tell=Notifier(context).tell)


def update_page(audited: AuditedModel) -> None:
    """Updates MLflow's page of the model."""
    # First the last move of each alias, then a table of versions.
    aliases = audited.model.aliases()
    versions = audited.model.versions()
    trail = audited.stored_trail()
    lines = []
    for alias in trail.aliases():
        last = trail.moves(alias)[-1]
        how = {"promote": "promoted", "rollback": "rolled back to", "force": "**FORCED**"}[last.action]
        why = f": {escaped(last.reason)}" if last.reason else ""
        lines.append(
            f"- **@{alias}** is version {last.to_version}, {how} {last.time[:16]} UTC by {escaped(last.who)}{why}"
        )
    rows = [_row(version, aliases) for version in versions[:_MAX_ROWS]]
    columns = ["version", "aliases", "trained by", *(METRIC_COLUMNS[metric][0] for metric in KEY_METRICS), "gates"]
    text = "\n".join([*lines, "", markdown_table(columns, rows)])
    audited.model.set_description(text[: model_card.MAX_DESCRIPTION])


def _row(version: ModelVersion, aliases: Mapping[str, str]) -> list[str]:
    entry = checked_entry(version, aliases)
    # Versions of older code say nothing of it.
    steps, typed = (version.tags.get(f"{PREFIX}{name}", "") for name in ("steps", "typed"))
    origin = typed + (f" ({steps} steps)" if steps else "")
    names = " ".join(f"@{alias}" for alias in entry["aliases"])
    return [version.version, names, origin, *mean_texts(_means(entry)), _gates(entry)]


def _means(version: Mapping[str, Any]) -> Mapping[str, Any]:
    means: Mapping[str, Any] = (version["evaluation"] or {}).get("bins", {}).get("all", {})
    return means


def _gates(version: Mapping[str, Any]) -> str:
    failed = sum(not verdict["passed"] for verdict in version["gates"])
    if not version["gates"]:
        return "not judged"
    return f"**{failed} of {len(version['gates'])} failed**" if failed else f"{len(version['gates'])} passed"
