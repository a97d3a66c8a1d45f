"""Weights survive every way in and out unchanged, and files that cannot be trusted are refused in a sentence."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import isnet
from isnet.errors import InputError
from isnet.formats.author import apply_author_tensors, author_names, load_author_checkpoint
from isnet.formats.export import ExportMismatch, export_onnx, export_program, verify_export
from isnet.generator import Generator
from isnet.spectral_norm import SpectralLayer, fold_spectral_norm, spectral_layers
from isnet.training.step_weights import power_iteration
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
        maps, expected = loaded(image), network(image)
    assert len(maps) == 5
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


def folded_as_author(network: nn.Module) -> dict[str, Tensor]:
    """As the release would have saved it with spectral norm removed: W/(uᵀWv) as a plain weight."""
    folded = fold_spectral_norm(network)
    layers = {theirs: folded.get_submodule(ours) for ours, theirs in author_names(network).items()}
    return {f"{path}.{kind}": value for path, layer in layers.items() for kind, value in layer.state_dict().items()}


@pytest.mark.parametrize("name", [*NAMES, "discriminator"])
def test_folded_weights_are_taken_as_they_are_however_far_u_and_v_lagged(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    network = isnet.build(name, width=4, init_std=0.1).eval()
    for layer in spectral_layers(network):
        layer.randomise_vectors()
        power_iteration(layer)
    torch.save(folded_as_author(network), tmp_path / "folded.pth")
    loaded = load_author_checkpoint(tmp_path / "folded.pth")
    assert loaded.import_report.fits
    normalised = isnet.build(name, width=4).eval()
    assert apply_author_tensors(normalised, folded_as_author(network)).fits
    inputs = (torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32))[: 1 if name == "discriminator" else 2]
    with torch.no_grad():
        for other in (loaded, normalised):
            torch.testing.assert_close(other(*inputs), network(*inputs), rtol=0, atol=1e-5)


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


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("isnet", {"layer1.downsample.weight": None}, "missing: layer1.downsample.weight"),
        ("isnet", {"layer1.conv_block.1.weight_v": None}, "missing: layer1.conv_block.1.weight_v"),
        ("isnet", {"layer1.conv_block.1.weight_u": torch.zeros(3)}, r"weight_u is \(3,\), need \(8,\)"),
        ("isnet", {"layer1.downsample.weight_u": torch.zeros(4)}, "missing: layer1.downsample.weight_v"),
        ("isnet", {"layer1.downsample.weight": torch.zeros(4, 3)}, r"is \(4, 3\), need"),
        ("isnet", {"layer1.downsample.weight": torch.zeros(900, 3, 1, 1)}, r"need \(900,"),
        ("isnet", {"layer1.downsample.weight": torch.zeros(5000, 3, 1, 1)}, "width is 5000; need"),
        ("isnet", {"layer1.downsample.weight": torch.zeros(1).expand(10**7, 3, 1, 1)}, "holds fewer numbers"),
        ("isnet", {f"stage0.branches.0.{i}.conv_block.1.bias": torch.zeros(1) for i in range(99)}, "blocks is 99"),
        ("unet_like", {"encoder.1.weight": None}, "missing: encoder.1.weight"),
        ("isnet", {"layer1.downsample.weight": torch.ones(4, 3, 1, 1).to_sparse()}, "need dense real numbers"),
        ("isnet", {"layer1.downsample.weight": torch.ones(4, 3, 1, 1, device="meta")}, "tensor without numbers"),
        ("isnet", {"layer1.downsample.weight": torch.ones(4, 3, 1, 1).cfloat()}, "need dense real numbers"),
    ],
)
def test_incomplete_and_odd_files_are_refused(
    tmp_path: Path, name: str, change: dict[str, Tensor | None], complaint: str
) -> None:
    state = {key: value for key, value in {**as_author(small(name)), **change}.items() if value is not None}
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=complaint):
        load_author_checkpoint(tmp_path / "odd.pth")


def test_a_sliver_of_a_large_network_is_refused_before_it_is_built(tmp_path: Path) -> None:
    torch.save({"layer1.downsample.weight": torch.zeros(1000, 3, 1, 1)}, tmp_path / "sliver.pth")
    with pytest.raises(InputError, match="holds 3000 numbers of a network of"):
        load_author_checkpoint(tmp_path / "sliver.pth", strict=False)


@pytest.mark.parametrize("iteration", [float("nan"), float("inf"), "7"])
def test_an_iteration_that_is_no_number_is_none(tmp_path: Path, iteration: object) -> None:
    torch.save({"iteration": iteration, "generator": as_author(small())}, tmp_path / "a.pth")
    assert load_author_checkpoint(tmp_path / "a.pth").import_report.iteration is None


def test_damage_anywhere_is_refused_in_a_sentence(tmp_path: Path) -> None:
    state = dict(list(as_author(small()).items())[:3])
    torch.save(state, tmp_path / "whole.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "whole.safetensors")
    for kind in ("pth", "safetensors"):
        whole = (tmp_path / f"whole.{kind}").read_bytes()
        for length in range(0, len(whole), max(1, len(whole) // 97)):
            (tmp_path / f"cut.{kind}").write_bytes(whole[:length])
            with pytest.raises(InputError) as refusal:
                load_author_checkpoint(tmp_path / f"cut.{kind}")
            # torch's own words: they would run what the file holds
            assert "weights_only" not in str(refusal.value)


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
        (lambda path: torch.save({0: torch.ones(3)}, path), "holds no tensors by name"),
        (lambda path: torch.save({"conv.weight": torch.ones(3)}, path), "none of the author's networks"),
        (lambda path: torch.save({"conv.weight": torch.full((3,), torch.nan)}, path), "NaN or infinity"),
    ],
    ids=["code", "cut", "empty", "list", "no-tensors", "numbered", "other-network", "nan"],
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_network_of_another_type_is_saved_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    network = small("base")
    save_model(copy.deepcopy(network).to(dtype), tmp_path)
    loaded = load_model(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert_same_output(loaded, network, picture(network), atol=0.05)


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
        ({"architecture": {**config["architecture"], "blocks": 10**6}}, "blocks is 1000000"),
        ({"architecture": {**config["architecture"], "init_std": "a"}}, "init_std is 'a'"),
        ({"sha256": None}, "lacks the architecture or the digest"),
        ({"sha256": "model.safetensors"}, "lacks the architecture or the digest"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InputError, match=complaint):
            load_model(tmp_path)

    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "name", ["isnet", *[pytest.param(name, marks=pytest.mark.nightly) for name in ("base", "base_ff", "unet_like")]]
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
            verify_export(network, wrong, path, tolerance=1e-4)
        assert not path.exists()
