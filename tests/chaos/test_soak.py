"""Arithmetic of the soak, and half a minute of it."""

import json
import subprocess
import sys

import pytest
import soak

from jobs.bench.common import slope
from trainplane.testing.fault_proxy import no_fault


def test_the_slope_is_that_of_a_line():
    assert slope([10.0, 12.0, 14.0, 16.0]) == pytest.approx(2.0)
    assert slope([5.0, 5.0, 5.0]) == pytest.approx(0.0, abs=1e-9)
    assert slope([1.0, 9.0]) == 0.0


class Weather:
    """Two proxies that record their states."""

    def __init__(self):
        self.store, self.tracking = self, self
        self.fault, self.states = no_fault, []

    def set_state(self, state):
        self.states.append(state)

    def go_away(self, outage, seconds):
        self.states.append((outage, seconds))


class Endless:
    """A process that ends when it is killed."""

    pid, returncode = 4, None

    def wait(self, timeout=None):
        if timeout is not None:
            raise subprocess.TimeoutExpired("endless", timeout)


def weather_of(seed, monkeypatch):
    monkeypatch.setattr("os.killpg", lambda pid, number: None)
    world, tally = Weather(), soak.Tally()
    clock = soak.Clock(world, tally, seed, pause_s=3.0)
    for _ in range(20):
        assert clock.until_over(Endless())
    return world.states, dict(tally.happened)


def test_the_same_seed_is_the_same_weather(monkeypatch):
    states, happened = weather_of(3, monkeypatch)
    assert weather_of(3, monkeypatch) == (states, happened)
    assert weather_of(4, monkeypatch) != (states, happened)
    assert happened["SIGKILL"] == 20
    assert len(states) > 3


def test_a_broken_promise_is_a_missed_target():
    figures = {figure["name"]: figure["met"] for figure in soak.figures(soak.Tally(broken=["bits"]), 600, 60)}
    assert figures["broken promises"] is False
    assert figures["faults"] is True


@pytest.mark.chaos
def test_half_a_minute_breaks_nothing(tmp_path):
    command = [sys.executable, soak.__file__, "--minutes", "0.5", "--seed", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    report = json.loads(done.stdout)
    assert report["broken"] == []
    assert sum(
        report["faults"].get(name, 0) for name in ("SIGKILL", "MLflow slow", "MLflow failing", "MLflow down")
    ) + sum(report["faults"]["store"].values())
