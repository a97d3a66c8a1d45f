"""Both generators of EdgeConnect as they are served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isnet.generator import is_positive
from isnet.methods.architecture import MethodArchitecture, MethodGenerator
from isnet.methods.edgeconnect.canny import canny_edges
from isnet.methods.edgeconnect.loss import joined_edges
from isnet.methods.edgeconnect.networks import EdgeConnectGenerator, assemble_edge, assemble_inpaint, gray_of


@dataclass(frozen=True, kw_only=True)
class EdgeConnectArchitecture(MethodArchitecture):
    """Options of both generators; defaults are the released ones.

    Attributes:
        blocks: Residual blocks of each.
        sigma: Smoothing of Canny's method in pixels, the same in training and use.
        released: The edge generator's output is used around the hole, too, as the released test does.
    """

    name: str = "edgeconnect"
    width: int = 64
    blocks: int = 8
    sigma: float = 2.0
    released: bool = False

    def _checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super()._checks()
        yield is_positive(self.sigma), "sigma", "a positive number (released: 2)"
        yield isinstance(self.released, bool), "released", "True or False"


class EdgeConnectFiller(MethodGenerator):
    """Both generators on pictures in [0, 1]."""

    def __init__(self, architecture: EdgeConnectArchitecture) -> None:
        super().__init__(architecture, size_multiple=4, minimum_size=24)
        width, blocks = architecture.width, architecture.blocks
        self.edge = EdgeConnectGenerator("edge", width=width, blocks=blocks)
        self.inpaint = EdgeConnectGenerator("inpaint", width=width, blocks=blocks)

    def fill(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Predicts the whole picture."""
        gray = gray_of(image_B3HW)
        around = known_edges(gray * mask_B1HW, mask_B1HW, float(self.architecture.sigma))
        edges = self.edges(gray, around, mask_B1HW, released=self.architecture.released)
        return self.picture(image_B3HW, edges, mask_B1HW)

    def edges(self, gray: Tensor, known: Tensor, mask: Tensor, *, released: bool = False) -> Tensor:
        """Predicts edges in the hole, soft, beside the known ones."""
        predicted = self.edge(assemble_edge(gray, known, mask)).to(gray.dtype)
        return joined_edges(predicted, known, mask, known="released" if released else "merged")

    def picture(self, image: Tensor, edges: Tensor, mask: Tensor) -> Tensor:
        """Predicts the picture from edges, in at least float32."""
        picture: Tensor = self.inpaint(assemble_inpaint(image, edges, mask))
        return picture.to(image.dtype)


# An operator of torch's, so that shapes can be followed through it without numbers.
@torch.library.custom_op("isnet::known_edges", mutates_args=())
def known_edges(gray_B1HW: Tensor, mask_B1HW: Tensor, sigma: float) -> Tensor:
    """Finds edges of known pixels, 0 or 1."""
    pairs = zip(gray_B1HW[:, 0].cpu().numpy(), mask_B1HW[:, 0].cpu().numpy() > 0.5, strict=True)
    edges = np.stack([canny_edges(gray, mask, sigma=sigma) for gray, mask in pairs])
    return torch.from_numpy(edges)[:, None].to(gray_B1HW.device, gray_B1HW.dtype)


@known_edges.register_fake
def _(gray_B1HW: Tensor, mask_B1HW: Tensor, sigma: float) -> Any:
    return torch.empty_like(gray_B1HW)


ARCHITECTURE, GENERATOR = EdgeConnectArchitecture, EdgeConnectFiller
