"""LaMa's generator as it is served."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from isnet.methods.architecture import MethodArchitecture, MethodGenerator
from isnet.methods.lama.networks import LamaGenerator, assemble


@dataclass(frozen=True, kw_only=True)
class LamaArchitecture(MethodArchitecture):
    """Options of LaMa's generator; the big one has 18 blocks."""

    name: str = "lama"
    width: int = 64
    blocks: int = 9


class LamaFiller(MethodGenerator):
    """LaMa on pictures in [0, 1]."""

    def __init__(self, architecture: LamaArchitecture) -> None:
        super().__init__(architecture, size_multiple=8, minimum_size=16)
        self.net = LamaGenerator(width=architecture.width, blocks=architecture.blocks)

    def fill(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Predicts the whole picture."""
        picture: Tensor = self.net(assemble(image_B3HW, mask_B1HW))
        return picture.to(image_B3HW.dtype)


ARCHITECTURE, GENERATOR = LamaArchitecture, LamaFiller
