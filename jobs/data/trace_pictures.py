"""Lists pictures of served traces: the source `traces:NAME`.

Only traces whose pictures were kept have any. A picture that was given several times is taken once, with all its votes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from isnet.errors import InputError
from jobs.data.sources import PictureSource, Skip
from jobs.serving.records import trace_experiment
from trainplane.command_line import command_line
from trainplane.errors import UserError
from trainplane.serving.recorded_traces import RecordedTrace, find_traces, read_trace_files
from trainplane.serving.traces import INPUT_FACT, TYPE_FACT
from trainplane.serving.upload_traces import GOLDEN
from trainplane.tracking.client import TrackingServer

SOURCE = "traces:"
# What may be asked of a trace; a label is a version's, so it says nothing of the picture.
VERDICTS = ("good", "bad", "tie", "neither", GOLDEN)
_INPUTS = {"photos": "photo", "masks": "mask"}
_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/tiff": ".tiff"}


def is_trace_source(source: object) -> bool:
    """True for `traces:NAME`."""
    return str(source).startswith(SOURCE)


def trace_pictures(
    server: TrackingServer, source: str, *, verdict: str | None, kind: Literal["photos", "masks"]
) -> Iterator[PictureSource | Skip]:
    """Lists photos or masks of traces, the oldest first.

    Args:
        server: Where the traces are.
        source: `traces:NAME`.
        verdict: One of `VERDICTS`; None takes all traces.
        kind: Which input of the traces.

    Raises:
        UserError: There is no such trace.
    """
    name = source.removeprefix(SOURCE)
    if verdict is not None and verdict not in VERDICTS:
        raise UserError(f"the verdict is {verdict!r}; need one of {', '.join(VERDICTS)}")
    traces = find_traces(server, trace_experiment(name), golden=verdict == GOLDEN)
    chosen = [trace for trace in traces if verdict in (None, GOLDEN) or trace.has_verdict(str(verdict))]
    if not chosen:
        what = "no trace" if verdict is None else f"no trace that is {verdict}"
        raise UserError(
            f"{source}: MLflow has {what} of {name!r} ({len(traces)} in all); serve it, and vote: "
            f"{command_line('serve', name)}"
        )
    return _sources(server, chosen, _INPUTS[kind])


def _sources(server: TrackingServer, traces: list[RecordedTrace], role: str) -> Iterator[PictureSource | Skip]:
    digests: set[str] = set()
    for trace in traces:
        if not trace.has_files:
            yield Skip(trace.trace_id, "not kept: the person agreed to facts alone")
            continue
        digest = trace.tags.get(f"{INPUT_FACT}{role}", trace.trace_id)
        if digest in digests:
            continue
        digests.add(digest)
        about = {"trace": trace.trace_id, "votes": sorted({vote.choice for vote in trace.votes})}
        # Named by its content: the same picture has the same name in every dataset.
        name = f"{digest[:32]}{_SUFFIXES.get(trace.tags.get(f'{TYPE_FACT}{role}', ''), '.png')}"
        yield PictureSource(name, partial(_read, server, trace, role), stamp=digest, about=about, only_here=True)


def _read(server: TrackingServer, trace: RecordedTrace, role: str) -> bytes:
    for file in read_trace_files(server, trace):
        if (file.role, file.name) == ("inputs", role):
            return file.content
    raise InputError(f"trace {trace.trace_id} has no {role}")
