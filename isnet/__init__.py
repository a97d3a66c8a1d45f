"""ISNet: large-scale feature inpainting (Li et al., ICIP 2020).

    net = isnet.build("isnet", blocks=4)
    prediction_B3HW = net(image_B3HW, mask_B1HW)      # RGB in [0, 1]; mask 1 on valid pixels, 0 in the hole

The package is usable in a notebook by itself. Data, clusters and tracking belong to trainplane.
Submodules load on first use (`isnet.weights`, `isnet.gan`, ...), so importing the package costs next to nothing.
Comments cite the paper's sections, equations, tables and references ([13]), and ISNET.md, the project's specification.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from isnet.discriminator import Discriminator
    from isnet.generator import Architecture, Generator
    from isnet.methods.architecture import MethodArchitecture


@overload
def build(name: Literal["discriminator"], **options: Any) -> Discriminator: ...
@overload
def build(name: str, **options: Any) -> Generator: ...
def build(name: str, **options: Any) -> Generator | Discriminator:
    """Builds a fresh network with weights from torch's global generator.

    Args:
        name: Generator isnet, base, base_ff or unet_like, another method's of `isnet.methods.NAMES`, or discriminator.
        **options: Of a generator, those of `isnet.generator.Architecture`: blocks=4, width=32, in_channels=3,
            activation, dilation=2, spectral_norm, skips, prune, init_std=0.001. Of the discriminator, those of
            `isnet.discriminator.Discriminator`: width=64, spectral=True, init_std=0.001. Of another method those of its
            `generator.py`.

    Raises:
        InputError: For an unknown option or a value out of range.
    """
    # Imported here, so that `import isnet` loads no torch.
    from isnet.discriminator import Discriminator

    if name == "discriminator":
        return Discriminator.from_options(options)
    return build_from(architecture_of({"name": name, **options}))


def build_from(architecture: Architecture | MethodArchitecture) -> Generator:
    """Builds a fresh generator from its options, as `build` does."""
    from isnet import network
    from isnet.generator import Architecture
    from isnet.methods.architecture import build as build_other
    from isnet.unet_like import UNetLike

    if not isinstance(architecture, Architecture):
        return build_other(architecture)
    builders = {"isnet": network.isnet, "base": network.base, "base_ff": network.base_ff, "unet_like": UNetLike}
    return builders[architecture.name](architecture)


def architecture_of(options: Mapping[str, Any]) -> Architecture | MethodArchitecture:
    """Checks a generator's stored options and adds defaults."""
    from isnet.generator import Architecture
    from isnet.methods import NAMES
    from isnet.methods.architecture import architecture_of as of_other

    return of_other(options) if options.get("name") in NAMES else Architecture.from_dict(options)


def __getattr__(name: str) -> Any:
    # Submodules load when they are first named (PEP 562).
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
