"""Spectral normalisation [13], computed once per training step.

A layer keeps its raw weight W as the parameter and two unit vectors u, v as buffers, and convolves with W/σ, σ = uᵀWv
(Miyato et al. 2018). Plain use needs nothing: every forward pass computes W/σ and gradients flow through it. The
vectors move only when `power_iteration` is called; training and evaluation mode do not differ.

A training step runs the same weights many times (micro-batches, real and fake pictures). `training/step_weights.py`
computes W/σ once for all of them, collects their gradients there, and turns the sum into the gradient of W. Exactly:

    dL/dW = (G - <G, W/σ> u vᵀ) / σ        with G = dL/d(W/σ), u and v held constant

State dict: `weight`, `bias`, `u`, `v`. Not covered: one iteration per forward pass, as in the released code, which
makes σ depend on how often a network is run.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

EPS = 1e-12

Network = TypeVar("Network", bound=nn.Module)
Conv = TypeVar("Conv", nn.Conv2d, nn.ConvTranspose2d)


class SpectralLayer(_ConvNd):
    """Base of the normalised convolutions."""

    u: Tensor
    v: Tensor
    # W/σ as a leaf tensor while a step holds it, else None.
    effective: Tensor | None
    # True holds W/σ in NHWC order. No torch.memory_format: torch.save of the network could not write one.
    channels_last: bool
    # The dimension of W that counts output channels.
    rows_dim = 0

    def _prepare_buffers(self) -> None:
        rows, columns = self.matrix().shape
        self.register_buffer("u", self.weight.new_zeros(rows))
        self.register_buffer("v", self.weight.new_zeros(columns))
        self.effective = None
        self.channels_last = False

    def matrix(self) -> Tensor:
        """W as a matrix, one row per output channel."""
        return self.weight.transpose(0, self.rows_dim).flatten(1)

    def sigma(self) -> Tensor:
        """Estimates the largest singular value as uᵀWv, 0-dim."""
        # Differentiable in W, never below float32.
        with torch.autocast(self.weight.device.type, enabled=False):
            return torch.dot(self.u, torch.mv(self.matrix(), self.v))

    def normalised_weight(self) -> Tensor:
        """W/σ in the shape of W."""
        if self.effective is not None:
            return self.effective
        return self.weight / self.sigma()

    @torch.no_grad()
    def randomise_vectors(self) -> None:
        """Draws new unit vectors from torch's global generator."""
        self.u.copy_(F.normalize(torch.randn_like(self.u), dim=0, eps=EPS))
        self.v.copy_(F.normalize(torch.randn_like(self.v), dim=0, eps=EPS))

    @torch.no_grad()
    def set_exact_vectors(self) -> None:
        """Sets u and v to the exact first singular vectors."""
        matrix = self.matrix()
        # A full decomposition of W Wᵀ; eigenvalues come in ascending order.
        _, vectors = torch.linalg.eigh(matrix @ matrix.t())
        self.u.copy_(vectors[:, -1])
        self.v.copy_(F.normalize(torch.mv(matrix.t(), self.u), dim=0, eps=EPS))

    @torch.no_grad()
    def set_folded_vectors(self) -> None:
        """Sets u and v so that σ is 1.

        For a weight that was divided by its σ already. In training u and v lag behind W, so the largest singular value
        of W/σ is above 1, and exact vectors would change the function. Here v mixes the first right singular vector
        with the next one whose value is at most 1, so that |Wv| = 1, and u is Wv: σ is 1 now, and later iterations move
        it slowly, as in the run that the weight comes from. Where no such mixture exists, as in a network that never
        had spectral norm, v is scaled instead: the function is then the same until the next iteration only.
        """
        matrix = self.matrix()
        # Squares of the singular values, ascending, and the left singular vectors, from W Wᵀ.
        squares, lefts = torch.linalg.eigh((matrix @ matrix.t()).double())
        below = int((squares <= 1).sum()) - 1
        if squares[-1] > 1 and below >= 0 and squares[below] > 1e-6 * squares[-1]:
            share = (1 - squares[below]) / (squares[-1] - squares[below])
            left = lefts[:, -1] * (share / squares[-1]).sqrt() + lefts[:, below] * ((1 - share) / squares[below]).sqrt()
            self.v.copy_(F.normalize(torch.mv(matrix.t().double(), left), dim=0, eps=EPS))
            self.u.copy_(F.normalize(torch.mv(matrix, self.v), dim=0, eps=EPS))
        else:
            self.set_exact_vectors()
        self.v.div_(self.sigma())

    @torch.no_grad()
    def _fold_into(self, conv: Conv) -> Conv:
        trainable = self.weight.requires_grad
        # The meta device has shapes alone, and no autocast.
        weight = self.weight if self.weight.is_meta else self.normalised_weight()
        conv.weight = nn.Parameter(weight.clone(), requires_grad=trainable)
        if self.bias is not None:
            conv.bias = nn.Parameter(self.bias.clone(), requires_grad=trainable)
        return conv.train(self.training)


class SpectralConv2d(SpectralLayer, nn.Conv2d):
    """`nn.Conv2d` that convolves with W/σ."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, padding, dilation, bias=bias)
        self._arguments = (channels_in, channels_out, kernel, stride, padding, dilation)
        self._prepare_buffers()

    def forward(self, x: Tensor) -> Tensor:
        """Convolves x with W/σ."""
        return self._conv_forward(x, self.normalised_weight(), self.bias)  # type: ignore[no-any-return]

    def plain(self) -> nn.Conv2d:
        """Builds an ordinary convolution with the weight W/σ."""
        return self._fold_into(nn.Conv2d(*self._arguments, bias=self.bias is not None, device="meta"))


class SpectralConvTranspose2d(SpectralLayer, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` that convolves with W/σ."""

    # Its weight is (in, out, kh, kw).
    rows_dim = 1

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, padding, bias=bias)
        self._arguments = (channels_in, channels_out, kernel, stride, padding)
        self._prepare_buffers()

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolves x with W/σ; `output_size` must be None."""
        assert output_size is None, "the size follows from stride and padding"
        _, _, _, stride, padding = self._arguments
        return F.conv_transpose2d(x, self.normalised_weight(), self.bias, stride, padding)

    def plain(self) -> nn.ConvTranspose2d:
        """Builds an ordinary transposed convolution with the weight W/σ."""
        return self._fold_into(nn.ConvTranspose2d(*self._arguments, bias=self.bias is not None, device="meta"))


def weight_matrix(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """Weight of any convolution as (output channels, all others)."""
    return layer.weight.transpose(0, 1 if isinstance(layer, nn.ConvTranspose2d) else 0).flatten(1)


def spectral_layers(network: nn.Module) -> list[SpectralLayer]:
    """Every normalised layer of `network`, in a fixed order."""
    return [module for module in network.modules() if isinstance(module, SpectralLayer)]


def weight_leaves(network: nn.Module) -> list[Tensor]:
    """Leaf tensors that gradients of `network` reach."""
    # W/σ where a step holds it, else the parameters.
    leaves = {id(layer.weight): layer.effective for layer in spectral_layers(network) if layer.effective is not None}
    return [leaves.get(id(p), p) for p in network.parameters() if p.requires_grad]


def fold_spectral_norm(network: Network) -> Network:
    """Copies `network` with W/σ as weights of ordinary layers."""
    # The output is the same, for less work.
    folded = copy.deepcopy(network)
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SpectralConv2d | SpectralConvTranspose2d):
                setattr(parent, name, child.plain())
    return folded
