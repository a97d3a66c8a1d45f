"""The manual's example of a model of one's own: a second task, killed and resumed to the same bits."""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from doc_pages import ROOT, blocks_of
from PIL import Image

EXAMPLES = ROOT / "docs" / "examples"


def test_the_page_shows_the_file_and_its_length():
    [shown] = [block for block in blocks_of("docs/own-model.md") if block.language == "yaml"]
    assert shown.text == (EXAMPLES / "denoiser.yaml").read_text()
    lines = (EXAMPLES / "denoiser.py").read_text().count("\n")
    said = re.search(r"is a whole one, (\d+) lines", (ROOT / "docs/own-model.md").read_text())
    assert int(said[1]) == lines
    assert f"in about {round(lines, -1)} lines" in (ROOT / "README.md").read_text()


@pytest.mark.real
def test_a_model_of_ones_own_ends_on_the_same_bits_after_a_kill(home, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (48, 40, 3), np.uint8)).save(photos / f"{number}.png")
    isnet = [sys.executable, "-m", "jobs.cli"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}

    def run(*words, **options):
        return subprocess.run(
            [*isnet, *words], capture_output=True, text=True, check=False, env=environment | options.pop("env", {})
        )

    for name in ("demo-train", "demo-val"):
        assert run("data", "pack", str(photos), name).returncode == 0
    settings = ["train.steps=300", "train.checkpoint_every=20", "train.validate_every=100"]
    train = ["train", str(EXAMPLES / "denoiser.yaml"), *settings, "--json"]
    whole = run(*train, env={"ISNET_HOME": str(home)})
    assert whole.returncode == 0, whole.stderr
    # Elsewhere, killed when its first checkpoint is stored; the second process goes on from what is there.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "datasets").symlink_to(home / "datasets")
    elsewhere = {"ISNET_HOME": str(tmp_path / "elsewhere")}
    process = subprocess.Popen([*isnet, *train], env=environment | elsewhere, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("elsewhere/checkpoints/*/step-00000020/manifest.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    resumed = run(*train, env=elsewhere)
    assert resumed.returncode == 0, resumed.stderr
    first, second = json.loads(whole.stdout), json.loads(resumed.stdout)
    assert second["state_digest"] == first["state_digest"]
    assert second["metrics"]["val/psnr"] > 15
    assert yaml.safe_load((EXAMPLES / "denoiser.yaml").read_text())["task"] == "denoiser:Denoiser"
