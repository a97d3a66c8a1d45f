"""Reads the checkpoints of the paper's release.

The release saved `NAME_N_gen.pth` and loaded `NAME_gen.pth`. The file is a state dict, bare or under `generator` or
`discriminator` beside an iteration. The network may be plain or wrapped (`module.`). Spectral norm is stored as
`weight_orig`, `weight_u`, `weight_v`, as today's `parametrizations.weight`, or folded away. All of these are read, none
is unpickled as code. Not covered: our own format (`isnet.weights`).
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
from isnet.spectral_norm import SpectralLayer, weight_matrix

# Pattern of our module's path -> the author's path; {0}, {1} are the numbers that the pattern matched.
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

# The author's names of u and v, for reports.
_VECTORS = {"u": "weight_u", "v": "weight_v"}
# End of a tensor's name in a checkpoint -> kind of tensor.
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

# Convolutions whose weight shows the width: author's path -> (dimension, multiple of the width).
_WIDTHS = {
    "discriminator": {"conv2.0": (1, 1), "conv1.0": (0, 1), "features.0": (0, 1), "conv3.0": (1, 2)},
    "unet_like": {"encoder.1": (0, 2), "encoder.4": (1, 2), "decoder.10": (1, 2)},
    "two branches": {"layer1.downsample": (0, 1), "layer1.conv_block.1": (0, 2), "layer1.conv_block.4": (0, 1)},
}
# With strict=False a file may lack parts of its network, but not nearly all of it: a few kilobytes could otherwise
# request any amount of memory.
_MAX_NETWORK_TO_FILE = 10


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """Result of matching a checkpoint with our network.

    Attributes:
        architecture: The network it was read as, with its options.
        iteration: The training step stored in the file, if any.
        loaded: Number of our tensors that were filled.
        missing: Author's names that our network needs and the file lacks.
        unexpected: Names in the file that our network does not have.
        mismatched: (name, shape in the file, shape needed).
    """

    architecture: Mapping[str, Any]
    iteration: int | None
    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def fits(self) -> bool:
        """True if file and network have the same tensors."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        lines = [f"{self.loaded} tensors loaded into {self.architecture['name']}"]
        lines += [f"missing: {name}" for name in self.missing]
        lines += [f"unexpected: {name}" for name in self.unexpected]
        lines += [f"shape of {name} is {got}, need {need}" for name, got, need in self.mismatched]
        return "; ".join(lines)


def load_author_checkpoint(path: str | Path, *, strict: bool = True) -> Generator | Discriminator:
    """Loads the network of an author's checkpoint, in evaluation mode.

    Kind, depth and width follow from the tensors. The network has the `ImportReport` as `import_report`.

    Args:
        path: A file, a folder with one `*_gen.pth`, or the name without its number.
        strict: False keeps fresh weights where the file has no tensor that fits.

    Raises:
        InputError: The file cannot be read, or, if `strict`, does not fit; the message contains the report.
    """
    file = author_file(path)
    tensors, iteration = read_author_tensors(file)
    options = _read_options(tensors, file)
    # Compare the shapes first, on the meta device: nothing is allocated for a file that does not fit.
    try:
        with torch.device("meta"):
            planned = isnet.build(**options)
    except InputError as error:
        raise InputError(f"{file} holds none of the author's networks: {error}") from error
    report = _match_tensors(planned, tensors)[1]
    if strict and not report.fits:
        raise InputError(
            f"{file} does not fit: {report}; need exactly the tensors of the author's {report.architecture['name']}; "
            "pass strict=False to take what fits"
        )
    need, got = planned.num_parameters(), sum(value.numel() for value in tensors.values())
    if need > _MAX_NETWORK_TO_FILE * got:
        raise InputError(f"{file} holds {got} numbers of a network of {need}; need most of it; is the file complete?")
    # Build the network and copy what fits.
    network: Generator | Discriminator = isnet.build(**options)
    report = dataclasses.replace(apply_author_tensors(network, tensors), iteration=iteration)
    network.import_report = report  # type: ignore[assignment]
    return network.eval()


def read_author_tensors(path: str | Path) -> tuple[dict[str, Tensor], int | None]:
    """Reads a checkpoint's tensors by name, and its iteration.

    The author's names, without prefixes of wrappers; None without a valid iteration.
    """
    file = Path(path)
    content = read_tensor_file(file, advice="is it the author's file, and complete?")
    if not isinstance(content, Mapping):
        raise InputError(f"{file} holds a {type(content).__name__}; need a state dict")
    # The state dict may be nested one level, with the iteration beside it.
    iteration = content.get("iteration", content.get("epoch"))
    for wrapper in ("generator", "discriminator", "state_dict", "model"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    tensors = {
        _without_prefixes(name): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise InputError(f"{file} holds no tensors by name (keys: {sorted(map(str, content))[:8]}); need a state dict")
    check_tensors(tensors, file)
    valid = isinstance(iteration, int | float) and math.isfinite(iteration)
    return tensors, int(iteration) if valid else None


@torch.no_grad()
def apply_author_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> ImportReport:
    """Copies the author's tensors into `network`.

    The report lists what did not fit. The network keeps its dtype. A plain weight for a normalised layer counts as
    already divided by its σ: u and v are set so that the layer computes with exactly this weight, until the next power
    iteration. A normalised weight for a plain layer is folded.
    """
    matches, report = _match_tensors(network, tensors)
    for path, values in matches.items():
        layer = network.get_submodule(path)
        targets: dict[str, Tensor] = dict(layer.named_parameters(recurse=False))
        if isinstance(layer, SpectralLayer):
            targets |= {"u": layer.u, "v": layer.v}
        for kind in targets.keys() & values.keys():
            targets[kind].copy_(values[kind])
        if "weight" in values:
            _match_spectral_norm(layer, values)
    return report


def _match_tensors(
    network: nn.Module, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Tensor]], ImportReport]:
    """Matches tensors with layers by name and shape.

    Returns the tensors by path and kind, and the report. Uses names and shapes alone, so that `network` may be on the
    meta device.
    """
    unused = dict(tensors)
    # The author's state dicts have the discriminator's first convolution twice: one tensor, two names.
    for spelling in _SPELLINGS:
        first = unused.pop(f"conv1.0.{spelling}", None)
        if first is not None:
            unused.setdefault(f"features.0.{spelling}", first)
    matches: dict[str, dict[str, Tensor]] = {}
    missing, mismatched = [], []
    for path, author_path in author_names(network).items():
        layer = network.get_submodule(path)
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        # Kind -> (name, tensor); the first spelling of a kind counts.
        named: dict[str, tuple[str, Tensor]] = {}
        for spelling, kind in _SPELLINGS.items():
            if kind not in named and (name := f"{author_path}.{spelling}") in unused:
                named[kind] = (name, unused.pop(name))
        # Shapes needed: our parameters, and u and v where the file has spectral norm.
        shapes = {kind: tuple(value.shape) for kind, value in layer.named_parameters(recurse=False)}
        if {"u", "v"} & set(named) or ("weight" in named and named["weight"][0] != f"{author_path}.weight"):
            rows, columns = weight_matrix(layer).shape
            shapes |= {"u": (rows,), "v": (columns,)}
        missing += [f"{author_path}.{_VECTORS.get(kind, kind)}" for kind in shapes if kind not in named]
        wrong = [kind for kind in shapes if kind in named and tuple(named[kind][1].shape) != shapes[kind]]
        mismatched += [(named[kind][0], tuple(named[kind][1].shape), shapes[kind]) for kind in wrong]
        # A kind that the layer does not have, such as an extra bias, is reported as unexpected.
        unused |= {name: value for kind, (name, value) in named.items() if kind not in shapes}
        matches[path] = {kind: named[kind][1] for kind in shapes if kind in named and kind not in wrong}
    return matches, ImportReport(
        architecture=_describe(network),
        iteration=None,
        loaded=sum(len(values) for values in matches.values()),
        missing=tuple(missing),
        unexpected=tuple(unused),
        mismatched=tuple(mismatched),
    )


def author_names(network: nn.Module) -> dict[str, str]:
    """Maps the path of each convolution to the author's."""
    if isinstance(network, Discriminator):
        table = _DISCRIMINATOR_NAMES
    elif isinstance(network, Generator) and network.architecture.name == "unet_like":
        table = _UNET_NAMES
    elif isinstance(network, Generator):
        table = {**_TWO_BRANCH_NAMES, "head": _HEADS[network.architecture.name]}
    else:
        raise InputError(f"{type(network).__name__} is none of the author's networks; build it with isnet.build")
    names = {}
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            matches = ((re.fullmatch(pattern, path), author_path) for pattern, author_path in table.items())
            names[path] = next(author_path.format(*match.groups()) for match, author_path in matches if match)
    return names


def _match_spectral_norm(layer: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Keeps the function if exactly one side has spectral norm."""
    if isinstance(layer, SpectralLayer) and not {"u", "v"} & set(values):
        layer.set_folded_vectors()
    # The other way round: fold σ = uᵀWv into the weight.
    if not isinstance(layer, SpectralLayer) and {"u", "v"} <= set(values):
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        matrix = weight_matrix(layer)
        layer.weight.div_(values["u"].to(matrix) @ matrix @ values["v"].to(matrix))


def _read_options(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """Options for `isnet.build`, from the names and shapes of `tensors`.

    An option that they do not show has its default; the report then lists what the file lacks.
    """
    layers = {_layer_of(name) for name in tensors}
    shapes = {_layer_of(name): tuple(value.shape) for name, value in tensors.items() if value.ndim == 4}
    normalised = any(name.endswith((".weight_u", ".0._u")) for name in tensors)
    # Names that only one kind of network has.
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
        # Folded weights belong to ordinary convolutions.
        "spectral_norm": "released" if normalised else "none",
        **_width(shapes, "two branches"),
        **_channels(shapes, "layer1.downsample"),
    }


def _width(shapes: Mapping[str, tuple[int, ...]], kind: str) -> dict[str, int]:
    # The first convolution that the file has decides.
    for layer, (dim, multiple) in _WIDTHS[kind].items():
        if layer in shapes:
            return {"width": shapes[layer][dim] // multiple}
    return {}


def _channels(shapes: Mapping[str, tuple[int, ...]], first: str) -> dict[str, int]:
    return {"in_channels": shapes[first][1]} if first in shapes else {}


def _layer_of(name: str) -> str:
    for spelling in _SPELLINGS:
        if name.endswith(f".{spelling}"):
            return name.removesuffix(f".{spelling}")
    return name


def _count(layers: set[str], pattern: str) -> int:
    return max(1, sum(re.fullmatch(pattern, layer) is not None for layer in layers))


def _describe(network: nn.Module) -> Mapping[str, Any]:
    if isinstance(network, Generator):
        return network.architecture.to_dict()
    return {"name": "discriminator", "width": getattr(network, "width", None)}


def _without_prefixes(name: str) -> str:
    # Prefixes of DataParallel and torch.compile, in any order.
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name


def author_file(path: str | Path) -> Path:
    """Finds the newest `NAME_N_gen.pth` of a folder or of `NAME_gen.pth`."""
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        candidates = sorted(path.glob("*_gen.pth"))
        names = {re.sub(r"(_\d+)?_gen\.pth$", "", candidate.name) for candidate in candidates}
        if len(names) > 1:
            raise InputError(f"{path} holds checkpoints of {sorted(names)}; need one; name the file")
    else:
        head, separator, tail = path.name.rpartition("_")
        # The glob also matches longer names without a number.
        numbered = re.compile(rf".*_\d+_{re.escape(tail)}")
        files = path.parent.glob(f"{head}_*_{tail}") if separator else ()
        candidates = [file for file in files if numbered.fullmatch(file.name)]
    if not candidates:
        raise InputError(f"no checkpoint at {path}; need the author's .pth file, or a folder with one *_gen.pth")
    return max(candidates, key=_number)


def _number(path: Path) -> int:
    match = re.search(r"_(\d+)_\w+\.pth$", path.name)
    return int(match.group(1)) if match else -1
