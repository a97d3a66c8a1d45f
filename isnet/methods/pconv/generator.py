"""PConv's U-Net as it is served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from isnet.generator import is_count
from isnet.methods.architecture import MethodArchitecture, MethodGenerator
from isnet.methods.pconv.networks import Form, PConvUNet, assemble, picture_of

MOST_LEVELS = 10


@dataclass(frozen=True, kw_only=True)
class PConvArchitecture(MethodArchitecture):
    """Options of PConv's U-Net.

    Attributes:
        levels: Halvings; sides are multiples of 2^levels. 7 for 256 px in the released code, 8 for 512 px in the paper.
        released: Windows are divided by their valid pixels alone, without the factor N of the paper.
    """

    name: str = "pconv"
    width: int = 64
    levels: int = 7
    released: bool = False

    def _checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super()._checks()
        levels = is_count(self.levels, MOST_LEVELS) and self.levels >= 2
        yield levels, "levels", f"a whole number, 2 to {MOST_LEVELS} (released: 7)"
        yield isinstance(self.released, bool), "released", "True or False"


class PConvFiller(MethodGenerator):
    """PConv on pictures in [0, 1]."""

    def __init__(self, architecture: PConvArchitecture) -> None:
        super().__init__(architecture, size_multiple=2**architecture.levels, minimum_size=2**architecture.levels)
        form: Form = "released" if architecture.released else "paper"
        self.net = PConvUNet(width=architecture.width, levels=architecture.levels, form=form)

    def fill(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Predicts the whole picture."""
        return picture_of(self.raw(image_B3HW, mask_B1HW)).clamp(0, 1)

    def raw(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Predicts in the space normalised by ImageNet."""
        raw: Tensor = self.net(assemble(image_B3HW, mask_B1HW), mask_B1HW)
        return raw


ARCHITECTURE, GENERATOR = PConvArchitecture, PConvFiller
