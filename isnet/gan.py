"""Training step of G and D (Eq. 2 and 3).

    gan = GAN(isnet.build("isnet"), isnet.build("discriminator"), GanSettings(), perceptual=..., device=device)
    metrics = gan.step([(image_B3HW, mask_B1HW)], global_batch=8, reduce=LocalReducer())

One step takes the gradients of both players from the same weights and only then moves both. Cost of each network in
forward passes of one batch (backward: 1 for gradients of inputs, 1 for those of weights):

    D    forward on the truth and once on the prediction, which serves D's loss and G's alike                       2
         backward of G's loss to the prediction, D's weights left out                                               1
         backward of D's loss to D's weights, through both                                                          4
         (running D on the prediction once for each player, as is usual, costs one forward more)
    VGG  truth without a graph, prediction with one, backward to the prediction, shared by two losses               3
    G    forward, backward                                                                                          3

All terms add their gradients at the prediction, from where they go through G once. The graphs of D and VGG are freed
before the next is built, which bounds the memory. Spectral norm is iterated and divided out once a step.
Not covered: data, validation, checkpoints, the loop.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from isnet import losses
from isnet.errors import InputError
from isnet.losses import DSees, GanKind, L1Mode, LossWeights
from isnet.perceptual import Perceptual
from isnet.spectral_norm import power_iteration, spectral_layers, step_weights, weight_leaves
from isnet.training.distributed import GroupReducer, LocalReducer, SumReducer
from isnet.training.ema import EMA
from isnet.training.timing import StepTimer

Precision = Literal["fp32", "bf16"]
MicroBatch = tuple[Tensor, Tensor]
Metrics = dict[str, Tensor]

# VGG's activations of this many pixels are 25 MB. Four times as many make a step at 64 px 4 % faster, and its peak of
# memory 6 % higher (docs/LOG.md).
CPU_PIXELS_AT_ONCE = 128 * 128

__all__ = ["GAN", "GanSettings", "GroupReducer", "LocalReducer", "LossWeights", "MicroBatch", "SumReducer"]


@dataclass(frozen=True, kw_only=True)
class GanSettings:
    """Settings of the training step.

    Defaults are the paper's, or the released code's where the paper is silent.

    Attributes:
        loss: Weights of Eq. 2.
        gan: hinge (Eq. 3); nsgan (the released configuration); lsgan.
        d_sees: Input of D; see `losses.discriminator_views`.
        l1_mode: Divisor of L1; see `losses.l1_loss`.
        min_hole_ratio: Lower bound of that divisor.
        style_hole_only: Style loss on pictures black outside the hole (EdgeConnect); costs VGG a second pass of each.
        lr_g: Adam's learning rate for G.
        lr_d: Adam's learning rate for D, a tenth of G's (ISNET.md §6).
        betas: Adam's.
        precision: bf16 runs the networks under autocast; weights, losses, Gram matrices and σ stay float32.
        ema: Decay of the moving average of G; None for none.
        compile: torch.compile for G and VGG. D stays eager: its graph is walked back twice for different gradients, and
            a compiled backward computes all of them each time.
        channels_last: Activations and normalised weights in NHWC order.
    """

    loss: LossWeights = field(default_factory=LossWeights)
    gan: GanKind = "hinge"
    d_sees: DSees = "raw"
    l1_mode: L1Mode = "hole_ratio"
    min_hole_ratio: float = 0.01
    style_hole_only: bool = False
    lr_g: float = 1e-4
    lr_d: float = 1e-5
    betas: tuple[float, float] = (0.0, 0.9)
    precision: Precision = "fp32"
    ema: float | None = None
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        choices = {"gan": GanKind, "d_sees": DSees, "l1_mode": L1Mode, "precision": Precision}
        for name, options in choices.items():
            value, allowed = getattr(self, name), get_args(options)
            if value not in allowed:
                raise InputError(f"{name} is {value!r}; need one of {', '.join(allowed)}")
        for name in ("lr_g", "lr_d", "min_hole_ratio"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value!r}; need a positive number")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas are {self.betas!r}; need two numbers from 0 up to but not 1")


class GAN:
    """G and D under training, with optimisers and EMA.

    Networks wrapped in DistributedDataParallel are unwrapped: gradients are summed over ranks by `reduce` (or, where
    that is a `LocalReducer`, over the wrapper's own process group), once a step and not once a micro-batch.
    `perceptual` is copied; it is not needed where both VGG losses have weight 0.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        settings: GanSettings,
        *,
        perceptual: Perceptual | None,
        device: torch.device | str,
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        self.generator, self._group_reducer = _unwrap(generator)
        self.discriminator, _ = _unwrap(discriminator)
        self.generator.to(self.device)
        self.discriminator.to(self.device)
        self.perceptual = _ready_perceptual(perceptual, settings, self.device)
        self._optimizers = {
            "generator": self._adam(self.generator, settings.lr_g),
            "discriminator": self._adam(self.discriminator, settings.lr_d),
        }
        self.ema = EMA(self.generator, decay=settings.ema) if settings.ema is not None else None
        self.timer = StepTimer(self.device)
        if settings.channels_last:
            use_channels_last(self.generator)
            use_channels_last(self.discriminator)
        if settings.compile:
            set_compiled(self.generator, True)
            if self.perceptual is not None:
                set_compiled(self.perceptual, True)

    def modules(self) -> dict[str, nn.Module]:
        """Modules to save: generator, discriminator and any ema."""
        # Together with the optimisers they are the whole state.
        modules = {"generator": self.generator, "discriminator": self.discriminator}
        if self.ema is not None:
            modules["ema"] = self.ema.module
        return modules

    def optimizers(self) -> dict[str, torch.optim.Adam]:
        """Optimisers to save, by the name of their module."""
        return dict(self._optimizers)

    def eval_generator(self) -> nn.Module:
        """Network to evaluate and register: EMA if any, else G."""
        # For many pictures fold it first (`spectral_norm.fold_spectral_norm`).
        return self.generator if self.ema is None else self.ema.module

    def step(self, micro_batches: Sequence[MicroBatch], *, global_batch: int, reduce: SumReducer) -> Metrics:
        """Takes one global step on this rank's (image_B3HW, mask_B1HW) pairs.

        `global_batch` counts the samples of all ranks. Returns 0-dim tensors on the device, without waiting for it:
        this rank's share of each metric, so that the sum over ranks is the metric of the global batch. Keys are l1,
        adversarial, perceptual, style, feature_matching (before their weights), generator (Eq. 2), discriminator,
        d_real, d_fake (mean logits). Terms whose weight is 0 are absent; without both adversarial and feature_matching
        D is neither run nor moved.
        """
        if isinstance(reduce, LocalReducer):
            reduce = self._group_reducer
        players = self._players()
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        batches = [self._on_device(image, mask) for image, mask in micro_batches]
        _check_share(batches, global_batch)

        # Spectral norm moves once a step, however many micro-batches follow.
        for player in players.values():
            power_iteration(player)

        # L1's divisor belongs to the whole global batch, so it is computed before the first forward pass.
        hole_ratio = self._hole_ratio(batches, global_batch, reduce)

        # Both players' gradients, from the weights before the step (ISNET.md §6).
        metrics: Metrics = {}
        with step_weights(*players.values()):
            for image, mask in batches:
                share = self._accumulate(image, mask, global_batch, hole_ratio)
                metrics = {name: metrics[name] + value if metrics else value for name, value in share.items()}

        # The sum over ranks; every loss was divided by the global batch already.
        with self.timer.part("reduce"):
            reduce.sum_([p.grad for player in players.values() for p in player.parameters() if p.grad is not None])

        # Both networks move, then the average of G.
        with self.timer.part("optimiser"):
            for name in players:
                self._optimizers[name].step()
            if self.ema is not None:
                self.ema.update(self.generator)
        return metrics

    def _accumulate(self, truth: Tensor, mask: Tensor, global_batch: int, hole_ratio: Tensor | None) -> Metrics:
        """Adds one micro-batch's gradients and returns its metrics."""
        timer = self.timer
        with timer.part("generator"), self._autocast():
            graph = self.generator(truth, mask)
        # Cut the graph at the prediction: each term below adds its gradient here and frees its own graph.
        prediction = graph.detach().requires_grad_()
        prediction.grad = torch.zeros_like(prediction)
        metrics: Metrics = {}
        if self.settings.loss.l1 > 0:
            l1 = losses.l1_loss(
                prediction,
                truth,
                mask,
                mode=self.settings.l1_mode,
                global_batch=global_batch,
                hole_ratio=hole_ratio,
                min_hole_ratio=self.settings.min_hole_ratio,
            )
            metrics |= self._backward_to({"l1": l1}, prediction)
        if self.settings.loss.needs_discriminator:
            with timer.part("discriminator"):
                metrics |= self._discriminator_terms(prediction, truth, mask, global_batch)
        if self.perceptual is not None:
            with timer.part("vgg"):
                metrics |= self._vgg_terms(prediction, truth, mask, global_batch)
        # The sum of all gradients goes through G once.
        with timer.part("generator"):
            torch.autograd.backward(graph, prediction.grad)
        # Eq. 2, as a metric.
        weights = self.settings.loss
        terms = [getattr(weights, name) * value for name, value in metrics.items() if hasattr(weights, name)]
        metrics["generator"] = torch.stack(terms).sum() if terms else prediction.new_zeros(())
        return metrics

    def _discriminator_terms(self, prediction: Tensor, truth: Tensor, mask: Tensor, global_batch: int) -> Metrics:
        weights, kind = self.settings.loss, self.settings.gan
        real, fake = losses.discriminator_views(prediction, truth, mask, sees=self.settings.d_sees)
        with self._autocast():
            real_maps = self.discriminator(real)
            fake_maps = self.discriminator(fake)
        # G's terms: backward to the prediction alone; D's weights get nothing. The graph serves D's loss too.
        terms = {}
        if weights.adversarial > 0:
            terms["adversarial"] = losses.adversarial_loss(fake_maps[-1], kind=kind, global_batch=global_batch)
        if weights.feature_matching > 0:
            terms["feature_matching"] = losses.feature_matching_loss(fake_maps, real_maps, global_batch=global_batch)
        metrics = self._backward_to(terms, prediction, keep_graph=True)
        # D's loss (Eq. 3): backward to D's weights alone.
        d_loss = losses.discriminator_loss(real_maps[-1], fake_maps[-1], kind=kind, global_batch=global_batch)
        torch.autograd.backward(d_loss, inputs=weight_leaves(self.discriminator))
        return {
            **metrics,
            "discriminator": d_loss.detach(),
            "d_real": losses.mean_logit(real_maps[-1], global_batch=global_batch),
            "d_fake": losses.mean_logit(fake_maps[-1], global_batch=global_batch),
        }

    def _vgg_chunks(self, truth: Tensor) -> list[slice]:
        # Samples that go through VGG together. A CPU is nearly as fast on few pictures as on many, and needs less.
        count, pixels = len(truth), truth.shape[2] * truth.shape[3]
        together = max(1, CPU_PIXELS_AT_ONCE // pixels) if self.device.type == "cpu" else count
        return [slice(start, start + together) for start in range(0, count, together)]

    def _vgg_terms(self, prediction: Tensor, truth: Tensor, mask: Tensor, global_batch: int) -> Metrics:
        assert prediction.grad is not None
        shares = []
        for chunk in self._vgg_chunks(truth):
            # Each chunk has its own leaf: VGG's graph is freed before the next chunk.
            leaf = prediction.detach()[chunk].requires_grad_()
            shares.append(self._vgg_chunk_terms(leaf, truth[chunk], mask[chunk], global_batch))
            assert leaf.grad is not None
            prediction.grad[chunk] += leaf.grad
        return {name: torch.stack([share[name] for share in shares]).sum() for name in shares[0]}

    def _vgg_chunk_terms(self, prediction: Tensor, truth: Tensor, mask: Tensor, global_batch: int) -> Metrics:
        assert self.perceptual is not None
        weights, vgg = self.settings.loss, self.perceptual
        # Both losses share one pass of each picture, unless style has its own pictures.
        hole_only = weights.style > 0 and self.settings.style_hole_only
        terms = {}
        if weights.perceptual > 0 or not hole_only:
            fake, real = self._features(prediction, truth)
        if weights.perceptual > 0:
            layers = vgg.perceptual_layers
            terms["perceptual"] = losses.perceptual_loss(fake, real, layers, global_batch=global_batch)
        if hole_only:
            # ISNET.md §8 row 8: EdgeConnect multiplies both pictures by the hole.
            hole = 1 - mask
            fake, real = self._features(prediction * hole, truth * hole)
        if weights.style > 0:
            terms["style"] = losses.style_loss(fake, real, vgg.style_layers, global_batch=global_batch)
        return self._backward_to(terms, prediction)

    def _features(self, prediction: Tensor, truth: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert self.perceptual is not None
        with torch.no_grad():
            real = self.perceptual(truth)
        return self.perceptual(prediction), real

    def _backward_to(self, terms: Metrics, prediction: Tensor, *, keep_graph: bool = False) -> Metrics:
        # Adds the gradient of the weighted terms to `prediction.grad`, and to nothing else; returns the terms' values.
        weighted = [getattr(self.settings.loss, name) * value for name, value in terms.items()]
        torch.autograd.backward(torch.stack(weighted).sum(), inputs=[prediction], retain_graph=keep_graph)
        return {name: value.detach() for name, value in terms.items()}

    def _players(self) -> dict[str, nn.Module]:
        # Networks that this step moves.
        players = {"generator": self.generator}
        if self.settings.loss.needs_discriminator:
            players["discriminator"] = self.discriminator
        return players

    def _hole_ratio(self, batches: Sequence[MicroBatch], global_batch: int, reduce: SumReducer) -> Tensor | None:
        if self.settings.l1_mode != "hole_ratio" or self.settings.loss.l1 == 0:
            return None
        ratio = torch.stack([losses.hole_ratio_sum(mask) for _, mask in batches]).sum() / global_batch
        reduce.sum_([ratio])
        return ratio

    def _on_device(self, image: Tensor, mask: Tensor) -> MicroBatch:
        image = image.to(self.device, non_blocking=True)
        if self.settings.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        return image, mask.to(self.device, image.dtype, non_blocking=True)

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.precision == "bf16")

    def _adam(self, network: nn.Module, rate: float) -> torch.optim.Adam:
        fused = self.device.type in ("cpu", "cuda")
        # A whole number, as YAML reads 0, is refused by Adam.
        betas = (float(self.settings.betas[0]), float(self.settings.betas[1]))
        return torch.optim.Adam(network.parameters(), lr=rate, betas=betas, fused=fused)


def use_channels_last(network: nn.Module) -> None:
    """Holds the normalised weights in NHWC order."""
    # Raw weights, and so checkpoints and Adam, keep their own order.
    for layer in spectral_layers(network):
        layer.channels_last = True


def set_compiled(network: nn.Module, on: bool) -> None:
    """Compiles `network` in place, or returns it to eager."""
    # Only its call changes; the names in its state dict stay.
    if on:
        network.compile()
    else:
        network._compiled_call_impl = None


def _unwrap(network: nn.Module) -> tuple[nn.Module, SumReducer]:
    # DDP would all-reduce in every backward pass; its process group serves once a step instead.
    if isinstance(network, DistributedDataParallel):
        return network.module, GroupReducer(network.process_group)
    return network, LocalReducer()


def _ready_perceptual(perceptual: Perceptual | None, settings: GanSettings, device: torch.device) -> Perceptual | None:
    if not settings.loss.needs_vgg:
        return None
    if perceptual is None:
        raise InputError(
            f"loss weights perceptual {settings.loss.perceptual} and style {settings.loss.style} need VGG19, and none "
            "was given; pass perceptual=Perceptual(...) or set both weights to 0"
        )
    if (settings.loss.perceptual > 0 and not perceptual.perceptual_layers) or (
        settings.loss.style > 0 and not perceptual.style_layers
    ):
        raise InputError("a VGG loss has a weight above 0 and no layers to compare; name its layers or set it to 0")
    # Frozen weights need no float32 master: autocast would cast them again in every pass.
    dtype = torch.bfloat16 if settings.precision == "bf16" else None
    # A copy: it is changed here and compiled later, and the caller may pass its own to another GAN.
    perceptual = copy.deepcopy(perceptual)
    perceptual.to(device=device, dtype=dtype)
    if settings.channels_last:
        perceptual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return perceptual


def _check_share(batches: Sequence[MicroBatch], global_batch: int) -> None:
    counts = [len(image) for image, _ in batches]
    if not counts or 0 in counts or sum(counts) > global_batch:
        raise InputError(
            f"this rank has {sum(counts)} samples of a global batch of {global_batch}, {counts} in its micro-batches; "
            "need 1 to all of them, and 1 or more in each"
        )
