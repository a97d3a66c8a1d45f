"""CA's two-stage generator as it is served."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from isnet.methods.architecture import MethodArchitecture, MethodGenerator
from isnet.methods.ca.networks import CAGenerator


@dataclass(frozen=True, kw_only=True)
class CAArchitecture(MethodArchitecture):
    """Options of CA's generator; defaults are the released ones."""

    name: str = "ca"
    width: int = 32


class CAFiller(MethodGenerator):
    """CA on pictures in [0, 1]."""

    def __init__(self, architecture: CAArchitecture) -> None:
        super().__init__(architecture, size_multiple=8, minimum_size=8)
        self.net = CAGenerator(width=architecture.width)

    def fill(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Predicts the whole picture."""
        return (self.both(image_B3HW, mask_B1HW)[1] + 1) / 2

    def both(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions of both stages in [-1, 1]."""
        first, second = self.net((2 * image_B3HW - 1) * mask_B1HW, 1 - mask_B1HW)
        return first, second


ARCHITECTURE, GENERATOR = CAArchitecture, CAFiller
