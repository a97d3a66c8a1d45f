"""Events reach a receiver that was down, each once, in order, and signed as Standard Webhooks has it."""

import itertools
import json
import os
import signal
import time

import pytest
from webhook_receiver import SECRET, webhook_receiver

from trainplane.cluster.context import local
from trainplane.cluster.ports import free_port
from trainplane.errors import UserError
from trainplane.notify import sender_process
from trainplane.notify.event import KINDS, Event, Notice
from trainplane.notify.notifier import Notifier
from trainplane.notify.outbox import Outbox
from trainplane.notify.sender import Sender, next_wait_s, send
from trainplane.notify.sender_process import send_until_empty
from trainplane.notify.targets import Target
from trainplane.notify.webhook import Undelivered, post, sign, signing_key
from trainplane.storage import open_store


def hook(port, **fields):
    return Target("ops", webhook=f"http://127.0.0.1:{port}/x", secret=SECRET, allow_private=True, **fields)


def events(count):
    kinds = itertools.cycle(kind for kind in KINDS if kind != "test")
    return [Event.of(next(kinds), f"event {n}", "text", once=(n,), loss=float("nan"), n=n) for n in range(count)]


def test_signature_is_that_of_the_specification():
    # The example of standard-webhooks' own libraries.
    signature = sign(
        signing_key(SECRET, "x"),
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["short", "whsec_not base64!", "whsec_c2hvcnQ="])
def test_weak_or_broken_secrets_are_refused(secret):
    with pytest.raises(UserError, match="notify"):
        signing_key(secret, "notify.ops")


def test_twelve_events_reach_a_receiver_that_was_down_each_once(tmp_path):
    outbox, port = Outbox(open_store(str(tmp_path))), free_port()
    sent = events(12)
    for event in sent:
        assert outbox.add("ops", event)
        # The same event again is no second one.
        assert not outbox.add("ops", event)
    now = [0.0]
    sender = Sender({"ops": hook(port)}, tmp_path, clock=lambda: now[0])
    # Down: one attempt, then a pause for all of them.
    assert sender.send_due(outbox) == 0
    assert "does not answer" in sender.failing()["ops"]
    assert 0 < sender.wait_s() <= 1
    # It comes back ill, cuts a connection after it has taken the event, and recovers.
    answers = {1: 503, 2: 204, 3: None}
    with webhook_receiver(port, answer=lambda number: answers.get(number, 204)) as received:
        for _ in range(5):
            now[0] += 700
            sender.send_due(outbox)
    assert outbox.count() == 0
    assert list(received.events) == [event.id for event in sent]
    # The event that was taken without an answer came twice, with one id.
    assert len(received.requests) == 12 + 2
    assert received.forged == 0
    assert received.events[sent[3].id]["type"] == sent[3].kind
    assert received.events[sent[3].id]["data"] | {"loss": None, "n": 3} == received.events[sent[3].id]["data"]
    # Known for a month: told again, it is not sent again.
    assert not outbox.add("ops", sent[0])


def test_one_target_that_is_down_does_not_hold_up_another(tmp_path):
    outbox = Outbox(open_store(str(tmp_path)))
    event = events(1)[0]
    with webhook_receiver() as received:
        targets = {"dead": hook(free_port()), "ops": hook(received.port)}
        for name in targets:
            outbox.add(name, event)
        assert Sender(targets, tmp_path).send_due(outbox) == 1
    assert [item.target for item in outbox.pending()] == ["dead"]


def test_a_receiver_that_is_gone_gets_no_more_and_a_redirect_is_not_followed(tmp_path):
    outbox = Outbox(open_store(str(tmp_path)))
    outbox.add("ops", events(1)[0])
    with webhook_receiver(answer=lambda number: 410) as received:
        assert Sender({"ops": hook(received.port)}, tmp_path).send_due(outbox) == 0
    assert outbox.count() == 0
    with webhook_receiver(answer=lambda number: 307) as received, pytest.raises(Undelivered, match="answered 307"):
        post(events(1)[0], hook(received.port))


def test_pauses_grow_and_end():
    waits = [next_wait_s(failures, None) for failures in range(1, 40)]
    assert waits[:4] == [1, 2, 4, 8]
    assert waits == sorted(waits)
    assert waits[-1] == 600
    assert next_wait_s(1, 30.0) == 30
    assert next_wait_s(1, 1e9) == 600


def test_private_addresses_are_refused_when_they_are_sent_to(tmp_path):
    target = Target("ops", webhook="https://10.0.0.7/x", secret=SECRET)
    with pytest.raises(UserError, match=r"allow_private"):
        send(events(1)[0], target)


def test_what_fails_moves_into_the_store_and_is_sent_from_another_machine(tmp_path):
    store, port = str(tmp_path / "store"), free_port()
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    sent = events(3)
    for event in sent:
        Outbox(open_store(str(here))).add("ops", event)
    send_until_empty(here, store, {"ops": hook(port)}, until_s=time.monotonic())
    assert Outbox(open_store(str(here))).count() == 0
    assert Outbox(open_store(store)).count() == 3
    with webhook_receiver(port) as received:
        send_until_empty(there, store, {"ops": hook(port)}, until_s=time.monotonic() + 10)
    assert list(received.events) == [event.id for event in sent]
    assert len(received.requests) == 3


def test_damaged_event_does_not_stop_the_others(tmp_path):
    outbox = Outbox(open_store(str(tmp_path)))
    outbox.add("ops", events(1)[0])
    (tmp_path / "pending" / "ops" / "msg_0.json").write_text("{")
    with webhook_receiver() as received:
        assert Sender({"ops": hook(received.port)}, tmp_path).send_due(outbox) == 1


def test_notice_passes_as_a_message_between_processes():
    import pickle

    notice = pickle.loads(pickle.dumps(Notice("NaN at step 7", "run.bad_step")))
    assert (notice, notice.kind) == ("NaN at step 7", "run.bad_step")


def test_telling_never_fails_and_never_waits(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK", SECRET)
    (tmp_path / "notify").write_text("a file where the folder should be")
    target = Target("ops", webhook="https://hooks.example.com/x", secret="env:HOOK")
    context = local(tmp_path).at(notify=(target,))
    assert Notifier(context).tell(events(1)[0]) == []
    # Nobody listens: nothing is written.
    assert Notifier(local(tmp_path / "other")).tell(events(1)[0]) == []
    assert not (tmp_path / "other").exists()


def test_an_event_whose_secret_is_missing_here_waits(tmp_path):
    target = Target("ops", webhook="https://hooks.example.com/x", secret="env:NO_SUCH_HOOK")
    notifier = Notifier(local(tmp_path).at(notify=(target,)))
    assert notifier.tell(events(1)[0]) == ["ops"]
    assert Outbox(open_store(str(notifier.folder))).count() == 1


@pytest.mark.real
def test_processes_deliver_once_although_one_is_killed(tmp_path, monkeypatch):
    """The whole path with real processes: the receiver is down, a sender is killed, another event starts the next."""
    monkeypatch.setenv("HOOK", SECRET)
    port = free_port()
    target = Target("ops", webhook=f"http://127.0.0.1:{port}/x", secret="env:HOOK", allow_private=True)
    started = []
    start = sender_process.start
    monkeypatch.setattr(sender_process, "start", lambda *args: started.append(start(*args)))
    notifier = Notifier(local(tmp_path).at(notify=(target,)))
    sent = events(12)
    began = time.monotonic()
    for event in sent[:11]:
        notifier.tell(event)
    assert time.monotonic() - began < 2
    time.sleep(1.5)
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    with webhook_receiver(port) as received:
        notifier.tell(sent[11])
        deadline = time.monotonic() + 20
        while len(received.events) < 12 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sorted(received.events) == sorted(event.id for event in sent)
        assert len(received.requests) == 12
    # No secret stands on the disk or among the arguments.
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in texts if SECRET in text or "HOOK" in text]
    assert json.loads(json.dumps(received.events))
