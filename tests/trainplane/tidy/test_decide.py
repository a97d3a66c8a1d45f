"""What goes is never what something needs: a thousand random histories, judged by another rule."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainplane.tidy.decide import DAY_S, decide
from trainplane.tidy.inventory import KINDS, Inventory, Item, Kind, TidyRules


@dataclass
class World:
    """A store as people use it, day by day, with a book of who relies on what."""

    chance: random.Random
    day: int = 0
    count: int = 0
    made: dict[str, Item] = field(default_factory=dict)
    # What each living thing relies on, kept apart from the items: the second opinion.
    relies: dict[str, set[str]] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    checkpoints: dict[str, list[str]] = field(default_factory=dict)  # of a run
    datasets: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    trail: set[str] = field(default_factory=set)

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def put(self, kind: Kind, name: str, needs: set[str], *, aka: str = "") -> None:
        self.made[name] = Item(
            kind, name, self.chance.randrange(1, 10**9), self.day * DAY_S, frozenset({aka} - {""}), frozenset(needs)
        )
        self.relies[name] = set(needs)

    def pick(self, kind: Kind) -> str | None:
        names = sorted(name for name, item in self.made.items() if item.kind == kind)
        return self.chance.choice(names) if names else None

    def pack(self) -> None:
        name = f"data{len(self.datasets)}"
        self.put("dataset", name, set(), aka=f"digest:{name}")
        self.datasets.append(name)

    def grow(self) -> None:
        parent = self.pick("dataset")
        if parent is not None:
            name = f"data{len(self.datasets)}"
            self.put("dataset", name, {parent}, aka=f"digest:{name}")
            self.datasets.append(name)

    def train(self) -> None:
        data = self.pick("dataset")
        if data is None:
            return
        name = self.name("run")
        start = self.pick("checkpoint") if self.chance.random() < 0.3 else None
        self.put("run", name, {f"digest:{data}"} | ({start} if start else set()))
        self.checkpoints[name] = []
        self.live.add(name)

    def save(self) -> None:
        runs = sorted(run for run in self.live if run in self.made and run in self.checkpoints)
        if not runs:
            return
        run = self.chance.choice(runs)
        name = f"{run}/step-{len(self.checkpoints[run]):08d}"
        self.put("checkpoint", name, {run})
        self.checkpoints[run].append(name)
        # Its rules keep the newest, and the run is as young as that.
        needs = {need for need in self.relies[run] if not need.startswith(f"{run}/")} | {name}
        self.put("run", run, needs)

    def end(self) -> None:
        if self.live:
            self.live.discard(self.chance.choice(sorted(self.live)))

    def register(self) -> None:
        checkpoint = self.pick("checkpoint")
        if checkpoint is not None:
            self.put("version", self.name("models:/m/"), {checkpoint})

    def promote(self) -> None:
        version = self.pick("version")
        if version is not None:
            self.aliases["production"] = version
            self.trail.add(version)

    def search(self) -> None:
        checkpoint = self.pick("checkpoint")
        if checkpoint is not None:
            self.live.add(checkpoint)

    def cache(self) -> None:
        self.put("cache", self.name("cache"), set())

    def spool(self) -> None:
        name = self.name("spool")
        self.put("spool", name, set())
        if self.chance.random() < 0.5:
            self.live.add(name)

    def inventory(self) -> Inventory:
        outside = self.live | self.trail | set(self.aliases.values())
        items = [
            Item(i.kind, i.address, i.bytes, i.used_s, i.names, i.needs, "somebody" if i.address in outside else "")
            for i in self.made.values()
        ]
        return Inventory(tuple(items), self.day * DAY_S)

    def relied_on(self, by: set[str]) -> set[str]:
        """All that these rely on, step by step, by the book alone."""
        reached: set[str] = set()
        for name in by:
            if name in self.made and name not in reached:
                reached |= {name} | self._behind(name, set())
        return reached

    def _behind(self, name: str, seen: set[str]) -> set[str]:
        for need in self.relies[name]:
            for other in [need, need.removeprefix("digest:")]:
                if other in self.made and other not in seen:
                    seen.add(other)
                    self._behind(other, seen)
        return seen


EVENTS = (
    World.pack, World.grow, World.train, World.save, World.save, World.save, World.end, World.register,
    World.promote, World.search, World.cache, World.spool,
)  # fmt: skip


def live_through(seed: int, events: int, days: int) -> None:
    """Lets a world happen, with a removal now and then; each is judged by the book."""
    chance = random.Random(seed)
    world = World(chance)
    for _ in range(events):
        world.day += chance.choice((0, 1, 10))
        chance.choice(EVENTS)(world)
        if chance.random() < 0.2:
            kinds = frozenset(chance.sample(KINDS, chance.randrange(1, len(KINDS) + 1)))
            rules = TidyRules(days * DAY_S, kinds, chance.choice((0, 10**8)))
            plan = decide(world.inventory(), rules)
            gone = plan.addresses
            outside = world.live | world.trail | set(world.aliases.values())
            # What is alive, and what somebody could go on with: all that stays.
            assert not gone & world.relied_on(outside)
            assert not gone & world.relied_on(set(world.made) - gone)
            assert all(world.made[name].kind in kinds for name in gone)
            assert all(world.day * DAY_S - world.made[name].used_s >= days * DAY_S for name in gone)
            # Nor does it keep what nobody needs: each item that stays has a reason.
            spared = {
                name
                for name, item in world.made.items()
                if item.kind not in kinds or item.bytes < rules.min_bytes or world.day - item.used_s / DAY_S < days
            }
            assert gone == set(world.made) - world.relied_on(outside | spared)
            for name in gone:
                del world.made[name], world.relies[name]
            world.live -= gone


HISTORIES = given(seed=st.integers(0, 2**32), events=st.integers(5, 60), days=st.integers(0, 40))


@settings(max_examples=60, deadline=None)
@HISTORIES
def test_nothing_that_is_needed_ever_goes(seed: int, events: int, days: int) -> None:
    live_through(seed, events, days)


@pytest.mark.nightly
@settings(max_examples=1000, deadline=None)
@HISTORIES
def test_nothing_that_is_needed_ever_goes_in_a_thousand_histories(seed: int, events: int, days: int) -> None:
    live_through(seed, events, days)


def test_the_plan_says_who_needs_what_and_why_the_rest_goes() -> None:
    items = (
        Item("version", "models:/m/1", 0, 0.0, needs=frozenset({"run/step-1"}), needed_by="m@production"),
        Item("checkpoint", "run/step-1", 10, 0.0, needs=frozenset({"run"})),
        Item("run", "run", 1, 0.0, needs=frozenset({"digest:d"})),
        Item("dataset", "data", 100, 0.0, names=frozenset({"digest:d"})),
        Item("dataset", "other", 7, 0.0),
    )
    plan = decide(Inventory(items, 3 * DAY_S), TidyRules(DAY_S))
    assert {one.item.address: one.reason for one in plan.needed} == {
        "models:/m/1": "m@production",
        "run/step-1": "version models:/m/1",
        "run": "checkpoint run/step-1",
        "data": "run run",
    }
    assert [(one.item.address, one.reason) for one in plan.removals] == [
        ("other", "nothing needs it, unchanged for 3 days")
    ]
    assert plan.bytes == 7


def test_what_comes_from_the_future_or_has_no_age_is_young() -> None:
    items = (Item("cache", "a", 1, 10 * DAY_S), Item("cache", "b", 1, float("inf")))
    assert not decide(Inventory(items, DAY_S), TidyRules(0.0)).removals
