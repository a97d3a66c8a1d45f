"""The core under traffic: versions follow the trail, answers in flight finish, and what harms goes back."""

import asyncio
import time

import pytest

from trainplane.registry import audit
from trainplane.registry.audit import read_trail
from trainplane.registry.shares import current_share, record_share
from trainplane.serving.engine import BadOutput, Output, ServedVersion
from trainplane.serving.follow import TrailFollower
from trainplane.serving.rollout import RolloutRules
from trainplane.serving.routing import VersionNotServed
from trainplane.serving.service import AnswerFailed, Service, ServingOptions, ServingRequest
from trainplane.storage import open_store


class WordEngine:
    """Answers with the input's bytes and its version's number; some versions misbehave."""

    def __init__(self, **behaviour):
        self.behaviour, self.released, self.gate = behaviour, [], None

    async def prepare(self, version):
        if self.behaviour.get(f"v{version}") == "damaged" and not self.behaviour.get("mended"):
            raise ValueError("its bytes were changed")
        return ServedVersion(version, f"digest-{version}", gates_passed=1)

    async def answer(self, version, inputs, options):
        if self.gate is not None and options.get("slow"):
            await self.gate.wait()
        kind = self.behaviour.get(f"v{version}")
        if kind == "nan":
            raise BadOutput("NaN")
        if kind == "fails":
            raise RuntimeError("no room")
        if kind == "slow":
            await asyncio.sleep(0.05)
        return Output(inputs["word"] + version.encode(), "text/plain")

    async def difference(self, one, other):
        return {"bytes": float(one.content != other.content)}

    async def release(self, version):
        self.released.append(version)


class ListQueue:
    """Keeps records in memory."""

    def __init__(self):
        self.traces = []

    def record(self, trace):
        self.traces.append(trace)


@pytest.fixture
def store(tmp_path):
    store = open_store(str(tmp_path / "audit"))
    move(store, "1")
    return store


def move(store, version, action="promote"):
    words = {"name": "m", "alias": "production", "reason": "", "verdict_digest": None}
    audit.append(store, read_trail(store, "m"), action=action, to_version=version, **words)


def share(store, mode, value=0.0, version="2"):
    record_share(store, "m", version, alias="production", mode=mode, share=value, reason="by a test")


def serve(store, engine, scenario, **options):
    """Runs a scenario against a service that has started; returns what it told."""
    told = []

    async def main():
        queue = ListQueue()
        follower = TrailFollower(store, "m", read_trail(store, "m"))
        rules = RolloutRules(answers=5, errors=2, latency_answers=5)
        made = ServingOptions("m", "production", rules=rules, **options)
        service = Service(engine, made, store=store, follower=follower, traces=queue, tell=told.append)
        await service.start("1")
        try:
            await scenario(service, queue)
        finally:
            await service.close()

    asyncio.run(main())
    return told


async def until(condition, seconds=5.0):
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it did not happen"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


def ask(**options):
    return ServingRequest({"word": b"x"}, {"word": "text/plain"}, options, keep="facts", user="someone")


async def answered(service, count=1, **options):
    responses = [await service.answer(ask(**options)) for _ in range(count)]
    return [answer.served.version for response in responses for answer in response.answers]


def test_a_promotion_and_a_rollback_move_the_traffic_and_answers_in_flight_finish_on_their_version(store):
    engine = WordEngine()

    async def scenario(service, queue):
        engine.gate = asyncio.Event()
        in_flight = asyncio.create_task(service.answer(ask(slow=True)))
        await asyncio.sleep(0)
        move(store, "2")
        assert await until(lambda: service.split.production == "2") < 2
        assert await answered(service) == ["2"]
        move(store, "1", "rollback")
        assert await until(lambda: service.split.production == "1") < 2
        move(store, "3")
        await until(lambda: service.split.production == "3")
        move(store, "4")
        await until(lambda: service.split.production == "4")
        # Version 1 is two moves behind, and still has an answer to give.
        assert "1" not in engine.released
        engine.gate.set()
        response = await in_flight
        assert (response.answers[0].served.version, response.answers[0].output.content) == ("1", b"x1")
        await until(lambda: "1" in engine.released)
        # The way back needs no download.
        assert set(service.live.open) == {"3", "4"}
        named = ServingRequest({"word": b""}, {"word": "t"}, {}, versions=("3",))
        assert (await service.answer(named)).answers[0].served.version == "3"
        assert service.split.roles_of("3") == []
        with pytest.raises(VersionNotServed):
            await service.answer(ServingRequest({"word": b""}, {}, {}, versions=("1",)))

    serve(store, engine, scenario)


def test_a_version_that_cannot_be_opened_gets_no_traffic_until_it_can(store):
    engine = WordEngine(v2="damaged")

    async def scenario(service, queue):
        move(store, "2")
        await until(lambda: service.live.faults)
        assert service.live.faults == {"2": "its bytes were changed"}
        assert await answered(service) == ["1"]
        engine.behaviour["mended"] = True
        await until(lambda: service.split.production == "2")
        assert not service.live.faults

    serve(store, engine, scenario)


@pytest.mark.parametrize("kind", ["nan", "fails", "slow"])
def test_a_canary_that_harms_goes_back_by_itself_and_no_request_fails(store, kind):
    async def scenario(service, queue):
        await answered(service, 6)
        share(store, "canary", 0.5)
        await until(lambda: service.split.mode == "canary")
        # Errors and NaN cost nobody an answer: production gives it.
        while service.split.mode == "canary":
            await answered(service)
        await until(lambda: current_share(read_trail(store, "m"), "production").mode == "off")
        assert current_share(read_trail(store, "m"), "production").reason.startswith("automatic way back: ")
        assert set(await answered(service, 20)) == {"1"}
        assert b"ways_back_total" in service.metrics.text()

    (record,) = serve(store, WordEngine(v2=kind), scenario)
    assert (record.action, record.to_version) == ("share", "2")


def test_a_share_widens_by_itself_to_all_where_the_server_may(store):
    async def scenario(service, queue):
        share(store, "canary", 0.5)
        await until(lambda: service.split.mode == "canary")
        while service.split.share < 1:
            await answered(service)
            await asyncio.sleep(0)
        assert set(await answered(service, 20)) == {"2"}

    serve(store, WordEngine(), scenario, widen=True)
    reasons = [record.reason for record in read_trail(store, "m").records if record.action == "share"]
    assert [reason.partition(":")[0] for reason in reasons] == ["canary 50 %", "canary 100 %"]


def test_a_version_that_was_named_fails_as_itself(store):
    async def scenario(service, queue):
        await until(lambda: "2" in service.live.served)
        with pytest.raises(AnswerFailed, match="version 2 failed"):
            await service.answer(ServingRequest({"word": b"x"}, {}, {}, versions=("2",)))
        assert await answered(service) == ["1"]

    serve(store, WordEngine(v2="fails"), scenario, candidate="2")


def test_a_shadow_is_recorded_with_its_difference_and_nobody_sees_it(store):
    async def scenario(service, queue):
        share(store, "shadow")
        await until(lambda: service.split.mode == "shadow")
        assert await answered(service) == ["1"]
        await until(lambda: len(queue.traces) == 2)
        seen, mirrored = queue.traces
        assert [answer.version for answer in seen.answers] == ["1"]
        assert [answer.version for answer in mirrored.answers] == ["1", "2"]
        assert mirrored.shadow
        assert mirrored.facts["mirrors"] == seen.trace
        assert mirrored.facts["difference_bytes"] == 1.0

    serve(store, WordEngine(), scenario)


def test_blind_answers_change_places_and_are_recorded_as_shown(store):
    async def scenario(service, queue):
        await until(lambda: "2" in service.live.served)
        request = ServingRequest({"word": b"x"}, {"word": "t"}, {}, versions=("1", "2"), blind=True, keep="pictures")
        firsts = {(await service.answer(request)).answers[0].served.version for _ in range(30)}
        assert firsts == {"1", "2"}
        # The server keeps less than the request allows.
        assert {trace.keep for trace in queue.traces} == {"facts"}
        assert all(trace.answers[0].output is None for trace in queue.traces)

    serve(store, WordEngine(), scenario, candidate="2")


def test_a_trail_that_was_rewritten_moves_nothing(store, tmp_path):
    async def scenario(service, queue):
        move(store, "2")
        await until(lambda: service.split.production == "2")
        for file in sorted((tmp_path / "audit").rglob("*.json")):
            file.unlink()
        move(store, "9")
        await until(lambda: service.fault is not None)
        assert "rewritten or cut" in service.fault
        assert await answered(service) == ["2"]

    serve(store, WordEngine(), scenario)
