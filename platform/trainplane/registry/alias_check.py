"""Compares an alias in MLflow with the audit trail.

A user of MLflow's pages can move an alias there with one click, past every gate. The trail is the authority, so a model
that is opened by an alias is the one that was promoted.
"""

from __future__ import annotations

import time

from trainplane.command_line import command_line
from trainplane.errors import RunFailed
from trainplane.registry.audit import verified_trail
from trainplane.registry.names import parse_address
from trainplane.registry.rules import PRODUCTION
from trainplane.registry.versions import ModelVersion
from trainplane.storage import Store
from trainplane.tracking.client import TrackingServer


class AliasMoved(RunFailed):
    """Raised where an alias contradicts the audit trail."""

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


# A promotion writes its record, and then moves the alias.
_PATIENCE_S = 5.0
_PAUSE_S = 0.5


def audited_version(server: TrackingServer, address: str, store: Store) -> ModelVersion:
    """Finds a version; an alias must agree with the trail.

    Args:
        server: MLflow.
        address: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        store: The audit's store.

    Raises:
        AliasMoved: An alias points elsewhere than its last record, or `production` has none.
    """
    alias = parse_address(address).alias
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        version = ModelVersion.at(server, address)
        if alias is None:
            return version
        recorded = verified_trail(version.model, store).current(alias)
        # Aliases that nobody promotes are users' own; production is never one of them.
        if recorded == version.version or (recorded is None and alias != PRODUCTION):
            return version
        if recorded is None or time.monotonic() > deadline:
            raise AliasMoved(_message(version, alias, recorded, store), name=version.name)
        time.sleep(_PAUSE_S)


def _message(version: ModelVersion, alias: str, recorded: str | None, store: Store) -> str:
    where, promote = f"{version.name}@{alias}", command_line("models", "promote", version.name, version.version)
    if recorded is None:
        return (
            f"{where} is version {version.version} in MLflow, and no record below {store.address} says who promoted "
            f"it; name the version ({version.address}), promote it ({promote}), or correct `audit` of the context"
        )
    return (
        f"{where} is version {version.version} in MLflow, and the audit trail says {recorded}: somebody moved it past "
        f"the gates; set it back ({command_line('models', 'audit', version.name)}), or promote that version ({promote})"
    )
