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
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from isnet import losses
from isnet.errors import InputError
from isnet.losses import DSees, GanKind, L1Mode, LossWeights
from isnet.network import TwoBranchNetwork
from isnet.perceptual import Perceptual
from isnet.spectral_norm import weight_leaves
from isnet.training.distributed import GroupReducer, LocalReducer, SumReducer
from isnet.training.players import Metrics, MicroBatch, Players, StepSettings

# VGG's activations of this many pixels are 25 MB. Four times as many make a step at 64 px 4 % faster, and its peak of
# memory 6 % higher (docs/LOG.md).
CPU_PIXELS_AT_ONCE = 128 * 128

__all__ = ["GAN", "GanSettings", "GroupReducer", "LocalReducer", "LossWeights", "MicroBatch", "SumReducer"]


@dataclass(frozen=True, kw_only=True)
class GanSettings(StepSettings):
    """Settings of the training step.

    Defaults are the paper's, or the released code's where the paper is silent. D's learning rate is a tenth of G's
    (ISNET.md §6).

    Attributes:
        loss: Weights of Eq. 2.
        gan: hinge (Eq. 3); nsgan (the released configuration); lsgan.
        d_sees: Input of D; see `losses.discriminator_views`.
        l1_mode: Divisor of L1; see `losses.l1_loss`.
        min_hole_ratio: Lower bound of that divisor.
        style_hole_only: Style loss on pictures black outside the hole (EdgeConnect); costs VGG a second pass of each.
        compile: torch.compile for G and VGG. D stays eager: its graph is walked back twice for different gradients, and
            a compiled backward computes all of them each time.
        recompute: G's stages compute their activations again in the backward pass: less memory, more time.
    """

    loss: LossWeights = field(default_factory=LossWeights)
    gan: GanKind = "hinge"
    d_sees: DSees = "raw"
    l1_mode: L1Mode = "hole_ratio"
    min_hole_ratio: float = 0.01
    style_hole_only: bool = False
    compile: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        for name, options in {"gan": GanKind, "d_sees": DSees, "l1_mode": L1Mode}.items():
            self._check_choice(name, options)
        super().__post_init__()
        self._check_positive("min_hole_ratio")


class GAN(Players):
    """G and D under training, with optimisers and EMA.

    `perceptual` is copied; it is not needed where both VGG losses have weight 0.
    """

    goes_back_once = True

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
        self.perceptual = _ready_perceptual(perceptual, settings, torch.device(device))
        super().__init__({"generator": generator, "discriminator": discriminator}, settings, device=device)
        self.discriminator = self._networks["discriminator"]
        if settings.recompute:
            if not isinstance(self.generator, TwoBranchNetwork) or settings.compile:
                raise InputError("recompute is for isnet, base and base_ff without compile; leave one of them out")
            self.generator.recompute = True
        if settings.compile:
            set_compiled(self.generator, True)
            if self.perceptual is not None:
                set_compiled(self.perceptual, True)

    def frozen(self) -> list[nn.Module]:
        """VGG, if a loss needs it."""
        return [self.perceptual] if self.perceptual is not None else []

    def _accumulate(self, batch: MicroBatch, global_batch: int, hole_ratio: Tensor | None) -> Metrics:
        # Metrics are l1, adversarial, perceptual, style, feature_matching (before their weights), generator (Eq. 2),
        # discriminator, d_real, d_fake (mean logits). Terms whose weight is 0 are absent; without both adversarial and
        # feature_matching D is neither run nor moved.
        truth, mask = batch
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
        together = max(1, CPU_PIXELS_AT_ONCE // pixels) if self.device.type == "cpu" and not self.on_gpu else count
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

    def _moving(self) -> list[str]:
        return ["generator", *(["discriminator"] if self.settings.loss.needs_discriminator else [])]

    def _needs_hole_ratio(self) -> bool:
        return self.settings.l1_mode == "hole_ratio" and self.settings.loss.l1 > 0


def set_compiled(network: nn.Module, on: bool) -> None:
    """Compiles `network` in place, or returns it to eager."""
    # Only its call changes; the names in its state dict stay.
    if on:
        network.compile()
    else:
        network._compiled_call_impl = None


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
