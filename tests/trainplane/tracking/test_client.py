"""One client for each server and process, and no secrets in what is shown of it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from trainplane.tracking import client as client_module
from trainplane.tracking.client import TrackingServer


def test_a_server_makes_its_client_at_the_first_use_and_once(
    tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[str] = []
    make = client_module._make_client

    def counting(address: str) -> object:
        addresses.append(address)
        return make(address)

    monkeypatch.setattr(client_module, "_make_client", counting)
    server = TrackingServer(tracking_uri)
    assert addresses == []
    assert server.client is server.client
    assert addresses == [tracking_uri]


def test_a_client_that_could_not_be_made_is_tried_again(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = TrackingServer(tracking_uri)
    with monkeypatch.context() as broken:
        broken.setattr(client_module, "make_database", lambda address: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _ = server.client
    assert server.client.search_experiments()


def test_a_server_travels_as_its_address_and_a_fork_makes_its_own_client(tracking_uri: str) -> None:
    server = TrackingServer(tracking_uri)
    client = server.client
    copy = pickle.loads(pickle.dumps(server))
    assert copy.address == tracking_uri
    assert copy.client is not client
    child = os.fork()
    if child == 0:
        os._exit(0 if server.client is not client else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert server.client is client


def test_no_password_is_shown() -> None:
    server = TrackingServer("http://me:hidden@127.0.0.1:9/?token=hidden")
    shown = [repr(server), server.public_address, str(server.unreachable(OSError("//me:hidden@host is away")))]
    assert shown[1] == "http://127.0.0.1:9/"
    assert all("hidden" not in text for text in shown)


def test_a_port_without_a_listener_is_noticed_at_once() -> None:
    with pytest.raises(OSError, match="refused"):
        TrackingServer("http://127.0.0.1:9").knock()
    TrackingServer("sqlite:////nowhere/mlflow.db").knock()


@pytest.mark.nightly
def test_a_client_answers_again_when_its_server_is_back(
    mlflow_server: Callable[[], AbstractContextManager[str]],
) -> None:
    from mlflow.exceptions import MlflowException

    with mlflow_server() as address:
        client = TrackingServer(address).client
        assert client.search_experiments()
    with pytest.raises(MlflowException):
        client.search_experiments()
    with mlflow_server():
        assert client.search_experiments()
