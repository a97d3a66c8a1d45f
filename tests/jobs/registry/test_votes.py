"""The gate `preferred:` sees the votes that MLflow has."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

from served_traces import cast_vote, record, served_trace

from jobs.registry.votes import preferences
from trainplane.registry.rules import GateRules, Preferred
from trainplane.serving.traces import new_trace
from trainplane.tracking.client import TrackingServer

RULES = GateRules(preferred=(Preferred(votes_per_rater=1),))


def version(number: str) -> Any:
    made = mock.Mock(version=number, model_digest=f"digest-{number}")
    # `name` is an argument of the constructor itself.
    made.name = "faces"
    return made


def test_votes_of_people_reach_the_gate(tmp_path: Path, tracking_uri: str) -> None:
    names = [new_trace() for _ in range(4)]
    traces = [
        served_trace(name, photo=f"photo {number}".encode(), versions=("3", "5"), keep="facts")
        for number, name in enumerate(names)
    ]
    votes = [cast_vote(name, choice, rater=f"rater {choice}{name}") for name, choice in zip(names, "BBAB", strict=True)]
    record(tmp_path / "q", tracking_uri, traces, votes)
    context: Any = mock.Mock(tracking_server=TrackingServer(tracking_uri))
    [seen] = preferences(context, RULES, version("5"), version("3")) or []
    assert (seen.raters, seen.wins, seen.losses) == (4, 3, 1)
    # Votes on other versions say nothing of this one.
    [other] = preferences(context, RULES, version("6"), version("3")) or []
    assert other.votes == 0


def test_nothing_is_asked_of_the_first_version_in_production(tracking_uri: str) -> None:
    context: Any = mock.Mock(tracking_server=TrackingServer(tracking_uri))
    assert preferences(context, RULES, version("5"), None) is None
    assert preferences(context, RULES, version("5"), version("5")) is None
