"""Frozen VGG features for the perceptual and the style loss.

    perceptual = Perceptual("vgg19.safetensors")     # a file; or "timm/vgg19.tv_in1k"; or explicitly "random"
    features = perceptual(image_B3HW)                # {"relu1_1": (B, 64, H, W), ...}

The network is timm's VGG19, or VGG16 for PConv. Layers are named relu1_1 ... relu5_4 after block and position, and
pool1 ... pool5 after the block that the pool ends; nothing deeper than the deepest requested one is run. Not covered:
the losses themselves (losses.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isnet.errors import InputError
from isnet.formats.tensor_files import check_tensors, read_tensor_file
from isnet.torchvision_shim import ensure_torchvision

# The released code's choice; the paper gives none (ISNET.md §5).
PERCEPTUAL_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STYLE_LAYERS = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")
# Layers of PConv, for both losses.
POOL_LAYERS = ("pool1", "pool2", "pool3")
HUB_ID = "timm/vgg19.tv_in1k"
RANDOM = "random"

Vgg = Literal["vgg19", "vgg16"]
# The five blocks; a max pool ends each.
_CONVS_PER_BLOCK = {"vgg19": (2, 2, 4, 4, 4), "vgg16": (2, 2, 3, 3, 3)}


def _layers(network: Vgg) -> tuple[str, ...]:
    blocks = enumerate(_CONVS_PER_BLOCK[network], start=1)
    return tuple(f"relu{block}_{i}" for block, count in blocks for i in range(1, count + 1))


LAYERS = _layers("vgg19")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_HUB_TIMEOUT_S = 5.0


class Perceptual(nn.Module):
    """Frozen features of VGG19 or VGG16.

    Args:
        weights: A .safetensors file, or a .pth state dict, in torchvision's or timm's layout; timm's hub id
            `timm/vgg19.tv_in1k` or `timm/vgg16.tv_in1k`; or 'random': kaiming normal from `seed`, independent of
            torch's global generators.
        network: Which of the two.
        perceptual_layers: Layers that the perceptual loss compares directly.
        style_layers: Layers that the style loss compares by Gram matrix.
        normalise: Subtract ImageNet's mean and divide by its deviation first. The released code does not, and the loss
            weights 0.1 and 250 are tuned to that (ISNET.md §8 row 7).
        seed: For weights 'random'.
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        network: Vgg = "vgg19",
        perceptual_layers: Sequence[str] = PERCEPTUAL_LAYERS,
        style_layers: Sequence[str] = STYLE_LAYERS,
        normalise: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.perceptual_layers = tuple(perceptual_layers)
        self.style_layers = tuple(style_layers)
        self.normalise = normalise
        self.taps = frozenset(self.perceptual_layers + self.style_layers)
        self.network: Vgg = network
        order = _with_pools(network)
        _check_layers(self.taps, order, network)
        # Only the layers that the deepest tap needs.
        self._run = order[: max(order.index(tap) for tap in self.taps) + 1]
        self.convs = nn.ModuleDict(_convolutions(network, [name for name in self._run if name.startswith("relu")]))
        self.source = _fill(self.convs, weights, network=network, seed=seed)
        # Every pool halves the sides, and one pixel must remain.
        self.minimum_size = 2 ** sum(name.startswith("pool") for name in self._run)
        self.requires_grad_(False).eval()

    def forward(self, image_B3HW: Tensor) -> dict[str, Tensor]:
        """Features of RGB in [0, 1] by layer.

        Without `normalise` the picture may be in any other range, such as PConv's.
        """
        if image_B3HW.ndim != 4 or image_B3HW.shape[1] != 3 or min(image_B3HW.shape[2:]) < self.minimum_size:
            raise InputError(
                f"{self.network.upper()} got shape {tuple(image_B3HW.shape)}; need (B, 3, H, W) with sides from "
                f"{self.minimum_size}; use larger pictures or shallower layers"
            )
        # In the dtype of the weights.
        x = image_B3HW.to(next(self.parameters()).dtype)
        if self.normalise:
            x = (x - x.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / x.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
        features = {}
        for name in self._run:
            x = F.max_pool2d(x, 2) if name.startswith("pool") else F.relu_(self.convs[name](x))
            if name in self.taps:
                features[name] = x
        return features


def _with_pools(network: Vgg) -> list[str]:
    """Layers in the order in which they run."""
    names = []
    for block in range(1, 6):
        names += [name for name in _layers(network) if name.startswith(f"relu{block}_")] + [f"pool{block}"]
    return names


def _check_layers(taps: frozenset[str], order: Sequence[str], network: Vgg) -> None:
    if unknown := sorted(taps - set(order)):
        raise InputError(
            f"{network.upper()} has no layer {', '.join(unknown)}; need names from relu1_1 to {order[-2]}, or pool1 to "
            "pool5"
        )
    if not taps:
        raise InputError("perceptual and style layers are both empty; name at least one, or set both weights to 0")


def _convolutions(vgg: Vgg, names: Sequence[str]) -> dict[str, nn.Module]:
    """First convolutions of timm's VGG, one per name."""
    ensure_torchvision()
    import timm

    # On the meta device their creation costs neither random numbers nor memory.
    with torch.device("meta"):
        network = timm.create_model(vgg, pretrained=False, features_only=True)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return {name: conv.to_empty(device="cpu") for name, conv in zip(names, convolutions, strict=False)}


def _fill(convs: nn.ModuleDict, weights: str | Path, *, network: Vgg, seed: int) -> str:
    """Loads the convolutions' weights and returns their origin."""
    if str(weights) == RANDOM:
        _randomise(convs, seed)
        return f"random, seed {seed}"
    hub_id = HUB_ID.replace("vgg19", network)
    file = _download(hub_id) if str(weights) in (hub_id, hub_id.removeprefix("timm/")) else Path(weights)
    if not str(weights) or not file.is_file():
        raise InputError(
            f"no {network.upper()} weights at {str(weights)!r}; need a .safetensors or .pth file, the hub id "
            f"{hub_id!r}, or {RANDOM!r}, whose features are those of an untrained network"
        )
    _copy_weights(convs, _read_state(file, network), file, network)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return f"{weights}, sha256 {digest}"


@torch.no_grad()
def _randomise(convs: nn.ModuleDict, seed: int) -> None:
    """Draws kaiming normal weights and sets biases to 0."""
    # With this scale the mean square of the activations stays the same through all layers.
    generator = torch.Generator().manual_seed(seed)
    for conv in convs.values():
        assert isinstance(conv, nn.Conv2d)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
        assert conv.bias is not None
        conv.bias.zero_()


@torch.no_grad()
def _copy_weights(convs: nn.ModuleDict, state: Mapping[str, Tensor], file: Path, network: Vgg) -> None:
    for (name, conv), index in zip(convs.items(), _feature_indices(network), strict=False):
        for kind, target in conv.named_parameters():
            tensor = state.get(f"{index}.{kind}")
            if tensor is None or tensor.shape != target.shape:
                got = "nothing" if tensor is None else tuple(tensor.shape)
                raise InputError(
                    f"{file}: features.{index}.{kind} ({name}) is {got}, need {tuple(target.shape)}; "
                    f"is it a {network.upper()} without batch norm, in torchvision's or timm's layout?"
                )
            target.copy_(tensor)


def _feature_indices(network: Vgg) -> list[int]:
    """Indices of the convolutions in torchvision's `features`."""
    # Convolution and ReLU alternate, a pool ends each block: 0, 2, (pool) 5, 7, (pool) 10, ...
    indices, position = [], 0
    for count in _CONVS_PER_BLOCK[network]:
        indices += [position + 2 * i for i in range(count)]
        position += 2 * count + 1
    return indices


def _read_state(file: Path, network: Vgg) -> dict[str, Tensor]:
    """Tensors of a file by `INDEX.weight` and `INDEX.bias`."""
    content = read_tensor_file(file, advice="is it complete?")
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise InputError(f"{file} holds a {type(content).__name__}; need a state dict of {network.upper()}")
    # Prefixes differ by layout: features.N (torchvision), features_N (timm), module.features.N (wrapped).
    state = {}
    for name, value in content.items():
        match = re.fullmatch(r"(?:module\.)?(?:features[._])?(\d+\.(?:weight|bias))", str(name))
        if match and isinstance(value, Tensor):
            state[match[1]] = value
    check_tensors(state, file)
    return state


def _download(hub_id: str) -> Path:
    """The hub's safetensors file, from the local cache if present."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, "model.safetensors", etag_timeout=_HUB_TIMEOUT_S))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"weights {hub_id!r} are neither in the local cache nor available from the hub "
            f"({type(error).__name__}); download that repository's model.safetensors elsewhere and give its path, or "
            f"{RANDOM!r} for the features of an untrained network"
        ) from error
