"""Weights survive every way in and out unchanged, and files that cannot be trusted are refused in a sentence."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import isnet
from isnet.architecture import Generator
from isnet.author import author_names, load_author_checkpoint
from isnet.errors import InputError
from isnet.export import ExportMismatch, compare, export_onnx, export_program
from isnet.spectral import SpectralLayer
from isnet.weights import load_model, save_model

SMALL = {"width": 4, "blocks": 1, "init_std": 0.1}
NAMES = ["isnet", "base", "base_ff", "unet_like"]


def small(name: str = "isnet", **options: object) -> Generator:
    torch.manual_seed(0)
    return isnet.build(name, **{**SMALL, **options}).eval()


def picture(network: Generator, *, rows: int = 2, columns: int = 3) -> tuple[Tensor, Tensor]:
    height, width = rows * network.size_multiple, columns * network.size_multiple
    mask = torch.ones(1, 1, height, width)
    mask[..., 4:12, 4:12] = 0
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3)), mask


def assert_same_output(first: nn.Module, second: nn.Module, inputs: tuple[Tensor, ...], *, atol: float = 0.0) -> None:
    with torch.no_grad():
        torch.testing.assert_close(first(*inputs), second(*inputs), rtol=0, atol=atol)


def as_author(network: nn.Module, *, spelling: str = "hooks", prefix: str = "") -> dict[str, Tensor]:
    """The state dict the release would have saved for `network`."""
    names = {
        "hooks": {"weight": "weight_orig", "u": "weight_u", "v": "weight_v"},
        "parametrizations": {
            "weight": "parametrizations.weight.original",
            "u": "parametrizations.weight.0._u",
            "v": "parametrizations.weight.0._v",
        },
    }[spelling]
    state = {}
    for ours, theirs in author_names(network).items():
        layer = network.get_submodule(ours)
        for kind, value in layer.state_dict().items():
            spelled = names.get(kind, kind) if isinstance(layer, SpectralLayer) else kind
            state[f"{prefix}{theirs}.{spelled}"] = value.clone()
            if theirs == "features.0":
                state[f"{prefix}conv1.0.{spelled}"] = value.clone()
    return state


@pytest.mark.parametrize("spelling", ["hooks", "parametrizations"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_reads_every_spelling_of_the_authors_names(tmp_path: Path, spelling: str, prefix: str) -> None:
    network = small(blocks=2)
    torch.save({"iteration": 7, "generator": as_author(network, spelling=spelling, prefix=prefix)}, tmp_path / "a.pth")
    loaded = load_author_checkpoint(tmp_path / "a.pth")
    assert loaded.architecture.blocks == 2
    assert loaded.architecture.width == 4
    assert loaded.import_report.iteration == 7
    assert loaded.import_report.fits
    assert_same_output(loaded, network, picture(network))


@pytest.mark.parametrize("name", NAMES)
def test_recognises_each_network_in_a_bare_state_dict(tmp_path: Path, name: str) -> None:
    network = small(name, in_channels=4)
    torch.save(as_author(network), tmp_path / "bare.pth")
    loaded = load_author_checkpoint(tmp_path / "bare.pth")
    assert (loaded.architecture.name, loaded.architecture.in_channels) == (name, 4)
    assert_same_output(loaded, network, picture(network))


def test_recognises_the_discriminator(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = isnet.build("discriminator", width=4, init_std=0.1).eval()
    torch.save({"discriminator": as_author(network)}, tmp_path / "x_dis.pth")
    loaded = load_author_checkpoint(tmp_path / "x_dis.pth")
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for found, expected in zip(loaded(image), network(image), strict=True):
            assert torch.equal(found, expected)


def test_finds_the_newest_of_the_numbered_files(tmp_path: Path) -> None:
    for number in (5, 40, 300):
        torch.save({"iteration": number, "generator": as_author(small())}, tmp_path / f"Places2_{number}_gen.pth")
    assert load_author_checkpoint(tmp_path / "Places2_gen.pth").import_report.iteration == 300
    assert load_author_checkpoint(tmp_path).import_report.iteration == 300


def test_what_does_not_fit_is_refused_and_named(tmp_path: Path) -> None:
    state = as_author(small())
    del state["final_layer.2.bias"]
    state["edge.weight"] = torch.zeros(2)
    state["layer1.conv_block.1.weight_orig"] = torch.zeros(8, 3, 5, 5)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError) as refusal:
        load_author_checkpoint(tmp_path / "other.pth")
    message = str(refusal.value)
    assert "missing: final_layer.2.bias" in message
    assert "unexpected: edge.weight" in message
    assert "layer1.conv_block.1.weight_orig is (8, 3, 5, 5), need (8, 3, 3, 3)" in message

    report = load_author_checkpoint(tmp_path / "other.pth", strict=False).import_report
    assert not report.fits
    assert report.missing == ("final_layer.2.bias",)


def write_pickle_with_code(path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return Path.touch, (path.with_name("executed"),)

    torch.save({"generator": Harmful()}, path)


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (write_pickle_with_code, "nothing was executed"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut short"), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: torch.save([1, 2], path), "holds a list"),
        (lambda path: torch.save({"a": 1}, path), "holds no tensors"),
        (lambda path: torch.save({"conv.weight": torch.ones(3)}, path), "none of the author's networks"),
        (lambda path: torch.save({"conv.weight": torch.full((3,), torch.nan)}, path), "NaN or infinity"),
    ],
    ids=["code", "cut", "empty", "list", "no-tensors", "other-network", "nan"],
)
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, write: Callable[[Path], object], complaint: str) -> None:
    path = tmp_path / "file.pth"
    write(path)
    with pytest.raises(InputError, match=complaint):
        load_author_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"no checkpoint at nowhere_gen\.pth"):
        load_author_checkpoint("nowhere_gen.pth")


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_gives_the_same_output(tmp_path: Path, name: str) -> None:
    network = small(name)
    save_model(network, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert not [module for module in loaded.modules() if isinstance(module, SpectralLayer)]
    assert loaded.num_parameters() == network.num_parameters()
    assert_same_output(loaded, network, picture(network))
    assert {file.name for file in (tmp_path / "model").iterdir()} == {"model.safetensors", "config.json"}


def test_a_loaded_model_can_be_saved_again(tmp_path: Path) -> None:
    network = small("unet_like", skips=True, activation="leaky_relu")
    save_model(network, tmp_path / "once")
    save_model(load_model(tmp_path / "once"), tmp_path / "twice")
    assert_same_output(load_model(tmp_path / "twice"), network, picture(network))


def test_loading_a_model_leaves_the_random_generator_alone(tmp_path: Path) -> None:
    save_model(small(), tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        load_model(tmp_path)
    save_model(small(), tmp_path)

    tensors = tmp_path / "model.safetensors"
    sound = tensors.read_bytes()
    tensors.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(InputError, match="it is damaged"):
        load_model(tmp_path)
    tensors.write_bytes(sound)

    config = json.loads((tmp_path / "config.json").read_text())
    for change, complaint in [
        ({"format": "isnet-model-9"}, "says format 'isnet-model-9'"),
        ({"architecture": {**config["architecture"], "blocks": 2}}, "does not fit isnet"),
        ({"architecture": {**config["architecture"], "heads": 8}}, "architecture has the options"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InputError, match=complaint):
            load_model(tmp_path)

    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "name", ["isnet", *[pytest.param(name, marks=pytest.mark.real) for name in ("base", "base_ff", "unet_like")]]
)
def test_onnx_runs_at_any_size_with_plain_operators(tmp_path: Path, name: str) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    network = small(name)
    report = export_onnx(network, tmp_path / "net.onnx")
    assert report.max_absolute_difference < 1e-5
    if name == "isnet":
        operators = {node.op_type for node in onnx.load(report.path).graph.node}
        assert operators <= {"Conv", "Tanh", "Concat", "DepthToSpace", "Add", "Mul"}

    session = onnxruntime.InferenceSession(str(report.path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    image, mask = picture(network, rows=2, columns=7)
    found = session.run(None, {"image": image.numpy(), "mask": mask.numpy()})[0]
    np.testing.assert_allclose(found, network(image, mask).detach().numpy(), rtol=0, atol=1e-5)


def test_a_program_runs_at_any_size(tmp_path: Path) -> None:
    network = small("base")
    report = export_program(network, tmp_path / "net.pt2")
    assert report.max_absolute_difference < 1e-6
    reloaded = torch.export.load(io.BytesIO(report.path.read_bytes())).module()
    assert_same_output(reloaded, network, picture(network, rows=3, columns=4), atol=1e-6)


@pytest.mark.parametrize("export", [export_onnx, export_program])
def test_a_missing_folder_is_named_before_the_work(tmp_path: Path, export: Callable[..., object]) -> None:
    if export is export_onnx:
        pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    with pytest.raises(InputError, match=r"net\.pt2 cannot be written; need a file name in a folder that exists"):
        export(small(), tmp_path / "nowhere" / "net.pt2")


def test_an_export_that_differs_is_removed(tmp_path: Path) -> None:
    network, path = small("base"), tmp_path / "net.onnx"
    for wrong in (lambda i, m: network(i, m) + 1e-3, lambda i, m: network(i, m) * torch.nan):
        path.touch()
        with pytest.raises(ExportMismatch, match="differs by"):
            compare(network, wrong, path, tolerance=1e-4)
        assert not path.exists()
