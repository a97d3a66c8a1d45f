"""Short names of models mean one version, or are answered with what there is."""

from __future__ import annotations

import pytest

from trainplane.errors import UserError
from trainplane.registry.find_version import full_address, only_model
from trainplane.tracking.client import TrackingServer


@pytest.fixture
def server(tracking_uri: str) -> TrackingServer:
    return TrackingServer(tracking_uri)


def register(server: TrackingServer, name: str, versions: int) -> None:
    server.client.create_registered_model(name)
    for _ in range(versions):
        server.client.create_model_version(name, source="s3://bucket/model")


def test_a_name_means_what_is_served_and_before_that_the_newest(server: TrackingServer) -> None:
    register(server, "m", 2)
    assert full_address(server, "m") == "models:/m/2"
    server.client.set_registered_model_alias("m", "production", "1")
    assert full_address(server, "m") == full_address(server, "models:/m") == "models:/m@production"
    assert full_address(server, "m@staging") == "models:/m@staging"
    assert full_address(server, "m/1") == full_address(server, "models:/m/1") == "models:/m/1"
    for wrong in ("m@", "m/x", "m/1/2", "../m", "models:/"):
        with pytest.raises(UserError, match="need NAME, NAME@ALIAS or NAME/VERSION"):
            full_address(server, wrong)


def test_without_a_name_the_only_model_is_meant(server: TrackingServer) -> None:
    assert only_model(server) is None
    register(server, "first", 1)
    assert only_model(server) == "models:/first/1"
    register(server, "isnet", 1)
    with pytest.raises(UserError, match="several are registered here; choose with --model first or isnet"):
        only_model(server)
    server.client.set_registered_model_alias("isnet", "production", "1")
    assert only_model(server) == "models:/isnet@production"


def test_a_model_without_versions_is_a_sentence(server: TrackingServer) -> None:
    register(server, "empty", 0)
    with pytest.raises(UserError, match="'empty' has no version; register one: isnet models register RUN --name empty"):
        full_address(server, "empty")
