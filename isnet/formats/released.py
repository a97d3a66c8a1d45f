"""Loads released checkpoints of any method, ISNet's included.

    released = load("places2.pth")         # method, options of isnet.build, tensors by network, report
    network = load_generator("big-lama")   # a generator in evaluation mode

The layout is recognised by its tensors' names, not by that of the file, and must fit exactly. Nothing is unpickled
as code. GLCIC needs the mean colour that its release keeps in `config.json` beside the weights; EdgeConnect's two
generators are two files, which a folder has together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import isnet
from isnet.errors import InputError
from isnet.formats.author import ImportReport, author_file, load_author_checkpoint
from isnet.formats.layouts import LAYOUTS, ReleasedLayout
from isnet.formats.restricted_pickle import StoredTensor, is_torch_zip, read_torch_zip, tensors_of
from isnet.formats.tensor_files import check_tensors, read_tensor_file
from isnet.generator import Generator
from isnet.methods.patch_discriminator import PatchDiscriminator
from isnet.spectral_norm import SpectralLayer

# EdgeConnect's release names them so; their discriminators have "dis".
_EDGES, _PICTURE = "EdgeModel_gen.pth", "InpaintingModel_gen.pth"
# Files that a folder is known by: the generator's, by method.
_IN_FOLDERS = ("model_cn", "models/best.ckpt", "best.ckpt")
_SPECTRAL = {"weight": "weight_orig", "u": "weight_u", "v": "weight_v"}
_ISNET = re.compile(r"(layer1|stage\d+|encoder|features|conv[1-5])\..*")
_MOST_LINES = 8


@dataclass(frozen=True, kw_only=True)
class Released:
    """Networks of a released checkpoint, under our names.

    Attributes:
        method: isnet, base, base_ff, unet_like, or one of `isnet.methods.NAMES`.
        options: Options of `isnet.build` for its generator, as far as the file shows them.
        networks: Tensors by network of the method's training step: generator, discriminator, edge_discriminator.
        report: What was found; of all files.
        notes: What a user should know beside that, in sentences.
    """

    method: str
    options: Mapping[str, Any]
    networks: Mapping[str, Mapping[str, Tensor]]
    report: ImportReport
    notes: tuple[str, ...] = ()


def load(path: str | Path) -> Released:
    """Loads a released file, or the files of a folder.

    Raises:
        InputError: It cannot be read, holds no network that we know, or does not fit it exactly.
    """
    path = Path(path).expanduser()
    if path.is_dir() and all((path / name).is_file() for name in (_EDGES, _PICTURE)):
        return _joined(_load_file(path / _EDGES), _load_file(path / _PICTURE))
    files = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
    return _load_file(files[0] if files else author_file(path))


def load_generator(path: str | Path) -> Generator:
    """Loads the generator of a released checkpoint, in evaluation mode.

    The network has the `ImportReport` as `import_report`.

    Raises:
        InputError: As `load`; or it is a discriminator, or lacks a part of the generator.
    """
    released = load(path)
    state = released.networks.get("generator")
    if state is None:
        raise InputError(f"{path} holds a discriminator of {released.method}; need the file of the generator")
    if released.method == "glcic" and "mean_color" not in released.options:
        raise InputError(f"{path}: no mean colour in {_COLOR_FILE} beside it; copy that file of the release there, too")
    with torch.device("meta"):
        network = isnet.build(released.method, **released.options)
    if missing := sorted(set(network.state_dict()) - set(state)):
        raise InputError(
            f"{path} lacks a part of {released.method}'s generator, such as {missing[0]}; need the folder that has "
            f"{_EDGES} and {_PICTURE}"
        )
    network.load_state_dict(state, strict=True, assign=True)
    network.import_report = released.report  # type: ignore[assignment]
    return network.eval()


_COLOR_FILE = "config.json"


def _load_file(file: Path) -> Released:
    content = read_torch_zip(file) if is_torch_zip(file) else read_tensor_file(file, advice="is it complete?")
    if not isinstance(content, Mapping):
        raise InputError(f"{file} holds a {type(content).__name__}; need a state dict")
    tensors = {_bare(name): value for name, value in _state(content)}
    if not tensors:
        raise InputError(f"{file} holds no tensors by name; need a state dict")
    layouts = [layout for layout in LAYOUTS if set(layout.marks) <= tensors.keys()]
    # ISNet's discriminator is EdgeConnect's for pictures, tensor by tensor.
    if not layouts or (_is_rgb_discriminator(layouts, tensors) and not file.name.startswith("InpaintingModel")):
        return _isnets(file, tensors)
    parts = [_matched(file, layout, tensors) for layout in layouts]
    released = parts[0]
    for part in parts[1:]:
        released = _joined(released, part)
    steps = next((content[name] for name in ("iteration", "n_iter", "global_step") if name in content), None)
    iteration = int(steps) if isinstance(steps, int | float) and math.isfinite(steps) else None
    released = replace(released, report=replace(released.report, iteration=iteration))
    if any(str(name).startswith("netG.") for name in content):
        note = "weights of the authors' TensorFlow code, whose padding and resizing differ from this network's"
        released = replace(released, notes=(*released.notes, note))
    return released


def _state(content: Mapping[Any, Any]) -> list[tuple[str, Tensor | StoredTensor]]:
    # CA's two critics stand side by side; other releases put one state dict beside counters.
    critics = [name for name in ("localD", "globalD") if isinstance(content.get(name), Mapping)]
    if critics:
        return [(f"{name}.{key}", value) for name in critics for key, value in tensors_of(content[name])]
    for wrapper in ("generator", "discriminator", "state_dict", "model"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    return list(tensors_of(content))


def _bare(name: str) -> str:
    while name.startswith(("module.", "_orig_mod.", "netG.")):
        name = name.partition(".")[2]
    # It may end in a message.
    return name if name.isprintable() else ascii(name)


def _is_rgb_discriminator(layouts: list[ReleasedLayout], tensors: Mapping[str, Tensor | StoredTensor]) -> bool:
    first = tensors.get("features.0.weight_orig")
    return layouts[0].build is PatchDiscriminator and first is not None and tuple(first.shape[1:2]) == (3,)


def _isnets(file: Path, tensors: Mapping[str, Tensor | StoredTensor]) -> Released:
    if not any(_ISNET.fullmatch(name) for name in tensors):
        raise InputError(
            f"{file} holds no network that we know (first names: {sorted(tensors)[:4]}); need a released checkpoint of "
            "ISNet, EdgeConnect, PConv, GLCIC, CA, LaMa or AOT-GAN"
        )
    network = load_author_checkpoint(file)
    report: Any = network.import_report
    options = dict(report.architecture)
    name = options.pop("name")
    kind = "generator" if isinstance(network, Generator) else "discriminator"
    return Released(
        method=name if kind == "generator" else "isnet",
        options=options if kind == "generator" else {},
        networks={kind: network.state_dict()},
        report=report,
    )


def _matched(file: Path, layout: ReleasedLayout, tensors: Mapping[str, Tensor | StoredTensor]) -> Released:
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    options = layout.options(shapes)
    is_generator = layout.build is None
    extra = _mean_color(file) if is_generator and layout.method == "glcic" else {}
    # On the meta device nothing is allocated for a file that does not fit.
    try:
        with torch.device("meta"):
            network = _built(layout, options)
    except (InputError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"{file} has the names of {layout.method}'s {layout.network} and shapes that no such network has "
            f"({options}); is it complete?"
        ) from error
    names = _released_names(network, layout.names(options))
    report = _report(layout, options, network, names, shapes)
    if not report.fits:
        lines = str(report).split("; ")
        more = f"; and {len(lines) - _MOST_LINES} more" if len(lines) > _MOST_LINES else ""
        raise InputError(
            f"{file} is {layout.method}'s {layout.network} and does not fit: {'; '.join(lines[:_MOST_LINES])}{more}; "
            "need exactly the tensors of the released file"
        )
    state = _values(file, layout, network, {ours: tensors.get(theirs) for ours, theirs in names.items()})
    prefix = f"{layout.part}." if layout.part else ""
    name = layout.network
    if layout.method == "edgeconnect" and not is_generator and options["channels_in"] == 2:
        name = "edge_discriminator"
    return Released(
        method=layout.method,
        options={**options, **extra} if is_generator else {},
        networks={name: {f"{prefix}{ours}": value for ours, value in state.items()}},
        report=report,
    )


def _built(layout: ReleasedLayout, options: Mapping[str, Any]) -> nn.Module:
    if layout.build is not None:
        return layout.build(**options)
    gray = {"mean_color": (0.5, 0.5, 0.5)} if layout.method == "glcic" else {}
    return isnet.build(layout.method, **options, **gray).get_submodule(layout.part)


def _released_names(network: nn.Module, layers: Mapping[str, str]) -> dict[str, str]:
    """Released name of each of our tensors."""
    names = {}
    for path, module in network.named_modules():
        spelling = _SPECTRAL if isinstance(module, SpectralLayer) else {}
        for kind in module._parameters.keys() | module._buffers.keys():
            if getattr(module, kind) is not None:
                names[f"{path}.{kind}"] = f"{layers[path]}.{spelling.get(kind, kind)}"
    return names


def _report(
    layout: ReleasedLayout,
    options: Mapping[str, Any],
    network: nn.Module,
    wanted: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> ImportReport:
    ours = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    # Files of an older torch do not count batches.
    missing = [theirs for theirs in wanted.values() if theirs not in shapes and not theirs.endswith(_BATCHES)]
    used = set(wanted.values())
    ignored = re.compile(layout.ignored)
    return ImportReport(
        architecture={"name": layout.method, "network": layout.network, **options},
        iteration=None,
        loaded=len(used & shapes.keys()),
        missing=tuple(sorted(missing)),
        unexpected=tuple(sorted(name for name in shapes if name not in used and not ignored.fullmatch(name))),
        mismatched=tuple(
            (theirs, shapes[theirs], ours[name])
            for name, theirs in wanted.items()
            if theirs in shapes and shapes[theirs] != ours[name]
        ),
    )


_BATCHES = "num_batches_tracked"


def _values(
    file: Path, layout: ReleasedLayout, network: nn.Module, found: Mapping[str, Tensor | StoredTensor | None]
) -> dict[str, Tensor]:
    """Tensors by our names, in float32, counts in int64."""
    targets = network.state_dict()
    state: dict[str, Tensor] = {}
    for name, value in found.items():
        read = value.read() if isinstance(value, StoredTensor) else value
        state[name] = torch.zeros(targets[name].shape, dtype=targets[name].dtype) if read is None else read
    check_tensors(state, file)
    for name, value in state.items():
        state[name] = value.to(targets[name].dtype).contiguous()
        # The released code divides by the number of valid values, ours by their share.
        if layout.scale and value.ndim == 4:
            state[name] = state[name] / (value.numel() / value.shape[0])
    return state


def _mean_color(file: Path) -> dict[str, Any]:
    """Mean colour of the training pictures, from its own file."""
    try:
        color = json.loads((file.parent / _COLOR_FILE).read_text(encoding="utf-8"))["mpv"]
        values = tuple(float(value) for value in color)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"{file.parent / _COLOR_FILE} cannot be read ({type(error).__name__}); need mpv, the mean R, G, B of the "
            "training pictures in [0, 1]"
        ) from error
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        raise InputError(f"{file.parent / _COLOR_FILE} says mpv {values}; need three numbers from 0 to 1")
    return {"mean_color": values}


def _joined(first: Released, second: Released) -> Released:
    """Both files of one method as one."""
    networks = {name: dict(state) for name, state in first.networks.items()}
    for name, state in second.networks.items():
        networks[name] = {**networks.get(name, {}), **state}
    if first.options and second.options and first.options != second.options:
        raise InputError(
            f"the files are of generators with {dict(first.options)} and {dict(second.options)}; need files of one "
            "release"
        )
    return replace(
        first,
        options=first.options or second.options,
        networks=networks,
        report=replace(first.report, loaded=first.report.loaded + second.report.loaded),
        notes=(*first.notes, *second.notes),
    )
