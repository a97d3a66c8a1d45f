"""Dilated ResNet50 of LaMa's perceptual loss of high receptive field.

timm's ResNet50 with a deep stem; in the last two stages dilation replaces strides. LaMa's weights, learnt on ADE20K,
are those of `encoder_epoch_20.pth`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from isnet.errors import InputError
from isnet.formats.tensor_files import check_tensors, read_tensor_file
from isnet.perceptual import IMAGENET_MEAN, IMAGENET_STD, RANDOM
from isnet.torchvision_shim import ensure_torchvision

# The file's names of the stem -> timm's.
_STEM = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv1.3", "bn2": "conv1.4", "conv3": "conv1.6", "bn3": "bn1"}


class DilatedResNet(nn.Module):
    """Frozen features; 23,631,808 parameters.

    In evaluation mode, as LaMa's constructor means it. The released training puts it into training mode unawares, so
    that its statistics drift with the pictures; `train()` afterwards does the same.

    Args:
        weights: A file in the layout of `encoder_epoch_20.pth`, or 'random': drawn from `seed`.
        seed: For weights 'random'.
    """

    def __init__(self, weights: str | Path, *, seed: int = 0) -> None:
        super().__init__()
        ensure_torchvision()
        import timm

        # timm draws weights from torch's global generator, which stays where it is at.
        with torch.random.fork_rng(devices=[]):
            self.network = timm.create_model(
                "resnet50", pretrained=False, stem_type="deep", stem_width=64, output_stride=8, num_classes=0
            )
        self.source = f"random, seed {seed}"
        if str(weights) == RANDOM:
            _randomise(self.network, seed)
        else:
            self.source = self._load(Path(weights))
        self.requires_grad_(False).eval()

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """Returns the maps of four stages.

        For RGB in [0, 1]:     256 channels at a quarter of the size, 512, 1024 and 2048 at an eighth.
        """
        net = self.network
        x = image_B3HW.to(next(self.parameters()).dtype)
        x = (x - x.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / x.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
        x = net.maxpool(net.act1(net.bn1(net.conv1(x))))
        maps = []
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    def _load(self, file: Path) -> str:
        if not file.is_file():
            raise InputError(
                f"no ResNet50 weights at {str(file)!r}; need LaMa's encoder_epoch_20.pth, or {RANDOM!r}, whose "
                "features are those of an untrained network"
            )
        content = read_tensor_file(file, advice="is it complete?")
        if not isinstance(content, Mapping):
            raise InputError(f"{file} holds a {type(content).__name__}; need the state dict of a dilated ResNet50")
        state = {_own_name(str(name)): value for name, value in content.items() if isinstance(value, Tensor)}
        check_tensors(state, file)
        for name, own in self.network.state_dict().items():
            # Files of an older torch do not count batches.
            if name.endswith("num_batches_tracked"):
                state.setdefault(name, own)
            if name not in state or state[name].shape != own.shape:
                got = tuple(state[name].shape) if name in state else "nothing"
                raise InputError(f"{file}: {name} is {got}, need {tuple(own.shape)}; need encoder_epoch_20.pth of LaMa")
        self.network.load_state_dict({name: state[name] for name in self.network.state_dict()})
        return f"{file}, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"


@torch.no_grad()
def _randomise(network: nn.Module, seed: int) -> None:
    """Draws kaiming normal weights, a quarter in branches."""
    # With this scale the mean square of the features stays near the same through all stages. timm's own weights let
    # every branch begin at 0.
    generator = torch.Generator().manual_seed(seed)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.fill_(0.25 if name.endswith("bn3") else 1.0)


def _own_name(name: str) -> str:
    name = name.removeprefix("module.")
    return re.sub(r"^(conv|bn)[123](?=\.)", lambda match: _STEM[match[0]], name)
