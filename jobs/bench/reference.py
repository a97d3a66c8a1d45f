"""The released code's training step, as it is specified.

`isnet bench step` compares ours with it. Written from the specification of networks, losses and order of calls, with
torch's stock layers: every convolution wrapped by `torch.nn.utils.spectral_norm` (one power iteration a forward pass in
training mode), activations as modules, D run three times a step and VGG19 four times, everything eager and float32,
Adam as torch makes it by default. Parameters carry the names of `isnet.build`'s networks, so that both start from the
same weights (`copy_weights`). One departure: the released order of backward passes and updates raises an in-place error
on today's torch, so both updates come last; the arithmetic of each pass, D's unused gradients in G's backward among it,
is what was released.
Not covered: the other generators, bfloat16, accumulation, ranks.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isnet.losses import LossWeights

WIDTH = 32
PERCEPTUAL_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STYLE_LAYERS = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")


def conv(channels_in: int, channels_out: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Module:
    """Convolution, zero-padded, spectrally normalised, without bias."""
    padding = dilation * (kernel - 1) // 2
    return normalised(nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, bias=False))


def normalised(layer: nn.Module) -> nn.Module:
    """Layer with torch's spectral norm."""
    with warnings.catch_warnings():
        # The released code's way; deprecated, not gone.
        warnings.simplefilter("ignore")
        return torch.nn.utils.spectral_norm(layer)


class ReferenceResidual(nn.Module):
    """Residual block of two convolutions."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilated = conv(channels, channels, dilation=dilation)
        self.plain = conv(channels, channels)
        self.first, self.last = nn.Tanh(), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        """Sum of input and branch, through tanh."""
        return self.last(x + self.plain(self.first(self.dilated(x))))  # type: ignore[no-any-return]


class ReferenceChain(nn.Module):
    """Convolutions, each with an optional pixel shuffle and tanh."""

    def __init__(self, convs: Sequence[nn.Module], *, shuffle: bool = False) -> None:
        super().__init__()
        self.steps = nn.ModuleList(convs)
        self.between = nn.PixelShuffle(2) if shuffle else nn.Identity()
        self.activation = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        """Applies all convolutions in turn."""
        for step in self.steps:
            x = self.activation(self.between(step(x)))
        return x


def up(channels: int, times: int) -> ReferenceChain:
    """Chain that doubles height and width `times` times."""
    return ReferenceChain([conv(channels // 2**i, 2 * channels // 2**i) for i in range(times)], shuffle=True)


def down(channels: int, times: int) -> ReferenceChain:
    """Chain that halves height and width `times` times."""
    return ReferenceChain([conv(channels * 2**i, channels * 2 ** (i + 1), stride=2) for i in range(times)])


class ReferenceStage(nn.Module):
    """Stage; from the second on with a low-resolution branch."""

    def __init__(self, number: int, blocks: int) -> None:
        super().__init__()
        # The low branch doubles its channels from stage to stage.
        lo = WIDTH * 2 ** (number - 1)
        self.hi_blocks = nn.Sequential(*[ReferenceResidual(WIDTH, 1) for _ in range(blocks)])
        self.lo_blocks = nn.Sequential(*[ReferenceResidual(lo, 2) for _ in range(blocks)]) if number > 1 else None
        self.up = up(lo, number - 1) if number > 1 else None
        self.down_hi = down(WIDTH, number)
        self.down_lo = down(lo, 1) if number > 1 else None
        self.aggregate_hi = conv(2 * WIDTH if number > 1 else WIDTH, WIDTH)
        self.aggregate_lo = conv(4 * lo if number > 1 else 2 * lo, 2 * lo)
        self.activation = nn.Tanh()

    def forward(self, hi: Tensor, lo: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the next high and low branch."""
        hi = self.hi_blocks(hi)
        for_hi, for_lo = hi, self.down_hi(hi)
        # The first stage has no low branch to aggregate.
        if lo is not None and self.lo_blocks is not None and self.up is not None and self.down_lo is not None:
            lo = self.lo_blocks(lo)
            for_hi = torch.cat((hi, self.up(lo)), dim=1)
            for_lo = torch.cat((for_lo, self.down_lo(lo)), dim=1)
        return self.activation(self.aggregate_hi(for_hi)), self.activation(self.aggregate_lo(for_lo))


class ReferenceFusion(nn.Module):
    """Fusion of both branches at full resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.up = up(16 * WIDTH, 4)
        self.conv = normalised(nn.Conv2d(2 * WIDTH, WIDTH, 7, padding=3))
        self.activation = nn.Tanh()

    def forward(self, hi: Tensor, lo: Tensor) -> Tensor:
        """Features at full resolution."""
        return self.activation(self.conv(torch.cat((hi, self.up(lo)), dim=1)))  # type: ignore[no-any-return]


class ReferenceStem(nn.Module):
    """Stem with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(3, WIDTH, 1, bias=False)
        self.expand, self.reduce = conv(3, 2 * WIDTH), conv(2 * WIDTH, WIDTH)
        self.activation = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        """Features of the masked picture."""
        return self.activation(self.shortcut(x) + self.reduce(self.activation(self.expand(x))))  # type: ignore[no-any-return]


class ReferenceGenerator(nn.Module):
    """ISNet at the paper's width."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.stem = ReferenceStem()
        self.stages = nn.ModuleList(ReferenceStage(number, blocks) for number in (1, 2, 3, 4))
        self.fusion = ReferenceFusion()
        self.head = normalised(nn.Conv2d(WIDTH, 3, 3, padding=1))

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Filled picture in [0, 1]."""
        hi, lo = self.stem(image * mask), None
        for stage in self.stages:
            hi, lo = stage(hi, lo)
        assert lo is not None
        return (torch.tanh(self.head(self.fusion(hi, lo))) + 1) / 2


class ReferenceDiscriminator(nn.Module):
    """Discriminator of five convolutions; returns their maps."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        plan = [(3, width, 2), (width, 2 * width, 2), (2 * width, 4 * width, 2), (4 * width, 8 * width, 1)]
        plan.append((8 * width, 1, 1))
        self.convs = nn.ModuleList(normalised(nn.Conv2d(a, b, 4, stride, 1, bias=False)) for a, b, stride in plan)
        self.activation = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of all layers; the last is the score."""
        maps = []
        for number, layer in enumerate(self.convs):
            # The score has no activation.
            x = layer(x) if number == len(self.convs) - 1 else self.activation(layer(x))
            maps.append(x)
        return maps


def copy_weights(ours: nn.Module, reference: nn.Module) -> None:
    """Copies weights and singular vectors of a network of `isnet.build`."""
    # torch's spectral norm keeps its parts under other names than ours.
    renamed = {"weight_orig": "weight", "weight_u": "u", "weight_v": "v"}
    source, target = ours.state_dict(), {}
    for name in reference.state_dict():
        head, _, last = name.rpartition(".")
        target[name] = source[f"{head}.{renamed.get(last, last)}"]
    reference.load_state_dict(target)


class ReferenceStep:
    """Both networks, their optimisers and the step.

    `vgg` maps pictures to features by layer name. With `lean`, D runs on the prediction once, VGG once a picture, and
    no unused gradient is computed: the same step without its waste, which shows how much of our speed is that alone.
    """

    def __init__(
        self,
        generator: ReferenceGenerator,
        discriminator: ReferenceDiscriminator,
        vgg: nn.Module,
        *,
        rate: float,
        lean: bool = False,
    ) -> None:
        self.generator, self.discriminator, self.vgg = generator.train(), discriminator.train(), vgg
        self.lean = lean
        # The weights of Eq. 2.
        self.weights = LossWeights()
        self._optimizer_g = torch.optim.Adam(generator.parameters(), lr=rate, betas=(0.0, 0.9))
        self._optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=0.1 * rate, betas=(0.0, 0.9))

    def __call__(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Updates both networks; returns the unweighted terms of Eq. 2."""
        self._optimizer_g.zero_grad()
        self._optimizer_d.zero_grad()
        prediction = self.generator(image, mask)
        # D three times, VGG four times; lean drops the second pass of each.
        real_maps, fake_maps = self.discriminator(image), self.discriminator(prediction)
        detached_maps = fake_maps if self.lean else self.discriminator(prediction.detach())
        d_loss = 0.5 * (F.relu(1 - real_maps[-1]).mean() + F.relu(1 + detached_maps[-1]).mean())
        pairs = list(zip(fake_maps, real_maps, strict=True))
        features = self.vgg(prediction), self.vgg(image)
        again = features if self.lean else (self.vgg(prediction), self.vgg(image))
        terms = {
            "l1": F.l1_loss(prediction, image) / (1 - mask).mean(),
            "adversarial": -fake_maps[-1].mean(),
            "feature_matching": total([F.l1_loss(fake, real.detach()) for fake, real in pairs]),
            "perceptual": total([F.l1_loss(features[0][name], features[1][name]) for name in PERCEPTUAL_LAYERS]),
            "style": total([F.l1_loss(gram(again[0][name]), gram(again[1][name])) for name in STYLE_LAYERS]),
        }
        # Weighted sum, Eq. 2.
        g_loss = total([getattr(self.weights, name) * term for name, term in terms.items()])
        if self.lean:
            torch.autograd.backward(g_loss, inputs=list(self.generator.parameters()), retain_graph=True)
            torch.autograd.backward(d_loss, inputs=list(self.discriminator.parameters()))
        else:
            torch.autograd.backward(g_loss)
            # What G's backward left in D is not D's; the released code computes it as well, and drops it later.
            self._optimizer_d.zero_grad()
            torch.autograd.backward(d_loss)
        self._optimizer_g.step()
        self._optimizer_d.step()
        return {name: term.detach() for name, term in terms.items()} | {"discriminator": d_loss.detach()}


def gram(features: Tensor) -> Tensor:
    """Gram matrix of features, (B, C, C)."""
    batch, channels, height, width = features.shape
    flat = features.view(batch, channels, height * width)
    return flat.bmm(flat.transpose(1, 2)) / (channels * height * width)


def total(terms: list[Tensor]) -> Tensor:
    """Sum of scalar tensors."""
    return torch.stack(terms).sum()
