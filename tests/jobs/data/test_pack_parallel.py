"""Ray tasks pack the same bytes as one process, and packing resumes after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from jobs.data.packing import Recode, pack_pictures
from jobs.data.sources import open_pictures
from trainplane.cluster.ray_session import ray_session
from trainplane.data.manifest import Dataset
from trainplane.data.pack.ray_executor import RayExecutor
from trainplane.errors import UserError

SHARD_BYTES = 100_000


@pytest.fixture(scope="module")
def ray():
    with ray_session(num_cpus=2) as connected:
        yield connected


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(200):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    for number in range(0, 200, 50):
        (folder / f"broken-{number}.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


def packed(source: Path, dest: Path, **options) -> Dataset:
    with open_pictures(source) as found:
        return pack_pictures(
            found, str(dest), name="n", split="all", shard_bytes=SHARD_BYTES, recode=Recode(max_side=44), **options
        )


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.real
def test_any_number_of_tasks_packs_the_same_bytes(ray, pictures: Path, tmp_path: Path) -> None:
    alone = packed(pictures, tmp_path / "alone")
    assert alone.num_shards > 4
    assert len(alone.skipped) == 4
    for count in (1, 2, 5):
        assert packed(pictures, tmp_path / str(count), executor=RayExecutor(ray, count)).digest == alone.digest
        assert files_of(tmp_path / str(count)) == files_of(tmp_path / "alone")


@pytest.mark.nightly
def test_a_mistake_in_a_task_gives_the_same_error_as_in_this_process(ray, pictures: Path, tmp_path: Path) -> None:
    packed(pictures, tmp_path / "set")
    before = files_of(tmp_path / "set")
    (pictures / "0003.png").unlink()
    with pytest.raises(UserError, match="another dataset is there") as error:
        packed(pictures, tmp_path / "set", executor=RayExecutor(ray, 2))
    assert type(error.value) is UserError
    assert "\n" not in str(error.value)
    assert files_of(tmp_path / "set") == before


@pytest.mark.nightly
def test_pictures_that_a_node_does_not_see_are_no_damaged_pictures(ray, pictures: Path, tmp_path: Path) -> None:
    with open_pictures(pictures) as found:
        listed = list(found)
    (pictures / "0190.png").unlink()
    with pytest.raises(UserError, match="every node needs the same folders"):
        pack_pictures(
            listed, str(tmp_path / "set"), name="n", split="all", shard_bytes=SHARD_BYTES, executor=RayExecutor(ray, 2)
        )


@pytest.mark.nightly
def test_a_command_of_two_tasks_killed_by_sigkill_goes_on(pictures: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.cli", "data", "pack", str(pictures), str(tmp_path / "set"), "--name", "n"]
    command += ["--shard-bytes", str(SHARD_BYTES), "--max-side", "44", "--parallel", "2"]
    environment = {**os.environ, "ISNET_HOME": str(tmp_path / "home")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as first:
        while first.poll() is None and len(list((tmp_path / "set").glob("packing.shard-*"))) < 2:
            time.sleep(0.001)
        family = psutil.Process(first.pid).children(recursive=True)
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL
    _, left = psutil.wait_procs(family, timeout=60)
    for process in left:
        process.kill()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("shard-*.tar")}
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    assert "had been stored by an earlier packing and were kept" in again.stderr
    unchanged = [name for name, at in kept.items() if (tmp_path / "set" / name).stat().st_mtime_ns == at]
    assert len(unchanged) >= 2
    packed(pictures, tmp_path / "alone", how={"layout": "folder"})
    assert files_of(tmp_path / "set") == files_of(tmp_path / "alone")
