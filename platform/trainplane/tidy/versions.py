"""Registered versions: listing and removal."""

from __future__ import annotations

from collections.abc import Iterator

from trainplane.registry.audit import read_trail
from trainplane.registry.recorded import PREFIX
from trainplane.registry.versions import ModelVersion, RegisteredModel, model_names
from trainplane.storage import Store, open_store
from trainplane.tidy.act import StillUsed
from trainplane.tidy.inventory import Item, place
from trainplane.tracking.client import TrackingServer
from trainplane.train.checkpoint.pins import unpin


def list_versions(server: TrackingServer, audit: Store) -> Iterator[Item]:
    """Yields all versions, with what their aliases and trails need."""
    for name in model_names(server):
        model = RegisteredModel(server, name)
        reasons = _reasons(model, audit)
        for version in model.versions():
            yield _item(version, reasons.get(version.version, ""))


def _reasons(model: RegisteredModel, audit: Store) -> dict[str, str]:
    """Reasons to keep a version, by its number."""
    reasons: dict[str, str] = {}
    # A name of another program has no trail; a broken one raises, and nothing goes.
    for record in read_trail(audit, model.name).records:
        for version in (record.from_version, record.to_version):
            if version is not None:
                reasons[version] = f"the audit trail of {model.name}"
    return reasons | {version: f"{model.name}@{alias}" for alias, version in model.aliases().items()}


def _item(version: ModelVersion, needed_by: str) -> Item:
    tags = version.tags
    checkpoint, digest = tags.get(f"{PREFIX}checkpoint"), tags.get(f"{PREFIX}dataset_digest")
    record = version.record
    changed_ms = max(int(record.last_updated_timestamp or 0), int(record.creation_timestamp or 0))
    return Item(
        "version",
        f"models:/{version.name}/{version.version}",
        0,
        changed_ms / 1000,
        needs=frozenset(
            {*([checkpoint, place(checkpoint)] if checkpoint else []), *([f"digest:{digest}"] if digest else [])}
        ),
        needed_by=needed_by,
    )


class VersionRemover:
    """Deletes versions that no alias and no trail names."""

    def __init__(self, server: TrackingServer, audit: Store) -> None:
        self._server = server
        self._audit = audit

    def prepare(self, item: Item) -> None:
        """Looks for its aliases once more."""
        self._check(item)

    def restore(self, item: Item) -> None:
        """Nothing was done to it."""

    def remove(self, item: Item) -> None:
        """Deletes it in MLflow, and the pin of its checkpoint."""
        # MLflow deletes for good, so the look is as late as can be; a promotion checks that its version is there.
        self._check(item)
        model, number = _parsed(item, self._server)
        checkpoint = model.version(number).tags.get(f"{PREFIX}checkpoint")
        self._server.client.delete_model_version(model.name, number)
        pinned = {version.tags.get(f"{PREFIX}checkpoint") for version in model.versions()}
        if checkpoint and checkpoint not in pinned and "/step-" in checkpoint:
            folder, _, step = checkpoint.rpartition("/")
            unpin(open_store(folder), step, by=f"models:/{model.name}")

    def _check(self, item: Item) -> None:
        model, number = _parsed(item, self._server)
        if reason := _reasons(model, self._audit).get(number):
            raise StillUsed(f"{reason} needs it by now")


def _parsed(item: Item, server: TrackingServer) -> tuple[RegisteredModel, str]:
    name, _, number = item.address.removeprefix("models:/").rpartition("/")
    return RegisteredModel(server, name), number
