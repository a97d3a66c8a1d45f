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
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from isnet.discriminator import Discriminator
    from isnet.generator import Architecture, Generator


@overload
def build(name: Literal["discriminator"], **options: Any) -> Discriminator: ...
@overload
def build(name: str, **options: Any) -> Generator: ...
def build(name: str, **options: Any) -> Generator | Discriminator:
    """Builds a fresh network with weights from torch's global generator.

    Args:
        name: Generator isnet, base, base_ff or unet_like, or discriminator.
        **options: Of a generator, those of `isnet.generator.Architecture`: blocks=4, width=32, in_channels=3,
            activation, dilation=2, spectral_norm, skips, prune, init_std=0.001. Of the discriminator, those of
            `isnet.discriminator.Discriminator`: width=64, spectral=True, init_std=0.001.

    Raises:
        InputError: For an unknown option or a value out of range.
    """
    # Imported here, so that `import isnet` loads no torch.
    from isnet.discriminator import Discriminator
    from isnet.generator import Architecture

    if name == "discriminator":
        return Discriminator.from_options(options)
    return build_from(Architecture.from_dict({"name": name, **options}))


def build_from(architecture: Architecture) -> Generator:
    """Builds a fresh generator from its options, as `build` does."""
    from isnet import network
    from isnet.unet_like import UNetLike

    builders = {"isnet": network.isnet, "base": network.base, "base_ff": network.base_ff, "unet_like": UNetLike}
    return builders[architecture.name](architecture)


def __getattr__(name: str) -> Any:
    # Submodules load when they are first named (PEP 562).
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
