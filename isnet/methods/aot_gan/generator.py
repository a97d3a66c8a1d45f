"""AOT-GAN's generator as it is served."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from isnet.methods.aot_gan.networks import AOTGenerator, assemble
from isnet.methods.architecture import MethodArchitecture, MethodGenerator


@dataclass(frozen=True, kw_only=True)
class AOTArchitecture(MethodArchitecture):
    """Options of AOT-GAN's generator; defaults are the released ones."""

    name: str = "aot_gan"
    width: int = 64
    blocks: int = 8


class AOTFiller(MethodGenerator):
    """AOT-GAN on pictures in [0, 1]."""

    def __init__(self, architecture: AOTArchitecture) -> None:
        super().__init__(architecture, size_multiple=4, minimum_size=36)
        self.net = AOTGenerator(width=architecture.width, blocks=architecture.blocks)

    def fill(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Predicts the whole picture."""
        return (self.raw(image_B3HW, mask_B1HW) + 1) / 2

    def raw(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Predicts in [-1, 1], in at least float32."""
        raw: Tensor = self.net(assemble(image_B3HW, mask_B1HW))
        return raw.to(image_B3HW.dtype)


ARCHITECTURE, GENERATOR = AOTArchitecture, AOTFiller
