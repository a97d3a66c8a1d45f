"""What recording costs and whether all of it arrives, as `isnet bench tracking` measures it, in little."""

from __future__ import annotations

import http.client

import pytest

from trainplane.testing.mlflow_server import StateProxy


@pytest.mark.nightly
def test_recording_costs_little_in_every_state_of_the_server_and_all_of_it_arrives_once(isnet) -> None:
    ran = isnet(
        *("bench", "tracking", "--seconds", "3", "--points", "6000", "--steps", "1000", "--sample", "100", "--json")
    )
    assert ran.status == 0, ran.err
    values = {figure["name"]: figure["value"] for figure in ran.json()["figures"]}
    for state in ("healthy", "slow", "failing", "down"):
        assert 0 < values[f"p99 of log, server {state}"] < 1
    assert values["of 6000 points lost over an outage and a SIGKILL"] == 0
    assert values["of them doubled"] == values["of them with another value"] == 0
    assert values["the first over the second"] >= 20


def test_the_proxy_is_in_the_state_it_was_put_in() -> None:
    behind = StateProxy(server_port=1)
    behind.set_state("failing")
    before = StateProxy(server_port=behind.port)

    def status() -> int:
        client = http.client.HTTPConnection("127.0.0.1", before.port, timeout=10)
        client.request("POST", "/x", b"body")
        return client.getresponse().status

    assert status() == 500  # what stands behind it says so
    before.set_state("down")
    with pytest.raises(ConnectionRefusedError):
        status()
    before.set_state("failing")
    assert status() == 500
    before.close()
    behind.close()
