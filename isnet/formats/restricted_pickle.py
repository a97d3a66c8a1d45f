"""Reads torch's zip files without executing anything of them.

LaMa's checkpoints hold objects of Lightning and OmegaConf beside the tensors, so torch's own restricted reader refuses
them. Here a global that a pickle names is never imported: the few that tensors need have replacements below, those of
known packages become inert placeholders, and any other ends the reading. Tensors are read when they are wanted.
Not covered: the format before torch 1.6, and .safetensors (`isnet.formats.tensor_files`).
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from isnet.errors import InputError
from isnet.formats.tensor_files import READ_ERRORS
from isnet.formats.zip_kind import is_zip

# Far above any network's structure; tensors are in files of their own.
_MAX_PICKLE_BYTES = 64 << 20
_MOST_DIMENSIONS = 8

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Packages whose objects stand beside the tensors in files that are known.
_PLACEHOLDERS = {"pytorch_lightning", "lightning", "omegaconf", "saicinpainting", "hydra", "torch", "numpy"}
_PLACEHOLDERS |= {"typing", "collections", "pathlib", "argparse", "datetime", "enum"}
_PLAIN_TYPES = {"bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "set", "str"}
_PLAIN_TYPES |= {"tuple"}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in the file.

    Attributes:
        archive: The file.
        member: Name of its bytes there.
        dtype: Type of a value.
        offset: Values before the first.
        shape: Sizes.
        stride: Values from one to the next, by dimension.
    """

    archive: _Archive
    member: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self) -> Tensor:
        """Reads the values into a tensor of its own.

        Raises:
            InputError: Their checksum does not fit.
        """
        try:
            data = self.archive.read(self.member)
        except READ_ERRORS as error:
            raise InputError(f"{self.archive.path} is damaged at {self.member}; copy the file again") from error
        values = torch.frombuffer(bytearray(data), dtype=self.dtype) if data else torch.empty(0, dtype=self.dtype)
        return values.as_strided(self.shape, self.stride, self.offset).clone(memory_format=torch.contiguous_format)


def is_torch_zip(path: Path) -> bool:
    """True for the format that torch has written since 1.6."""
    return path.is_file() and is_zip(path)


def read_torch_zip(path: Path) -> object:
    """Reads a file's structure; tensors in it are `StoredTensor`.

    Raises:
        InputError: It is damaged, or names a global that is neither a tensor's nor of a known package.
    """
    try:
        archive = _Archive(path)
        return _Unpickler(archive).load()
    except _ForbiddenGlobal as error:
        raise InputError(
            f"{path} names {error}, which belongs to no checkpoint; nothing was executed; need tensors, and at most "
            f"objects of {', '.join(sorted(_PLACEHOLDERS))}; do not use this file"
        ) from None
    except _Damaged as error:
        raise InputError(f"{path} cannot be read: {error}; is it complete?") from None
    except (pickle.UnpicklingError, *READ_ERRORS) as error:
        raise InputError(f"{path} cannot be read as weights ({type(error).__name__}); is it complete?") from error


class _ForbiddenGlobal(Exception):
    pass


class _Damaged(Exception):
    pass


class _Archive:
    """Members of a torch zip file, none larger than it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Stays open as long as a tensor may be read: it lists a thousand members.
        self._file = zipfile.ZipFile(path)
        members = {info.filename: info for info in self._file.infolist()}
        size = path.stat().st_size
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise _Damaged(f"it holds {len(pickles)} files */data.pkl, need one, as torch.save writes it")
        root = pickles[0].removesuffix("data.pkl")
        self._root = root
        self.members = {name.removeprefix(root): info for name, info in members.items() if name.startswith(root)}
        if any(name.startswith("code/") for name in self.members):
            raise _Damaged("it is a TorchScript program, need the checkpoint of tensors that it was made of")
        for name, info in self.members.items():
            # A few compressed bytes could otherwise become any amount of memory.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise _Damaged(f"{ascii(name)[:60]} is compressed or larger than the file, need what torch.save writes")
        if self.members["data.pkl"].file_size > _MAX_PICKLE_BYTES:
            raise _Damaged(f"data.pkl has {self.members['data.pkl'].file_size} bytes, need {_MAX_PICKLE_BYTES} at most")
        if "byteorder" in self.members and self.read("byteorder") != b"little":
            raise _Damaged("it was written on a machine of another byte order, need little-endian values")

    def read(self, name: str) -> bytes:
        return self._file.read(self.members[name])


# Python's own unpickler in Python: the one in C reserves memory for any index that a file names.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):  # type: ignore[misc]
    """Builds containers, stored tensors and placeholders; imports nothing."""

    # torch writes protocol 2. The instructions left out reserve what a length claims, or look outside the file.
    dispatch: ClassVar = {
        code: method
        for code, method in _PythonUnpickler.dispatch.items()
        if bytes([code]) not in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4)
    }

    def __init__(self, archive: _Archive) -> None:
        super().__init__(io.BytesIO(archive.read("data.pkl")))
        self._archive = archive

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (replacement := _REPLACEMENTS.get((module, name))) is not None:
            return replacement
        root = module.partition(".")[0]
        if root in _PLACEHOLDERS or (root in ("builtins", "__builtin__") and name in _PLAIN_TYPES):
            return _Placeholder
        full = f"{module}.{name}"[:100]
        raise _ForbiddenGlobal(full if full.isprintable() else ascii(full))

    def load_build(self) -> None:
        # The state of an object: none of what is built here takes one.
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(count, int):
            raise _Damaged("it refers to something else than the storage of a tensor")
        member = self._archive.members.get(f"data/{key}")
        if member is None or member.file_size != count * dtype.itemsize:
            size = "nothing" if member is None else f"{member.file_size} bytes"
            raise _Damaged(f"storage {ascii(key)[:40]} claims {count} numbers of {dtype} and holds {size}")
        return _Storage(self._archive, f"data/{key}", dtype, count)


@dataclass(frozen=True)
class _Storage:
    archive: _Archive
    member: str
    dtype: torch.dtype
    count: int


class _Placeholder:
    """Stands for any class or function, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    def extend(self, values: object) -> None:
        pass

    def add(self, value: object) -> None:
        pass


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: object) -> StoredTensor:
    sizes = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or not len(shape) == len(stride) <= _MOST_DIMENSIONS:
        raise _Damaged("a tensor has no storage, or another number of strides than dimensions")
    if not all(isinstance(size, int) and 0 <= size < 1 << 62 for size in sizes):
        raise _Damaged(f"a tensor claims offset, shape and strides {sizes}, need whole numbers from 0")
    count = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if count and last >= storage.count:
        raise _Damaged(f"a tensor of shape {tuple(shape)} reaches value {last} of {storage.count} in its storage")
    # Strides of 0 make a few bytes look like a tensor of any size.
    if count > storage.count:
        raise _Damaged(f"a tensor claims the shape {tuple(shape)} and holds {storage.count} numbers")
    return StoredTensor(storage.archive, storage.member, storage.dtype, offset, tuple(shape), tuple(stride))


def _parameter(data: Any, *_: object) -> Any:
    return data


_REPLACEMENTS: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


def tensors_of(content: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor | StoredTensor]]:
    """Yields the named tensors of a state dict."""
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Tensor | StoredTensor):
            yield name, value
