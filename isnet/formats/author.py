"""Reads the checkpoints of the paper's own release: which of its tensors is which of ours.

The release saved `NAME_N_gen.pth` and loaded `NAME_gen.pth`; the file holds a state dict, bare or under `generator` or
`discriminator` beside an iteration, of plain or `module.`-wrapped networks, with spectral norm as `weight_orig`,
`weight_u`, `weight_v`, as today's `parametrizations.weight`, or folded away. All of these are read, none is unpickled
as code. Not covered: our own format (weights.py).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import isnet
from isnet.discriminator import Discriminator
from isnet.errors import InputError
from isnet.formats.tensor_files import check_tensors, read_tensor_file
from isnet.generator import Generator
from isnet.spectral_norm import SpectralLayer

# Our module's path -> the author's; {0}, {1} are numbers found in ours.
_TWO_BRANCH_NAMES = {
    r"stem\.shortcut": "layer1.downsample",
    r"stem\.expand": "layer1.conv_block.1",
    r"stem\.reduce": "layer1.conv_block.4",
    r"stages\.(\d+)\.hi_blocks\.(\d+)\.dilated": "stage{0}.branches.0.{1}.conv_block.1",
    r"stages\.(\d+)\.hi_blocks\.(\d+)\.plain": "stage{0}.branches.0.{1}.conv_block.4",
    r"stages\.(\d+)\.lo_blocks\.(\d+)\.dilated": "stage{0}.branches.1.{1}.conv_block.1",
    r"stages\.(\d+)\.lo_blocks\.(\d+)\.plain": "stage{0}.branches.1.{1}.conv_block.4",
    r"stages\.(\d+)\.up\.steps\.(\d+)": "stage{0}.fuse_layers.0.1.{1}.0",
    r"stages\.(\d+)\.down_hi\.steps\.(\d+)": "stage{0}.fuse_layers.1.0.{1}.0",
    r"stages\.(\d+)\.down_lo\.steps\.0": "stage{0}.fuse_layers.1.1.0",
    r"stages\.(\d+)\.aggregate_hi": "stage{0}.fused_branches.0.0.0",
    r"stages\.(\d+)\.aggregate_lo": "stage{0}.fused_branches.1.0.0",
    r"fusion\.up\.steps\.(\d+)": "up_layer.{0}.0",
    r"fusion\.conv": "final_layer.0",
}
_UNET_NAMES = {
    r"first": "encoder.1",
    r"down\.0": "encoder.4",
    r"down\.1": "encoder.7",
    r"down\.2": "encoder.10",
    r"middle\.(\d+)\.dilated": "middle.{0}.conv_block.1",
    r"middle\.(\d+)\.plain": "middle.{0}.conv_block.4",
    r"up\.0": "decoder.0",
    r"up\.1": "decoder.3",
    r"up\.2": "decoder.6",
    r"last": "decoder.10",
}
_DISCRIMINATOR_NAMES = {
    r"convs\.0": "features.0",
    r"convs\.1": "conv2.0",
    r"convs\.2": "conv3.0",
    r"convs\.3": "conv4.0",
    r"convs\.4": "conv5.0",
}
_HEADS = {"isnet": "final_layer.2", "base": "final_layer", "base_ff": "final_layer.2"}

# The author's spellings of a tensor, by what it is to us.
_VECTORS = {"u": "weight_u", "v": "weight_v"}
_SPELLINGS = {
    "weight_orig": "weight",
    "weight_u": "u",
    "weight_v": "v",
    "parametrizations.weight.original": "weight",
    "parametrizations.weight.0._u": "u",
    "parametrizations.weight.0._v": "v",
    "weight": "weight",
    "bias": "bias",
}

# Where the width stands in the shape of a convolution's weight: author's name -> (dimension, multiple of the width).
_WIDTHS = {
    "discriminator": {"conv2.0": (1, 1), "conv1.0": (0, 1), "features.0": (0, 1), "conv3.0": (1, 2)},
    "unet_like": {"encoder.1": (0, 2), "encoder.4": (1, 2), "decoder.10": (1, 2)},
    "two branches": {"layer1.downsample": (0, 1), "layer1.conv_block.1": (0, 2), "layer1.conv_block.4": (0, 1)},
}
# With strict=False a file may lack parts of its network, but not nearly all of it: a few kilobytes could ask for any
# amount of memory.
_MOST_NUMBERS_A_NUMBER = 10


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What of a checkpoint found its place.

    architecture -- the network it was read as, with its options
    iteration    -- the training step written in the file, if any
    loaded       -- number of our tensors that were filled
    missing      -- author's names that our network needs and the file lacks
    unexpected   -- names in the file that our network has no place for
    mismatched   -- (name, shape in the file, shape needed)
    """

    architecture: Mapping[str, Any]
    iteration: int | None
    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def fits(self) -> bool:
        """Whether every tensor of the file has its place and every place its tensor."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        lines = [f"{self.loaded} tensors loaded into {self.architecture['name']}"]
        lines += [f"missing: {name}" for name in self.missing]
        lines += [f"unexpected: {name}" for name in self.unexpected]
        lines += [f"shape of {name} is {got}, need {need}" for name, got, need in self.mismatched]
        return "; ".join(lines)


def load_author_checkpoint(path: str | Path, *, strict: bool = True) -> Generator | Discriminator:
    """The network the author's checkpoint `path` holds, its options read off the tensors, in evaluation mode.

    `path` is a file, a folder with one `*_gen.pth`, or the name without its number. The `ImportReport` is on the
    network as `import_report`. Where something does not fit, `strict` raises InputError with the report; otherwise
    the places without a tensor keep their fresh weights.
    """
    file = _resolve(Path(path))
    tensors, iteration = read_author_tensors(file)
    options = _options_of(tensors, file)
    # By shapes alone first: nothing is allocated for a file that does not fit.
    try:
        with torch.device("meta"):
            planned = isnet.build(**options)
    except InputError as error:
        raise InputError(f"{file} holds none of the author's networks: {error}") from error
    report = _placed(planned, tensors)[1]
    if strict and not report.fits:
        raise InputError(
            f"{file} does not fit: {report}; need exactly the tensors of the author's {report.architecture['name']}; "
            "pass strict=False to take what fits"
        )
    need, got = planned.num_parameters(), sum(value.numel() for value in tensors.values())
    if need > _MOST_NUMBERS_A_NUMBER * got:
        raise InputError(f"{file} holds {got} numbers of a network of {need}; need most of it; is the file complete?")
    network: Generator | Discriminator = isnet.build(**options)
    report = dataclasses.replace(apply_author_tensors(network, tensors), iteration=iteration)
    network.import_report = report  # type: ignore[assignment]
    return network.eval()


def read_author_tensors(path: str | Path) -> tuple[dict[str, Tensor], int | None]:
    """The tensors of a checkpoint by the author's names, prefixes removed, and its iteration if it says one."""
    file = Path(path)
    content = read_tensor_file(file, advice="is it the author's file, and complete?")
    if not isinstance(content, Mapping):
        raise InputError(f"{file} holds a {type(content).__name__}; need a state dict")
    iteration = content.get("iteration", content.get("epoch"))
    for wrapper in ("generator", "discriminator", "state_dict", "model"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    tensors = {
        _bare(name): value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise InputError(f"{file} holds no tensors by name (keys: {sorted(map(str, content))[:8]}); need a state dict")
    check_tensors(tensors, file)
    known = isinstance(iteration, int | float) and math.isfinite(iteration)
    return tensors, int(iteration) if known else None


@torch.no_grad()
def apply_author_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> ImportReport:
    """Copy tensors under the author's names into `network` and report what did not fit. Keeps the network's dtype.

    A plain weight for a normalised layer counts as already divided by σ, whatever σ was: the layer's u and v are made
    such that it computes with this very weight, until the next power iteration. A normalised weight for a plain layer
    is folded.
    """
    placed, report = _placed(network, tensors)
    for ours, found in placed.items():
        layer = network.get_submodule(ours)
        for kind, value in _wanted(layer).items():
            if kind in found:
                value.copy_(found[kind])
        if "weight" in found:
            _settle_norm(layer, found)
    return report


def _placed(network: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], ImportReport]:
    """For each of our layers what fits it, by kind, and the report. Looks at names and shapes alone."""
    left = dict(tensors)
    # The first convolution of the discriminator stands twice in the author's state dicts, one tensor, two names.
    for spelling in _SPELLINGS:
        first = left.pop(f"conv1.0.{spelling}", None)
        if first is not None:
            left.setdefault(f"features.0.{spelling}", first)
    placed: dict[str, dict[str, Tensor]] = {}
    missing, mismatched = [], []
    for ours, theirs in author_names(network).items():
        layer = network.get_submodule(ours)
        found: dict[str, tuple[str, Tensor]] = {}
        for spelling, kind in _SPELLINGS.items():
            if kind not in found and (name := f"{theirs}.{spelling}") in left:
                found[kind] = (name, left.pop(name))
        shapes = {kind: tuple(value.shape) for kind, value in layer.named_parameters(recurse=False)}
        if {"u", "v"} & set(found) or ("weight" in found and found["weight"][0] != f"{theirs}.weight"):
            rows, columns = _matrix(layer).shape
            shapes |= {"u": (rows,), "v": (columns,)}
        missing += [f"{theirs}.{_VECTORS.get(kind, kind)}" for kind in shapes if kind not in found]
        wrong = [kind for kind in shapes if kind in found and tuple(found[kind][1].shape) != shapes[kind]]
        mismatched += [(found[kind][0], tuple(found[kind][1].shape), shapes[kind]) for kind in wrong]
        left |= {name: value for kind, (name, value) in found.items() if kind not in shapes}
        placed[ours] = {kind: found[kind][1] for kind in shapes if kind in found and kind not in wrong}
    return placed, ImportReport(
        architecture=_describe(network),
        iteration=None,
        loaded=sum(len(found) for found in placed.values()),
        missing=tuple(missing),
        unexpected=tuple(left),
        mismatched=tuple(mismatched),
    )


def author_names(network: nn.Module) -> dict[str, str]:
    """For each convolution of `network`, by its path, the author's path."""
    if isinstance(network, Discriminator):
        table = _DISCRIMINATOR_NAMES
    elif isinstance(network, Generator) and network.architecture.name == "unet_like":
        table = _UNET_NAMES
    elif isinstance(network, Generator):
        table = {**_TWO_BRANCH_NAMES, "head": _HEADS[network.architecture.name]}
    else:
        raise InputError(f"{type(network).__name__} is none of the author's networks; build it with isnet.build")
    names = {}
    for ours, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            found = ((re.fullmatch(pattern, ours), theirs) for pattern, theirs in table.items())
            names[ours] = next(theirs.format(*match.groups()) for match, theirs in found if match)
    return names


def _wanted(layer: nn.Module) -> dict[str, Tensor]:
    wanted: dict[str, Tensor] = dict(layer.named_parameters(recurse=False))
    if isinstance(layer, SpectralLayer):
        wanted |= {"u": layer.u, "v": layer.v}
    return wanted


def _matrix(layer: nn.Module) -> Tensor:
    """A convolution's weight as spectral norm sees it, (output channels, everything else)."""
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    return layer.weight.transpose(0, 1 if isinstance(layer, nn.ConvTranspose2d) else 0).flatten(1)


def _settle_norm(layer: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Where exactly one side has spectral norm, make the layer's function that of the file."""
    if isinstance(layer, SpectralLayer) and not {"u", "v"} & set(found):
        layer.set_exact_vectors()
        # The largest singular value of W/(uᵀWv) is above 1 wherever u and v lagged behind W, as in training they do;
        # dividing by it again would be another network. By the length of v our own uᵀWv is 1.
        layer.v.div_(layer.sigma())
    if not isinstance(layer, SpectralLayer) and {"u", "v"} <= set(found):
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        matrix = _matrix(layer)
        layer.weight.div_(found["u"].to(matrix) @ matrix @ found["v"].to(matrix))


def _options_of(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """For `isnet.build`: the kind, depth and width that the names and shapes of `tensors` show.

    What is not to be seen has its default; the report then says what the file lacks.
    """
    layers = {_layer_of(name) for name in tensors}
    shapes = {_layer_of(name): tuple(value.shape) for name, value in tensors.items() if value.ndim == 4}
    normalised = any(name.endswith((".weight_u", ".0._u")) for name in tensors)
    if layers & set(_DISCRIMINATOR_NAMES.values()):
        return {"name": "discriminator", "spectral": normalised, **_width(shapes, "discriminator")}
    if any(layer.startswith("encoder.") for layer in layers):
        blocks = _count(layers, r"middle\.(\d+)\.conv_block\.1")
        return {"name": "unet_like", "blocks": blocks, **_width(shapes, "unet_like"), **_channels(shapes, "encoder.1")}
    if not any(layer.startswith(("layer1.", "stage0.")) for layer in layers):
        raise InputError(
            f"{file} holds none of the author's networks (first names: {sorted(tensors)[:4]}); need a checkpoint of "
            "ISNet, its base models, UNet-like or their discriminator"
        )
    return {
        "name": "isnet" if "up_layer.0.0" in layers else "base" if "final_layer" in layers else "base_ff",
        "blocks": _count(layers, r"stage0\.branches\.0\.(\d+)\.conv_block\.1"),
        # Folded weights are those of ordinary convolutions.
        "spectral_norm": "released" if normalised else "none",
        **_width(shapes, "two branches"),
        **_channels(shapes, "layer1.downsample"),
    }


def _width(shapes: Mapping[str, tuple[int, ...]], kind: str) -> dict[str, int]:
    places = _WIDTHS[kind].items()
    found = [shapes[layer][dim] // multiple for layer, (dim, multiple) in places if layer in shapes]
    return {"width": found[0]} if found else {}


def _channels(shapes: Mapping[str, tuple[int, ...]], first: str) -> dict[str, int]:
    return {"in_channels": shapes[first][1]} if first in shapes else {}


def _layer_of(name: str) -> str:
    for spelling in sorted(_SPELLINGS, key=len, reverse=True):
        if name.endswith(f".{spelling}"):
            return name.removesuffix(f".{spelling}")
    return name


def _count(layers: set[str], pattern: str) -> int:
    return max(1, sum(re.fullmatch(pattern, layer) is not None for layer in layers))


def _describe(network: nn.Module) -> Mapping[str, Any]:
    if isinstance(network, Generator):
        return network.architecture.to_dict()
    return {"name": "discriminator", "width": getattr(network, "width", None)}


def _bare(name: str) -> str:
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name


def _resolve(path: Path) -> Path:
    """The file itself, or the newest of `NAME_N_gen.pth` for a folder or for `NAME_gen.pth`."""
    if path.is_file():
        return path
    if path.is_dir():
        candidates = sorted(path.glob("*_gen.pth"))
        names = {re.sub(r"(_\d+)?_gen\.pth$", "", candidate.name) for candidate in candidates}
        if len(names) > 1:
            raise InputError(f"{path} holds checkpoints of {sorted(names)}; need one; name the file")
    else:
        head, separator, tail = path.name.rpartition("_")
        candidates = [
            file
            for file in path.parent.glob(f"{head}_*_{tail}")
            if re.fullmatch(rf".*_\d+_{re.escape(tail)}", file.name)
        ]
        candidates = candidates if separator else []
    if not candidates:
        raise InputError(f"no checkpoint at {path}; need the author's .pth file, or a folder with one *_gen.pth")
    return max(candidates, key=_number)


def _number(path: Path) -> int:
    match = re.search(r"_(\d+)_\w+\.pth$", path.name)
    return int(match.group(1)) if match else -1
