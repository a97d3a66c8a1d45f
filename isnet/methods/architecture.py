"""Base of the other methods' generators, and their options.

Outside a generator there are truth or damaged picture in [0, 1] and the mask, 1 on valid pixels; inside is the method's
own range and fill.
"""

from __future__ import annotations

import dataclasses
import importlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from isnet.errors import InputError
from isnet.generator import MAX_BLOCKS, MAX_WIDTH, Generator, is_count
from isnet.methods import NAMES


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodArchitecture:
    """Options that decide a generator's layers, saved beside its weights.

    Attributes:
        name: Of the method.
        width: Channels of the full-resolution layers; all others scale with it.
    """

    name: str
    width: int

    def __post_init__(self) -> None:
        for valid, option, need in self._checks():
            if not valid:
                raise InputError(f"architecture option {option} is {getattr(self, option)!r}; need {need}")

    def _checks(self) -> Iterator[tuple[bool, str, str]]:
        yield is_count(self.width, MAX_WIDTH) and self.width % 4 == 0, "width", f"a multiple of 4 up to {MAX_WIDTH}"
        if (blocks := getattr(self, "blocks", None)) is not None:
            yield is_count(blocks, MAX_BLOCKS), "blocks", f"a whole number, 1 to {MAX_BLOCKS}"

    def to_dict(self) -> dict[str, Any]:
        """Options by name, as they are stored beside the weights."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> MethodArchitecture:
        """Inverse of `to_dict`; an unknown option is an `InputError`."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not set(options) <= names:
            raise InputError(
                f"{options.get('name')} has the options {', '.join(sorted(names))}, and no "
                f"{', '.join(sorted(set(options) - names))}"
            )
        return cls(**options)


class MethodGenerator(Generator):
    """Generator of another method."""

    architecture: Any

    def __init__(self, architecture: MethodArchitecture, *, size_multiple: int, minimum_size: int) -> None:
        of_any_kind: Any = architecture
        super().__init__(of_any_kind, size_multiple=size_multiple, minimum_size=minimum_size)

    @abstractmethod
    def fill(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Predicts the whole picture."""

    def forward(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Predicts the whole picture; the hole's pixels do not matter."""
        if not torch.compiler.is_exporting():
            self._check(image_B3HW, mask_B1HW)
        return self.fill(image_B3HW, mask_B1HW.to(image_B3HW.dtype))


def build(architecture: MethodArchitecture) -> MethodGenerator:
    """Builds a fresh generator from its options."""
    module = importlib.import_module(f"isnet.methods.{architecture.name}.generator")
    generator: MethodGenerator = module.GENERATOR(architecture)
    return generator


def architecture_of(options: Mapping[str, Any]) -> MethodArchitecture:
    """Checks options and adds defaults."""
    name = options.get("name")
    if name not in NAMES:
        raise InputError(f"method is {name!r}; need one of {', '.join(NAMES)}")
    module = importlib.import_module(f"isnet.methods.{name}.generator")
    architecture: MethodArchitecture = module.ARCHITECTURE.from_dict(options)
    return architecture
