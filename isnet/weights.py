"""Loads and saves weights in every supported format.

    net = isnet.weights.load_author_checkpoint("Places2_gen.pth")
    isnet.weights.save_model(net, folder)        # model.safetensors with spectral norm folded in, config.json
    net = isnet.weights.load_model(folder)       # ordinary convolutions, the same output

Formats: the author's release, our own model folder, ONNX, torch.export. Loading never unpickles code. Not covered:
checkpoints of a training run, which need more than weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import isnet
from isnet.errors import InputError
from isnet.formats.author import ImportReport, apply_author_tensors, load_author_checkpoint, read_author_tensors
from isnet.formats.export import ExportReport, export_onnx, export_program
from isnet.formats.tensor_files import read_tensor_file
from isnet.generator import Architecture, Generator
from isnet.methods.architecture import MethodArchitecture
from isnet.spectral_norm import fold_spectral_norm

FORMAT = "isnet-model-1"
TENSORS = "model.safetensors"
CONFIG = "config.json"

__all__ = [
    "ExportReport",
    "ImportReport",
    "apply_author_tensors",
    "export_onnx",
    "export_program",
    "load_author_checkpoint",
    "load_model",
    "read_author_tensors",
    "save_model",
]


def save_model(network: Generator, folder: str | Path) -> None:
    """Writes `network` into `folder`: model.safetensors, then config.json.

    Spectral norm is folded in, and weights are converted to float32. The configuration has the architecture, the form
    of the input, and the digest of the tensors.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The tensors, without the parameters of spectral norm.
    folded = fold_spectral_norm(network).float()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in folded.state_dict().items()}
    save_file(tensors, folder / TENSORS)
    config = {
        "format": FORMAT,
        "architecture": network.architecture.to_dict(),
        "spectral_norm": "folded into the weights",
        "parameters": network.num_parameters(),
        "input": {
            "image": "RGB, float in [0, 1], (B, 3, H, W)",
            "mask": "1 on valid pixels, 0 in the hole, (B, 1, H, W)",
            "size_multiple": network.size_multiple,
            "minimum_size": network.minimum_size,
        },
        "output": "RGB, float in [0, 1], (B, 3, H, W), the whole picture",
        "sha256": {TENSORS: _digest(folder / TENSORS)},
    }
    # The configuration comes last, by an atomic rename: a folder without it is no model.
    unfinished = folder / f"{CONFIG}.unfinished"
    unfinished.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(folder / CONFIG)


def load_model(folder: str | Path) -> Generator:
    """Loads a folder that `save_model` wrote.

    The network is on the CPU, in evaluation mode, and has no spectral norm.

    Raises:
        InputError: A file is missing, damaged, or does not fit its architecture.
    """
    folder = Path(folder)
    config = _read_config(folder)
    tensors_file = folder / TENSORS
    if not tensors_file.is_file():
        raise InputError(f"{folder} has no {TENSORS}; need the folder as save_model wrote it; copy all of it")
    # The digest tells a damaged copy from a good one.
    digest, expected = _digest(tensors_file), config["sha256"][TENSORS]
    if digest != expected:
        raise InputError(f"{tensors_file} has sha256 {digest}, need {expected}; it is damaged; copy the model again")
    tensors: Any = read_tensor_file(tensors_file, advice="save the model again")
    # On the meta device no weights are allocated or initialised; the file's tensors replace them.
    try:
        architecture = isnet.architecture_of(config["architecture"])
        with torch.device("meta"):
            network = plain_network(architecture)
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: {error}; save the model again") from error
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        # torch lists each tensor on a line of its own.
        problem = " ".join(str(error).split())
        raise InputError(f"{tensors_file} does not fit {architecture.name}: {problem}; save the model again") from error
    return network.float().eval()


def plain_network(architecture: Architecture | MethodArchitecture) -> Generator:
    """Builds a network as it is stored, without spectral norm."""
    if isinstance(architecture, Architecture):
        return isnet.build_from(replace(architecture, spectral_norm="none"))
    return fold_spectral_norm(isnet.build_from(architecture))


def _read_config(folder: Path) -> Mapping[str, Any]:
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} has no {CONFIG}; need a folder that save_model finished writing") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}); save the model again") from error
    version = config.get("format") if isinstance(config, Mapping) else None
    if version != FORMAT:
        raise InputError(
            f"{file} says format {version!r}; this version reads {FORMAT!r}; save the model with this version"
        )
    architecture, digests = config.get("architecture"), config.get("sha256")
    if not isinstance(architecture, Mapping) or not isinstance(digests, Mapping) or TENSORS not in digests:
        raise InputError(f"{file} lacks the architecture or the digest of {TENSORS}; save the model again")
    return config  # type: ignore[no-any-return]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
