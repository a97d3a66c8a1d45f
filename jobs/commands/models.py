"""`isnet models …`: registers, promotes and describes model versions."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.cli.format import mean_texts
from jobs.cli.main import emit
from jobs.cli.streams import notify
from jobs.presets import PRESETS
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.config.load import build, read_yaml
from trainplane.errors import UserError
from trainplane.registry.find_version import find_version
from trainplane.registry.gates import GateVerdict, verdicts_as_json
from trainplane.registry.names import check_alias, check_name, parse_address
from trainplane.registry.promote import Refused
from trainplane.registry.rules import PRODUCTION, GateRules
from trainplane.registry.significance import smallest_p
from trainplane.registry.versions import FACTS, ModelVersion, RegisteredModel
from trainplane.registry.versions import list_models as registered_models
from trainplane.tracking.find_run import find_run, is_run_id
from trainplane.tracking.run_id import is_reserved
from trainplane.tracking.run_record import RunRecord

# Functions import what loads torch: `list` does without.


def list_models(args: argparse.Namespace, context: Context) -> int:
    """Lists the registered models."""
    models = registered_models(context.tracking_server)
    lines = [
        f"{model['name']:<24} newest version {model['latest'] or '-':<4} "
        + " ".join(f"@{alias}={version}" for alias, version in model["aliases"].items())
        for model in models
    ]
    emit(
        args,
        {"models": models},
        "\n".join(lines) or f"no registered models; {command_line('models', 'register', 'RUN')} makes one",
    )
    return 0


def show(args: argparse.Namespace, context: Context) -> int:
    """Shows the versions of a model, or one of them."""
    from jobs.evaluation.recorded_evaluation import checked_entry

    server, parts = context.tracking_server, parse_address(args.name)
    registered = RegisteredModel(server, parts.name)
    aliases = registered.aliases()
    is_one = parts.version is not None or parts.alias is not None
    chosen = [find_version(server, args.name)] if is_one else registered.versions()
    versions = [checked_entry(version, aliases) for version in chosen]
    model = {"name": registered.name, "versions": versions}
    emit(args, model, "\n".join([registered.name, *map(_version_text, versions)]))
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
    lines += [f"    {'NOT READ':<15} {fault}" for fault in version["faults"]]
    for verdict in version["gates"]:
        lines.append(f"    {'passed' if verdict['passed'] else 'FAILED':<15} {verdict['gate']}: {verdict['evidence']}")
    return "\n".join(lines)


def register(args: argparse.Namespace, context: Context) -> int:
    """Registers a checkpoint of a run or of a search.

    The run is its id, the beginning of it, or the address of a checkpoint. `--from-search SEARCH` stands for the best
    trial of a search, continued to more steps or trained with more seeds if asked.
    """
    from jobs.registry.evaluate_gates import audited_model, update_page
    from jobs.registry.register import register_checkpoint

    # An invalid name is refused before a trial is trained, or a checkpoint pinned.
    check_name(args.name)
    if args.from_search is not None:
        from jobs.search.best_trial import best_of_search

        # The first override stands where a run's address would.
        overrides = [word for word in (args.source, *args.overrides) if word is not None]
        best = best_of_search(context, args.from_search, overrides, steps=args.steps, seeds=args.seeds)
        run_id, checkpoint = best.run_id, best.checkpoint
    elif args.source is None or args.overrides:
        raise UserError(
            f"name one run: {command_line('models', 'register', 'RUN')} (an id, or a checkpoint's address), or "
            f"{command_line('models', 'register', '--from-search', 'SEARCH')}"
        )
    else:
        run_id, checkpoint = _source(args.source, context)
    licence = Path(args.licence).expanduser() if args.licence else None
    version = register_checkpoint(context, checkpoint, name=args.name, run_id=run_id, licence=licence)
    # The model's page lists the new version.
    update_page(audited_model(context, args.name))
    measured_on = _validation_set(run_id, context) or "DATASET"
    gates = _gates_for(measured_on, context)
    promotion = command_line("models", "promote", args.name, version, "--dataset", measured_on, *gates)
    text = f"{args.name} version {version}; next, measured on held-out pictures: {promotion}"
    emit(args, {"name": args.name, "version": version, "run_id": run_id, "next": promotion}, text)
    return 0


def _source(typed: str, context: Context) -> tuple[str, str]:
    """Returns run and checkpoints of what RUN names."""
    from jobs.search.stored import stored_searches
    from trainplane.train.start.checkpoint import checkpoints_of_run

    run_id = typed.removeprefix("runs:/")
    # A word alone is neither an id nor an address.
    if not re.search("[/.~]|^step-", typed) and not is_run_id(typed) and not is_reserved(typed):
        searches = [search.name for search in stored_searches(context)]
        remedy = f"`{command_line('runs', 'list')}` shows the ids"
        if typed in searches:
            remedy = f"of a search, {command_line('models', 'register', '--from-search', typed, '--name', 'NAME')}"
        raise UserError(
            f"{typed!r} is no run's id and no checkpoint's address; need an id, its beginning, or "
            f"…/step-NNNNNNNN; {remedy}"
        )
    if run_id != typed or is_run_id(typed) or is_reserved(typed):
        run_id = str(find_run(context.tracking_server, run_id).info.run_id)
        return run_id, checkpoints_of_run(run_id, context)
    return run_of_checkpoint(typed, context), typed


def _gates_for(dataset: str, context: Context) -> tuple[str, ...]:
    """Option for gates that so few held-out pictures can pass."""
    from trainplane.data.manifest import Dataset
    from trainplane.storage import StorageError

    try:
        pictures = Dataset.open(context.dataset(dataset)).num_samples
    except (UserError, StorageError, OSError):
        return ()
    sure = [rule.p_below for rule in build(GateRules, read_yaml(rules_file(None))).beats if rule.p_below is not None]
    return ("--gates", "small") if any(smallest_p(pictures) >= p for p in sure) else ()


def _validation_set(run_id: str, context: Context) -> str | None:
    """Returns the held-out dataset of a run, as typed."""
    text = RunRecord(context.tracking_server, run_id).read_text("config.json")
    return None if text is None else json.loads(text).get("data", {}).get("val")


def named_version(args: argparse.Namespace, context: Context) -> ModelVersion:
    """Returns the version of NAME and VERSION, and sets both."""
    server, parts = context.tracking_server, parse_address(args.name)
    if args.version is not None:
        if parts.version is not None or parts.alias is not None:
            raise UserError(f"{args.name} names a version, and so does {args.version}; give one of them")
        version = ModelVersion(server, parts.name, args.version)
    elif parts.version is None and parts.alias is None:
        numbers = [version.version for version in RegisteredModel(server, parts.name).versions()]
        RegisteredModel(server, parts.name).record()
        raise UserError(
            f"no version of {parts.name} is named (it has: {', '.join(numbers) or 'none'}); "
            f"give {parts.name}/VERSION, such as {parts.name}/{numbers[0] if numbers else 1}"
        )
    else:
        version = find_version(server, args.name)
    args.name, args.version = version.name, version.version
    return version


def run_of_checkpoint(checkpoint: str, context: Context) -> str:
    """Returns the MLflow run that wrote a checkpoint."""
    from trainplane.train.checkpoint import store as checkpoints

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
    from jobs.registry.evaluate_gates import audited_model, gate_verdicts, promote_version
    from jobs.registry.measure import Judged

    check_alias(args.to)
    rules = build(GateRules, read_yaml(rules_file(args.gates)))
    if args.force is not None and not args.force.strip():
        raise UserError("--force needs a reason; say in a sentence why the gates are overridden")
    version = named_version(args, context).checked()
    audited = audited_model(context, args.name)
    current = audited.current_version(args.to)
    # `--expect none`: the alias must not exist yet.
    expected = current if args.expect is None else None if args.expect == "none" else args.expect
    # Before anything is measured: that may take an hour.
    audited.check_expected(args.version, current, expected, alias=args.to)
    judged = Judged(args.dataset, args.masks, args.size)
    verdicts = gate_verdicts(context, audited, version, rules, current=current, judged=judged, alias=args.to)
    payload = {"name": args.name, "verdicts": verdicts_as_json(verdicts)}
    try:
        entry = promote_version(
            audited, version, verdicts, alias=args.to, expected=expected, reason=args.reason, force_reason=args.force
        )
    except Refused as refusal:
        remedy = f"mend that, or override the gates with a reason: {_forced(args)}"
        emit(args, {**payload, "audit": None, "error": str(refusal), "remedy": remedy}, verdict_text(verdicts))
        notify(f"{refusal}; {remedy}")
        return 1
    moved = f"{args.name}@{args.to} is version {entry.to_version} (audit record {entry.number})"
    emit(args, {**payload, "audit": asdict(entry)}, f"{verdict_text(verdicts)}\n{moved}")
    return 0


def verdict_text(verdicts: Sequence[GateVerdict]) -> str:
    """Formats verdicts as lines, failed ones first."""
    ordered = sorted(verdicts, key=lambda verdict: verdict.passed)
    return "\n".join(f"{'passed' if v.passed else 'FAILED'}  {v.gate}: {v.evidence}" for v in ordered)


def _forced(args: argparse.Namespace) -> str:
    """Command line of the same promotion past its gates."""
    options = {"--to": None if args.to == PRODUCTION else args.to, "--dataset": args.dataset, "--masks": args.masks}
    options |= {"--size": args.size, "--gates": args.gates, "--force": "REASON"}
    words = [word for option, value in options.items() if value is not None for word in (option, str(value))]
    return command_line("models", "promote", args.name, args.version, *words)


def approve(args: argparse.Namespace, context: Context) -> int:
    """Records a second person's approval in the audit trail."""
    from jobs.evaluation.recorded_evaluation import recorded_evaluation
    from jobs.registry.evaluate_gates import audited_model

    check_alias(args.to)
    version = named_version(args, context)
    # An approval covers the files and their evaluation.
    evaluation, faults = recorded_evaluation(version)
    if evaluation is None:
        reason = f"{faults[0]}, and" if faults else f"version {args.version} of {args.name} has no evaluation, so"
        evaluate = command_line("evaluate", version.address, "DATASET")
        raise UserError(f"{reason} there is nothing to approve; run {evaluate}")
    record = audited_model(context, args.name).approve(version, alias=args.to, note=args.note)
    text = f"{record.who} approves {args.name} version {args.version} for @{args.to} (audit record {record.number})"
    emit(args, {"name": args.name, "audit": asdict(record)}, text)
    return 0


def card(args: argparse.Namespace, context: Context) -> int:
    """Writes a version's model card, and prints it."""
    from jobs.evaluation import model_card

    text = model_card.write(named_version(args, context))
    emit(args, {"name": args.name, "version": args.version, "card": text}, text.rstrip())
    return 0


def rollback(args: argparse.Namespace, context: Context) -> int:
    """Returns an alias to its previous version."""
    from jobs.registry.evaluate_gates import audited_model, update_page

    parts = parse_address(args.name)
    args.name, args.to = parts.name, parts.alias or args.to
    audited = audited_model(context, args.name)
    started = time.monotonic()
    entry = audited.rollback(reason=args.reason, alias=args.to)
    seconds = time.monotonic() - started
    update_page(audited)
    text = f"{args.name}@{args.to} is version {entry.to_version} again, was {entry.from_version} ({seconds:.1f} s)"
    emit(args, {"name": args.name, "audit": asdict(entry), "seconds": seconds}, text)
    return 0


def _sound(name: str) -> str:
    return f"sound: the trail of {name} is complete, and its aliases are where it says"


def audit(args: argparse.Namespace, context: Context) -> int:
    """Prints a model's audit trail, or verifies it."""
    from jobs.registry.evaluate_gates import audited_model

    args.name = parse_address(args.name).name
    audited = audited_model(context, args.name)
    if args.verify:
        faults = audited.verify()
        emit(args, {"name": args.name, "sound": not faults, "faults": faults}, "\n".join(faults) or _sound(args.name))
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
