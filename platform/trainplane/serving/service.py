"""Core of a server: answers with versions of the trail.

It knows no HTTP and no pictures. Decisions are pure (`routing`, `admission`, `rollout`, `follow`); here they are acted
on, in one event loop. What blocks (the trail's store, the records on disk) runs in threads.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from trainplane.errors import RunFailed
from trainplane.registry.audit import AuditRecord
from trainplane.registry.shares import CandidateShare, record_share
from trainplane.serving.admission import AdmissionQueue, QueueLimits
from trainplane.serving.engine import BadOutput, Engine, EngineBusy, Output, ServedVersion
from trainplane.serving.follow import TrailFollower, desired_traffic, traffic_split, why_not
from trainplane.serving.live_versions import LiveVersions
from trainplane.serving.metrics import ServingMetrics
from trainplane.serving.rollout import Observations, RolloutRules, judge, next_share
from trainplane.serving.routing import TrafficSplit, route
from trainplane.serving.traces import AnswerRecord, TraceQueue, TraceRecord, new_trace
from trainplane.storage import Store

logger = logging.getLogger(__name__)

# A rollback by another process takes effect after one of these, and the reading of its record.
POLL_S = 0.5
_RETRY_S = 2.0
# Mirrored requests that may wait; a server that is behind mirrors none.
_MOST_MIRRORED = 4
LABELS = ("A", "B")


class AnswerFailed(RunFailed):
    """Raised where the version that had to answer failed."""


@dataclass(frozen=True)
class ServingOptions:
    """Model, alias and bounds of a service."""

    name: str
    alias: str
    candidate: str | None = None  # Offered beside production to who asks for it
    limits: QueueLimits = field(default_factory=lambda: QueueLimits(1, 64, 32))
    rules: RolloutRules = field(default_factory=RolloutRules)
    widen: bool = False  # A canary's share widens by itself as far as its gates allow
    keep: str = "facts"  # The most that may be recorded of a request


@dataclass(frozen=True)
class ServingRequest:
    """One request of a user."""

    inputs: Mapping[str, bytes]
    media_types: Mapping[str, str]
    options: Mapping[str, object]
    versions: Sequence[str] = ()
    blind: bool = False
    keep: str = "facts"
    user: str = ""
    facts: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class VersionAnswer:
    """Answer of one version."""

    label: str
    served: ServedVersion
    output: Output
    milliseconds: float


@dataclass(frozen=True)
class ServingResponse:
    """All answers to one request."""

    trace: str
    answers: tuple[VersionAnswer, ...]
    blind: bool
    keep: str


class Service:
    """Answers requests; one for each event loop."""

    def __init__(
        self,
        engine: Engine,
        options: ServingOptions,
        *,
        store: Store,
        follower: TrailFollower,
        traces: TraceQueue | None,
        tell: Callable[[AuditRecord], object] = lambda record: None,
    ) -> None:
        """Makes a service that has no version yet.

        Args:
            engine: Opens versions and computes.
            options: What to serve.
            store: Of the audit trail.
            follower: Of the trail, as it was checked at the start.
            traces: Where requests are recorded; None records nothing.
            tell: Called in a thread with the record of each automatic way back.
        """
        self.options, self.traces = options, traces
        self.metrics = ServingMetrics(options.name)
        self.live = LiveVersions(engine, self._apply)
        self.queue = AdmissionQueue(options.limits, self.metrics.queue)
        self._engine, self._store, self._follower, self._tell = engine, store, follower, tell
        self._observations: dict[str, Observations] = {}
        self._share: CandidateShare | None = None
        self._ended: set[int] = set()  # Numbers of shares that were ended here
        self._poke = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._mirrored = 0
        # One thread keeps the order: a vote is written after its trace.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="records")
        self.fault: str | None = None  # Why the trail cannot be followed now

    async def start(self, production: str) -> None:
        """Opens the first version, and follows the trail."""
        self.live.add(await self._engine.prepare(production))
        self.live.change(TrafficSplit(production))
        await self._apply()
        self._spawn(self._follow())

    async def close(self) -> None:
        """Ends all background work; records that wait stay on disk."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.live.close()
        self._writer.shutdown(wait=True)

    @property
    def split(self) -> TrafficSplit:
        """Division of the traffic now."""
        assert self.live.split is not None, "requests are taken after `start`"
        return self.live.split

    async def answer(self, request: ServingRequest) -> ServingResponse:
        """Answers one request whose turn has come.

        Raises:
            VersionNotServed: A version that was asked for is not open.
            ValueError: The inputs cannot be used.
            AnswerFailed: The version that had to answer failed.
        """
        trace, started = new_trace(), time.time()
        # The version before the last change is open, too, and answers who names it.
        path = route(self.split, self.live.open, request.versions, trace)
        versions = list(path.answers)
        # Blind: which answer is called A must not tell which version it is.
        if request.blind and secrets.randbelow(2):
            versions.reverse()
        answers = []
        with ExitStack() as stack:
            # All of them stay open until the last has answered, wherever the traffic moves meanwhile.
            for version in filter(None, (*versions, path.fallback)):
                stack.enter_context(self.live.use(version))
            for label, version in zip(LABELS, versions, strict=False):
                answers.append(await self._answer_by(label, version, request, fallback=path.fallback))
        keep = min(request.keep, self.options.keep, key=("none", "facts", "pictures").index)
        response = ServingResponse(trace, tuple(answers), request.blind, keep)
        await self._record(request, response, started)
        if path.mirrored is not None and self._mirrored < _MOST_MIRRORED:
            self._mirrored += 1
            self._spawn(self._mirror(path.mirrored, request, response, started))
        return response

    async def _answer_by(
        self, label: str, version: str, request: ServingRequest, *, fallback: str | None
    ) -> VersionAnswer:
        role = "candidate" if version == self.split.candidate else "production"
        try:
            return await self._observed(label, version, role, request)
        except (ValueError, EngineBusy):
            raise
        # Whatever a candidate's code raises, production answers the user.
        except Exception as error:
            if fallback is not None and fallback != version:
                logger.warning("version %s failed (%s); version %s answers", version, error, fallback)
                return await self._answer_by(label, fallback, request, fallback=None)
            logger.exception("version %s failed", version)
            raise AnswerFailed(
                f"version {version} failed at this request ({why_not(error)}); try it again, or ask another version"
            ) from error

    async def _observed(self, label: str, version: str, role: str, request: ServingRequest) -> VersionAnswer:
        """Answers, and counts what happened."""
        observations = self._observations.setdefault(version, Observations())
        started = time.perf_counter()
        try:
            with self.live.use(version) as served:
                output = await self._engine.answer(version, request.inputs, request.options)
        except (ValueError, EngineBusy):
            raise
        # Counted against the version, and raised on.
        except Exception as error:
            not_finite = isinstance(error, BadOutput)
            observations.failed(not_finite=not_finite)
            self.metrics.failed(version, role, "not_finite" if not_finite else "error")
            self._judge()
            raise
        seconds = time.perf_counter() - started
        observations.answered(1000 * seconds)
        self.metrics.answered(version, role, seconds)
        self._judge()
        return VersionAnswer(label, served, output, 1000 * seconds)

    async def _mirror(self, version: str, request: ServingRequest, visible: ServingResponse, started: float) -> None:
        """Answers beside the user's answer; the difference is recorded."""
        try:
            mirrored = await self._observed("B", version, "shadow", request)
            first = visible.answers[0]
            difference = await self._engine.difference(first.output, mirrored.output)
            facts: dict[str, str | int | float] = {f"difference_{k}": v for k, v in difference.items()}
            facts |= {"mirrors": visible.trace}
            # Nobody agreed to keep pictures of an answer that nobody saw.
            keep = "none" if visible.keep == "none" else "facts"
            response = ServingResponse(new_trace(), (first, mirrored), False, keep)
            await self._record(request, response, started, shadow=True, facts=facts)
        # Nobody waits for this answer, and the user has another.
        except Exception as error:
            logger.warning("version %s failed at a mirrored request (%s)", version, error)
        finally:
            self._mirrored -= 1

    async def _record(
        self,
        request: ServingRequest,
        response: ServingResponse,
        started: float,
        *,
        shadow: bool = False,
        facts: Mapping[str, str | int | float] | None = None,
    ) -> None:
        if self.traces is None or response.keep == "none":
            return
        whole = response.keep == "pictures"
        # The queue keeps their digests, by which votes on one picture are recognised, and bytes only where agreed.
        inputs = {name: (request.media_types[name], data) for name, data in request.inputs.items()}
        answers = tuple(
            AnswerRecord(
                label=answer.label,
                version=answer.served.version,
                digest=answer.served.digest,
                milliseconds=answer.milliseconds,
                notes=answer.output.notes,
                facts=answer.output.facts,
                output=answer.output.content if whole else None,
                media_type=answer.output.media_type,
            )
            for answer in response.answers
        )
        record = TraceRecord(
            trace=response.trace,
            model=self.options.name,
            alias=self.options.alias,
            started=started,
            rater=request.user,
            blind=response.blind,
            keep=response.keep,
            inputs=inputs,
            facts={**request.facts, **(facts or {})},
            answers=answers,
            shadow=shadow,
        )
        await self.record(lambda traces: traces.record(record))

    async def record(self, write: Callable[[TraceQueue], None]) -> None:
        """Writes into the queue of records, in order."""
        if self.traces is not None:
            await asyncio.get_running_loop().run_in_executor(self._writer, write, self.traces)

    # The share of a candidate.

    def _judge(self) -> None:
        """Acts on what the candidate has done under its share."""
        split, share = self.split, self._share
        if split.candidate is None or share is None or split.mode == "none" or share.number in self._ended:
            return
        served = self.live.served[split.candidate]
        evidence = [self._observations.setdefault(v, Observations()) for v in (split.production, split.candidate)]
        step = judge(
            self.options.rules,
            *(observations.observed() for observations in evidence),
            gates_failed=served.gates_failed,
            has_verdicts=served.gates_passed is not None,
        )
        if step.action == "back":
            # At once here, and then in the trail, which other servers follow.
            self._ended.add(share.number)
            self.live.change(TrafficSplit(split.production, split.candidate))
            self._show_shares()
            self.metrics.way_back()
            logger.error("version %s: share ended, %s", split.candidate, step.reason)
            self._spawn(self._record_share(share, "off", 0.0, f"automatic way back: {step.reason}"))
        elif step.action == "widen" and self.options.widen and split.mode == "canary" and split.share < 1:
            for observations in evidence:
                observations.clear()
            self._spawn(self._record_share(share, "canary", next_share(split.share), f"widened: {step.reason}"))

    async def _record_share(self, replaced: CandidateShare, mode: str, share: float, reason: str) -> None:
        while True:
            try:
                record = await asyncio.to_thread(
                    record_share,
                    self._store,
                    self.options.name,
                    replaced.version,
                    alias=self.options.alias,
                    mode=mode,  # type: ignore[arg-type]
                    share=share,
                    reason=reason,
                    expected=replaced.number,
                )
                self._poke.set()
                # Of several servers, the one that wrote it tells.
                if record is not None and mode == "off":
                    await asyncio.to_thread(self._tell, record)
                return
            except RunFailed as error:
                logger.warning("the share of version %s is not recorded yet (%s)", replaced.version, error)
                # A way back holds here meanwhile; a wider share waits for another round.
                if mode != "off":
                    return
                await asyncio.sleep(_RETRY_S)

    # Following the trail.

    async def _follow(self) -> None:
        while True:
            try:
                changed = await asyncio.to_thread(self._follower.poll)
                self.fault = None
                if changed is not None:
                    await self._apply()
            # The store may be away; traffic stays as it is.
            except (RunFailed, ValueError, OSError) as error:
                if str(error) != self.fault:
                    logger.warning("the audit trail cannot be followed (%s)", error)
                self.fault = str(error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._poke.wait(), POLL_S)
            self._poke.clear()

    async def _apply(self) -> None:
        """Moves the traffic to where the trail wants it."""
        desired = desired_traffic(
            self._follower.trail,
            self.options.alias,
            production=self.split.production,
            candidate=self.options.candidate,
            ended=self._ended,
        )
        self.live.want(*desired.versions)
        split = traffic_split(desired, served=self.live.open, production=self.split.production)
        share = desired.share if split.mode != "none" else None
        # A new share is judged by what happens from now on.
        if share is not None and (self._share is None or share.number != self._share.number):
            for version in (split.production, split.candidate):
                self._observations.setdefault(version or "", Observations()).clear()
        self._share = share
        if split != self.split:
            logger.warning("traffic: %s", split.text())
            self.live.change(split)
        self._show_shares()

    def _show_shares(self) -> None:
        shares = {version: self.split.share_of(version) for version in self.live.served}
        self.metrics.shares(shares, self.live.open.keys() - shares.keys())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
