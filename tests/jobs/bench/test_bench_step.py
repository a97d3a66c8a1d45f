"""The step that ours is measured against: the same function and the same losses, and a report that says so."""

import json

import pytest
import torch

import isnet
from isnet.gan import LocalReducer
from jobs.bench import reference
from jobs.bench.common import Timing, figure, figures_text, in_turns, median_ratio
from jobs.bench.step import LEAN, REFERENCE, Case, make_step, our_gan, reference_step
from jobs.cli.main import main

CASE = Case(size=32, batch=1, blocks=1, device="cpu")


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_reference_networks_are_the_same_functions_with_as_many_parameters(blocks):
    torch.manual_seed(0)
    ours, our_discriminator = isnet.build("isnet", blocks=blocks), isnet.build("discriminator")
    generator, discriminator = reference.ReferenceGenerator(blocks), reference.ReferenceDiscriminator()
    assert sum(p.numel() for p in generator.parameters()) == ours.num_parameters()
    assert sum(p.numel() for p in discriminator.parameters()) == 2_763_776
    reference.copy_weights(ours, generator)
    reference.copy_weights(our_discriminator, discriminator)
    image, mask = CASE.pictures(0)
    with torch.no_grad():
        torch.testing.assert_close(generator.eval()(image, mask), ours(image, mask), rtol=1e-4, atol=1e-5)
        for maps, expected in zip(discriminator.eval()(image), our_discriminator(image), strict=True):
            torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


def test_first_losses_and_generator_updates_are_those_of_our_step():
    """D's singular vectors move once a pass there and once a step here, so what D says is not compared."""
    theirs, lean, ours = reference_step(CASE), reference_step(CASE, lean=True), our_gan(CASE)
    image, mask = CASE.pictures(1)
    terms = ours.step([(image, mask)], global_batch=1, reduce=LocalReducer())
    for step in (theirs, lean):
        expected = step(image, mask)
        for term in ("l1", "perceptual", "style"):
            torch.testing.assert_close(terms[term], expected[term], rtol=1e-4, atol=1e-6)
    # Adam's first step moves every raw weight by the rate, in the direction of its gradient's sign.
    moved = theirs.generator.state_dict()["stages.1.aggregate_hi.weight_orig"]
    agree = (moved - ours.generator.state_dict()["stages.1.aggregate_hi.weight"]).abs() < 1e-6
    assert agree.float().mean() > 0.98


def test_the_lean_reference_takes_the_same_steps_as_the_whole_one():
    whole, lean = make_step(CASE, REFERENCE), make_step(CASE, LEAN)
    for seed in range(2):
        whole_terms, lean_terms = whole(seed), lean(seed)
    for term in ("l1", "style", "perceptual"):
        torch.testing.assert_close(whole_terms[term], lean_terms[term], rtol=1e-3, atol=1e-5)


def test_turns_are_taken_alternately_and_compared_with_their_neighbours():
    order = []
    timings = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warmup=0)
    assert order == ["a", "b", "b", "a"]
    assert [len(timings[name]) for name in "ab"] == [2, 2]
    slow, fast = [Timing(2, 1), Timing(9, 1), Timing(4, 1)], [Timing(1, 1), Timing(3, 1), Timing(2, 1)]
    assert median_ratio(slow, fast) == 2


def test_a_target_is_a_bound_in_its_own_direction_and_a_miss_is_printed():
    rows = [figure("a", 2.0, "s", 2.0), figure("b", 1, "points", "< 1"), figure("c", 0.98, "share", "≥ 0.97")]
    assert [row["met"] for row in rows] == [True, False, True]
    assert figure("d", 1.23456, "s") == {"name": "d", "value": 1.2346, "unit": "s", "target": None, "met": None}
    assert [line.split()[-1] for line in figures_text(rows).splitlines()] == ["yes", "NO", "yes"]


@pytest.mark.nightly
def test_the_command_reports_every_figure(capfd):
    assert (
        main(["bench", "step", "--sizes", "32", "--rounds", "1", "--blocks", "1", "--curve-steps", "2", "--json"]) == 0
    )
    report = json.loads(capfd.readouterr().out)
    (row,) = report["sizes"]
    assert {"reference", "reference, lean", "fp32"} <= set(row["faster"])
    assert row["faster"]["reference"] == row["memory"]["reference"] == 1
    assert all(
        value > 0 for value in (*row["step_s"].values(), *row["memory_mib"].values(), *row["inference_s"].values())
    )
    l1 = report["curves"]["terms"]["l1"]
    assert l1["fp32"]["first"] == pytest.approx(l1["reference"]["first"], rel=1e-4)
    assert l1["fp32"]["last"] == pytest.approx(l1["reference"]["last"], rel=0.05)


@pytest.mark.parametrize("sizes", ["64,abc", "40", "16"])
def test_a_size_that_no_network_takes_is_a_sentence(sizes, capsys):
    assert main(["bench", "step", "--sizes", sizes]) == 2
    assert "--sizes" in capsys.readouterr().err
