"""A home of its own for every test, and a runner for commands that returns what a shell would see."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_run import SMALL

from jobs.cli.main import main


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output, which with `--json` is one object and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def home(tmp_path, monkeypatch, empty_tracking_db):
    """ISNET_HOME in a folder with an empty tracking store, no context, and the current folder beside it."""
    return settle_in(tmp_path, monkeypatch, empty_tracking_db)


def settle_in(folder, monkeypatch, empty_tracking_db):
    for name in ("ISNET_CONTEXT", "RAY_ADDRESS", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ISNET_HOME", str(folder / "home"))
    monkeypatch.chdir(folder)
    (folder / "home").mkdir(exist_ok=True)
    if not (folder / "home" / "mlflow.db").exists():
        shutil.copyfile(empty_tracking_db, folder / "home" / "mlflow.db")
    return folder / "home"


@pytest.fixture
def isnet(home, capfd):
    """Run `isnet WORDS` in this process, in a home of the test's own."""
    return runner(capfd)


def runner(capfd):
    def run(*words: str) -> Ran:
        capfd.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capfd.readouterr()
        return Ran(status, out, err)

    return run


@pytest.fixture
def photos(tmp_path):
    """A folder of eight small pictures with something to see in them."""
    return photos_in(tmp_path / "photos")


def photos_in(folder):
    folder.mkdir()
    for number in range(8):
        picture(number).save(folder / f"photo-{number}.{'jpg' if number % 2 else 'png'}")
    return folder


@dataclass(frozen=True)
class Project:
    """A home with both datasets and a finished run of four steps, shared by tests that add to it and change nothing."""

    folder: Path
    photos: Path
    run: dict[str, Any]


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory, empty_tracking_db):
    folder = tmp_path_factory.mktemp("project")
    photos = photos_in(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        settle_in(folder, patch, empty_tracking_db)
        for name in ("mine", "held"):
            assert main(["data", "pack", str(photos), name]) == 0
        command = [sys.executable, "-m", "jobs.cli", "train", "demo", *SMALL, "--json"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return Project(folder, photos, json.loads(ran.stdout))


@pytest.fixture
def project(trained_once, monkeypatch, empty_tracking_db):
    """The shared project, with this test inside it."""
    settle_in(trained_once.folder, monkeypatch, empty_tracking_db)
    return trained_once


@pytest.fixture
def isnet_there(project, capfd):
    """Run `isnet WORDS` in the shared project."""
    return runner(capfd)


def picture(number: int, height: int = 70, width: int = 91) -> Image.Image:
    """Smooth colour waves, another for each number."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x * rng.uniform(0.02, 0.2) + y * rng.uniform(0.02, 0.2) + rng.uniform(0, 6)) for _ in range(3)]
    return Image.fromarray(np.stack([(127 + 120 * wave).astype(np.uint8) for wave in waves], axis=-1))


def png_bytes(number: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def noise(number: int, side: int = 24) -> bytes:
    """A PNG that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    with io.BytesIO() as buffer:
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder of sixty pictures; two have the same bytes under two names."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:03d}.png").write_bytes(noise(number))
    (folder / "copy.png").write_bytes(noise(7))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
