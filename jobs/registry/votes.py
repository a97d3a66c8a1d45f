"""Votes of people on served versions, for the gate `preferred:`.

They are MLflow's feedback, so who may write there may vote; the gate's page says so.
"""

from __future__ import annotations

import time

from jobs.serving.records import trace_experiment
from trainplane.cluster.context import Context
from trainplane.registry.preferred import Preference, Vote, measure_preference
from trainplane.registry.rules import GateRules
from trainplane.registry.versions import ModelVersion
from trainplane.serving.recorded_traces import RecordedTrace, find_traces
from trainplane.serving.traces import INPUT_FACT
from trainplane.serving.upload_traces import PREFERRED

# The input by which votes on one picture are recognised; the mask may differ.
_SUBJECT = f"{INPUT_FACT}photo"
_HOUR_S = 3600.0


def preferences(
    context: Context, rules: GateRules, version: ModelVersion, current: ModelVersion | None
) -> list[Preference] | None:
    """Preferences that votes show, for each rule.

    None without another version in production.
    """
    if current is None or current.version == version.version or not rules.preferred:
        return None
    votes = [
        vote
        for trace in find_traces(context.tracking_server, trace_experiment(version.name))
        for vote in votes_of_trace(trace)
    ]
    return [
        measure_preference(
            votes,
            str(version.model_digest),
            str(current.model_digest),
            votes_per_rater=rule.votes_per_rater,
            wait_s=rule.wait_hours * _HOUR_S,
            now=time.time(),
        )
        for rule in rules.preferred
    ]


def votes_of_trace(trace: RecordedTrace) -> list[Vote]:
    """Votes between the two answers of a trace."""
    return [
        Vote(
            vote.rater,
            trace.tags.get(_SUBJECT, ""),
            vote.at,
            vote.choice,
            trace.digests,
            blind=trace.tags.get("blind") == "true" and trace.tags.get("shadow") != "true",
        )
        for vote in trace.votes
        if vote.name == PREFERRED
    ]
