"""A model that is opened by an alias is the one that was promoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainplane.errors import RunFailed, UserError
from trainplane.registry import alias_check
from trainplane.registry.alias_check import audited_version
from trainplane.registry.promote import AuditedModel
from trainplane.storage import Store, open_store
from trainplane.tracking.client import TrackingServer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def server(tracking_uri: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> TrackingServer:
    """Three versions of `isnet`; the second was promoted."""
    monkeypatch.setattr(alias_check, "_PATIENCE_S", 0.0)
    server = TrackingServer(tracking_uri)
    server.client.create_registered_model("isnet")
    for _ in range(3):
        server.client.create_model_version("isnet", source=str(tmp_path))
    audited = AuditedModel(server, "isnet", store)
    audited.promote(audited.model.version("2"), verdicts=[], force_reason="for the test")
    return server


def set_alias(server: TrackingServer, alias: str, version: str) -> None:
    server.client.set_registered_model_alias("isnet", alias, version)


def test_the_promoted_version_is_opened(server: TrackingServer, store: Store) -> None:
    assert audited_version(server, "models:/isnet@production", store).version == "2"


def test_a_version_that_a_click_put_there_is_not(server: TrackingServer, store: Store) -> None:
    set_alias(server, "production", "3")
    with pytest.raises(RunFailed, match=r"is version 3 in MLflow, and the audit trail says 2.*models audit isnet"):
        audited_version(server, "models:/isnet@production", store)
    AuditedModel(server, "isnet", store).reconcile()
    assert audited_version(server, "models:/isnet@production", store).version == "2"


def test_a_named_version_and_a_users_own_alias_need_no_record(server: TrackingServer, store: Store) -> None:
    set_alias(server, "mine", "3")
    assert audited_version(server, "models:/isnet@mine", store).version == "3"
    assert audited_version(server, "models:/isnet/1", store).version == "1"


def test_a_model_that_nobody_promoted_has_no_production(server: TrackingServer, store: Store, tmp_path: Path) -> None:
    server.client.create_registered_model("other")
    server.client.create_model_version("other", source=str(tmp_path))
    server.client.set_registered_model_alias("other", "production", "1")
    with pytest.raises(RunFailed, match=r"no record below .* says who promoted it"):
        audited_version(server, "models:/other@production", store)


def test_records_that_are_gone_or_elsewhere_are_not_taken_for_none(server: TrackingServer, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="MLflow saw"):
        audited_version(server, "models:/isnet@production", open_store(str(tmp_path / "another")))


def test_what_is_not_there_is_said_as_before(server: TrackingServer, store: Store) -> None:
    with pytest.raises(UserError, match="points at nothing"):
        audited_version(server, "models:/isnet@nightly", store)
