"""Models for other programs: a file of ONNX, and a page that fills offline."""

import io
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
from browser import chromium
from PIL import Image
from skimage.data import chelsea

import isnet
from jobs import api
from jobs.registry.export import RUNTIME_VERSION
from trainplane.errors import UserError


def archive(path, files):
    """An archive as `npm pack` writes it."""
    with tarfile.open(path, "w:gz") as made:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
    return path


def test_a_page_needs_the_runtime_that_is_known(home, tmp_path):
    other = archive(tmp_path / "other.tgz", {"ort.wasm.bundle.min.mjs": b"x", "ort-wasm-simd-threaded.wasm": b"y"})
    (tmp_path / "no.tgz").write_bytes(b"no archive")
    for runtime, sentence in (
        (None, f"a page needs ONNX Runtime Web {RUNTIME_VERSION}; get it with `npm pack"),
        (tmp_path / "no.tgz", "has no ort.wasm.bundle.min.mjs"),
        (tmp_path / "nowhere", "has no ort.wasm.bundle.min.mjs"),
        (other, f"is not that of onnxruntime-web {RUNTIME_VERSION}"),
    ):
        with pytest.raises(UserError) as refused:
            api.export_model("starter", "page", tmp_path / "page", runtime=runtime)
        assert sentence in str(refused.value)
    assert not (tmp_path / "page").exists()


def test_a_mistake_in_the_call_is_a_sentence(isnet, home, tmp_path):
    (tmp_path / "there.onnx").write_bytes(b"x")
    for words, sentence in (
        (["starter", "-o", tmp_path / "there.onnx"], "is there already; name another"),
        (["starter", "-o", tmp_path / "no" / "a.onnx"], "there is no such folder"),
        (["classical:telea", "-o", tmp_path / "a.onnx"], "is no registered version"),
    ):
        ran = isnet("models", "export", *words, "--to", "onnx")
        assert (ran.status, sentence in ran.err) == (2, True), ran.err
    assert (tmp_path / "there.onnx").read_bytes() == b"x"


def test_what_onnx_lacks_is_a_sentence_and_leaves_nothing(home, tmp_path, monkeypatch):
    from jobs.registry import export

    def lacks(*args, **options):
        raise RuntimeError("no operator aten::fft_rfft2")

    monkeypatch.setattr(export, "export_onnx", lacks)
    with pytest.raises(UserError, match=r"ONNX cannot hold this network \(isnet: no operator aten::fft_rfft2\)"):
        api.export_model("starter", "onnx", tmp_path / "a.onnx")
    assert not list(tmp_path.glob("*.onnx"))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """ONNX Runtime Web from npm, where that is there."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, for onnxruntime-web")
    folder = tmp_path_factory.mktemp("npm")
    ran = subprocess.run([npm, "pack", "--silent", f"onnxruntime-web@{RUNTIME_VERSION}"], cwd=folder, check=False)
    if ran.returncode:
        pytest.skip("needs npm's registry, for onnxruntime-web")
    return next(folder.glob("*.tgz"))


@pytest.mark.nightly
def test_the_page_fills_offline_what_the_version_fills(home, runtime, tmp_path):
    made = api.export_model("starter", "page", tmp_path / "page", runtime=runtime)
    assert made.max_absolute_difference < 1e-4
    # No multiple of the network's: the page pads as the predictor does.
    photo = chelsea()[:201, :331]
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[60:110, 90:170] = 255
    mask[190:, :15] = 255
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with chromium() as browser:
        page = browser.new_context(offline=True).new_page()
        page.goto((tmp_path / "page" / "index.html").as_uri())
        page.locator("#message", has_text="Choose a photo.").wait_for(timeout=120_000)
        page.set_input_files("#photo", tmp_path / "photo.png")
        page.locator("#message", has_text="Paint over").wait_for()
        page.set_input_files("#mask", tmp_path / "mask.png")
        page.click("#fill:enabled")
        page.wait_for_selector("#save:enabled", timeout=120_000)
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as(tmp_path / "filled.png")
    filled = np.asarray(Image.open(tmp_path / "filled.png").convert("RGB")).astype(int)
    expected = isnet.fill(photo, mask, "starter", refine="off").image.astype(int)
    assert np.array_equal(filled[mask == 0], photo[mask == 0])
    assert np.abs(filled - expected).max() <= 1
