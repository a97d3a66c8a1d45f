"""Registered models and their versions, as MLflow keeps them.

A version's facts are tags `trainplane.*`, so that MLflow's own pages show them; the full evaluation is a JSON artifact
of the run that made the version, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from trainplane.command_line import command_line
from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.markdown import escaped
from trainplane.registry.gates import GateVerdict, finite, verdict_digest, verdicts_as_json
from trainplane.registry.names import check_name, parse_address
from trainplane.registry.recorded import PREFIX, read_evaluation, read_verdicts
from trainplane.tracking.client import TrackingServer, all_pages, set_with_retry
from trainplane.tracking.local.lists import LocalLists, read_locally
from trainplane.tracking.mlflow_names import MAX_DESCRIPTION, MAX_MODEL_TAG, valid_key, valid_text
from trainplane.tracking.results import VersionAttachment

# What a version was made from, in the order in which it is shown.
FACTS = ("dataset_digest", "config_digest", "commit", "model_digest")
# MLflow (3.17.2) keeps tags of 5,000 characters and descriptions of as many.
_MAX_SUMMARY, _MAX_DESCRIPTION = 1000, 4900


class RegisteredModel:
    """Registered model; every method asks MLflow again.

    Other processes register versions and move aliases meanwhile.
    """

    def __init__(self, server: TrackingServer, name: str) -> None:
        self.server, self.name = server, name

    def record(self) -> Any:
        """MLflow's object of the model; `UserError` where there is none."""
        check_name(self.name)
        if self.server.exists:
            client = self.server.client
            from mlflow.exceptions import MlflowException

            try:
                return client.get_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise self.server.unreachable(error) from error
        # Not found: the message lists the names there are.
        names = ", ".join(model_names(self.server)) or "none yet"
        raise UserError(f"no registered model {self.name!r} (registered: {names}); register a run's model first")

    def create(self) -> None:
        """Creates the model where it does not exist."""
        from mlflow.exceptions import MlflowException

        try:
            self.server.client.create_registered_model(self.name)
        except MlflowException as error:
            # Another process may create it at the same time.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def aliases(self) -> dict[str, str]:
        """Version by alias."""
        return {alias: str(version) for alias, version in self.record().aliases.items()}

    def versions(self) -> list[ModelVersion]:
        """All versions, the newest first."""
        records = all_pages(self.server.client.search_model_versions, filter_string=f"name = '{self.name}'")
        return [
            ModelVersion(self.server, self.name, str(record.version), record)
            for record in sorted(records, key=lambda record: -int(record.version))
        ]

    def version(self, version: str) -> ModelVersion:
        """The version of this number, not asked for yet."""
        return ModelVersion(self.server, self.name, version)

    def has_version(self, version: str) -> bool:
        """Tells if MLflow has this version."""
        self.record()
        return any(candidate.version == version for candidate in self.versions())

    def set_alias(self, alias: str, version: str) -> None:
        """Points an alias at a version."""
        set_with_retry(self.server.client.set_registered_model_alias, self.name, alias, version)

    def set_tag(self, key: str, value: str) -> None:
        """Sets one tag of the model."""
        text = valid_text(value, MAX_MODEL_TAG)
        set_with_retry(self.server.client.set_registered_model_tag, self.name, valid_key(key), text)

    def set_description(self, text: str) -> None:
        """Sets the Markdown on the model's page."""
        self.server.client.update_registered_model(self.name, description=valid_text(text, MAX_DESCRIPTION))

    def as_json(self) -> dict[str, Any]:
        """{name, versions: […]}, as `isnet models show --json` prints them."""
        aliases = self.aliases()
        return {"name": self.name, "versions": [version.as_json(aliases) for version in self.versions()]}


class ModelVersion:
    """Version of a registered model; MLflow is asked once."""

    def __init__(self, server: TrackingServer, name: str, version: str, record: Any = None) -> None:
        self.server, self.name, self.version = server, name, str(version)
        # A record from a listing need not be asked for again.
        if record is not None:
            self.__dict__["record"] = record

    @classmethod
    def at(cls, server: TrackingServer, address: str) -> ModelVersion:
        """Finds the version at `NAME@ALIAS` or `NAME/VERSION`."""
        parts = parse_address(address)
        # An alias may move at any time, so it is replaced by its version here.
        version = parts.version
        if parts.alias is not None:
            aliases = RegisteredModel(server, parts.name).aliases()
            version = aliases.get(parts.alias)
        elif version is None:
            raise UserError(f"{address}: no version; need {parts.name}/VERSION or {parts.name}@ALIAS")
        if version is None:
            # The alias.
            names = ", ".join(sorted(aliases)) or "none yet"
            raise UserError(
                f"{address}: alias {parts.alias!r} points at nothing (aliases of {parts.name!r}: {names}); "
                "promote a version first: "
                + command_line("models", "promote", parts.name, "VERSION", "--to", parts.alias or "")
            )
        return cls(server, parts.name, version).checked()

    @property
    def address(self) -> str:
        """The address that no alias can move."""
        return f"models:/{self.name}/{self.version}"

    @property
    def model(self) -> RegisteredModel:
        """The registered model that it is a version of."""
        return RegisteredModel(self.server, self.name)

    def checked(self) -> ModelVersion:
        """Returns this version; raises `UserError` where MLflow has none."""
        _ = self.record
        return self

    def reload(self) -> None:
        """Forgets what MLflow answered, after another object changed the version."""
        for name in ("record", "tags"):
            self.__dict__.pop(name, None)

    @cached_property
    def record(self) -> Any:
        """MLflow's object of the version; `UserError` where there is none."""
        self.model.record()
        versions = self.model.versions()
        for candidate in versions:
            if candidate.version == self.version:
                return candidate.record
        numbers = ", ".join(candidate.version for candidate in versions) or "none"
        raise UserError(
            f"{self.address}: model {self.name!r} has no version {self.version} (it has: {numbers}); "
            "choose one of these"
        )

    @cached_property
    def tags(self) -> dict[str, str]:
        """All tags; what this object attaches is added."""
        return dict(self.record.tags)

    @property
    def run_id(self) -> str | None:
        """The run that made it."""
        return self.record.run_id or None

    @property
    def lineage(self) -> dict[str, str | None]:
        """The run and the facts that it was registered with."""
        return {"run_id": self.run_id, **{fact: self.tags.get(PREFIX + fact) for fact in FACTS}}

    @property
    def model_digest(self) -> str | None:
        """Digest of the files that were registered."""
        return self.tags.get(PREFIX + "model_digest")

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """Last evaluation as its tags record it, for showing."""
        return read_evaluation(self.tags)[0]

    @property
    def evaluation_digest(self) -> str | None:
        """Digest of the last evaluation."""
        return self.tags.get(PREFIX + "evaluation_digest")

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """The last verdicts; empty before the first."""
        return read_verdicts(self.tags)[0]

    @property
    def faults(self) -> list[str]:
        """Sentences about tags that cannot be right."""
        faults = (read_evaluation(self.tags)[1], read_verdicts(self.tags)[1])
        return [f"{self.address}: {fault}" for fault in faults if fault is not None]

    @property
    def card_digest(self) -> str | None:
        """Digest of the model card."""
        return self.tags.get(PREFIX + "card_digest")

    @property
    def card_of(self) -> str | None:
        """Digest of the evaluation that the card describes, or "none"."""
        return self.tags.get(PREFIX + "card_of")

    def as_json(self, aliases: Mapping[str, str]) -> dict[str, Any]:
        """The version's part of `isnet models show --json`."""
        return {
            "version": self.version,
            "aliases": sorted(alias for alias, version in aliases.items() if version == self.version),
            **self.lineage,
            "evaluation": self.evaluation,
            "evaluation_digest": self.evaluation_digest,
            "gates": self.verdicts,
            "faults": self.faults,
            "card_digest": self.card_digest,
            "card_of": self.card_of,
            "created_ms": self.record.creation_timestamp,
        }

    def attach_evaluation(self, evaluation: Mapping[str, Any]) -> str:
        """Stores an evaluation at once, and returns its digest."""
        attachment = evaluation_attachment(self.address, evaluation, {})
        for path, content in attachment.files.items():
            self._log_text(content.decode(), path)
        for key, value in attachment.tags.items():
            self._set_tag(key, value)
        return attachment.tags[PREFIX + "evaluation_digest"]

    def evaluation_files(self) -> list[str]:
        """Artifact paths of the files stored with the last evaluation."""
        from mlflow.exceptions import MlflowException

        if self.run_id is None or self.evaluation_digest is None:
            return []
        folder = f"evaluations/{self.evaluation_digest}"
        try:
            return sorted(entry.path for entry in self.server.client.list_artifacts(self.run_id, folder))
        # The digest is a tag that may have been edited, and the store may be away: nothing is known to be there.
        except (MlflowException, OSError):
            return []

    def attach_verdicts(self, verdicts: Sequence[GateVerdict]) -> str:
        """Stores verdicts, passed or not, and returns their digest."""
        text, digest = canonical_json(verdicts_as_json(verdicts)).decode(), verdict_digest(verdicts)
        # Tags show the last verdicts; the run keeps all, under the digest that the audit trail names.
        self._log_text(text, f"verdicts/{digest}.json")
        failed = [verdict.gate for verdict in verdicts if not verdict.passed]
        summary = f"failed: {', '.join(failed)}" if failed else f"{len(verdicts)} passed"
        self._set_tag(PREFIX + "gates", text)
        self._set_tag("gates", summary[:_MAX_SUMMARY])
        self._set_description(_verdict_table(verdicts)[:_MAX_DESCRIPTION])
        return digest

    def attach_card(self, text: str, *, path: str, description: str) -> None:
        """Stores the model card, and its short form as description."""
        self._log_text(text, path)
        # `card_of` shows a gate whether the card describes the evaluation that counts.
        self._set_tag(PREFIX + "card_digest", hashlib.sha256(text.encode()).hexdigest())
        self._set_tag(PREFIX + "card_of", self.evaluation_digest or "none")
        self._set_description(description)

    def _log_text(self, text: str, path: str) -> None:
        # A version without a run has tags only.
        if self.run_id is not None:
            self.server.client.log_text(self.run_id, text, path)

    def _set_tag(self, key: str, value: str) -> None:
        text = valid_text(value, MAX_MODEL_TAG)
        set_with_retry(self.server.client.set_model_version_tag, self.name, self.version, valid_key(key), text)
        self.tags[valid_key(key)] = text

    def _set_description(self, text: str) -> None:
        description = valid_text(text, MAX_DESCRIPTION)
        self.server.client.update_model_version(self.name, self.version, description=description)


def model_names(server: TrackingServer) -> list[str]:
    """Names of all registered models, sorted."""
    if (models := read_locally(server.address, LocalLists.models)) is not None:
        return [model["name"] for model in models]
    if not server.exists:
        return []
    client = server.client
    from mlflow.exceptions import MlflowException

    try:
        return sorted(record.name for record in all_pages(client.search_registered_models))
    except MlflowException as error:
        raise server.unreachable(error) from error


def list_models(server: TrackingServer) -> list[dict[str, Any]]:
    """Every registered model: {name, latest, aliases}."""
    if (models := read_locally(server.address, LocalLists.models)) is not None:
        return models
    names = model_names(server)
    if not names:
        return []
    client = server.client
    from mlflow.exceptions import MlflowException

    try:
        return [
            {
                "name": name,
                "latest": next((version.version for version in RegisteredModel(server, name).versions()), None),
                # Not `RegisteredModel.aliases`: other programs register names that ours may not have.
                "aliases": {a: str(version) for a, version in client.get_registered_model(name).aliases.items()},
            }
            for name in names
        ]
    except MlflowException as error:
        raise server.unreachable(error) from error


def evaluation_attachment(address: str, evaluation: Mapping[str, Any], files: Mapping[str, Path]) -> VersionAttachment:
    """Tags and artifacts that store an evaluation."""
    parts = parse_address(address)
    assert parts.version is not None
    # Numbers that are not finite become null: no gate accepts them, and JSON has no place for them.
    text = canonical_json(finite(evaluation))
    digest = hashlib.sha256(text).hexdigest()
    folder = f"evaluations/{digest}"
    return VersionAttachment(
        parts.name,
        parts.version,
        # The digest last: if it is set, the evaluation it belongs to is complete.
        tags={PREFIX + "evaluation": text.decode(), PREFIX + "evaluation_digest": digest},
        files={f"{folder}.json": text, **{f"{folder}/{name}": path.read_bytes() for name, path in files.items()}},
    )


def _verdict_table(verdicts: Sequence[GateVerdict]) -> str:
    """Verdicts as a Markdown table for MLflow's pages."""
    rows = [
        f"| {'passed' if v.passed else '**failed**'} | {escaped(v.gate)} | {escaped(v.evidence)} |" for v in verdicts
    ]
    return "\n".join(["| verdict | gate | evidence |", "|---|---|---|", *rows])
