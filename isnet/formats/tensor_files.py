"""Reads untrusted tensor files without executing code.

    content = read_tensor_file(path, advice="fetch it again")     # the content of a .safetensors or .pth file
    check_tensors(tensors, path)                                  # dense, finite, and as large as they claim

Not covered: the use of the tensors (`isnet.formats.author`, `isnet.perceptual`, `isnet.weights`).
"""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from isnet.errors import InputError

# What a restricted unpickler and the reader of safetensors raise on bytes that are no weights.
READ_ERRORS = (
    *(OSError, RuntimeError, EOFError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError),
    *(AssertionError, MemoryError, struct.error, zipfile.BadZipFile, SafetensorError),
)
# Types of weights: real numbers.
_NUMBERS = {
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}


def read_tensor_file(path: Path, *, advice: str) -> object:
    """Reads a .safetensors or .pth file, onto the CPU.

    Raises:
        InputError: The file cannot be read or holds code; the message ends in `advice`.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # torch warns of odd files beside refusing them.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content: object = torch.load(path, map_location="cpu", weights_only=True)
        return content
    # No message quotes torch: its texts advise weights_only=False, which would execute the file.
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} cannot be read: it is damaged or holds more than tensors; nothing was executed; "
            f"need a state dict; {advice}"
        ) from error
    except READ_ERRORS as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        raise InputError(f"{path} cannot be read as weights ({reason}); {advice}") from error


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses tensors that are not dense, finite and real."""
    for name, value in tensors.items():
        # Sparse, quantised or complex tensors, and those of the meta device.
        kind = "without numbers" if value.is_meta else f"{value.layout}, {value.dtype}"
        if value.is_meta or value.layout != torch.strided or value.dtype not in _NUMBERS:
            raise InputError(f"{path}: {name} is a tensor {kind}; need dense real numbers; save the state dict again")
        # Strides of 0 make a few bytes look like a tensor of any size.
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(
                f"{path}: {name} claims the shape {tuple(value.shape)} and holds fewer numbers; save it .contiguous()"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{path} holds NaN or infinity in {name}; need finite weights; was the file damaged?")
