"""GLCIC's completion network as it is served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from isnet.methods.architecture import MethodArchitecture, MethodGenerator
from isnet.methods.glcic.networks import CompletionNetwork, Order, assemble


@dataclass(frozen=True, kw_only=True)
class GLCICArchitecture(MethodArchitecture):
    """Options of GLCIC's completion network.

    Attributes:
        order: relu_norm (released weights), or norm_relu (the paper).
        mean_color: Mean R, G, B of the training pictures in [0, 1], which fills holes.
    """

    name: str = "glcic"
    width: int = 64
    order: Order = "relu_norm"
    mean_color: tuple[float, float, float]

    def __post_init__(self) -> None:
        # JSON has lists.
        object.__setattr__(self, "mean_color", tuple(self.mean_color))
        super().__post_init__()

    def _checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super()._checks()
        yield self.order in ("relu_norm", "norm_relu"), "order", "'relu_norm' or 'norm_relu'"
        color = self.mean_color
        valid = len(color) == 3 and all(isinstance(value, int | float) and 0 <= value <= 1 for value in color)
        yield valid, "mean_color", "three numbers from 0 to 1"


class GLCICFiller(MethodGenerator):
    """GLCIC on pictures in [0, 1]."""

    def __init__(self, architecture: GLCICArchitecture) -> None:
        super().__init__(architecture, size_multiple=4, minimum_size=4)
        self.net = CompletionNetwork(width=architecture.width, order=architecture.order)

    def fill(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Predicts the whole picture."""
        mean = image_B3HW.new_tensor(self.architecture.mean_color)
        picture: Tensor = self.net(assemble(image_B3HW, mask_B1HW, mean))
        return picture.to(image_B3HW.dtype)


ARCHITECTURE, GENERATOR = GLCICArchitecture, GLCICFiller
