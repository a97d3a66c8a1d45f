"""`isnet models …`: registers, promotes and describes model versions."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from jobs.api.registry import export_model, models, register_best
from jobs.api.registry import promote as promote_version
from jobs.api.registry import register as register_run
from jobs.api.registry import sign as sign_version
from jobs.api.registry import verify as verify_version
from jobs.cli.format import mean_texts, quantity
from jobs.cli.main import emit
from jobs.cli.streams import notify
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import UserError
from trainplane.registry.find_version import find_version
from trainplane.registry.gates import GateVerdict
from trainplane.registry.names import check_alias, check_name, parse_address
from trainplane.registry.versions import FACTS, ModelVersion, RegisteredModel

# Functions import what loads torch: `list` does without.


def list_models(args: argparse.Namespace, context: Context) -> int:
    """Lists the registered models."""
    listed = models(context=context)
    lines = [
        f"{model.name:<24} newest version {model.latest or '-':<4} "
        + " ".join(f"@{alias}={version}" for alias, version in model.aliases.items())
        for model in listed
    ]
    emit(
        args,
        {"models": [asdict(model) for model in listed]},
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
        pairs = quantity(evaluation["n"], "pair")
        lines.append(
            f"    {'evaluation':<15} psnr {psnr} dB, ssim {ssim}, l1 {l1} % over {pairs} of {on} "
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
    if args.from_search is not None:
        # The first override stands where a run's address would.
        overrides = [word for word in (args.source, *args.overrides) if word is not None]
        training = {"steps": args.steps, "seeds": args.seeds}
        new = register_best(
            args.from_search, overrides, name=args.name, licence=args.licence, context=context, **training
        )
    elif args.source is None or args.overrides:
        check_name(args.name)
        raise UserError(
            f"name one run: {command_line('models', 'register', 'RUN')} (an id, or a checkpoint's address), or "
            f"{command_line('models', 'register', '--from-search', 'SEARCH')}"
        )
    else:
        new = register_run(args.source, name=args.name, licence=args.licence, context=context)
    text = f"{new.name} version {new.version}; next, measured on held-out pictures: {new.next}"
    emit(args, asdict(new), text)
    return 0


def export(args: argparse.Namespace, context: Context) -> int:
    """Exports a version for other programs, or as a page."""
    default = f"{args.model.replace('@', '-').replace('/', '-')}{'.onnx' if args.to == 'onnx' else '-page'}"
    new = export_model(args.model, args.to, args.output or default, runtime=args.runtime, context=context)
    opened = f"{new.path}/index.html" if new.to == "page" else new.path
    text = (
        f"{new.model} in {opened}, {new.bytes / 2**20:.1f} MiB; largest difference from the version "
        f"{new.max_absolute_difference:.1e}"
    )
    emit(args, {**asdict(new), "path": str(new.path)}, text)
    return 0


def sign(args: argparse.Namespace, context: Context) -> int:
    """Signs the package of a version."""
    signed = sign_version(args.name, args.version, key=args.key, context=context)
    check = command_line("models", "verify", signed.address.removeprefix("models:/"), "--key", "PUBLIC_KEY")
    emit(args, asdict(signed), f"{signed.address} is signed ({signed.signature}); who has the public key: {check}")
    return 0


def verify(args: argparse.Namespace, context: Context) -> int:
    """Verifies who signed a version."""
    signed = verify_version(args.name, args.version, key=args.key, context=context)
    text = f"{signed.address} is signed by {args.key}; its files have the digest {signed.model_digest[:12]}"
    emit(args, asdict(signed), text)
    return 0


def promote(args: argparse.Namespace, context: Context) -> int:
    """Moves an alias to a version that passes its gates."""
    outcome = promote_version(
        args.name,
        args.version,
        to=args.to,
        dataset=args.dataset,
        masks=args.masks,
        size=args.size,
        gates=args.gates,
        expect=args.expect,
        force=args.force,
        reason=args.reason,
        context=context,
    )
    text = verdict_text(outcome.verdicts)
    if outcome.audit is None:
        emit(args, outcome.to_json(), text)
        notify(f"{outcome.refusal}; {outcome.remedy}")
        return 1
    moved = f"{outcome.name}@{outcome.alias} is version {outcome.version} (audit record {outcome.audit.number})"
    emit(args, outcome.to_json(), f"{text}\n{moved}")
    return 0


def verdict_text(verdicts: Sequence[GateVerdict]) -> str:
    """Formats verdicts as lines, failed ones first."""
    ordered = sorted(verdicts, key=lambda verdict: verdict.passed)
    return "\n".join(f"{'passed' if v.passed else 'FAILED'}  {v.gate}: {v.evidence}" for v in ordered)


def approve(args: argparse.Namespace, context: Context) -> int:
    """Records a second person's approval in the audit trail."""
    from jobs.evaluation.recorded_evaluation import recorded_evaluation
    from jobs.registry.evaluate_gates import audited_model

    check_alias(args.to)
    version = _named(args, context)
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


def _named(args: argparse.Namespace, context: Context) -> ModelVersion:
    """Returns the version of NAME and VERSION, and sets both."""
    from jobs.registry.named_version import named_version

    version = named_version(args.name, args.version, context)
    args.name, args.version = version.name, version.version
    return version


def card(args: argparse.Namespace, context: Context) -> int:
    """Writes a version's model card, and prints it."""
    from jobs.evaluation import model_card

    text = model_card.write(_named(args, context))
    emit(args, {"name": args.name, "version": args.version, "card": text}, text.rstrip())
    return 0


def golden(args: argparse.Namespace, context: Context) -> int:
    """Packs the pictures that people marked under traffic."""
    from jobs.api.datasets import pack
    from jobs.data.trace_pictures import SOURCE
    from trainplane.serving.upload_traces import GOLDEN

    if not args.from_traces:
        again = command_line("models", "golden", args.name, "--from-traces")
        raise UserError(f"nothing says where golden pictures come from; take those that people marked: {again}")
    name = parse_address(args.name).name
    into = args.into or f"{name}-golden"
    # The photos are the truth of an evaluation, and the holes those that people painted.
    kinds: dict[str, Literal["photos", "masks"]] = {into: "photos", f"{into}-masks": "masks"}
    photos, masks = (
        pack(
            f"{SOURCE}{name}",
            address,
            kind=kind,
            verdict=GOLDEN,
            split=GOLDEN,
            replace=args.replace,
            parallel=0,
            context=context,
        )
        for address, kind in kinds.items()
    )
    rule = f"golden_set: [{{dataset: {into}, masks: {into}-masks, metric: psnr, better: higher, by: 0.1}}]"
    payload = {"name": name, "photos": photos.digest, "masks": masks.digest, "dataset": into, "rule": rule}
    text = (
        f"{into}: {quantity(photos.num_samples, 'photo')} ({photos.digest[:12]}), "
        f"{into}-masks: {quantity(masks.num_samples, 'hole')}\n"
        f"a gate for them, in a file of rules: {rule}"
    )
    emit(args, payload, text)
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
