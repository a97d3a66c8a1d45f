"""Each term of Eq. 2 and 3 against its definition written out."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from isnet import losses
from isnet.errors import InputError
from isnet.losses import LossWeights


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(*ratios: float) -> torch.Tensor:
    """One mask of 10×10 a ratio, with that share of it a hole."""
    mask = torch.ones(len(ratios), 1, 100, dtype=torch.float64)
    for sample, ratio in enumerate(ratios):
        mask[sample, :, : round(100 * ratio)] = 0
    return mask.view(len(ratios), 1, 10, 10)


def test_default_weights_are_equation_2() -> None:
    weights = LossWeights()
    assert (weights.l1, weights.adversarial, weights.perceptual, weights.style, weights.feature_matching) == (
        1,
        0.1,
        0.1,
        250,
        10,
    )


def test_negative_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"loss weight l1 is -1; need a finite number from 0"):
        LossWeights(l1=-1)


def test_l1_is_divided_by_the_global_hole_ratio() -> None:
    prediction, truth, mask = random(2, 3, 10, 10), random(2, 3, 10, 10, seed=1), masks(0.1, 0.3)
    assert float(losses.hole_ratio_sum(mask)) == pytest.approx(0.4)
    ratio = losses.hole_ratio_sum(mask) / 2
    found = losses.l1_loss(prediction, truth, mask, mode="hole_ratio", global_batch=2, hole_ratio=ratio)
    assert float(found) == pytest.approx(float((prediction - truth).abs().mean()) / 0.2)


def test_l1_per_sample_divides_each_by_its_own() -> None:
    prediction, truth, mask = random(2, 3, 10, 10), random(2, 3, 10, 10, seed=1), masks(0.1, 0.3)
    distances = (prediction - truth).abs().mean(dim=(1, 2, 3))
    found = losses.l1_loss(prediction, truth, mask, mode="per_sample", global_batch=2)
    assert float(found) == pytest.approx(float(distances[0] / 0.1 + distances[1] / 0.3) / 2)


@pytest.mark.parametrize("mode", ["hole_ratio", "per_sample"])
def test_l1_of_a_mask_without_a_hole_is_finite(mode: str) -> None:
    prediction, truth, mask = random(1, 3, 10, 10), random(1, 3, 10, 10, seed=1), masks(0.0)
    found = losses.l1_loss(
        prediction, truth, mask, mode=mode, global_batch=1, hole_ratio=losses.hole_ratio_sum(mask), min_hole_ratio=0.01
    )
    assert float(found) == pytest.approx(100 * float((prediction - truth).abs().mean()))


def test_discriminator_losses_are_half_the_sum_of_both_terms() -> None:
    real, fake = random(2, 1, 3, 3), random(2, 1, 3, 3, seed=1)
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    expected = {
        "hinge": F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        "nsgan": F.binary_cross_entropy(real.sigmoid(), ones) + F.binary_cross_entropy(fake.sigmoid(), zeros),
        "lsgan": F.mse_loss(real.sigmoid(), ones) + F.mse_loss(fake.sigmoid(), zeros),
    }
    assert set(expected) == set(get_args(losses.GanKind))
    for kind, value in expected.items():
        found = losses.discriminator_loss(real, fake, kind=kind, global_batch=2)
        assert float(found) == pytest.approx(float(value) / 2)


def test_hinge_has_no_value_left_once_d_is_sure() -> None:
    # The released code applies the real term's relu twice, which leaves a value of 0.5 here.
    sure = losses.discriminator_loss(torch.full((1, 1), 3.0), torch.full((1, 1), -3.0), kind="hinge", global_batch=1)
    assert float(sure) == 0


def test_adversarial_losses_of_the_generator() -> None:
    fake = random(2, 1, 3, 3)
    expected = {
        "hinge": -fake.mean(),
        "nsgan": F.binary_cross_entropy(fake.sigmoid(), torch.ones_like(fake)),
        "lsgan": F.mse_loss(fake.sigmoid(), torch.ones_like(fake)),
    }
    assert set(expected) == set(get_args(losses.GanKind))
    for kind, value in expected.items():
        assert float(losses.adversarial_loss(fake, kind=kind, global_batch=2)) == pytest.approx(float(value))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_nsgan_on_logits_cannot_overflow(size: float) -> None:
    logits = torch.full((1, 1, 2, 2), size, requires_grad=True)
    loss = losses.discriminator_loss(logits, logits, kind="nsgan", global_batch=1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_what_d_sees() -> None:
    prediction, truth, mask = random(1, 3, 10, 10), random(1, 3, 10, 10, seed=1), masks(0.5)
    hole, valid = mask == 0, mask == 1
    real, fake = losses.discriminator_views(prediction, truth, mask, sees="raw")
    assert real is truth
    assert fake is prediction
    real, fake = losses.discriminator_views(prediction, truth, mask, sees="composite")
    assert real is truth
    assert torch.equal(fake[hole.expand_as(fake)], prediction[hole.expand_as(fake)])
    assert torch.equal(fake[valid.expand_as(fake)], truth[valid.expand_as(fake)])
    real, fake = losses.discriminator_views(prediction, truth, mask, sees="hole_only")
    assert float(real[valid.expand_as(real)].abs().max()) == float(fake[valid.expand_as(fake)].abs().max()) == 0
    assert torch.equal(real[hole.expand_as(real)], truth[hole.expand_as(real)])


def test_feature_matching_sums_the_maps_and_spares_the_real_side() -> None:
    fakes = [random(2, 3, 4, 4).requires_grad_(), random(2, 5, 2, 2).requires_grad_()]
    reals = [random(2, 3, 4, 4, seed=1).requires_grad_(), random(2, 5, 2, 2, seed=1).requires_grad_()]
    loss = losses.feature_matching_loss(fakes, reals, global_batch=2)
    expected = sum((f - r).abs().mean() for f, r in zip(fakes, reals, strict=True))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(f.grad is not None for f in fakes)
    assert all(r.grad is None for r in reals)


def test_gram_is_scaled_by_all_three_dimensions() -> None:
    features = random(2, 3, 4, 5)
    found = losses.gram(features)
    for sample in range(2):
        matrix = features[sample].reshape(3, 20)
        torch.testing.assert_close(found[sample], matrix @ matrix.t() / 60)


def test_perceptual_and_style_sum_their_layers() -> None:
    fake = {"a": random(2, 3, 4, 4), "b": random(2, 6, 2, 2)}
    real = {"a": random(2, 3, 4, 4, seed=1), "b": random(2, 6, 2, 2, seed=1)}
    perceptual = losses.perceptual_loss(fake, real, ["a", "b"], global_batch=2)
    assert float(perceptual) == pytest.approx(sum(float((fake[n] - real[n]).abs().mean()) for n in "ab"))
    style = losses.style_loss(fake, real, ["b"], global_batch=2)
    assert float(style) == pytest.approx(float((losses.gram(fake["b"]) - losses.gram(real["b"])).abs().mean()))


def test_losses_compute_in_float32_whatever_comes_in() -> None:
    features = {"a": torch.rand(1, 64, 32, 32).bfloat16()}
    others = {"a": torch.rand(1, 64, 32, 32).bfloat16()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [
            losses.gram(features["a"]),
            losses.perceptual_loss(features, others, ["a"], global_batch=1),
            losses.style_loss(features, others, ["a"], global_batch=1),
            losses.discriminator_loss(features["a"], others["a"], kind="hinge", global_batch=1),
            losses.adversarial_loss(features["a"], kind="nsgan", global_batch=1),
        ]
    assert {value.dtype for value in found} == {torch.float32}
    exact = losses.gram(features["a"].double())
    torch.testing.assert_close(found[0].double(), exact, rtol=1e-5, atol=1e-7)


def test_shares_of_samples_add_up_to_the_whole() -> None:
    prediction, truth = random(6, 3, 10, 10), random(6, 3, 10, 10, seed=1)
    mask = masks(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    ratio = losses.hole_ratio_sum(mask) / 6

    def terms(samples: slice) -> torch.Tensor:
        p, t, m = prediction[samples], truth[samples], mask[samples]
        features = [{"x": p}, {"x": t}]
        return torch.stack(
            [
                losses.l1_loss(p, t, m, mode="hole_ratio", global_batch=6, hole_ratio=ratio),
                losses.l1_loss(p, t, m, mode="per_sample", global_batch=6),
                losses.l1_loss(p, t, m, mode="plain", global_batch=6),
                losses.discriminator_loss(t, p, kind="hinge", global_batch=6),
                losses.adversarial_loss(p, kind="lsgan", global_batch=6),
                losses.feature_matching_loss([p], [t], global_batch=6),
                losses.perceptual_loss(*features, ["x"], global_batch=6),
                losses.style_loss(*features, ["x"], global_batch=6),
                losses.mean_logit(p, global_batch=6),
            ]
        )

    whole = terms(slice(None))
    torch.testing.assert_close(terms(slice(0, 1)) + terms(slice(1, 4)) + terms(slice(4, 6)), whole)
