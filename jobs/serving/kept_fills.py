"""Filled files to fetch, and traces to vote on."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from trainplane.errors import UserError
from trainplane.serving.engine import Output, ServedVersion
from trainplane.serving.service import ServingResponse

KEEP_S = 15 * 60.0
# Votes may come later than the files are fetched.
VOTE_S = 24 * 3600.0
MAX_BYTES = 512 << 20
_MAX_TRACES = 20_000


class NotKept(UserError):
    """Raised for a trace or file that is not here."""


class AlreadyVoted(UserError):
    """Raised for a second vote on a trace."""


@dataclass
class KeptTrace:
    """A trace that can be voted on."""

    at: float
    blind: bool
    keep: str
    versions: Mapping[str, ServedVersion]  # By label
    milliseconds: Mapping[str, float]
    files: dict[str, Output] = field(default_factory=dict)
    is_voted: bool = False


class KeptFills:
    """Files and traces, bounded in bytes, number and time."""

    def __init__(self, *, max_bytes: int = MAX_BYTES, now: Callable[[], float] = time.monotonic) -> None:
        """Keeps nothing yet.

        Args:
            max_bytes: Of all files; the oldest make room.
            now: Clock, in seconds.
        """
        # Both in the order of time.
        self._traces: OrderedDict[str, KeptTrace] = OrderedDict()
        self._with_files: OrderedDict[str, KeptTrace] = OrderedDict()
        self._max_bytes, self._now, self._bytes = max_bytes, now, 0

    def add(self, response: ServingResponse) -> None:
        """Keeps the files of a response."""
        trace = KeptTrace(
            self._now(),
            response.blind,
            response.keep,
            {answer.label: answer.served for answer in response.answers},
            {answer.label: answer.milliseconds for answer in response.answers},
            {answer.label: answer.output for answer in response.answers},
        )
        self._traces[response.trace] = self._with_files[response.trace] = trace
        self._bytes += sum(len(output.content) for output in trace.files.values())
        self._forget()

    def file(self, trace: str, label: str) -> Output:
        """The file of an answer; raises `NotKept`."""
        self._forget()
        output = self._trace(trace).files.get(label)
        if output is None:
            raise NotKept(
                f"the file {label[:8]} of {trace[:40]} is not kept any more (for {KEEP_S / 60:.0f} minutes, and while "
                "there is room); fill the hole again"
            )
        return output

    def trace(self, trace: str) -> KeptTrace:
        """A trace that can be voted on; raises `NotKept`."""
        self._forget()
        return self._trace(trace)

    def vote(self, trace: str) -> KeptTrace:
        """Marks a trace as voted on; `AlreadyVoted` the second time."""
        fill = self.trace(trace)
        if fill.is_voted:
            raise AlreadyVoted(f"{trace} has a vote already; fill again to vote again")
        fill.is_voted = True
        return fill

    def _trace(self, trace: str) -> KeptTrace:
        try:
            return self._traces[trace]
        except KeyError:
            raise NotKept(f"{trace[:40]!r} is no fill that this server knows; fill the hole again") from None

    def _forget(self) -> None:
        """Forgets old and superfluous files, the oldest first."""
        now = self._now()
        while self._with_files:
            name, trace = next(iter(self._with_files.items()))
            if now - trace.at <= KEEP_S and self._bytes <= self._max_bytes:
                break
            del self._with_files[name]
            self._bytes -= sum(len(output.content) for output in trace.files.values())
            trace.files.clear()
        while self._traces:
            name, trace = next(iter(self._traces.items()))
            if now - trace.at <= VOTE_S and len(self._traces) <= _MAX_TRACES:
                break
            del self._traces[name]
            if self._with_files.pop(name, None) is not None:
                self._bytes -= sum(len(output.content) for output in trace.files.values())
