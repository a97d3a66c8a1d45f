"""The limit of waiting for a store, and the waits of loader processes."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest

from trainplane.errors import UserError
from trainplane.store_wait import (
    DEFAULT_WAIT_S,
    STORE_WAITS,
    VARIABLE,
    SharedWaits,
    Wait,
    patience,
    store_wait_s,
    wait_of,
)


@pytest.mark.parametrize("value", ["", "soon", 0, -5, 29, 604_801, float("nan"), float("inf"), True, None, [1800]])
def test_a_wait_that_cannot_be_met_is_refused(value):
    with pytest.raises(UserError, match=r"store_wait_s is .*; need seconds from 30 to 604800 \(a week\)"):
        wait_of(value, "store_wait_s")


@pytest.mark.parametrize("value", [30, "1800", 3600.5, 604_800])
def test_a_wait_in_seconds_is_taken(value):
    assert wait_of(value, "store_wait_s") == float(value)


def test_long_commands_wait_and_short_ones_do_not(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with patience(is_long=True):
        assert store_wait_s() == DEFAULT_WAIT_S
        assert os.environ[VARIABLE] == "1800"
    assert VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, "90")
    with patience(is_long=True):
        assert store_wait_s() == 90
    with patience(is_long=False):
        assert store_wait_s() == 0
    assert os.environ[VARIABLE] == "90"


def test_a_command_that_ended_or_was_interrupted_waits_no_more(monkeypatch):
    monkeypatch.setattr(STORE_WAITS, "is_over", False)
    with patience(is_long=True):
        assert not STORE_WAITS.is_stopping()
    assert STORE_WAITS.is_stopping()
    with patience(is_long=True):
        assert not STORE_WAITS.is_stopping()


def test_a_command_with_an_invalid_variable_does_not_begin(monkeypatch):
    monkeypatch.setenv(VARIABLE, "10 min")
    with pytest.raises(UserError, match=f"{VARIABLE} is '10 min'"), patience(is_long=False):
        raise AssertionError


def test_a_wait_says_since_when_and_for_what():
    assert str(Wait(0.0, "store:9000 (503)")) == "waiting since 00:00:00 UTC for store:9000 (503)"
    assert str(Wait(0.0, "store:9000 (503)", 63.4)) == "waited 63 s from 00:00:00 UTC for store:9000 (503)"


def wait_as_a_child(shared):
    STORE_WAITS.report_to(shared)
    STORE_WAITS.begin("read", Wait(time.time(), "store:9000 (503), to read ünder"))
    while not STORE_WAITS.is_stopping():
        STORE_WAITS.pause(0.05)
    STORE_WAITS.end("read")


def test_waits_of_a_child_are_those_of_its_parent_which_can_end_them(monkeypatch):
    monkeypatch.setattr(STORE_WAITS, "is_over", False)
    # Not the fork server: the first to use it decides what it has imported for all later tests.
    context = multiprocessing.get_context("spawn")
    shared, told, stop = SharedWaits.new(context), [], []
    STORE_WAITS.take_ended()
    with STORE_WAITS.listening(told.append, lambda: bool(stop)), STORE_WAITS.watching([shared]):
        before = STORE_WAITS.beats
        child = context.Process(target=wait_as_a_child, args=(shared,))
        child.start()
        deadline = time.monotonic() + 60
        while not told and time.monotonic() < deadline:
            time.sleep(0.05)
        assert told[0].reason == "store:9000 (503), to read ünder"
        while STORE_WAITS.beats < before + 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.append(True)
        child.join(30)
        assert child.exitcode == 0
    assert STORE_WAITS.beats >= before + 5
    assert [wait.reason for wait in STORE_WAITS.take_ended()] == [told[0].reason]


def test_text_that_is_half_written_is_read_again():
    shared = SharedWaits.new(multiprocessing.get_context("spawn"))
    assert shared.read() == (0, None)
    shared.state.value = b'[12, 1.0, "sto'
    with pytest.raises(ValueError, match="Unterminated"):
        shared.read()
