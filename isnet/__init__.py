"""ISNet: large-scale feature inpainting (Li et al., ICIP 2020).

    isnet.fill("garden.jpg", "hole.png").save("filled.png")
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
    import os

    from torch import nn

    from isnet.discriminator import Discriminator
    from isnet.generator import Architecture, Generator
    from isnet.inference.filler import Filler
    from isnet.inference.predictor import Refine
    from isnet.inpaint import Inpainted, Source
    from isnet.mask_files import MaskRules
    from isnet.methods.architecture import MethodArchitecture


def fill(
    image: Source,
    mask: Source,
    model: Filler | nn.Module | str | os.PathLike[str] = "starter",
    *,
    composite: bool = True,
    rules: MaskRules | None = None,
    resize_mask: bool = False,
    refine: Refine = "auto",
    grow: int = 0,
    feather: int = 0,
) -> Inpainted:
    """Fills the white part of `mask` in `image`.

    For many pictures open the model once: `isnet.inference.open_filler.open_filler("starter")`.

    Args:
        image: File's path or bytes, array or tensor, as `isnet.inpaint.inpaint` takes them.
        mask: Likewise, of the same height and width.
        model: Generator, filler, folder of a saved model, released checkpoint, "starter" or "classical:telea".
        composite: False returns the prediction for the whole picture, known pixels changed.
        rules: How to read the mask; None means white is hole.
        resize_mask: True stretches a mask of another size instead of refusing it.
        refine: "auto" fills coarse to fine, "off" at one scale.
        grow: Pixels by which the hole is widened, 0 to 1024.
        feather: Pixels inside the hole over which the jump of colour at its border fades, 0 to 1024.

    Returns:
        The picture (`image`, `save`), its hole, and notes for the user.

    Raises:
        InputError: The image, the mask, the model, or the three together cannot be used; the message says why.
    """
    from isnet.inference.open_filler import open_filler
    from isnet.inpaint import inpaint

    return inpaint(
        image,
        mask,
        model=open_filler(model),
        composite=composite,
        rules=rules,
        resize_mask=resize_mask,
        refine=refine,
        grow=grow,
        feather=feather,
    )


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
