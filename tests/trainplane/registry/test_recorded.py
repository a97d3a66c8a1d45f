"""Tags that were edited give a sentence and no value."""

from __future__ import annotations

import hashlib
import json

import pytest

from trainplane.registry.recorded import read_evaluation, read_verdicts

SOUND = {"model": "models:/m/1", "bins": {"all": {"psnr": 20.5, "n": 3, "ssim": None}}, "size": 64}
VERDICT = {"gate": "g", "passed": True, "evidence": "fine", "values": {"value": 1.0}}


def tags(text: str, *, digest: str | None = None) -> dict[str, str]:
    own = hashlib.sha256(text.encode()).hexdigest()
    return {"trainplane.evaluation": text, "trainplane.evaluation_digest": digest or own}


def test_what_was_recorded_comes_back_as_it_was() -> None:
    assert read_evaluation({}) == (None, None)
    assert read_verdicts({}) == ([], None)
    evaluation, fault = read_evaluation(tags(json.dumps(SOUND)))
    assert (evaluation, fault) == (SOUND, None)
    assert evaluation is not None
    assert isinstance(evaluation["bins"]["all"]["n"], int)
    assert read_verdicts({"trainplane.gates": json.dumps([VERDICT])}) == ([VERDICT], None)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[1]", "5", '"x"', "[" * 100_000, '{"bins": 5}', '{"bins": {"all": 5}}', "{}"),
        *('{"bins": {"all": {"psnr": "20"}}}', '{"bins": {"all": {"psnr": true}}}', '{"bins": {"all": {"psnr": NaN}}}'),
        *('{"bins": {"all": {"psnr": 1e999}}}', '{"bins": {}, "bins": 5}', '{"bins": {}, "model": 5}'),
        *('{"bins": {}, "intervals": {"all": {"psnr": [1]}}}', '{"bins": {}, "cost": {"latency_ms": "1"}}'),
    ],
)
def test_an_evaluation_of_another_shape_does_not_count(text: str) -> None:
    evaluation, fault = read_evaluation(tags(text))
    assert evaluation is None
    assert fault is not None
    assert fault.startswith("tag trainplane.evaluation ")
    assert fault.endswith("so it does not count")
    assert len(fault) < 400


def test_an_evaluation_without_its_digest_does_not_count() -> None:
    evaluation, fault = read_evaluation(tags(json.dumps(SOUND), digest="0" * 64))
    assert (evaluation, "has not the digest" in str(fault)) == (None, True)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '[{"gate": 1}]', '[{"gate": "g", "passed": 1, "evidence": ""}]', '[{"gate": "g"}]', "nul"]
)
def test_verdicts_of_another_shape_do_not_count(text: str) -> None:
    verdicts, fault = read_verdicts({"trainplane.gates": text})
    assert verdicts == []
    assert str(fault).startswith("tag trainplane.gates ")
