"""The figures of `isnet bench loader`, and every reader on a small set."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.bench import loader as bench
from jobs.bench.loader_sets import photo_sets, synthetic_sets
from jobs.cli.main import main
from trainplane.errors import RunFailed, UserError


def run(pictures: float, *, wall_s: float = 1.0, cpu_s: float = 1.0, first_batch_s: float = 0.5) -> dict[str, float]:
    return {"pictures": pictures, "wall_s": wall_s, "cpu_s": cpu_s, "first_batch_s": first_batch_s}


def runs_of(rates: list[float], *kinds: str) -> dict[str, list[dict[str, float]]]:
    return {kind: [run(rate) for rate in rates] for kind in kinds}


def test_ratios_are_medians_over_rounds_to_the_best_peer_of_each_round() -> None:
    runs = {
        "ours": runs_of([100, 300, 200], "0", "1", "2"),
        "ours, training": runs_of([50, 50, 50], "0", "1", "2"),
        "bare": runs_of([200, 400, 400], "0"),
        "bare, training": runs_of([100, 100, 100], "0"),
        "webdataset": runs_of([50, 200, 10], "1", "2"),
        "webdataset with our decoder": runs_of([100, 100, 100], "1", "2"),
        "litdata": runs_of([40, 50, 100], "1", "2"),
        "litdata with our decoder": runs_of([80, 200, 100], "1", "2"),
    }
    ratios = bench._ratios(runs)
    assert ratios["to_best_peer_as_it_comes"] == dict.fromkeys(("1 wall", "1 cpu", "2 wall", "2 cpu"), 2.0)
    assert ratios["to_best_peer"] == dict.fromkeys(("1 wall", "1 cpu", "2 wall", "2 cpu"), 1.5)
    assert ratios["to_bare"] == {"0": 0.5, "1": 0.5, "2": 0.5}
    assert ratios["to_bare_training"]["2"] == 0.5


class Fails:
    """A reader that measures a few times and then ends."""

    def __init__(self, after: int) -> None:
        self.remaining = after

    def measure(self, **_: int) -> dict[str, float]:
        self.remaining -= 1
        if self.remaining < 0:
            raise RunFailed("a reader ended: IndexError")
        return run(100)


def test_a_peer_whose_reader_ends_is_left_out_and_ours_ends_the_bench() -> None:
    args = argparse.Namespace(pictures=512, rounds=2)
    readers = {"ours": Fails(99), "webdataset": Fails(99), "mosaicml-streaming": Fails(6)}
    runs, ended = bench._in_turns(readers, args, samples=4096, sample_bytes=70_000)  # type: ignore[arg-type]
    assert (list(runs), list(ended)) == (["ours", "webdataset"], ["mosaicml-streaming"])
    assert [len(rounds) for rounds in runs["webdataset"].values()] == [2] * 4
    for readers in ({"ours": Fails(3)}, {"ours": Fails(99), "litdata": Fails(0)}):
        with pytest.raises(RunFailed, match="a reader ended"):
            bench._in_turns(readers, args, samples=4096, sample_bytes=70_000)  # type: ignore[arg-type]


def test_a_miss_is_called_one_and_peers_as_they_come_have_no_target() -> None:
    ratios = {"to_best_peer": {"1 cpu": 1.1, "2 cpu": 1.2}, "to_best_peer_as_it_comes": {"1 cpu": 2.5}}
    row = {"set": "photos", "readers": {"ours": {"resume": {"ratio": 1.3}}}, **ratios}
    figures = bench._figures({**row, "to_bare": {"1": 0.95}, "to_bare_training": {}})
    assert [figure["met"] for figure in figures] == [False, True, None, True, False]


def test_photos_are_sorted_by_size_and_those_too_small_for_the_crop_left_out(tmp_path: Path) -> None:
    for name, size in {"small": (300, 200), "middle": (400, 300), "large": (1200, 800)}.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    sets = photo_sets(tmp_path, samples=100)
    assert [(pictures.name, len(pictures.pictures), pictures.samples) for pictures in sets] == [
        ("photos", 1, 100),
        ("photos-large", 1, 25),
    ]
    with pytest.raises(UserError, match="no such folder"):
        photo_sets(tmp_path / "none", samples=1)
    with pytest.raises(UserError, match="no JPEG photo"):
        photo_sets(Path(__file__).parent, samples=1)


def test_made_pictures_have_the_sizes_they_stand_for() -> None:
    small, large = synthetic_sets(samples=8)
    for pictures, low, high in ((small, 320, 480), (large, 1024, 1600)):
        sizes = np.array([Image.open(io.BytesIO(data)).size for data in pictures.pictures])
        assert low <= sizes.min() < sizes.max() <= high
    assert 20_000 < small.mean_bytes < 120_000


def test_what_is_measured_are_whole_windows_of_the_order_where_an_epoch_has_room() -> None:
    assert bench.measured_batches(4096, samples=16384, sample_bytes=65536) == (128, True)
    assert bench.measured_batches(5000, samples=16384, sample_bytes=65536) == (256, True)
    assert bench.measured_batches(64, samples=16384, sample_bytes=65536) == (128, True)
    assert bench.measured_batches(512, samples=2048, sample_bytes=65536) == (16, False)
    assert bench.measured_batches(10, samples=20, sample_bytes=65536) == (4, False)


def test_a_set_that_ends_before_it_is_measured_is_refused_with_the_arithmetic() -> None:
    bench.check_enough("photos", 512, samples=1024, sample_bytes=65536)
    with pytest.raises(UserError, match="has 1024 samples, and warming up and measuring take 1280"):
        bench.check_enough("photos-large", 1024, samples=1024, sample_bytes=65536)


def test_a_store_that_cannot_be_meant_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for store in (str(tmp_path), "s3://bucket"):
        assert main(["bench", "loader", "--json", "--store", store]) == 2
        assert "AWS_ENDPOINT_URL" in capsys.readouterr().err


@pytest.mark.nightly
def test_every_reader_that_can_be_had_reads_and_the_others_are_named_with_their_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (300, 280, 3), dtype=np.uint8)).save(tmp_path / f"{number}.jpg")
    options = ["--photos", str(tmp_path), "--samples", "512", "--pictures", "64", "--rounds", "1", "--only", "photos"]
    assert main(["bench", "loader", "--json", *options, "--mds-python", sys.executable]) == 0
    report = json.loads(capfd.readouterr().out)
    (row,) = report["sets"]
    peers = {"webdataset": "webdataset", "litdata": "litdata", "mosaicml-streaming": "streaming"}
    for peer, package in peers.items():
        installed = importlib.util.find_spec(package) is not None
        assert (peer in row["readers"]) == installed
        assert (peer in report["left_out"]) == (not installed)
    assert all(row["readers"]["ours"][workers]["pictures_per_cpu_s"] > 0 for workers in ("0", "1", "2"))
    assert {figure["name"].split(":")[0] for figure in report["figures"]} == {"photos"}
