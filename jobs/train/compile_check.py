"""Compares torch.compile's networks with eager ones before training.

The check runs once, on the first micro-batch, before any step counts. It compares the prediction, the gradients of G's
weights, and VGG's features, each by relative Euclidean distance. Where they differ, or compiling fails, the run
continues without compiling and prints the reason. Speed is not checked (see `isnet bench step`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from isnet.gan import GAN, set_compiled
from isnet.training.step_weights import step_weights
from trainplane.task import Reducer

# Relative distances that reordered sums explain: in float32 about 1e-6 a layer, in bf16 2^-8 a rounding.
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}


def check(gan: GAN, image_B3HW: Tensor, mask_B1HW: Tensor, *, reduce: Reducer) -> str | None:
    """Compares compiled networks with eager ones on one micro-batch.

    Weights, moments and gradients stay as they were. Errors of the compiler are not raised.

    Args:
        gan: compiled networks.
        image_B3HW: float32 in [0, 1].
        mask_B1HW: float32, 1 on valid pixels.
        reduce: sums over ranks.

    Returns:
        The reason for the return to eager networks, or None if the networks agree on all ranks.
    """
    reason = _difference(gan, image_B3HW, mask_B1HW)
    # All ranks must decide alike.
    faults = torch.tensor([float(reason is not None)], device=gan.device)
    reduce.sum_([faults])
    if faults.item() == 0:
        return None
    set_compiled(gan.generator, False)
    if gan.perceptual is not None:
        set_compiled(gan.perceptual, False)
    return f"train.compile is off for this run: {reason or 'another rank found that compiled networks differ'}"


def _difference(gan: GAN, image: Tensor, mask: Tensor) -> str | None:
    """Describes the largest difference beyond the tolerance, if any."""
    tolerance = TOLERANCE[gan.settings.precision]
    eager = _results(gan, image, mask, generator=gan.generator.forward)
    try:
        compiled = _results(gan, image, mask, generator=gan.generator)
        if gan.perceptual is not None:
            with torch.no_grad():
                eager |= {f"VGG's {name}": value for name, value in gan.perceptual.forward(image).items()}
                compiled |= {f"VGG's {name}": value for name, value in gan.perceptual(image).items()}
    except RuntimeError as error:
        # Dynamo, inductor and the compilers behind them raise RuntimeErrors; the first line holds the cause.
        return f"compiling failed ({str(error).strip().partition(chr(10))[0][:200]})"
    distances = {name: _distance(compiled[name], value) for name, value in eager.items()}
    # NaN counts as the largest distance, here and in the comparison below.
    worst = max(distances, key=lambda name: distances[name] if distances[name] == distances[name] else float("inf"))
    if not distances[worst] <= tolerance:
        return f"compiled and eager differ in {worst} by {distances[worst]:.2g}, more than {tolerance:g}"
    return None


def _results(
    gan: GAN, image: Tensor, mask: Tensor, *, generator: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Computes the prediction and G's gradients as one vector."""
    autocast = torch.autocast(gan.device.type, dtype=torch.bfloat16, enabled=gan.settings.precision == "bf16")
    try:
        with step_weights(gan.generator, dtype=gan.held_dtype):
            with autocast:
                prediction = generator(image, mask)
            # The mean square depends on all weights of G.
            torch.autograd.backward(prediction.float().square().mean())
        gradients = [p.grad.detach().reshape(-1) for p in gan.generator.parameters() if p.grad is not None]
        # One vector: the distance is of all gradients together.
        return {"the prediction": prediction.detach(), "the gradients": torch.cat(gradients)}
    finally:
        # Training starts without gradients.
        gan.generator.zero_grad(set_to_none=True)


def _distance(ours: Tensor, reference: Tensor) -> float:
    scale = reference.double().norm().clamp_min(1e-30)
    return float((ours.double() - reference.double()).norm() / scale)
