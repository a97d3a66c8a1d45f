"""The methods by their commands: trained, killed, registered, planned, searched, evaluated, served."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from isnet.methods import NAMES

SMALL = (
    "data.train=mine",
    "data.val=held",
    "data.val_samples=2",
    "train.global_batch=2",
    "train.threads=1",
    "train.checkpoint_every=2",
    "train.log_every=2",
    "model.width=4",
    "model.discriminator_width=4",
    "tracking.gallery=1",
    "loss.perceptual=0",
    "loss.style=0",
)
PHASES = {"edgeconnect": ["method.phases=[3,3]"], "glcic": ["method.phases=[3,2]"], "pconv": ["method.phases=[4]"]}


def words_of(name, steps):
    blocks = ["model.blocks=1"] if name in ("edgeconnect", "lama", "aot_gan") else []
    timing = [f"train.steps={steps}", f"train.validate_every={steps}"]
    return ["train", f"{name}+laptop", *SMALL, *timing, *blocks, *PHASES.get(name, [])]


def command(*words):
    return [sys.executable, "-m", "jobs.cli", *words, "--json"]


def digest_of(words):
    ran = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)["state_digest"]


def kill_after(words, home, step):
    """Starts a run and kills it once its checkpoint of that step is there."""
    run = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if run.poll() is not None or list(home.glob(f"checkpoints/*/step-{step:08d}/manifest.json")):
            break
        time.sleep(0.05)
    assert run.poll() is None, "it ended before it could be killed"
    os.kill(run.pid, signal.SIGKILL)
    run.wait()


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_killed_twice_ends_as_the_undisturbed_one(isnet, photos, home, name):
    for dataset in ("mine", "held"):
        assert isnet("data", "pack", photos, dataset).status == 0
    words = words_of(name, 10)
    for step in (2, 6):
        kill_after(words, home, step)
    assert digest_of(words) == digest_of([*words, "--fresh"])


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_a_method_goes_the_whole_way_from_training_to_a_filled_picture(isnet, photos, home, tmp_path, name):
    for dataset in ("mine", "held"):
        assert isnet("data", "pack", photos, dataset).status == 0
    planned = isnet("plan", *words_of(name, 8), "--json")
    assert planned.status == 0, planned.err
    trained = isnet(*words_of(name, 8), f"tracking.register_as={name}", "--json")
    assert trained.status == 0, trained.err
    assert trained.json()["registered"] == {"name": name, "version": "1"}
    # The registered package fills a picture of any size, and leaves what is known.
    picture = photos / "photo-0.png"
    hole = np.zeros((70, 91), np.uint8)
    hole[20:44, 30:61] = 255
    Image.fromarray(hole).save(tmp_path / "hole.png")
    filled = isnet("inpaint", picture, tmp_path / "hole.png", "-o", tmp_path / "filled.png", "--model", f"{name}/1")
    assert filled.status == 0, filled.err
    before, after = (np.asarray(Image.open(file).convert("RGB")) for file in (picture, tmp_path / "filled.png"))
    assert np.array_equal(before[hole == 0], after[hole == 0])
    assert not np.array_equal(before, after)
    evaluated = isnet("evaluate", f"{name}/1", "classical:mean", "held", "--pictures", "2", "--json")
    assert evaluated.status == 0, evaluated.err
    shown = isnet("models", "show", name, "--json").json()
    assert shown["versions"][0]["evaluation"]["architecture"]["name"] == name
    # Its start is refused for another method, in a sentence.
    other = "lama" if name != "lama" else "aot_gan"
    refused = isnet(*words_of(other, 8), f"train.start_from={name}/1")
    assert refused.status == 2
    assert f"model.name={name}" in refused.err or name in refused.err
