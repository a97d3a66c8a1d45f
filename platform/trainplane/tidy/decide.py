"""Decides what can go. Pure: no I/O.

An item stays if something outside needs it, if it is young, small or of a kind that was not asked for, or if an item
that stays needs it. Everything else goes: so nothing that stays ever needs what goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trainplane.tidy.inventory import Inventory, Item, TidyRules

DAY_S = 86_400.0


@dataclass(frozen=True)
class Judgement:
    """An item, and the reason why it goes or stays."""

    item: Item
    reason: str


@dataclass(frozen=True)
class TidyPlan:
    """Items that go, and items that are needed."""

    removals: tuple[Judgement, ...]
    needed: tuple[Judgement, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all removals."""
        return sum(judgement.item.bytes for judgement in self.removals)

    @property
    def addresses(self) -> frozenset[str]:
        """Addresses of all removals."""
        return frozenset(judgement.item.address for judgement in self.removals)


def decide(inventory: Inventory, rules: TidyRules) -> TidyPlan:
    """Sorts an inventory into what goes and what stays."""
    stays: dict[str, str] = {}
    needed: dict[str, str] = {}
    for item in inventory.items:
        if item.needed_by:
            needed[item.address] = item.needed_by
            stays[item.address] = item.needed_by
        elif reason := _spared(item, rules, inventory.now_s):
            stays[item.address] = reason
    by_name = _by_name(inventory.items)
    waiting = [item for item in inventory.items if item.address in stays]
    while waiting:
        item = waiting.pop()
        for name in sorted(item.needs):
            for target in by_name.get(name, ()):
                if target.address == item.address:
                    continue
                needed.setdefault(target.address, f"{item.kind} {item.address}")
                if target.address not in stays:
                    stays[target.address] = needed[target.address]
                    waiting.append(target)
    removals = [Judgement(item, _why(item, inventory.now_s)) for item in inventory.items if item.address not in stays]
    remaining = [Judgement(item, needed[item.address]) for item in inventory.items if item.address in needed]
    return TidyPlan(tuple(removals), tuple(remaining))


def _by_name(items: Iterable[Item]) -> dict[str, list[Item]]:
    names: dict[str, list[Item]] = {}
    for item in items:
        for name in {item.address, *item.names}:
            names.setdefault(name, []).append(item)
    return names


def _spared(item: Item, rules: TidyRules, now_s: float) -> str:
    """Why an item is not looked at; else empty."""
    if rules.only is not None and item.address not in rules.only:
        return "not asked for"
    if item.kind not in rules.kinds:
        return "of another kind"
    # Another clock may be ahead: what comes from the future is young.
    if now_s - item.used_s < rules.older_than_s:
        return "young"
    return "small" if item.bytes < rules.min_bytes else ""


def _why(item: Item, now_s: float) -> str:
    days = int((now_s - item.used_s) / DAY_S)
    return f"nothing needs it, unchanged for {days} day{'' if days == 1 else 's'}"
