"""Measurements of promotions lie where only promoters write, once, and disturb no trail."""

from __future__ import annotations

from pathlib import Path

from trainplane.registry import audit
from trainplane.registry.measurements import read_measurement, store_measurement
from trainplane.storage import open_store

SUBJECT = {"model": "a" * 64, "pairs": "b" * 64}


def test_the_first_measurement_stays_and_belongs_to_its_subject_alone(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert read_measurement(store, SUBJECT) is None
    store_measurement(store, SUBJECT, b"first")
    store_measurement(store, SUBJECT, b"second")
    assert read_measurement(store, SUBJECT) == b"first"
    for name in SUBJECT:
        assert read_measurement(store, {**SUBJECT, name: "c" * 64}) is None
    assert audit.read_trail(store, "isnet").records == ()
    assert [entry.key.split("/")[:2] for entry in store.list("audit/")] == [["audit", "_measured"]]
