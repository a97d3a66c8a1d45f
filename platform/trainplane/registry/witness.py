"""MLflow as a witness of the trail: it knows how many records there were, and the digest of the last one.

A chain of digests shows that a record was changed, not that the last ones were taken away. The registered model's tag
`trainplane.audit_head` does: whoever reads the trail to decide something compares it first. Somebody who rewrites
store and tag together is not found out here.
"""

from __future__ import annotations

import re
from typing import Any

from trainplane.registry import audit
from trainplane.registry.audit import BrokenTrail, Trail
from trainplane.registry.versions import PREFIX, find_model
from trainplane.storage import Store
from trainplane.tracking.client import client_for, set_anew

_HEAD_TAG = PREFIX + "audit_head"
_SEEN = re.compile(r"([1-9][0-9]{0,8}):([0-9a-f]{64})")


def sound_trail(name: str, *, store: Store, tracking_uri: str) -> Trail:
    """The trail, refused where MLflow has seen records that are no longer in it: nothing may be decided from it, and
    above all no alias may be "repaired" by it."""
    # In this order: a record that is written in between makes the trail longer than what MLflow has seen, not shorter.
    known = seen(find_model(tracking_uri, name))
    trail = audit.read_trail(store, name)
    if (fault := against_witness(trail, known)) is not None:
        raise BrokenTrail(f"{name}: {fault}; nothing was moved; restore the records below {store.address}/audit/{name}")
    return trail


def seen(model: Any) -> tuple[int, str]:
    """How many records MLflow has seen, and the digest of the last of them; (0, "") before the first.

    Raises `BrokenTrail` where the tag says nothing of that kind: then nobody knows how many there were.
    """
    told = model.tags.get(_HEAD_TAG)
    if told is None:
        return 0, ""
    found = _SEEN.fullmatch(told)
    if found is None:
        raise BrokenTrail(
            f"{model.name}: MLflow's tag {_HEAD_TAG} is {told[:80]!r}, which is no witness (need NUMBER:SHA256): it "
            "was changed; nothing was moved; find out by whom, compare the records with a copy, delete the tag, and "
            f"`isnet models audit {model.name}` writes it anew"
        )
    return int(found[1]), found[2]


def against_witness(trail: Trail, head: tuple[int, str]) -> str | None:
    """How the trail contradicts what MLflow has seen, in a sentence; None when it does not."""
    number, digest = head
    known = [audit.FIRST, *[entry.prev for entry in trail.entries][1:], trail.head]
    if number >= len(known):
        return f"the trail ends at record {len(trail.entries)}, MLflow saw record {number}: records were removed"
    if number and known[number] != digest:
        return f"record {number} is not the one that MLflow saw: the trail was rewritten"
    return None


def witness(name: str, trail: Trail, *, tracking_uri: str) -> None:
    """Let MLflow know the last record, unless it knows a later one."""
    if seen(find_model(tracking_uri, name))[0] < len(trail.entries):
        value = f"{len(trail.entries)}:{trail.head}"
        set_anew(client_for(tracking_uri).set_registered_model_tag, name, _HEAD_TAG, value)
