"""`isnet models …`: registers, promotes and describes model versions."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.cli.format import mean_texts
from jobs.cli.main import emit
from jobs.evaluation import model_card
from jobs.evaluation.models import checkpoints_of_run
from jobs.presets import PRESETS
from jobs.registry.evaluate_gates import audited_model, gate_verdicts, promote_version, update_page
from jobs.registry.register import register_checkpoint
from trainplane.cluster.context import Context
from trainplane.config.load import build, read_yaml
from trainplane.errors import UserError
from trainplane.registry.gates import verdicts_as_json
from trainplane.registry.names import check_alias, check_name
from trainplane.registry.rules import GateRules
from trainplane.registry.versions import FACTS, ModelVersion, RegisteredModel
from trainplane.registry.versions import list_models as registered_models
from trainplane.train.checkpoint import store as checkpoints


def list_models(args: argparse.Namespace, context: Context) -> int:
    """Lists the registered models."""
    models = registered_models(context.tracking_server)
    lines = [
        f"{model['name']:<24} {model['latest'] or '-':>4} versions  "
        + " ".join(f"@{alias}={version}" for alias, version in model["aliases"].items())
        for model in models
    ]
    emit(args, {"models": models}, "\n".join(lines) or "no registered models; `isnet models register` makes one")
    return 0


def show(args: argparse.Namespace, context: Context) -> int:
    """Shows the versions of a model."""
    model = RegisteredModel(context.tracking_server, args.name).as_json()
    emit(args, model, "\n".join([model["name"], *(_version_text(version) for version in model["versions"])]))
    return 0


def _version_text(version: dict[str, Any]) -> str:
    aliases = "".join(f" @{alias}" for alias in version["aliases"])
    lines = [f"  version {version['version']}{aliases}"]
    # Facts that lead back to run, data, settings and code.
    lines += [f"    {name:<15} {version[name] or '-'}" for name in ("run_id", *FACTS)]
    evaluation = (version["evaluation"] or {}).get("bins", {}).get("all")
    if evaluation:
        # Means over all pairs; the card has the bins.
        on = version["evaluation"]["dataset_digest"][:12]
        psnr, ssim, l1 = mean_texts(evaluation)
        lines.append(
            f"    {'evaluation':<15} psnr {psnr} dB, ssim {ssim}, l1 {l1} % over {evaluation['n']} pairs of {on} "
            f"(evaluation {version['evaluation_digest'][:12]})"
        )
    for verdict in version["gates"]:
        lines.append(f"    {'passed' if verdict['passed'] else 'FAILED':<15} {verdict['gate']}: {verdict['evidence']}")
    return "\n".join(lines)


def register(args: argparse.Namespace, context: Context) -> int:
    """Registers a checkpoint of a run or of a search.

    The run is runs:/ID or the address of a checkpoint. `--from-search SEARCH` stands for the best trial of a search,
    continued to more steps or trained with more seeds if asked.
    """
    # An invalid name is refused before a trial is trained, or a checkpoint pinned.
    check_name(args.name)
    if args.from_search is not None:
        from jobs.search.best_trial import best_of_search

        # The first override stands where a run's address would.
        overrides = [word for word in (args.source, *args.overrides) if word is not None]
        best = best_of_search(context, args.from_search, overrides, steps=args.steps, seeds=args.seeds)
        run_id, checkpoint = best.run_id, best.checkpoint
    elif args.source is None or args.overrides:
        raise UserError("name one run: isnet models register runs:/ID, a checkpoint's address, or --from-search SEARCH")
    elif args.source.startswith("runs:/"):
        run_id = args.source.removeprefix("runs:/")
        checkpoint = checkpoints_of_run(run_id, context)
    else:
        checkpoint = args.source
        run_id = run_of_checkpoint(checkpoint, context)
    licence = Path(args.licence).expanduser() if args.licence else None
    version = register_checkpoint(context, checkpoint, name=args.name, run_id=run_id, licence=licence)
    # The model's page lists the new version.
    update_page(audited_model(context, args.name))
    emit(args, {"name": args.name, "version": version, "run_id": run_id}, f"{args.name} version {version}")
    return 0


def run_of_checkpoint(checkpoint: str, context: Context) -> str:
    """Returns the MLflow run that wrote a checkpoint."""
    store, _ = checkpoints.open_address(checkpoint)
    client = context.tracking_server.client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    # Every run records the address of its checkpoints.
    query = f"tags.`trainplane.checkpoints` = '{store.address}'"
    runs = client.search_runs(experiments, filter_string=query) if experiments else []
    if not runs:
        raise UserError(f"{checkpoint}: no run recorded here wrote it; give runs:/ID of the run that did")
    return str(runs[0].info.run_id)


def rules_file(named: str | None) -> Path:
    """File of `--gates`: a shipped name, a file, or default."""
    return PRESETS / "gates" / f"{named or 'default'}.yaml" if named in (None, "default", "small") else Path(named)


def promote(args: argparse.Namespace, context: Context) -> int:
    """Moves an alias to a version that passes its gates."""
    check_alias(args.to)
    rules = build(GateRules, read_yaml(rules_file(args.gates)))
    if args.force is not None and not args.force.strip():
        raise UserError("--force needs a reason; say in a sentence why the gates are overridden")
    version = ModelVersion(context.tracking_server, args.name, args.version).checked()
    audited = audited_model(context, args.name)
    current = audited.current_version(args.to)
    # `--expect none`: the alias must not exist yet.
    expected = current if args.expect is None else None if args.expect == "none" else args.expect
    # Before anything is measured: that may take an hour.
    audited.check_expected(args.version, current, expected, alias=args.to)
    verdicts = gate_verdicts(context, audited, version, rules, current=current, dataset=args.dataset, alias=args.to)
    entry = promote_version(
        audited, version, verdicts, alias=args.to, expected=expected, reason=args.reason, force_reason=args.force
    )
    lines = [f"{'passed' if v.passed else 'FAILED'}  {v.gate}: {v.evidence}" for v in verdicts]
    lines.append(f"{args.name}@{args.to} is version {entry.to_version} (audit record {entry.number})")
    verdict_rows = verdicts_as_json(verdicts)
    emit(args, {"name": args.name, "verdicts": verdict_rows, "audit": asdict(entry)}, "\n".join(lines))
    return 0


def approve(args: argparse.Namespace, context: Context) -> int:
    """Records a second person's approval in the audit trail."""
    check_alias(args.to)
    version = ModelVersion(context.tracking_server, args.name, args.version)
    # An approval covers the files and their evaluation.
    if version.evaluation is None:
        raise UserError(
            f"version {args.version} of {args.name} has no evaluation, so there is nothing to approve; "
            f"run isnet evaluate models:/{args.name}/{args.version} DATASET"
        )
    record = audited_model(context, args.name).approve(version, alias=args.to, note=args.note)
    text = f"{record.who} approves {args.name} version {args.version} for @{args.to} (audit record {record.number})"
    emit(args, {"name": args.name, "audit": asdict(record)}, text)
    return 0


def card(args: argparse.Namespace, context: Context) -> int:
    """Writes a version's model card, and prints it."""
    text = model_card.write(ModelVersion(context.tracking_server, args.name, args.version))
    emit(args, {"name": args.name, "version": args.version, "card": text}, text.rstrip())
    return 0


def rollback(args: argparse.Namespace, context: Context) -> int:
    """Returns an alias to its previous version."""
    audited = audited_model(context, args.name)
    started = time.monotonic()
    entry = audited.rollback(reason=args.reason, alias=args.to)
    seconds = time.monotonic() - started
    update_page(audited)
    text = f"{args.name}@{args.to} is version {entry.to_version} again, was {entry.from_version} ({seconds:.1f} s)"
    emit(args, {"name": args.name, "audit": asdict(entry), "seconds": seconds}, text)
    return 0


def audit(args: argparse.Namespace, context: Context) -> int:
    """Prints a model's audit trail, or verifies it."""
    audited = audited_model(context, args.name)
    if args.verify:
        faults = audited.verify()
        emit(args, {"name": args.name, "sound": not faults, "faults": faults}, "\n".join(faults) or "sound")
        # A contradiction of trail and registry fails the command.
        return 1 if faults else 0
    # Without --verify, aliases that differ from the trail are repaired.
    repaired = audited.reconcile()
    records = audited.stored_trail().records
    lines = [
        f"{e.number:>4}  {e.time}  {_loud(e.action):<8} @{e.alias}  {e.from_version or '-'} -> {e.to_version}"
        f"  {e.who}  {e.reason}"
        for e in records
    ]
    payload = {"name": args.name, "records": [asdict(record) for record in records], "repaired": repaired}
    emit(args, payload, "\n".join([*lines, *repaired]) or "never promoted")
    return 0


def _loud(action: str) -> str:
    return "FORCED" if action == "force" else action
