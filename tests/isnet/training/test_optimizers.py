"""Optimisers with frozen parts and rates by part."""

import pytest
import torch

import isnet
from isnet.errors import InputError
from isnet.training.optimizers import check_patterns, fits, parameter_groups
from isnet.training.step_weights import power_iteration


def network():
    torch.manual_seed(0)
    return isnet.build("isnet", blocks=1, width=4)


def adam(net, **rules):
    return torch.optim.Adam(
        parameter_groups("generator", net, rate=0.01, **rules), lr=0.01, betas=(0.0, 0.9), fused=True
    )


def test_without_rules_it_is_the_adam_of_all_parameters_in_one_group():
    net = network()
    plain = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.0, 0.9), fused=True)
    assert adam(net).state_dict() == plain.state_dict()


@pytest.mark.parametrize(
    ("pattern", "path", "is_fitting"),
    [
        ("generator", "generator.stem.reduce.weight", True),
        ("generator.stem", "generator.stem.reduce.weight", True),
        ("generator.ste", "generator.stem.reduce.weight", False),
        ("generator.*.weight", "generator.stem.reduce.weight", True),
        ("generator.stages.[01]", "generator.stages.2.up.steps.0.weight", False),
        ("stem", "generator.stem.reduce.weight", False),
    ],
)
def test_a_pattern_fits_a_path_or_its_beginning(pattern, path, is_fitting):
    assert fits(pattern, path) == is_fitting


def test_frozen_parts_and_their_spectral_norm_stay_while_the_others_move():
    net = network()
    optimizer = adam(net, freeze=["generator.stem", "generator.stages.0"], rate_factors={"generator.head": 0.1})
    before = {name: value.clone() for name, value in net.state_dict().items()}
    power_iteration(net)
    image, mask = torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    net(image, mask).mean().backward()
    optimizer.step()
    moved = {name.split(".")[0] for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"stages", "fusion", "head"}
    assert not any(
        name.startswith("stages.0.") and not torch.equal(v, before[name]) for name, v in net.state_dict().items()
    )
    # Adam's first step moves each weight by its rate: the head by a tenth of the others.
    steps = {name: float((value.detach() - before[name]).abs().max()) for name, value in net.named_parameters()}
    assert steps["head.weight"] == pytest.approx(0.001, rel=1e-3)
    assert max(steps[name] for name in steps if name.startswith("fusion.")) == pytest.approx(0.01, rel=1e-3)


def test_the_last_pattern_that_fits_gives_the_rate():
    groups = adam(network(), rate_factors={"generator": 0.5, "generator.head": 2}).param_groups
    assert [group["lr"] for group in groups] == [0.005, 0.02]


def test_a_network_that_is_frozen_as_a_whole_is_refused():
    with pytest.raises(InputError, match=r"leaves nothing of generator to train; freeze parts of it"):
        adam(network(), freeze=["generator"])


def test_a_pattern_that_fits_nothing_is_refused_and_parts_are_named():
    networks = {"generator": network()}
    check_patterns("train.freeze", ["generator.stem"], networks)
    with pytest.raises(InputError, match=r"train\.freeze='generator\.stm' fits no parameter; need .*generator\.stem"):
        check_patterns("train.freeze", ["generator.stem", "generator.stm"], networks)
