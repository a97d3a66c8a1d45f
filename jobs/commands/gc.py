"""`isnet gc`: what nothing needs any more, and its removal."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.cli.format import size as size_text
from jobs.cli.main import emit
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import UserError, nearest

_DAYS = 30
# Words of `--kinds`, with what they mean.
_KINDS = {
    "runs": ("run", "checkpoint"),
    "datasets": ("dataset",),
    "versions": ("version",),
    "caches": ("cache",),
    "spools": ("spool",),
}
_SHOWN = 40


def gc(args: argparse.Namespace, context: Context) -> int:
    """Plans a removal; with --yes, removes."""
    from jobs.search.needed import needed_checkpoints
    from trainplane.tidy.act import act
    from trainplane.tidy.collect import collect, removers
    from trainplane.tidy.datasets import restore_hidden as restore_datasets
    from trainplane.tidy.decide import TidyPlan, decide
    from trainplane.tidy.inventory import TidyRules
    from trainplane.tidy.runs import restore_hidden as restore_checkpoints

    with_newest = args.unused_datasets or bool(args.address)
    kinds = _kinds(args.kinds)
    if args.yes:
        # What a removal that was killed left hidden is decided about again.
        restore_datasets(context.datasets)
        restore_checkpoints(context.checkpoints)

    def look() -> Any:
        return collect(context, needed_checkpoints(context), with_newest=with_newest)

    inventory = look()
    only = _named(args.address, inventory, context)
    days = args.older_than if args.older_than is not None else (0 if only else _DAYS)
    # A run goes with its checkpoints.
    named = {item.address for item in inventory.items if item.address in only or _run_of(item) in only}
    rules = TidyRules(days * 86_400, kinds, args.min_size, frozenset(named) if only else None)
    plan: TidyPlan = decide(inventory, rules)
    _refuse_needed(only, plan)
    payload = _payload(plan)
    if not args.yes:
        again = command_line("gc", *_options(args), "--yes")
        lines = _table(plan)
        lines.append(
            f"{_things(len(plan.removals))}, {size_text(plan.bytes)}, would go; nothing was removed: `{again}`"
        )
        if not plan.removals:
            lines = [f"nothing to remove: {len(inventory.items)} things are needed, young or of another kind"]
        emit(args, payload, "\n".join(lines))
        return 0
    result = act(plan, rules, removers(context), look)
    staying = [{"address": each.item.address, "kind": each.item.kind, "reason": each.reason} for each in result.kept]
    lines = [f"removed {_things(len(result.gone))}, {size_text(result.bytes)}"]
    lines += [f"kept {entry['address']}: {entry['reason']}" for entry in staying]
    addresses = {item.address for item in result.gone}
    removed = [entry for entry in payload["removals"] if entry["address"] in addresses]
    emit(args, {"removed": removed, "bytes": result.bytes, "kept": staying}, "\n".join(lines))
    return 0


def _things(count: int) -> str:
    return f"{count} thing{'' if count == 1 else 's'}"


def _run_of(item: Any) -> str:
    return str(item.address).rpartition("/")[0] if item.kind == "checkpoint" else ""


def _kinds(typed: str | None) -> Any:
    words = list(_KINDS) if typed is None else [word.strip() for word in typed.split(",")]
    for word in words:
        if word not in _KINDS:
            raise UserError(f"--kinds has {word!r}{nearest(word, list(_KINDS))}")
    return frozenset(kind for word in words for kind in _KINDS[word])


def _named(words: Sequence[str], inventory: Any, context: Context) -> frozenset[str]:
    """Addresses of the items that were typed."""
    from trainplane.data.grow.versions import VersionName

    names: dict[str, set[str]] = {}
    grown = {VersionName.of(item.address).root for item in inventory.items if VersionName.of(item.address).number > 1}
    for item in inventory.items:
        called = {item.address, item.address.rstrip("/").rpartition("/")[2]}
        if item.kind == "dataset":
            version = VersionName.of(item.address)
            called.add(version.typed.removeprefix(f"{context.datasets}/"))
            plain = {version.root.rpartition("/")[2], version.root.removeprefix(f"{context.datasets}/")}
            # A plain name is one version's only while there is no other.
            called = called - plain if version.root in grown else called | plain
        elif item.kind == "version":
            called.add(item.address.removeprefix("models:/"))
        for name in called:
            names.setdefault(name, set()).add(item.address)
    for word in words:
        if word.rstrip("/") not in names:
            hint = nearest(word, [name for name in names if "/" not in name])
            everything = command_line("gc", "--older-than", "0", "--json")
            raise UserError(
                f"{word}: nothing is called so here{hint if '?' in hint else f'; `{everything}` lists all'}"
            )
        if len(alike := sorted(names[word.rstrip("/")])) > 1:
            raise UserError(f"{word}: {len(alike)} things are called so, such as {alike[0]}; give one's address")
    return frozenset(address for word in words for address in names[word.rstrip("/")])


def _refuse_needed(only: frozenset[str], plan: Any) -> None:
    reasons = {judgement.item.address: judgement.reason for judgement in plan.needed}
    for address in sorted(only):
        if address in reasons and address not in plan.addresses:
            raise UserError(
                f"{address} cannot go: it is needed, {_by(reasons[address], reasons)}; remove that first, or leave this"
            )


def _by(reason: str, reasons: Mapping[str, str]) -> str:
    """Names who needs an item, and who needs that."""
    text = reason if reason.startswith("pinned") else f"by {reason}"
    behind = reasons.get(reason.partition(" ")[2])
    return f"{text} ({behind})" if behind else text


def _options(args: argparse.Namespace) -> list[str]:
    words = [*args.address]
    words += ["--older-than", str(args.older_than)] if args.older_than is not None else []
    words += ["--kinds", args.kinds] if args.kinds else []
    words += ["--min-size", str(args.min_size)] if args.min_size else []
    return [*words, *(["--unused-datasets"] if args.unused_datasets else [])]


def _payload(plan: Any) -> dict[str, Any]:
    def entries(judgements: Any) -> list[dict[str, Any]]:
        return [
            {"kind": each.item.kind, "address": each.item.address, "bytes": each.item.bytes, "reason": each.reason}
            for each in judgements
        ]

    return {"removals": entries(plan.removals), "bytes": plan.bytes, "needed": entries(plan.needed)}


def _table(plan: Any) -> list[str]:
    largest = sorted(plan.removals, key=lambda each: (-each.item.bytes, each.item.address))
    lines = [
        f"{each.item.kind:<10} {size_text(each.item.bytes):>12}  {each.item.address}  {each.reason}"
        for each in largest[:_SHOWN]
    ]
    if len(largest) > _SHOWN:
        rest = sum(each.item.bytes for each in largest[_SHOWN:])
        lines.append(f"and {len(largest) - _SHOWN} more, {size_text(rest)}: --json lists all")
    return lines
