"""One training step: the gradients are those of the plain step, however the batch was divided, and nothing drifts."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import isnet
from isnet.errors import InputError
from isnet.gan import GAN, GanSettings, LocalReducer, LossWeights
from isnet.losses import composite, gram
from isnet.perceptual import Perceptual
from isnet.spectral_norm import SpectralLayer, spectral_layers
from isnet.training.step_weights import power_iteration

BATCH = 4
SIZE = 32
TERMS = {"l1", "adversarial", "perceptual", "style", "feature_matching"}
METRICS = TERMS | {"generator", "discriminator", "d_real", "d_fake"}


def make_gan(
    *, dtype: torch.dtype = torch.float64, seed: int = 0, blocks: int = 1, name: str = "isnet", **settings: object
) -> GAN:
    torch.manual_seed(seed)
    generator = isnet.build(name, width=2, blocks=blocks, init_std=0.1)
    discriminator = isnet.build("discriminator", width=4, init_std=0.1)
    perceptual = Perceptual("random", perceptual_layers=["relu1_1", "relu2_1"], style_layers=["relu1_2"])
    return GAN(
        generator.to(dtype),
        discriminator.to(dtype),
        GanSettings(**{"lr_g": 1e-3, "lr_d": 1e-3, **settings}),
        perceptual=perceptual.to(dtype),
        device="cpu",
    )


def make_batch(dtype: torch.dtype = torch.float64, *, seed: int = 1, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image_B3HW = torch.rand(batch, 3, SIZE, SIZE, generator=generator, dtype=dtype)
    mask_B1HW = (torch.rand(batch, 1, SIZE, SIZE, generator=generator, dtype=dtype) > 0.3).to(dtype)
    mask_B1HW[0, :, : SIZE // 2] = 1
    return image_B3HW, mask_B1HW


def gradients(gan: GAN) -> dict[str, Tensor]:
    return {
        f"{player}.{name}": p.grad.clone()
        for player in ("generator", "discriminator")
        for name, p in gan.modules()[player].named_parameters()
        if p.grad is not None
    }


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], *, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    assert found
    # A bias before an instance norm has no gradient but rounding.
    floor = 1e-5 * max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        scale = gradient.abs().max().clamp_min(floor)
        assert float((found[name] - gradient).abs().max() / scale) < tolerance, name


class NaiveStep:
    """The step as usually written: D three times, VGG four times, W/σ in every graph. Two backward passes."""

    def __init__(self, gan: GAN) -> None:
        self.settings = gan.settings
        self.generator = copy.deepcopy(gan.generator)
        self.discriminator = copy.deepcopy(gan.discriminator)
        self.vgg = gan.perceptual

    def gradients(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        power_iteration(self.generator)
        power_iteration(self.discriminator)
        prediction = self.generator(image, mask)
        self._discriminator_loss(image, prediction.detach(), mask).backward()
        d_gradients = {f"discriminator.{n}": p.grad.clone() for n, p in self.discriminator.named_parameters()}
        self._generator_loss(image, prediction, mask).backward()
        g_gradients = {
            f"generator.{n}": p.grad.clone() for n, p in self.generator.named_parameters() if p.grad is not None
        }
        return {**g_gradients, **d_gradients}

    def _views(self, image: Tensor, prediction: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.settings.d_sees == "composite":
            return image, composite(prediction, image, mask)
        if self.settings.d_sees == "hole_only":
            return image * (1 - mask), prediction * (1 - mask)
        return image, prediction

    def _discriminator_loss(self, image: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        real_view, fake_view = self._views(image, prediction, mask)
        real, fake = self.discriminator(real_view)[-1], self.discriminator(fake_view)[-1]
        if self.settings.gan == "hinge":
            return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        compare = F.binary_cross_entropy if self.settings.gan == "nsgan" else F.mse_loss
        real, fake = torch.sigmoid(real), torch.sigmoid(fake)
        return (compare(real, torch.ones_like(real)) + compare(fake, torch.zeros_like(fake))) / 2

    def _generator_loss(self, image: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        weights = self.settings.loss
        real_view, fake_view = self._views(image, prediction, mask)
        fake_maps, real_maps = self.discriminator(fake_view), self.discriminator(real_view)
        fake = fake_maps[-1]
        if self.settings.gan == "hinge":
            adversarial = -fake.mean()
        else:
            compare = F.binary_cross_entropy if self.settings.gan == "nsgan" else F.mse_loss
            adversarial = compare(torch.sigmoid(fake), torch.ones_like(fake))
        matching = sum((f - r.detach()).abs().mean() for f, r in zip(fake_maps, real_maps, strict=True))
        perceptual = sum(
            (self.vgg(prediction)[name] - self.vgg(image)[name]).abs().mean() for name in self.vgg.perceptual_layers
        )
        area = (1 - mask) if self.settings.style_hole_only else torch.ones_like(mask)
        style = sum(
            (gram(self.vgg(prediction * area)[name]) - gram(self.vgg(image * area)[name])).abs().mean()
            for name in self.vgg.style_layers
        )
        return (
            weights.l1 * self._l1(image, prediction, mask)
            + weights.adversarial * adversarial
            + weights.perceptual * perceptual
            + weights.style * style
            + weights.feature_matching * matching
        )

    def _l1(self, image: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        distance = (prediction - image).abs()
        if self.settings.l1_mode == "plain":
            return distance.mean()
        if self.settings.l1_mode == "per_sample":
            ratios = (1 - mask).mean(dim=(1, 2, 3)).clamp_min(self.settings.min_hole_ratio)
            return (distance.mean(dim=(1, 2, 3)) / ratios).mean()
        return distance.mean() / (1 - mask).mean()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gan": "nsgan", "d_sees": "composite", "l1_mode": "per_sample"},
        {"gan": "lsgan", "d_sees": "hole_only", "l1_mode": "plain", "style_hole_only": True},
    ],
    ids=["paper", "nsgan-composite", "lsgan-hole-only"],
)
def test_gradients_equal_those_of_the_plain_step(settings: dict[str, object]) -> None:
    gan = make_gan(**settings)
    image, mask = make_batch()
    expected = NaiveStep(gan).gradients(image, mask)
    gan.step([(image, mask)], global_batch=BATCH, reduce=LocalReducer())
    assert_equal_gradients(gradients(gan), expected, tolerance=1e-9)


@pytest.mark.parametrize("name", ["base", "base_ff", "unet_like"])
def test_gradients_equal_those_of_the_plain_step_in_every_network(name: str) -> None:
    gan = make_gan(name=name)
    image, mask = make_batch()
    expected = NaiveStep(gan).gradients(image, mask)
    gan.step([(image, mask)], global_batch=BATCH, reduce=LocalReducer())
    assert_equal_gradients(gradients(gan), expected, tolerance=1e-9)


@pytest.mark.parametrize("l1_mode", ["hole_ratio", "per_sample", "plain"])
def test_dividing_the_batch_changes_neither_gradients_nor_metrics(l1_mode: str) -> None:
    image, mask = make_batch(batch=8)
    whole, parts = make_gan(l1_mode=l1_mode), make_gan(l1_mode=l1_mode)
    metrics = whole.step([(image, mask)], global_batch=8, reduce=LocalReducer())
    micro_batches = list(zip(image.split(2), mask.split(2), strict=True))
    metrics_of_parts = parts.step(micro_batches, global_batch=8, reduce=LocalReducer())
    assert_equal_gradients(gradients(parts), gradients(whole), tolerance=1e-10)
    assert metrics.keys() == metrics_of_parts.keys() == METRICS
    for name, value in metrics.items():
        torch.testing.assert_close(metrics_of_parts[name], value, rtol=1e-10, atol=1e-12)


class ThreadedReducer:
    """Two ranks in two threads: each waits for the other, then takes the sum in rank order."""

    def __init__(self, world: int) -> None:
        self._barrier = threading.Barrier(world)
        self._shares: list[list[Tensor]] = [[] for _ in range(world)]
        self._rank = threading.local()

    def join(self, rank: int) -> None:
        self._rank.value = rank

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        self._shares[self._rank.value] = [tensor.clone() for tensor in tensors]
        self._barrier.wait(timeout=60)
        sums = [torch.stack(ranks).sum(0) for ranks in zip(*self._shares, strict=True)]
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total)
        self._barrier.wait(timeout=60)


def test_two_ranks_step_as_one() -> None:
    image, mask = make_batch(batch=8)
    alone = make_gan()
    expected = alone.step([(image, mask)], global_batch=8, reduce=LocalReducer())

    ranks = [make_gan(), make_gan()]
    reducer = ThreadedReducer(2)
    shares: list[dict[str, Tensor]] = [{}, {}]

    def run(rank: int) -> None:
        reducer.join(rank)
        mine = slice(4 * rank, 4 * rank + 4)
        shares[rank] = ranks[rank].step([(image[mine], mask[mine])], global_batch=8, reduce=reducer)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for gan in ranks:
        assert_equal_gradients(gradients(gan), gradients(alone), tolerance=1e-10)
        for name, p in gan.generator.named_parameters():
            torch.testing.assert_close(p, alone.generator.get_parameter(name), rtol=1e-9, atol=1e-12)
    assert expected.keys() == METRICS
    for name, value in expected.items():
        torch.testing.assert_close(shares[0][name] + shares[1][name], value, rtol=1e-10, atol=1e-12)


def test_the_same_seed_gives_the_same_bits() -> None:
    def train() -> list[Tensor]:
        gan = make_gan(dtype=torch.float32, ema=0.9)
        for seed in range(3):
            gan.step([make_batch(torch.float32, seed=seed)], global_batch=BATCH, reduce=LocalReducer())
        return [tensor for module in gan.modules().values() for tensor in module.state_dict().values()]

    first, second = train(), train()
    assert len(first) > 300
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_few_steps_stay_finite_and_near_fp32(precision: str) -> None:
    image, mask = make_batch(torch.float32)
    gan = make_gan(dtype=torch.float32, precision=precision)
    history = [gan.step([(image, mask)], global_batch=BATCH, reduce=LocalReducer()) for _ in range(5)]
    reference = make_gan(dtype=torch.float32)
    expected = [reference.step([(image, mask)], global_batch=BATCH, reduce=LocalReducer()) for _ in range(5)]
    for step, expected_step in zip(history, expected, strict=True):
        assert step.keys() == METRICS
        for name, value in step.items():
            assert torch.isfinite(value), name
            assert value.dtype == torch.float32
        torch.testing.assert_close(step["l1"], expected_step["l1"], rtol=2e-2, atol=1e-3)
    assert all(p.dtype == torch.float32 for p in gan.generator.parameters())


def test_training_lowers_the_loss() -> None:
    image, mask = make_batch(torch.float32)
    image = image.mean(dim=(2, 3), keepdim=True).expand_as(image) * 0.5
    gan = make_gan(dtype=torch.float32, lr_g=1e-2, betas=(0.9, 0.99), loss=LossWeights(style=0.0))
    totals = [gan.step([(image, mask)], global_batch=BATCH, reduce=LocalReducer())["l1"] for _ in range(30)]
    assert totals[-1] < 0.7 * totals[0]


def test_terms_of_weight_zero_are_not_computed() -> None:
    gan = make_gan(loss=LossWeights(adversarial=0, feature_matching=0, style=0, perceptual=0))
    before = copy.deepcopy(gan.discriminator.state_dict())
    calls = []
    gan.discriminator.register_forward_hook(lambda *_: calls.append("d"))
    metrics = gan.step([make_batch()], global_batch=BATCH, reduce=LocalReducer())
    assert metrics.keys() == {"l1", "generator"}
    assert gan.perceptual is None
    assert not calls
    for name, tensor in gan.discriminator.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_networks_run_no_more_than_needed() -> None:
    gan = make_gan()
    calls = {"generator": 0, "discriminator": 0, "vgg": 0}
    for name, module in [*gan.modules().items(), ("vgg", gan.perceptual)]:
        module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    gan.step([make_batch()], global_batch=BATCH, reduce=LocalReducer())
    assert calls == {"generator": 1, "discriminator": 2, "vgg": 2}


def test_spectral_vectors_move_once_a_step_however_many_micro_batches() -> None:
    image, mask = make_batch()
    gan = make_gan()
    alone = copy.deepcopy(gan.discriminator)
    gan.step(list(zip(image.split(1), mask.split(1), strict=True)), global_batch=BATCH, reduce=LocalReducer())
    power_iteration(alone)
    layers = spectral_layers(gan.discriminator)
    assert len(layers) == 5
    for moved, expected in zip(layers, spectral_layers(alone), strict=True):
        assert torch.equal(moved.u, expected.u)


def largest_singular_value(layer: SpectralLayer) -> float:
    matrix = layer.normalised_weight().detach().transpose(0, layer.rows_dim).flatten(1)
    return float(torch.linalg.matrix_norm(matrix, ord=2))


def test_the_average_of_g_keeps_its_spectral_norm() -> None:
    gan = make_gan(ema=0.5, lr_g=1e-4)
    power_iteration(gan.generator, times=2000)
    for seed in range(10):
        gan.step([make_batch(seed=seed)], global_batch=BATCH, reduce=LocalReducer())
    average = gan.eval_generator()
    assert average is gan.modules()["ema"]
    layers = spectral_layers(average)
    assert len(layers) == 49
    for layer, current in zip(layers, spectral_layers(gan.generator), strict=True):
        assert torch.equal(layer.u, current.u)
        assert abs(largest_singular_value(layer) - 1) < 1e-3


def test_the_average_follows_g() -> None:
    gan = make_gan(ema=0.75)
    before = [p.clone() for p in gan.generator.parameters()]
    assert len(before) > 49
    gan.step([make_batch()], global_batch=BATCH, reduce=LocalReducer())
    for averaged, old, new in zip(gan.ema.module.parameters(), before, gan.generator.parameters(), strict=True):
        torch.testing.assert_close(averaged, 0.75 * old + 0.25 * new)


def test_activations_computed_again_give_the_same_gradients_and_networks_without_stages_refuse() -> None:
    image, mask = make_batch()
    kept, again = make_gan(), make_gan(recompute=True)
    kept.step([(image, mask)], global_batch=BATCH, reduce=LocalReducer())
    again.step([(image, mask)], global_batch=BATCH, reduce=LocalReducer())
    assert_equal_gradients(gradients(again), gradients(kept), tolerance=1e-12)
    with pytest.raises(InputError, match="recompute is for isnet, base and base_ff"):
        make_gan(name="unet_like", recompute=True)


class Readings(TorchDispatchMode):
    """Counts how often a value is read from the device, for which the host would have to wait."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_step_never_waits_for_the_device() -> None:
    gan = make_gan(ema=0.9)
    with Readings() as readings:
        gan.step([make_batch()], global_batch=BATCH, reduce=LocalReducer())
    assert readings.count == 0
    with Readings() as readings:
        torch.ones(()).item()
    assert readings.count == 1


def test_no_hole_at_all_gives_a_finite_step() -> None:
    image, mask = make_batch()
    for l1_mode in ("hole_ratio", "per_sample"):
        gan = make_gan(l1_mode=l1_mode)
        metrics = gan.step([(image, torch.ones_like(mask))], global_batch=BATCH, reduce=LocalReducer())
        assert metrics.keys() == METRICS
        assert all(torch.isfinite(value) for value in metrics.values())
        assert all(torch.isfinite(p).all() for p in gan.generator.parameters())


def test_channels_last_changes_nothing_but_the_layout() -> None:
    batch = make_batch()
    plain, nhwc = make_gan(), make_gan(channels_last=True)
    plain.step([batch], global_batch=BATCH, reduce=LocalReducer())
    nhwc.step([batch], global_batch=BATCH, reduce=LocalReducer())
    assert_equal_gradients(gradients(nhwc), gradients(plain), tolerance=1e-9)
    assert all(p.is_contiguous() for p in nhwc.generator.parameters())


def test_settings_that_cannot_be_are_refused_with_the_value() -> None:
    with pytest.raises(InputError, match=r"gan is 'wgan'; need one of hinge, nsgan, lsgan"):
        GanSettings(gan="wgan")
    with pytest.raises(InputError, match=r"lr_d is 0"):
        GanSettings(lr_d=0)
    with pytest.raises(InputError, match=r"loss weight style is nan"):
        LossWeights(style=float("nan"))
    with pytest.raises(InputError, match=r"ema is 1.0"):
        make_gan(ema=1.0)


def test_a_vgg_loss_without_vgg_is_refused() -> None:
    with pytest.raises(InputError, match="need VGG19, and none was given"):
        GAN(nn.Identity(), nn.Identity(), GanSettings(), perceptual=None, device="cpu")


def test_a_share_larger_than_the_global_batch_is_refused() -> None:
    with pytest.raises(InputError, match="4 samples of a global batch of 2"):
        make_gan().step([make_batch()], global_batch=2, reduce=LocalReducer())


def test_a_micro_batch_without_a_sample_is_refused() -> None:
    image, mask = make_batch()
    for batches in ([(image[:0], mask[:0])], [(image, mask), (image[:0], mask[:0])]):
        with pytest.raises(InputError, match=r"samples of a global batch of 4, \[.*0\] in its micro-batches"):
            make_gan().step(batches, global_batch=BATCH, reduce=LocalReducer())


def test_the_callers_vgg_is_left_as_it_is() -> None:
    vgg = Perceptual("random", perceptual_layers=["relu1_1"], style_layers=[])
    settings = GanSettings(precision="bf16", loss=LossWeights(style=0))
    gan = GAN(nn.Linear(1, 1), nn.Linear(1, 1), settings, perceptual=vgg, device="cpu")
    assert {p.dtype for p in gan.perceptual.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in vgg.parameters()} == {torch.float32}


@pytest.mark.nightly
def test_compiled_networks_take_the_same_step() -> None:
    image, mask = make_batch(torch.float32)
    eager, compiled = make_gan(dtype=torch.float32), make_gan(dtype=torch.float32, compile=True)
    names = set(compiled.generator.state_dict())
    for _ in range(2):
        expected = eager.step([(image, mask)], global_batch=BATCH, reduce=LocalReducer())
        found = compiled.step([(image, mask)], global_batch=BATCH, reduce=LocalReducer())
    assert expected.keys() == METRICS
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
    assert_equal_gradients(gradients(compiled), gradients(eager), tolerance=1e-2)
    assert set(compiled.generator.state_dict()) == names


def _rank_under_ddp(rank: int, folder: str) -> None:
    """One of two processes: wrapped networks, no reducer of its own; leaves its gradients and share of the metrics."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    bare = make_gan()
    gan = GAN(
        nn.parallel.DistributedDataParallel(bare.generator),
        nn.parallel.DistributedDataParallel(bare.discriminator),
        bare.settings,
        perceptual=bare.perceptual,
        device="cpu",
    )
    image, mask = make_batch(batch=8)
    micro_batches = [(image[s], mask[s]) for s in (slice(4 * rank, 4 * rank + 2), slice(4 * rank + 2, 4 * rank + 4))]
    metrics = gan.step(micro_batches, global_batch=8, reduce=LocalReducer())
    torch.save({"gradients": gradients(gan), "metrics": metrics}, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.nightly
def test_networks_wrapped_in_ddp_step_as_one(tmp_path: Path) -> None:
    image, mask = make_batch(batch=8)
    alone = make_gan()
    expected = alone.step([(image, mask)], global_batch=8, reduce=LocalReducer())
    torch.multiprocessing.spawn(_rank_under_ddp, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for rank in ranks:
        assert_equal_gradients(rank["gradients"], gradients(alone), tolerance=1e-10)
    assert expected.keys() == METRICS
    for name, value in expected.items():
        torch.testing.assert_close(ranks[0]["metrics"][name] + ranks[1]["metrics"][name], value)


def test_a_step_times_its_parts():
    gan = make_gan()
    gan.step([make_batch()], global_batch=BATCH, reduce=LocalReducer())
    once = gan.timer.seconds()
    assert set(once) == {"generator", "discriminator", "vgg", "reduce", "optimiser"}
    assert all(seconds > 0 for seconds in once.values())
    gan.step([make_batch()], global_batch=BATCH, reduce=LocalReducer())
    assert all(seconds > once[name] for name, seconds in gan.timer.seconds().items())
