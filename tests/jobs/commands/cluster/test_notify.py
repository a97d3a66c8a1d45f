"""`isnet notify`, and the events that commands send, at a real receiver."""

import time

import pytest
from small_run import SMALL
from webhook_receiver import SECRET, webhook_receiver

from trainplane.cluster.ports import free_port


@pytest.fixture
def context_with_hook(home, monkeypatch):
    """Writes isnet.toml with a local context that tells a receiver on loopback."""
    monkeypatch.setenv("OPS_HOOK", SECRET)

    def write(port, events='["*"]', name="ops", allow=True):
        keys = f'webhook = "http://127.0.0.1:{port}/hook"\nsecret = "env:OPS_HOOK"\nevents = {events}\n'
        allowed = "allow_private = true\n" if allow else ""
        with open("isnet.toml", "w", encoding="utf-8") as file:
            file.write(f'default = "here"\n[context.here]\n[context.here.notify.{name}]\n{keys}{allowed}')

    return write


def wait_for(received, count):
    deadline = time.monotonic() + 20
    while len(received.events) < count and time.monotonic() < deadline:
        time.sleep(0.05)


def test_nobody_to_tell_and_a_closed_way_are_refused(isnet, home, context_with_hook, monkeypatch):
    refused = isnet("notify", "test")
    assert refused.status == 2
    assert "[context.local.notify.NAME]" in refused.err
    context_with_hook(free_port(), allow=False)
    refused = isnet("notify", "test")
    assert refused.status == 2
    assert "allow_private = true" in refused.err
    context_with_hook(free_port())
    assert "ops" in isnet("notify", "test", "opps").err
    monkeypatch.delenv("OPS_HOOK")
    refused = isnet("notify", "test")
    assert refused.status == 2
    assert "$OPS_HOOK, which is not set" in refused.err


def test_a_test_says_what_became_of_it(isnet, context_with_hook):
    port = free_port()
    context_with_hook(port, events='["alias.*"]')
    failed = isnet("notify", "test", "--json")
    assert failed.status == 1
    assert "does not answer" in failed.json()["targets"]["ops"]["reason"]
    with webhook_receiver(port) as received:
        done = isnet("notify", "test", "--json")
    assert done.status == 0
    assert list(received.events) == [done.json()["event"]]
    assert received.forged == 0


def test_a_run_that_ends_tells_once_through_a_receiver_that_was_down(isnet, context_with_hook, photos):
    port = free_port()
    context_with_hook(port, events='["run.*"]')
    for name in ("mine", "held"):
        isnet("data", "pack", photos, name)
    done = isnet("train", "demo", *SMALL)
    assert done.status == 0, done.err
    assert [item["kind"] for item in isnet("notify", "list", "--json").json()["waiting"]] == ["run.finished"]
    with webhook_receiver(port) as received:
        sent = isnet("notify", "send", "--wait", "15", "--json")
        wait_for(received, 1)
    (event,) = received.events.values()
    assert (event["type"], event["data"]["step"]) == ("run.finished", 4)
    assert len(received.requests) == 1
    assert sent.json()["left"] == 0
    assert isnet("notify", "list", "--json").json()["waiting"] == []


def test_people_are_told_by_apprise(isnet, context_with_hook, monkeypatch):
    pytest.importorskip("apprise")
    port = free_port()
    monkeypatch.setenv("TEAM", f"mmost://127.0.0.1:{port}/3ccdd113474722377935511fc85d3dd4")
    text = 'default = "here"\n[context.here]\n[context.here.notify.team]\napprise = "env:TEAM"\n'
    with open("isnet.toml", "w", encoding="utf-8") as file:
        file.write(text)
    assert "allow_private" in isnet("notify", "test").err
    with open("isnet.toml", "a", encoding="utf-8") as file:
        file.write("allow_private = true\n")
    failed = isnet("notify", "test")
    assert failed.status == 1
    with webhook_receiver(port, is_signed=False, answer=lambda number: 200) as received:
        assert isnet("notify", "test").status == 0
    assert "a test of notifications" in str(received.events)
    # The address holds a token.
    assert "3ccdd11" not in failed.out + failed.err
