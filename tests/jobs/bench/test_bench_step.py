"""The step that ours is measured against: the same function and the same losses, and a report that says so."""

import json

import pytest
import torch

import isnet
from isnet.gan import LocalReducer
from jobs.bench import reference
from jobs.bench.common import Taken, in_turns, median_ratio
from jobs.bench.step_ways import LEAN, REFERENCE, Case, make_step, our_gan, reference_step
from jobs.cli.main import main

CASE = Case(size=32, batch=1, blocks=1, device="cpu")


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_reference_networks_are_the_same_functions_with_as_many_parameters(blocks):
    torch.manual_seed(0)
    ours, judge = isnet.build("isnet", blocks=blocks), isnet.build("discriminator")
    generator, discriminator = reference.Generator(blocks), reference.Discriminator()
    assert sum(p.numel() for p in generator.parameters()) == ours.num_parameters()
    assert sum(p.numel() for p in discriminator.parameters()) == 2_763_776
    reference.copy_weights(ours, generator)
    reference.copy_weights(judge, discriminator)
    image, mask = CASE.pictures(0)
    with torch.no_grad():
        torch.testing.assert_close(generator.eval()(image, mask), ours(image, mask), rtol=1e-4, atol=1e-5)
        for found, expected in zip(discriminator.eval()(image), judge(image), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_first_losses_and_generator_updates_are_those_of_our_step():
    """D's singular vectors move once a pass there and once a step here, so what D says is not compared."""
    theirs, lean, ours = reference_step(CASE), reference_step(CASE, lean=True), our_gan(CASE)
    image, mask = CASE.pictures(1)
    found = ours.step([(image, mask)], global_batch=1, reduce=LocalReducer())
    for step in (theirs, lean):
        expected = step(image, mask)
        for term in ("l1", "perceptual", "style"):
            torch.testing.assert_close(found[term], expected[term], rtol=1e-4, atol=1e-6)
    # Adam's first step moves every raw weight by the rate, in the direction of its gradient's sign.
    moved = theirs.generator.state_dict()["stages.1.aggregate_hi.weight_orig"]
    agree = (moved - ours.generator.state_dict()["stages.1.aggregate_hi.weight"]).abs() < 1e-6
    assert agree.float().mean() > 0.98


def test_the_lean_reference_takes_the_same_steps_as_the_whole_one():
    whole, lean = make_step(CASE, REFERENCE), make_step(CASE, LEAN)
    for seed in range(2):
        one, other = whole(seed), lean(seed)
    for term in ("l1", "style", "perceptual"):
        torch.testing.assert_close(one[term], other[term], rtol=1e-3, atol=1e-5)


def test_turns_are_taken_alternately_and_compared_with_their_neighbours():
    order = []
    taken = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warmup=0)
    assert order == ["a", "b", "b", "a"]
    assert [len(taken[name]) for name in "ab"] == [2, 2]
    assert median_ratio([Taken(2, 1), Taken(9, 1), Taken(4, 1)], [Taken(1, 1), Taken(3, 1), Taken(2, 1)]) == 2


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
