"""What people gave to a served model becomes a dataset, by what they said of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from served_traces import MODEL, cast_vote, record, send, served_trace

from trainplane.serving.traces import new_trace

Isnet = Callable


def picture(seed: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    shape = (40, 40, 3) if mode == "RGB" else (40, 40)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels if mode == "RGB" else (pixels > 200).astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def served(tmp_path: Path, home: Path, isnet: Isnet) -> list[str]:
    """Five traces: two bad ones of one photo, a good one, one of facts alone, a golden one."""
    del isnet
    names = [new_trace() for _ in range(5)]
    photos = [picture(seed) for seed in (1, 1, 2, 3, 4)]
    traces = [
        served_trace(
            name,
            photo=photo,
            mask=picture(90 + number, "L"),
            keep="facts" if number == 3 else "pictures",
            started=number,
        )
        for number, (name, photo) in enumerate(zip(names, photos, strict=True))
    ]
    votes = [cast_vote(name, choice) for name, choice in zip(names, ("bad", "bad", "good", "bad", "good"), strict=True)]
    address = f"sqlite:///{home}/mlflow.db"
    queue = record(tmp_path / "queue", address, traces, votes)
    queue.golden(names[4], "eva")
    send(tmp_path / "queue", address)
    return names


def test_bad_pictures_become_a_dataset_each_once(isnet: Isnet, served: list[str]) -> None:
    packed = isnet("data", "pack", f"traces:{MODEL}", "bad", "--verdict", "bad", "--json").json()
    assert packed["samples"] == 1
    assert [skip["file"] for skip in packed["skipped"]] == [served[3]]
    assert "agreed to facts alone" in packed["skipped"][0]["reason"]
    # All of them, and their holes.
    assert isnet("data", "pack", f"traces:{MODEL}", "every", "--json").json()["samples"] == 3
    masks = isnet("data", "pack", f"traces:{MODEL}", "holes", "--kind", "masks", "--json").json()
    assert masks["samples"] == 4


def test_golden_set_is_photos_and_holes(isnet: Isnet, served: list[str]) -> None:
    made = isnet("models", "golden", MODEL, "--from-traces", "--json").json()
    assert made["dataset"] == f"{MODEL}-golden"
    for name in (f"{MODEL}-golden", f"{MODEL}-golden-masks"):
        assert isnet("data", "show", name, "--json").json()["samples"] == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data", "pack", "traces:nobody", "x"], "MLflow has no trace of 'nobody' (0 in all)"),
        (["data", "pack", f"traces:{MODEL}", "x", "--verdict", "tie"], "no trace that is tie"),
        (["data", "pack", "photos", "x", "--verdict", "bad"], "give traces:NAME, or leave it out"),
        (["models", "golden", MODEL], "models golden faces --from-traces"),
    ],
)
def test_mistakes_are_one_sentence(isnet: Isnet, served: list[str], words: list[str], sentence: str) -> None:
    result = isnet(*words)
    assert result.status == 2
    assert sentence in result.err
