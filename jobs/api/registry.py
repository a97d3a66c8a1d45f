"""Registers and promotes versions: `isnet models`."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.api.session import session
from jobs.api.settings import Settings, words_of
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import UserError
from trainplane.registry.audit import AuditRecord
from trainplane.registry.gates import GateVerdict, verdicts_as_json
from trainplane.registry.names import check_alias, check_name
from trainplane.registry.promote import Refused
from trainplane.registry.rules import PRODUCTION
from trainplane.registry.versions import list_models

# Functions import what loads torch: `isnet models list` does without.
if TYPE_CHECKING:
    from jobs.registry.export import ExportedModel
    from jobs.registry.model_signature import SignedVersion
    from trainplane.registry.versions import ModelVersion


@dataclass(frozen=True)
class ListedModel:
    """A registered model: its newest version, and versions by alias."""

    name: str
    latest: str | None
    aliases: dict[str, str]


@dataclass(frozen=True)
class NewVersion:
    """Registered version, with the command that promotes it."""

    name: str
    version: str
    run_id: str
    next: str

    @property
    def address(self) -> str:
        """NAME/VERSION."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class Promotion:
    """A promotion that was made or refused, with its reasons.

    Attributes:
        name: Of the model.
        version: That was to be promoted.
        alias: That was to be moved.
        verdicts: Of all gates.
        audit: Record of the move; None if it was refused.
        refusal: Why it was refused.
        remedy: What can be done then.
    """

    name: str
    version: str
    alias: str
    verdicts: list[GateVerdict]
    audit: AuditRecord | None
    refusal: str | None = None
    remedy: str | None = None

    @property
    def is_promoted(self) -> bool:
        """True if the alias points at the version now."""
        return self.audit is not None

    def to_json(self) -> dict[str, Any]:
        """Returns what `isnet models promote --json` prints."""
        payload = {"name": self.name, "verdicts": verdicts_as_json(self.verdicts)}
        if self.audit is None:
            return {**payload, "audit": None, "error": self.refusal, "remedy": self.remedy}
        return {**payload, "audit": asdict(self.audit)}


def models(*, context: Context | str | None = None) -> list[ListedModel]:
    """Lists the registered models.

    Args:
        context: Name in `isnet.toml`; None for the default.
    """
    with session(context) as opened:
        return [ListedModel(**model) for model in list_models(opened.tracking_server)]


def register(
    run: str,
    *,
    name: str = "isnet",
    licence: str | os.PathLike[str] | None = None,
    context: Context | str | None = None,
) -> NewVersion:
    """Makes a run's last checkpoint a model version.

    The same checkpoint always gives the same version.

    Args:
        run: Its id or the beginning of it, or the address of a checkpoint.
        name: Of the registered model.
        licence: File that says what may be done with the weights; by default the project's.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: There is no such run or checkpoint.
    """
    from jobs.registry.source import run_and_checkpoint

    # An invalid name is refused before a checkpoint is pinned.
    check_name(name)
    with session(context, is_recording=True, is_long=True) as opened:
        run_id, checkpoint = run_and_checkpoint(run, opened)
        return _register(opened, run_id, checkpoint, name=name, licence=licence)


def register_best(
    search: str,
    settings: Settings = (),
    *,
    name: str = "isnet",
    steps: int | None = None,
    seeds: int = 1,
    licence: str | os.PathLike[str] | None = None,
    context: Context | str | None = None,
) -> NewVersion:
    """Makes the best trial of a search a model version.

    Args:
        search: Shipped search or YAML file.
        settings: That the search was started with.
        name: Of the registered model.
        steps: Train that trial to so many steps first.
        seeds: Train it with so many seeds first, and take the best.
        licence: File that says what may be done with the weights; by default the project's.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: There is no such search, or no trial has a finite result.
    """
    from jobs.search.best_trial import best_of_search

    # An invalid name is refused before a trial is trained.
    check_name(name)
    with session(context, is_recording=True, is_long=True) as opened:
        best = best_of_search(opened, search, words_of(settings), steps=steps, seeds=seeds)
        return _register(opened, best.run_id, best.checkpoint, name=name, licence=licence)


def _register(
    context: Context, run_id: str, checkpoint: str, *, name: str, licence: str | os.PathLike[str] | None
) -> NewVersion:
    from jobs.registry.evaluate_gates import audited_model, update_page
    from jobs.registry.gate_rules import gates_option
    from jobs.registry.register import register_checkpoint
    from jobs.registry.source import validation_set

    terms = Path(licence).expanduser() if licence else None
    version = register_checkpoint(context, checkpoint, name=name, run_id=run_id, licence=terms)
    # The model's page lists the new version.
    update_page(audited_model(context, name))
    held_out = validation_set(run_id, context) or "DATASET"
    gates = gates_option(held_out, context)
    promotion = command_line("models", "promote", name, version, "--dataset", held_out, *gates)
    return NewVersion(name, version, run_id, promotion)


def export_model(
    model: str,
    to: Literal["onnx", "page"],
    output: str | os.PathLike[str],
    *,
    runtime: str | os.PathLike[str] | None = None,
    context: Context | str | None = None,
) -> ExportedModel:
    """Exports a version for other programs, or as a page.

    The page is a folder that a browser opens offline: choose a photo, paint the hole, fill it at its own scale.

    Args:
        model: NAME@ALIAS or NAME/VERSION of a registered model, or "starter".
        to: "onnx" writes a file, "page" a folder.
        output: File or folder that is not there yet.
        runtime: For a page: npm's archive of onnxruntime-web, or a folder of its files.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: There is no such version, the runtime is not the known one, or ONNX cannot hold the network.
    """
    from jobs.registry.export import FORMATS, export_version

    if to not in FORMATS:
        raise UserError(f"to is {to!r}; need one of {', '.join(FORMATS)}")
    with session(context, is_long=True) as opened:
        files = Path(runtime).expanduser() if runtime is not None else None
        return export_version(model, to, Path(output).expanduser(), opened, runtime=files)


def sign(
    name: str, version: str | int | None = None, *, key: str | os.PathLike[str], context: Context | str | None = None
) -> SignedVersion:
    """Signs the package of a version (OpenSSF model signing).

    Args:
        name: Model, or NAME/VERSION or NAME@ALIAS without a version.
        version: Its number, unless the name has it.
        key: File of a private key of elliptic curves, PEM; the variable `ISNET_SIGNING_PASSWORD` opens it if encrypted.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: There is no such version, or the key cannot be used.
    """
    from jobs.registry.model_signature import sign_version

    with session(context, is_long=True) as opened:
        return sign_version(opened, _checked(name, version, opened), Path(key).expanduser())


def verify(
    name: str, version: str | int | None = None, *, key: str | os.PathLike[str], context: Context | str | None = None
) -> SignedVersion:
    """Verifies who signed the files of a version.

    Args:
        name: Model, or NAME/VERSION or NAME@ALIAS without a version.
        version: Its number, unless the name has it.
        key: File of the public key, PEM.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: It is not signed, or not by this key, or its files are others.
    """
    from jobs.registry.model_signature import verify_version

    with session(context, is_long=True) as opened:
        return verify_version(opened, _checked(name, version, opened), Path(key).expanduser())


def _checked(name: str, version: str | int | None, context: Context) -> ModelVersion:
    from jobs.registry.named_version import named_version

    return named_version(name, None if version is None else str(version), context).checked()


def promote(
    name: str,
    version: str | int | None = None,
    *,
    to: str = PRODUCTION,
    dataset: str | None = None,
    masks: str | None = None,
    size: int | None = None,
    gates: str | os.PathLike[str] | None = None,
    expect: str | None = None,
    force: str | None = None,
    reason: str = "",
    context: Context | str | None = None,
) -> Promotion:
    """Moves an alias to a version that passes its gates.

    A refusal is no error: `Promotion.is_promoted` says which it was, and `verdicts` why.

    Args:
        name: Model, or NAME/VERSION or NAME@ALIAS without a version.
        version: Its number, unless the name has it.
        to: Alias to move.
        dataset: Held-out pictures to measure on; by default those of its evaluation.
        masks: With a dataset: generator, or a dataset of masks.
        size: With a dataset: side of the square measured on, pixels.
        gates: Rules: "default", "small" or a YAML file.
        expect: Refuse unless the alias points at this version; "none" for no version.
        force: Reason to move it although a gate refused; kept in the audit.
        reason: Kept in the audit.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: Something in the call cannot be; nothing was measured.
    """
    from jobs.registry.evaluate_gates import audited_model, gate_verdicts, promote_version
    from jobs.registry.gate_rules import load_rules
    from jobs.registry.measure import Judged

    check_alias(to)
    rules = load_rules(gates)
    if force is not None and not force.strip():
        raise UserError("--force needs a reason; say in a sentence why the gates are overridden")
    with session(context, is_long=True) as opened:
        candidate = _checked(name, version, opened)
        audited = audited_model(opened, candidate.name)
        current = audited.current_version(to)
        # `--expect none`: the alias must not exist yet.
        expected = current if expect is None else None if expect == "none" else expect
        # Before anything is measured: that may take an hour.
        audited.check_expected(candidate.version, current, expected, alias=to)
        judged = Judged(dataset, masks, size)
        verdicts = gate_verdicts(opened, audited, candidate, rules, current=current, judged=judged, alias=to)
        judgement = candidate.name, candidate.version, to, verdicts
        try:
            entry = promote_version(
                audited, candidate, verdicts, alias=to, expected=expected, reason=reason, force_reason=force
            )
        except Refused as refusal:
            options: dict[str, object] = {
                "--to": None if to == PRODUCTION else to,
                "--dataset": dataset,
                "--masks": masks,
                "--size": size,
            }
            options |= {"--gates": gates, "--force": "REASON"}
            words = [word for option, value in options.items() if value is not None for word in (option, str(value))]
            forced = command_line("models", "promote", candidate.name, candidate.version, *words)
            remedy = f"mend that, or override the gates with a reason: {forced}"
            return Promotion(*judgement, audit=None, refusal=str(refusal), remedy=remedy)
    return Promotion(*judgement, audit=entry)
