"""ISNet: large-scale feature inpainting (Li et al., ICIP 2020), usable in a notebook by itself.

    net = isnet.build("isnet", blocks=4)
    prediction_B3HW = net(image_B3HW, mask_B1HW)      # RGB in [0, 1]; mask 1 on valid pixels, 0 in the hole

Submodules load on first use (`isnet.weights`, `isnet.gan`, ...), so importing the package costs next to nothing.
Not covered here: data, clusters, tracking. That is trainplane's.
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
    """A fresh network, its weights from torch's global random generator.

    isnet, base, base_ff, unet_like -- generators, with the options of `isnet.generator.Architecture`: blocks=4,
        width=32, in_channels=3, activation, dilation=2, spectral_norm, skips, prune, init_std=0.001
    discriminator -- with those of `isnet.discriminator.Discriminator`: width=64, spectral=True, init_std=0.001

    Raises InputError for an option that does not exist or a value that cannot be.
    """
    from isnet.discriminator import Discriminator
    from isnet.generator import Architecture

    if name == "discriminator":
        return Discriminator.from_options(options)
    return build_from(Architecture.from_dict({"name": name, **options}))


def build_from(architecture: Architecture) -> Generator:
    """A fresh generator from its options, as `build` makes it."""
    from isnet import network
    from isnet.unet_like import UNetLike

    if architecture.name == "unet_like":
        return UNetLike(architecture)
    makers = {"isnet": network.isnet, "base": network.base, "base_ff": network.base_ff}
    return makers[architecture.name](architecture)


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
