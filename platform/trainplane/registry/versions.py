"""What is known of model versions, as MLflow keeps it: facts, evaluation and verdicts beside each version.

A version's facts are tags `trainplane.*`, so that MLflow's own pages show them; the full evaluation is a JSON
artifact of the run that made the version, too. Which version is in production is said by `audit`, moved by `promote`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainplane.config.canonical import canonical_json
from trainplane.config.section import MODEL_NAME
from trainplane.errors import UserError
from trainplane.markdown import escaped
from trainplane.registry.gates import Verdict
from trainplane.registry.names import check_name
from trainplane.tracking.client import all_pages, client_for, set_with_retry, unreachable
from trainplane.tracking.results import VersionAttachment

PREFIX = "trainplane."
FACTS = ("dataset_digest", "config_digest", "commit", "model_digest")
_ADDRESS = re.compile(rf"models:/(?P<name>{MODEL_NAME})(?:@(?P<alias>[A-Za-z0-9_-]+)|/(?P<version>[0-9]+))")


@dataclass(frozen=True)
class VersionAddress:
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION`: exactly one of alias and version is set."""

    name: str
    alias: str | None
    version: str | None

    def __str__(self) -> str:
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


def parse_address(address: str) -> VersionAddress:
    """The parts of a model's address; a `UserError` for anything else."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(
            f"{address!r} is no address of a model version; need models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    return VersionAddress(match["name"], match["alias"], match["version"])


def find_version(tracking_uri: str, address: str) -> Any:
    """MLflow's record of the version at `address`; a `UserError` says which part of the address leads nowhere."""
    parts = parse_address(address)
    model = find_model(tracking_uri, parts.name)
    client = client_for(tracking_uri)
    version = parts.version if parts.alias is None else model.aliases.get(parts.alias)
    if version is None:
        known = ", ".join(sorted(model.aliases)) or "none yet"
        raise UserError(
            f"{address}: alias {parts.alias!r} points at nothing (aliases of {parts.name!r}: {known}); "
            f"promote a version first: isnet models promote {parts.name} VERSION --to {parts.alias}"
        )
    found = [candidate for candidate in all_versions(client, parts.name) if str(candidate.version) == str(version)]
    if not found:
        known = ", ".join(str(candidate.version) for candidate in all_versions(client, parts.name)) or "none"
        raise UserError(
            f"{address}: model {parts.name!r} has no version {version} (it has: {known}); choose one of these"
        )
    return found[0]


def has_version(tracking_uri: str, name: str, version: str) -> bool:
    """Whether the registered model `name` has this version."""
    find_model(tracking_uri, name)
    return any(str(found.version) == version for found in all_versions(client_for(tracking_uri), name))


def find_model(tracking_uri: str, name: str) -> Any:
    """MLflow's record of a registered model; a `UserError` when there is none, or could be none of that name."""
    check_name(name)
    client = client_for(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise unreachable(tracking_uri, error) from error
    known = ", ".join(sorted(model.name for model in all_pages(client.search_registered_models))) or "none yet"
    raise UserError(f"no registered model {name!r} (registered: {known}); register a run's model first")


def list_models(tracking_uri: str) -> list[dict[str, Any]]:
    """Every registered model: {name, latest, aliases}."""
    client = client_for(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        models = all_pages(client.search_registered_models)
        return [
            {
                "name": model.name,
                "latest": next((str(version.version) for version in all_versions(client, model.name)), None),
                "aliases": _aliases(client, model.name),
            }
            for model in models
        ]
    except MlflowException as error:
        raise unreachable(tracking_uri, error) from error


def show(tracking_uri: str, name: str) -> dict[str, Any]:
    """{name, versions: [{version, aliases, run_id, dataset_digest, config_digest, evaluation, gates, …}]}.

    The newest comes first. `evaluation` is None before one was attached; `gates` is the list of verdicts, empty before
    the first judgement.
    """
    find_model(tracking_uri, name)
    client = client_for(tracking_uri)
    aliases = _aliases(client, name)
    versions = []
    for found in all_versions(client, name):
        tags = found.tags
        versions.append(
            {
                "version": str(found.version),
                "aliases": sorted(alias for alias, version in aliases.items() if version == str(found.version)),
                "run_id": found.run_id or None,
                **{fact: tags.get(PREFIX + fact) for fact in FACTS},
                "evaluation": _sound_evaluation(tags),
                "evaluation_digest": tags.get(PREFIX + "evaluation_digest"),
                "gates": _json_tag(tags, "gates") or [],
                "card_digest": tags.get(PREFIX + "card_digest"),
                "card_of": tags.get(PREFIX + "card_of"),
                "created_ms": found.creation_timestamp,
            }
        )
    return {"name": name, "versions": versions}


def show_version(tracking_uri: str, name: str, version: str) -> dict[str, Any]:
    """One entry of `show`; a `UserError` when there is no such version."""
    for entry in show(tracking_uri, name)["versions"]:
        if entry["version"] == str(version):
            return dict(entry)
    find_version(tracking_uri, f"models:/{name}/{version}")
    raise AssertionError("found by one listing and not by the other")


def evaluation_attachment(address: str, evaluation: Mapping[str, Any], files: Mapping[str, Path]) -> VersionAttachment:
    """Tags and artifacts that store an evaluation with a registered version.

    Args:
        address: `models:/NAME/VERSION`.
        evaluation: Numbers that are not finite become null: no gate accepts them, and JSON has no place for them.
        files: Pages, pictures and scores by the name under which `evaluation_file` finds them.
    """
    parts = parse_address(address)
    assert parts.version is not None
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


def attach_evaluation(tracking_uri: str, name: str, version: str, evaluation: Mapping[str, Any]) -> str:
    """Stores an evaluation with a version at once; returns its digest."""
    attachment = evaluation_attachment(f"models:/{name}/{version}", evaluation, {})
    run_id = find_version(tracking_uri, f"models:/{name}/{version}").run_id
    client = client_for(tracking_uri)
    if run_id:
        for path, content in attachment.files.items():
            client.log_text(run_id, content.decode(), path)
    for key, value in attachment.tags.items():
        set_with_retry(client.set_model_version_tag, name, str(version), key, value)
    return attachment.tags[PREFIX + "evaluation_digest"]


def evaluation_file(tracking_uri: str, name: str, version: str, file: str) -> bytes | None:
    """What was kept beside the version's evaluation under this name; None where there is nothing."""
    found = find_version(tracking_uri, f"models:/{name}/{version}")
    digest = found.tags.get(PREFIX + "evaluation_digest")
    if not found.run_id or digest is None:
        return None
    client = client_for(tracking_uri)
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            place = client.download_artifacts(found.run_id, f"evaluations/{digest}/{file}", folder)
        except (MlflowException, OSError):
            return None
        return Path(place).read_bytes()


def attach_verdicts(tracking_uri: str, name: str, version: str, verdicts: Sequence[Verdict]) -> str:
    """Keep verdicts with a version, passed or not: as a tag, and as a table on its page; returns their digest."""
    found = find_version(tracking_uri, f"models:/{name}/{version}")
    client = client_for(tracking_uri)
    text = canonical_json(verdicts_as_json(verdicts))
    if found.run_id:
        # Tags show the last judgement; the run keeps every one, under the digest that the audit trail names.
        client.log_text(found.run_id, text.decode(), f"verdicts/{verdict_digest(verdicts)}.json")
    failed = [verdict.gate for verdict in verdicts if not verdict.passed]
    summary = f"failed: {', '.join(failed)}" if failed else f"{len(verdicts)} passed"
    set_with_retry(client.set_model_version_tag, name, str(version), PREFIX + "gates", text.decode())
    set_with_retry(client.set_model_version_tag, name, str(version), "gates", summary[:1000])
    client.update_model_version(name, str(version), description=_table(verdicts)[:4900])
    return verdict_digest(verdicts)


def verdicts_as_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as `--json` shows them."""
    return [dict(finite(asdict(verdict))) for verdict in verdicts]


def verdict_digest(verdicts: Sequence[Verdict]) -> str:
    """sha256 over the canonical JSON of the verdicts."""
    return hashlib.sha256(canonical_json(verdicts_as_json(verdicts))).hexdigest()


def finite(value: Any) -> Any:
    """The same JSON-able value with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _table(verdicts: Sequence[Verdict]) -> str:
    """Markdown for MLflow's pages."""
    rows = [
        f"| {'passed' if v.passed else '**failed**'} | {escaped(v.gate)} | {escaped(v.evidence)} |" for v in verdicts
    ]
    return "\n".join(["| verdict | gate | evidence |", "|---|---|---|", *rows])


def _sound_evaluation(tags: Mapping[str, str]) -> Any:
    """The evaluation, unless it is not the one whose digest stands beside it: then nobody knows what was measured."""
    text, digest = tags.get(PREFIX + "evaluation"), tags.get(PREFIX + "evaluation_digest")
    if text is None or hashlib.sha256(text.encode()).hexdigest() != digest:
        return None
    return _json_tag(tags, "evaluation")


def _json_tag(tags: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(tags[PREFIX + key]) if PREFIX + key in tags else None
    except ValueError:
        return None


def _aliases(client: Any, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def all_versions(client: Any, name: str) -> list[Any]:
    """MLflow's records of all versions, the newest first."""
    found = all_pages(client.search_model_versions, filter_string=f"name = '{name}'")
    return sorted(found, key=lambda version: -int(version.version))
