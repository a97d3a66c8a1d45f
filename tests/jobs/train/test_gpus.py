"""Each fault of a machine's GPUs is one sentence with a remedy, from facts alone."""

import pytest

from jobs.train.gpus import Card, GpuFacts, gpu_findings, read_gpus

A100 = Card("NVIDIA A100", 40.0, (8, 0))
GOOD = {"driver": "580.65", "cuda": "13.0", "torch": "2.13.0"}


def said(*cards, **facts):
    return [(finding.level, str(finding)) for finding in gpu_findings(GpuFacts(cards, **{**GOOD, **facts}))]


def test_good_cards_are_named_and_nothing_else_is_said():
    assert said(A100, A100) == [("ok", "GPU: NVIDIA A100, 40 GiB, NVIDIA A100, 40 GiB")]
    assert [finding.level for finding in gpu_findings(GpuFacts(()))] == ["note"]


@pytest.mark.parametrize(
    ("cards", "facts", "level", "words"),
    [
        ((Card("A2", 4.0, (8, 6)),), {}, "warning", "has 4.0 GiB, and places2 as shipped needs 6"),
        ((Card("V100", 32.0, (7, 0)),), {}, "warning", "and bf16 needs 8.0"),
        ((A100, Card("H100", 80.0, (9, 0))), {}, "warning", "cards of different kinds (H100, NVIDIA A100)"),
        ((Card("A100 MIG 1g.10gb", 10.0, (8, 0), True),), {}, "warning", "is a MIG slice"),
        ((A100,), {"driver": "535.54.03"}, "error", "driver is 535.54.03, and torch's CUDA 13.0 needs 580"),
        ((), {"installed": ("A100",), "cuda": None, "torch": "2.13.0+cpu"}, "error", "a build for CPUs"),
        ((), {"installed": ("A100",), "driver": "470.57.02", "cuda": "12.6"}, "error", "needs 525.60 or newer"),
        ((), {"installed": ("A100",)}, "warning", "torch sees none"),
    ],
)
def test_each_fault_is_a_sentence_with_a_remedy(cards, facts, level, words):
    findings = [finding for finding in gpu_findings(GpuFacts(cards, **{**GOOD, **facts})) if finding.level != "ok"]
    assert [finding.level for finding in findings] == [level]
    assert words in str(findings[0])
    assert findings[0].remedy


def test_the_facts_of_this_machine_can_be_read():
    facts = read_gpus()
    assert facts.torch
    assert list(gpu_findings(facts))
