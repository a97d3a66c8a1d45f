"""A store that is away for a minute in the middle of each command that works for long."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.bench.common import smooth_photos
from trainplane.cluster.stack.moto_server import local_s3
from trainplane.storage import ensure_bucket, open_store
from trainplane.testing.fault_proxy import FaultProxy, no_fault

SECONDS = 60.0
TRAIN = (
    "train.workers=1",
    "train.steps=12",
    "train.global_batch=4",
    "train.checkpoint_every=4",
    "train.validate_every=12",
    "train.log_every=2",
    "data.size=32",
    "data.resize=48",
    "data.train=photos",
    "data.val=photos",
    "tracking.gallery=0",
    "model.width=4",
)
SEARCH = """
name: away
base: demo
search:
  algorithm: random
  trials: 2
  objective: {metric: val/psnr, mode: max}
  space:
    loss.style: {log_uniform: [10, 400]}
"""


@dataclass
class World:
    """A folder with a context, whose store is behind a proxy."""

    folder: Path
    store: FaultProxy
    variables: Mapping[str, str]
    photos: Path
    calm: dict[str, Any] = field(default_factory=dict)  # report of the undisturbed packing

    def isnet(self, *words: str, away: str | None = None, at: int = 0, seconds: float = SECONDS) -> dict[str, Any]:
        """Runs a command; the store goes away at its request number `at`."""
        first = self.store.requests

        def leave(method: str, path: str, number: int) -> str | None:
            if away and number == first + at:
                self.store.go_away(away, seconds)
            return None

        self.store.fault = leave
        environment = {**os.environ, **self.variables, "ISNET_HOME": str(self.folder / "home")}
        # Told waits end with the outage; anything that hangs does not.
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", *words, "--json"],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds + 1800,
            check=False,
        )
        self.store.fault = no_fault
        assert done.returncode == 0, done.stderr[-3000:]
        if away:
            assert self.store.requests > first + at, "the command had ended before the outage"
            assert "waiting since" in done.stderr, done.stderr[-3000:]
            assert "waited" in done.stderr
        return dict(json.loads(done.stdout))

    def checkpoints(self, name: str) -> None:
        """Sets another place of checkpoints and results, so that the next run is a new one."""
        (self.folder / "isnet.toml").write_text(
            f'default = "away"\n[context.away]\nstore = "s3://away"\ncheckpoints = "s3://away/{name}"\n'
            f's3_endpoint = "{self.store.endpoint}"\nstore_wait_s = 600\n'
            f'tracking = "sqlite:///{self.folder}/{name}.db"\n',
            encoding="utf-8",
        )


@contextmanager
def world_in(folder: Path) -> Iterator[World]:
    with (
        local_s3() as variables,
        FaultProxy(variables["AWS_ENDPOINT_URL"]) as store,
        pytest.MonkeyPatch.context() as patched,
    ):
        for name, value in variables.items():
            patched.setenv(name, value)
        ensure_bucket("s3://away")
        world = World(folder, store, variables, smooth_photos(folder))
        world.checkpoints("calm")
        yield world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_in(tmp_path_factory.mktemp("away")) as world:
        words = ("data", "pack", str(world.photos), "photos", "--parallel", "0", "--shard-bytes", "64K")
        world.calm = world.isnet(*words)
        yield world


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "parallel"), [("refused", "0"), ("503", "2")])
def test_pack(world: World, kind: str, parallel: str) -> None:
    words = ("data", "pack", str(world.photos), f"again-{kind}", "--name", "photos", "--parallel", parallel)
    packed = world.isnet(*words, "--shard-bytes", "64K", away=kind, at=12)
    assert packed["digest"] == world.calm["digest"]
    assert world.isnet("data", "verify", f"again-{kind}")["sound"]


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "at", "settings"), [("503", 20, ()), ("refused", 40, ("data.loader_workers=1",))])
def test_train(world: World, kind: str, at: int, settings: tuple[str, ...]) -> None:
    world.checkpoints("calm")
    calm = world.isnet("train", "demo", *TRAIN)
    world.checkpoints(f"train-{kind}")
    ran = world.isnet("train", "demo", *TRAIN, *settings, away=kind, at=at)
    assert ran["state_digest"] == calm["state_digest"]
    # The record says since when and for what.
    shown = world.isnet("runs", "show", ran["run_id"])
    assert "waited" in shown["tags"]["trainplane.store_wait"]


@pytest.mark.nightly
def test_one_rank_of_two(world: World) -> None:
    words = ("train", "demo", *TRAIN, "train.workers=2", "train.stall_s=30")
    world.checkpoints("calm-2")
    calm = world.isnet(*words)
    world.checkpoints("two-ranks")
    ran = world.isnet(*words, away="500", at=60)
    assert ran["state_digest"] == calm["state_digest"]


@pytest.mark.nightly
@pytest.mark.parametrize("workers", ["1", "2"])
def test_one_that_is_stopped_meanwhile_ends_and_goes_on_later(world: World, workers: str) -> None:
    words = ("train", "demo", *TRAIN, f"train.workers={workers}")
    world.checkpoints(f"calm-{workers}")
    calm = world.isnet(*words)
    world.checkpoints(f"stopped-{workers}")
    first = world.store.requests
    world.store.fault = lambda method, path, number: world.store.go_away("503", 900) if number == first + 40 else None
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *words],
        cwd=world.folder,
        env={**os.environ, "ISNET_HOME": str(world.folder / "home")},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "waiting since" in line:
            process.send_signal(signal.SIGINT)
            break
    rest = process.communicate(timeout=300)[1]
    world.store.fault = no_fault
    world.store.come_back()
    assert process.returncode == 130, "".join(lines) + rest
    assert "Traceback" not in rest
    assert world.isnet(*words)["state_digest"] == calm["state_digest"]


@pytest.mark.nightly
def test_tune(world: World) -> None:
    (world.folder / "search.yaml").write_text(SEARCH, encoding="utf-8")
    words = ("tune", "search.yaml", *TRAIN)
    world.checkpoints("tune-calm")
    calm = world.isnet(*words)
    world.checkpoints("tune")
    ran = world.isnet(*words, away="503", at=60)
    # Sums of a validation differ in their last bits with the threads that Ray gives a trial.
    same = ("number", "settings", "status", "step")
    for trial, expected in zip(ran["trials"], calm["trials"], strict=True):
        assert {name: trial[name] for name in same} == {name: expected[name] for name in same}
        assert trial["metrics"]["val/psnr"] == pytest.approx(expected["metrics"]["val/psnr"], abs=1e-3)
    assert ran["best"]["config"] == calm["best"]["config"]


@pytest.mark.nightly
def test_evaluate_and_fill(world: World) -> None:
    world.checkpoints("calm")
    model = world.isnet("train", "demo", *TRAIN)["checkpoint"]
    words = ("evaluate", model, "photos", "--parallel", "0")
    calm = world.isnet(*words)
    assert world.isnet(*words, away="500", at=10)["bins"] == calm["bins"]
    # A batch of pictures and masks below prefixes of the store.
    store = open_store("s3://away/in")
    mask = np.zeros((70, 90), np.uint8)
    mask[20:50, 30:60] = 255
    png = io.BytesIO()
    Image.fromarray(mask).save(png, "png")
    for photo in sorted(world.photos.glob("*")):
        store.write(f"photos/{photo.name}", photo.read_bytes())
        store.write(f"masks/{photo.name}", png.getvalue())
    words = ("inpaint", "s3://away/in/photos", "s3://away/in/masks", "--model", model, "--parallel", "0", "-o")
    world.isnet(*words, "s3://away/out-calm")
    world.isnet(*words, "s3://away/out", away="refused", at=30)
    calm, filled = (json.loads(open_store(f"s3://away/{out}").read("manifest.json")) for out in ("out-calm", "out"))
    assert len(filled["pictures"]) == len(list(world.photos.glob("*")))
    assert (filled["pictures"], filled["failed"]) == (calm["pictures"], [])
