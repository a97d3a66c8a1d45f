"""What `isnet bench step` compares: at one size, our step and the released code's, from the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import isnet
from isnet.gan import GAN, GanSettings, LocalReducer
from isnet.masks import irregular, valid_1HW
from isnet.perceptual import Perceptual
from jobs.bench import reference

# The released code's. A first step then moves every raw weight by a tenth of itself.
RATE = 1e-4
REFERENCE, LEAN = "reference", "reference, lean"
Step = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """What is measured at one size. batch follows the size so that a step stays within seconds on a laptop."""

    size: int
    batch: int
    blocks: int
    device: str

    def pictures(self, seed: int) -> tuple[Tensor, Tensor]:
        """Smooth random pictures with edges, (B, 3, H, W), and irregular holes, (B, 1, H, W)."""
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(self.batch, 3, 8, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=self.size, mode="bicubic").clamp(0, 1)
        fine = torch.rand(self.batch, 3, self.size, self.size, generator=generator)
        rng = np.random.default_rng(seed)
        holes = np.stack([valid_1HW(irregular(self.size, self.size, rng)) for _ in range(self.batch)])
        return (0.9 * smooth + 0.1 * fine).to(self.device), torch.from_numpy(holes).to(self.device)


def our_gan(case: Case, *, rate: float = RATE, **settings: Any) -> GAN:
    """Our step at the paper's settings, the same weights each time."""
    torch.manual_seed(0)
    return GAN(
        isnet.build("isnet", blocks=case.blocks),
        isnet.build("discriminator"),
        GanSettings(lr_g=rate, lr_d=0.1 * rate, **settings),
        perceptual=Perceptual("random"),
        device=case.device,
    )


def reference_step(case: Case, *, rate: float = RATE, lean: bool = False) -> reference.ReferenceStep:
    """The released code's step from the same weights."""
    start = our_gan(case)
    generator, discriminator = reference.Generator(case.blocks), reference.Discriminator()
    reference.copy_weights(start.generator, generator)
    reference.copy_weights(start.discriminator, discriminator)
    vgg = Perceptual("random").to(case.device)
    return reference.ReferenceStep(generator.to(case.device), discriminator.to(case.device), vgg, rate=rate, lean=lean)


def our_settings(device: str) -> dict[str, dict[str, Any]]:
    """Our ways by name; bfloat16 only where the processor computes in it."""
    ways: dict[str, dict[str, Any]] = {"fp32": {}}
    if device == "cuda":
        ways["bf16"] = {"precision": "bf16"}
        ways["bf16, channels_last"] = {"precision": "bf16", "channels_last": True}
        ways["bf16, channels_last, compile"] = {"precision": "bf16", "channels_last": True, "compile": True}
    elif torch.ops.mkldnn._is_mkldnn_bf16_supported():
        ways["bf16"] = {"precision": "bf16"}
        ways["bf16, channels_last"] = {"precision": "bf16", "channels_last": True}
    return ways


def make_step(case: Case, way: str, *, rate: float = RATE) -> Step:
    """One step of a way by name, on the pictures of a seed; the losses, without waiting for a GPU."""
    if way in (REFERENCE, LEAN):
        theirs = reference_step(case, rate=rate, lean=way == LEAN)
        return lambda seed: theirs(*case.pictures(seed))
    gan = our_gan(case, rate=rate, **our_settings(case.device)[way])
    return lambda seed: gan.step([case.pictures(seed)], global_batch=case.batch, reduce=LocalReducer())
