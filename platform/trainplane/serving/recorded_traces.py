"""Reads traces with their votes from MLflow.

Nothing is written. What people wrote by MLflow's own pages counts as a vote, too, where it has the names of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainplane.serving.upload_traces import GOLDEN, PREFERRED, RATING, tracing_client
from trainplane.tracking.client import TrackingServer, all_pages

_REFERENCE = "mlflow-attachment://"
_PAGE = 100
# Start of the names of tags that have the version of each label.
_VERSION = "version."


@dataclass(frozen=True)
class RecordedVote:
    """One vote on a trace."""

    name: str  # `PREFERRED`, `RATING` or `GOLDEN`
    choice: str  # A label, "tie", "neither", "good" or "bad"
    rater: str
    at: float  # Seconds since the epoch
    comment: str


@dataclass(frozen=True)
class RecordedTrace:
    """One request with its votes."""

    trace_id: str  # MLflow's
    started: float  # Seconds since the epoch
    tags: dict[str, str]
    votes: tuple[RecordedVote, ...]

    @property
    def digests(self) -> dict[str, str]:
        """Model digest of each answer, by label."""
        prefix = "digest."
        labels = {name.removeprefix(_VERSION) for name in self.tags if name.startswith(_VERSION)}
        return {label: self.tags[prefix + label] for label in sorted(labels) if prefix + label in self.tags}

    @property
    def is_golden(self) -> bool:
        """True where a person marked it as golden."""
        return self.tags.get(GOLDEN) == "true"

    @property
    def has_files(self) -> bool:
        """True where inputs and outputs were kept."""
        return self.tags.get("keep") == "pictures"

    def has_verdict(self, verdict: str) -> bool:
        """True if a vote has this choice."""
        return any(vote.choice == verdict for vote in self.votes)


@dataclass(frozen=True)
class TraceFile:
    """A kept file of a trace."""

    role: str  # "inputs" or "outputs"
    name: str
    media_type: str
    content: bytes


def find_traces(server: TrackingServer, experiment: str, *, golden: bool = False) -> list[RecordedTrace]:
    """Traces of an experiment, the oldest first.

    None where there is no such experiment.
    """
    client = server.client
    entry = client.get_experiment_by_name(experiment)
    if entry is None:
        return []
    entries = all_pages(
        client.search_traces,
        locations=[entry.experiment_id],
        filter_string=f"tags.{GOLDEN} = 'true'" if golden else None,
        max_results=_PAGE,
        include_spans=False,
    )
    # A trace that arrives while pages are read moves one of the first page onto the second, which has it again.
    traces = {entry.info.trace_id: _trace(entry.info) for entry in entries}
    return sorted(traces.values(), key=lambda trace: (trace.started, trace.trace_id))


def read_trace_files(server: TrackingServer, trace: RecordedTrace) -> Iterator[TraceFile]:
    """Downloads the kept files of a trace."""
    tracing = tracing_client(server.client)
    whole = tracing.get_trace(trace.trace_id)
    artifacts = tracing._get_artifact_repo_for_trace(whole.info)
    roots = [span for span in whole.data.spans if span.parent_id is None]
    for root in roots[:1]:
        for role, values in (("inputs", root.inputs), ("outputs", root.outputs)):
            for name, reference in (values or {}).items():
                if isinstance(reference, str) and reference.startswith(_REFERENCE):
                    yield _read(artifacts, role, name, reference)


def _read(artifacts: Any, role: str, name: str, reference: str) -> TraceFile:
    from mlflow.tracing.attachments import Attachment

    parsed = Attachment.parse_ref(reference)
    if parsed is None:
        raise ValueError(f"{reference[:80]!r} is no attachment")
    content = artifacts.download_trace_attachment(str(parsed["attachment_id"]))
    return TraceFile(role, name, str(parsed["content_type"]), content)


def _trace(info: Any) -> RecordedTrace:
    # In MLflow's own pages people name the version, not its label.
    labels = {text: name.removeprefix(_VERSION) for name, text in info.tags.items() if name.startswith(_VERSION)}
    names = (PREFERRED, RATING, GOLDEN)
    votes = [_vote(assessment, labels) for assessment in info.assessments if assessment.name in names]
    return RecordedTrace(
        str(info.trace_id),
        info.request_time / 1000,
        dict(info.tags),
        tuple(vote for vote in votes if vote is not None),
    )


def _vote(assessment: Any, labels: Mapping[str, str]) -> RecordedVote | None:
    # None: an assessment that a newer one replaced, or that is no feedback.
    if assessment.valid is False or assessment.feedback is None:
        return None
    metadata = assessment.metadata or {}
    value = str(assessment.feedback.value)
    choice = metadata.get("choice") or labels.get(value) or value.lower()
    at = _number(metadata.get("at"), assessment.create_time_ms / 1000)
    return RecordedVote(assessment.name, choice, assessment.source.source_id, at, assessment.rationale or "")


def _number(text: str | None, default: float) -> float:
    try:
        return float(json.loads(text)) if text else default
    except (ValueError, TypeError):
        return default
