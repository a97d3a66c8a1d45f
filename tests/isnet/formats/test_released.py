"""Released checkpoints: six layouts are recognised, loaded exactly, and anything else refused in one sentence.

`layouts.txt` lists names, shapes and types as the released code writes them; weights here are random, and most files
have an eighth of the channels.
"""

from __future__ import annotations

import json
import os
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from method_recipe import expected, fill
from torch import Tensor, nn

import isnet
from isnet.errors import InputError
from isnet.formats.layouts import LAYOUTS
from isnet.formats.released import load, load_generator
from isnet.methods.glcic.networks import ContextDiscriminator

RECORD = Path(__file__).with_name("layouts.txt").read_text(encoding="utf-8")
LAMA, LAMA_D, ENCODER = "lama-fourier/models/best.ckpt", "full checkpoint", "ade20k"
# File -> method, network, and options of the whole network and of the narrow one.
FILES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "EdgeModel_gen.pth": ("edgeconnect", "generator", {"width": 64, "blocks": 8}, {"width": 8, "blocks": 8}),
    "InpaintingModel_gen.pth": ("edgeconnect", "generator", {"width": 64, "blocks": 8}, {"width": 8, "blocks": 8}),
    "EdgeModel_dis.pth": ("edgeconnect", "edge_discriminator", {}, {}),
    "InpaintingModel_dis.pth": ("edgeconnect", "discriminator", {}, {}),
    "1000000.pth": ("pconv", "generator", {"width": 64, "levels": 7}, {"width": 8, "levels": 7}),
    "model_cn": ("glcic", "generator", {"width": 64}, {"width": 8}),
    "model_cd": ("glcic", "discriminator", {}, {}),
    "gen_00430000.pt": ("ca", "generator", {"width": 32}, {"width": 4}),
    "dis_00430000.pt": ("ca", "discriminator", {}, {}),
    LAMA: ("lama", "generator", {"width": 64, "blocks": 9}, {"width": 8, "blocks": 9}),
    LAMA_D: ("lama", "discriminator", {}, {}),
    "G0000000.pt": ("aot_gan", "generator", {"width": 64, "blocks": 8}, {"width": 8, "blocks": 8}),
    "D0000000.pt": ("aot_gan", "discriminator", {}, {}),
}
COLOR = (0.5061, 0.4254, 0.3828)


def narrow(size: int, name: str) -> int:
    """An eighth of a number of channels, of a matrix' columns, or of a concatenation with RGB."""
    # Columns of a first layer, whose inputs are not narrower.
    if name.endswith(("conv1.0.weight_v", "features.0.weight_v", "conv.0.weight_v")):
        return size
    if size == 67:
        return 11
    return size // 8 if size >= 16 and size % 8 == 0 else size


def sections(file: str) -> Iterator[tuple[str, list[tuple[str, list[int], bool]]]]:
    for section in RECORD.split("# ")[1:]:
        head, *lines = section.splitlines()
        name, container = (part.strip() for part in head.split("|"))
        if name == file:
            rows = [line.split() for line in lines]
            yield (
                container,
                [(row[0], [int(n) for n in row[1].split("x") if n != "-"], len(row) > 2) for row in rows],
            )


def released(file: str, *, whole: bool = False) -> Any:
    """What the file holds, with random weights."""
    generator = torch.Generator().manual_seed(0)
    content: dict[str, Any] = {}
    for container, rows in sections(file):
        state = OrderedDict()
        for name, shape, count in rows:
            shape = shape if whole else [narrow(size, name) for size in shape]
            values = torch.rand(shape, generator=generator)
            state[name] = torch.tensor(3) if count else values if "running" in name else (values - 0.5) / 10
        # The first convolution of EdgeConnect's discriminators is one tensor under two names.
        for name in [name for name in state if name.startswith("conv1.0.")]:
            if (twin := name.replace("conv1", "features")) in state:
                state[twin] = state[name]
        content[container] = state
    assert content
    return content.get("", content)


def saved(folder: Path, file: str, content: Any, **options: Any) -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("file", FILES)
def test_a_layout_is_recognised_and_loaded(tmp_path: Path, file: str, legacy: bool) -> None:
    method, network, _, options = FILES[file]
    content = released(file)
    path = saved(tmp_path, file, content, _use_new_zipfile_serialization=not legacy)
    found = load(path)
    assert (found.method, dict(found.options), list(found.networks)) == (method, options, [network])
    assert found.report.fits
    assert f"tensors loaded into {method}" in str(found.report)
    values = {name: value for name, value in found.networks[network].items() if value.ndim}
    assert all(value.dtype == torch.float32 for value in values.values())
    # Every tensor of the file is there once, but for those that the layout repeats or that only count.
    wanted = [sum_of(name, value, file) for name, value in tensors_in(content) if value.ndim]
    sums = sorted(value.double().sum().item() for value in values.values())
    assert sums == pytest.approx(sorted(value for value in wanted if value is not None), rel=1e-5, abs=1e-6)


def tensors_in(content: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in content.items():
        yield from tensors_in(value) if isinstance(value, dict) else [(name, value)]


def sum_of(name: str, value: Tensor, file: str) -> float | None:
    if "mask_conv" in name or (file.endswith("dis.pth") and name.startswith("conv1.0")):
        return None
    scale = value.numel() / value.shape[0] if file == "1000000.pth" and value.ndim == 4 else 1
    return value.double().sum().item() / scale


@pytest.mark.nightly
@pytest.mark.parametrize("file", FILES)
def test_the_released_sizes_are_loaded(tmp_path: Path, file: str) -> None:
    method, network, options, _ = FILES[file]
    found = load(saved(tmp_path, file, released(file, whole=True)))
    assert (found.method, dict(found.options), list(found.networks)) == (method, options, [network])


def test_a_generator_is_built_and_fills(tmp_path: Path) -> None:
    image, mask = torch.rand(1, 3, 128, 128), torch.ones(1, 1, 128, 128)
    mask[:, :, 40:80, 40:80] = 0
    (tmp_path / "config.json").write_text(json.dumps({"mpv": COLOR}))
    for file in ("1000000.pth", "model_cn", "gen_00430000.pt", "G0000000.pt"):
        network = load_generator(saved(tmp_path, file, released(file)))
        assert network.architecture.name == FILES[file][0]
        assert not network.training
        with torch.no_grad():
            assert torch.isfinite(network(image, mask)).all()
    assert load_generator(tmp_path / "model_cn").architecture.mean_color == COLOR


def test_edgeconnects_two_files_are_one_generator(tmp_path: Path) -> None:
    for file in ("EdgeModel_gen.pth", "InpaintingModel_gen.pth"):
        content = released(file)
        content["iteration"] = 2_000_000
        saved(tmp_path, file, content)
    assert load_generator(tmp_path).architecture.width == 8
    assert load(tmp_path).report.iteration == 2_000_000
    with pytest.raises(InputError, match=r"lacks a part of edgeconnect's generator, such as inpaint.*the folder"):
        load_generator(tmp_path / "EdgeModel_gen.pth")


def test_a_generator_of_glcic_needs_its_mean_colour(tmp_path: Path) -> None:
    path = saved(tmp_path, "model_cn", released("model_cn"))
    assert "mean_color" not in load(path).options
    with pytest.raises(InputError, match=r"no mean colour in config\.json beside it; copy that file"):
        load_generator(path)
    for text, message in (
        ('{"mpv": [1, 2, 3]}', "need three numbers"),
        ('{"mpv": 3}', "cannot be read"),
        ("{", "cann"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            load(path)


def foreign(name: str) -> Any:
    """An object of a class that is not installed."""
    module, _, kind = name.rpartition(".")
    parts = module.split(".")
    for i in range(len(parts)):
        sys.modules.setdefault(".".join(parts[: i + 1]), types.ModuleType(".".join(parts[: i + 1])))
    made = type(kind, (), {"__module__": module, "__setstate__": lambda self, state: None})
    setattr(sys.modules[module], kind, made)
    return made


@pytest.fixture
def lightning() -> Iterator[dict[str, Any]]:
    """What a file of Lightning has beside its tensors, whose packages are gone when it is read."""
    before = dict(sys.modules)
    config = foreign("omegaconf.dictconfig.DictConfig")()
    config.content = {"lr": 1e-3, "path": Path("x"), "flags": {1, 2}}
    checkpoint = foreign("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    yield {
        "hyper_parameters": config,
        "callbacks": {checkpoint: {"best": torch.rand(2)}},
        "epoch": 39,
        "global_step": 1_000_000,
    }
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def test_lamas_file_is_read_beside_objects_of_absent_packages(tmp_path: Path, lightning: dict[str, Any]) -> None:
    state = released(LAMA)["state_dict"] | released(LAMA_D)["state_dict"]
    state |= {"val_evaluator.scores.lpips.w": torch.rand(2), "loss_resnet_pl.impl.conv1.weight": torch.rand(2)}
    path = saved(tmp_path, "big-lama/models/best.ckpt", {"state_dict": state, **lightning})
    for name in [name for name in sys.modules if name.startswith(("omegaconf", "pytorch_lightning"))]:
        del sys.modules[name]
    found = load(tmp_path / "big-lama")
    assert list(found.networks) == ["generator", "discriminator"]
    assert found.report.iteration == 1_000_000
    assert torch.equal(found.networks["generator"]["net.head.bias"], state["generator.model.25.bias"])
    assert load_generator(path).architecture.blocks == 9
    assert "omegaconf" not in sys.modules


def test_prefixes_of_wrappers_and_missing_counts_do_not_matter(tmp_path: Path) -> None:
    content = {f"module.{name}": value for name, value in released("model_cn").items() if "tracked" not in name}
    found = load(saved(tmp_path, "a", content))
    assert found.networks["generator"]["net.layers.0.2.num_batches_tracked"] == 0
    tensorflow = {f"netG.{name}": value for name, value in released("gen_00430000.pt").items()}
    assert "TensorFlow" in load(saved(tmp_path, "torch_model.p", tensorflow)).notes[0]


def test_isnets_own_files_are_loaded_too(tmp_path: Path) -> None:
    from isnet.formats.author import author_names

    network = isnet.build("unet_like", blocks=1, width=4)
    names = author_names(network)
    state = {}
    for path, released_path in names.items():
        for kind, value in network.get_submodule(path).named_parameters(recurse=False):
            state[f"{released_path}.{kind}"] = value.detach()
    found = load(saved(tmp_path, "x_gen.pth", state))
    assert (found.method, found.options["width"], list(found.networks)) == ("unet_like", 4, ["generator"])
    # ISNet's discriminator and EdgeConnect's for pictures are one network; the file's name decides.
    content = released("InpaintingModel_dis.pth")
    assert load(saved(tmp_path, "Places2_dis.pth", content)).method == "isnet"


REFUSED: dict[str, tuple[Any, str]] = {
    "no tensors": ({"a": 1}, "holds no tensors by name; need a state dict"),
    "a list": ([torch.rand(2)], "holds a list; need a state dict"),
    "another network": (
        {"stem.weight": torch.rand(2)},
        "no network that we know .first names: .'stem.*LaMa or",
    ),
    "a tensor too few": ("last.bias", r"is glcic's generator and does not fit: .*missing: conv17.bias"),
    "a tensor too many": ("extra", r"unexpected: extra.weight; need exactly the tensors of the released file"),
    "a name with a line end": ("line end", r"unexpected: 'a\\nb'; need exactly"),
    "a wrong shape": ("shape", r"shape of conv2.weight is \(16, 8, 3, 5\), need \(16, 8, 3, 3\)"),
    "not finite": ("nan", r"holds NaN or infinity in layers.1.0.weight; need finite weights"),
    "nothing but marks": ({"deconv13.weight": torch.rand(2)}, "shapes that no such network has .*is it complete"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(tmp_path: Path, what: str) -> None:
    content, message = REFUSED[what]
    if isinstance(content, str):
        state = released("model_cn")
        if content == "last.bias":
            del state["conv17.bias"]
        elif content == "line end":
            state["a\nb"] = torch.rand(3)
        elif content == "extra":
            state["extra.weight"] = torch.rand(3)
        elif content == "shape":
            state["conv2.weight"] = torch.rand(16, 8, 3, 5)
        else:
            state["conv2.weight"][0] = torch.nan
        content = state
    for legacy in (False, True):
        with pytest.raises(InputError, match=message):
            load(saved(tmp_path, "file", content, _use_new_zipfile_serialization=not legacy))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("file", "mark", "build"),
    [
        ("ca_generator", "coarse_generator.conv1.conv.weight", lambda: isnet.build("ca").net),
        ("glcic_completion", "deconv13.weight", lambda: isnet.build("glcic", mean_color=COLOR).net),
        ("aotgan_generator", "middle.0.block00.1.weight", lambda: isnet.build("aot_gan").net),
        ("pconv_unet_paper", "enc_1.conv.input_conv.weight", lambda: isnet.build("pconv").net),
        ("lama_fourier_generator", "generator.model.1.ffc.convl2l.weight", lambda: isnet.build("lama").net),
        ("lama_big_generator", "generator.model.1.ffc.convl2l.weight", lambda: isnet.build("lama", blocks=18).net),
        ("edgeconnect_edge_generator", "middle.0.conv_block.5.weight_orig", lambda: isnet.build("edgeconnect").edge),
        ("edgeconnect_inpaint_generator", "middle.0.conv_block.5.weight", lambda: isnet.build("edgeconnect").inpaint),
        ("glcic_discriminator_celeba", "model_ld.conv1.weight", lambda: ContextDiscriminator(size=160, crop=96)),
    ],
)
def test_names_are_those_the_numbers_were_recorded_under(file: str, mark: str, build: Any) -> None:
    network: nn.Module = build()
    recorded = fill(network, expected(file))
    layout = next(layout for layout in LAYOUTS if mark in layout.marks)
    options = {"blocks": 18 if "big" in file else 9 if "lama" in file else 8, "levels": 7, "size": 160}
    names = layout.names(options)
    for ours, key in recorded.items():
        path, _, kind = ours.rpartition(".")
        assert f"{names[path]}.{kind}".removeprefix("generator.") == key


@pytest.mark.skipif(os.name != "posix", reason="the hostile file would call a shell of POSIX")
def test_nothing_is_executed(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/executed",)

    hostile = {"state_dict": released("G0000000.pt"), "hyper_parameters": Call()}
    with pytest.raises(InputError, match=r"names posix\.system, which belongs to no checkpoint; nothing was executed"):
        load(saved(tmp_path, "zip", hostile))
    with pytest.raises(InputError, match="nothing was executed"):
        load(saved(tmp_path, "legacy", hostile, _use_new_zipfile_serialization=False))
    assert not (tmp_path / "executed").exists()
