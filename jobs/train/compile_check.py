"""Is what torch.compile made of these networks the same as what they compute without it?

Tried once, on the first micro-batch, before any step counts: the prediction, the gradients of G's weights, and VGG's
features, each as a relative Euclidean distance. Where they differ, or compiling fails, the run goes on without and says
why. Not covered: speed; a compiled network that is right and slow is the user's to find (`isnet bench step`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from isnet.gan import GAN, set_compiled
from isnet.spectral_norm import step_weights
from trainplane.task import Reducer

# Relative distances that reordered sums explain: in float32 about 1e-6 a layer, in bf16 2^-8 a rounding.
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}


def check(gan: GAN, image_B3HW: Tensor, mask_B1HW: Tensor, *, reduce: Reducer) -> str | None:
    """Compare; where any rank finds fault, all go back to eager. Weights, moments and gradients are as before.

    Returns the reason of going back, None where all is well. Raises nothing for what the compiler does.
    """
    reason = _difference(gan, image_B3HW, mask_B1HW)
    faults = torch.tensor([float(reason is not None)], device=gan.device)
    reduce.sum_([faults])
    if faults.item() == 0:
        return None
    set_compiled(gan.generator, False)
    if gan.perceptual is not None:
        set_compiled(gan.perceptual, False)
    return f"train.compile is off for this run: {reason or 'another rank found that compiled networks differ'}"


def _difference(gan: GAN, image: Tensor, mask: Tensor) -> str | None:
    tolerance = TOLERANCE[gan.settings.precision]
    eager = _results(gan, image, mask, generator=gan.generator.forward)
    try:
        compiled = _results(gan, image, mask, generator=gan.generator)
        if gan.perceptual is not None:
            with torch.no_grad():
                eager |= {f"VGG's {name}": value for name, value in gan.perceptual.forward(image).items()}
                compiled |= {f"VGG's {name}": value for name, value in gan.perceptual(image).items()}
    except RuntimeError as error:
        # What dynamo, inductor and the compilers behind them raise are RuntimeErrors; their first line is the point.
        return f"compiling failed ({str(error).strip().partition(chr(10))[0][:200]})"
    distances = {name: _distance(compiled[name], value) for name, value in eager.items()}
    worst = max(distances, key=lambda name: distances[name] if distances[name] == distances[name] else float("inf"))
    # A NaN is no small distance.
    if not distances[worst] <= tolerance:
        return f"compiled and eager differ in {worst} by {distances[worst]:.2g}, more than {tolerance:g}"
    return None


def _results(
    gan: GAN, image: Tensor, mask: Tensor, *, generator: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """The prediction, and the gradient of its mean square with respect to all weights of G, as one vector."""
    autocast = torch.autocast(gan.device.type, dtype=torch.bfloat16, enabled=gan.settings.precision == "bf16")
    try:
        with step_weights(gan.generator):
            with autocast:
                prediction = generator(image, mask)
            torch.autograd.backward(prediction.float().square().mean())
        gradients = [p.grad.detach().reshape(-1) for p in gan.generator.parameters() if p.grad is not None]
        return {"the prediction": prediction.detach(), "the gradients": torch.cat(gradients)}
    finally:
        gan.generator.zero_grad(set_to_none=True)


def _distance(ours: Tensor, reference: Tensor) -> float:
    scale = reference.double().norm().clamp_min(1e-30)
    return float((ours.double() - reference.double()).norm() / scale)
