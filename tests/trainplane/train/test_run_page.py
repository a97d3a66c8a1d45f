"""A run's name and parameters say what was typed."""

from __future__ import annotations

from datetime import UTC, datetime

from tiny_task import TinyConfig

from trainplane.config.load import build
from trainplane.train.run_page import Typed, parameters, result, run_name

NOW = datetime(2026, 11, 30, 9, 5, tzinfo=UTC)


def test_a_name_has_preset_differences_and_date() -> None:
    typed = Typed("demo+laptop", ("data.train=s3://bucket/datasets/mine", "train.workers=1", "train.steps=300"))
    assert run_name(typed, NOW) == "demo+laptop data.train=mine train.steps=300, 2026-11-30"
    assert run_name(Typed("/home/me/runs/wide.yaml"), NOW) == "wide.yaml, 2026-11-30"


def test_a_long_name_keeps_what_was_typed_last() -> None:
    words = ("data.train=photos-of-the-holidays", "data.val=photos-of-the-year-before", "train.lr_g=0.002")
    assert run_name(Typed("demo", words), NOW) == "demo … train.lr_g=0.002, 2026-11-30"
    long = run_name(Typed("demo", (f"data.train={'x' * 99}",)), NOW)
    assert long.startswith("demo data.train=xxx")
    assert (len(long), long[-13:]) == (62, "…, 2026-11-30")


def test_a_shipped_preset_needs_no_parameters_for_its_own_settings() -> None:
    train = {"steps": 3, "global_batch": 4, "lr_g": 0.5}
    config = build(TinyConfig, {"name": "tiny", "data": {"train": "t"}, "train": train})
    shipped = parameters(config, Typed("demo", ("train.seed=4",), is_shipped=True), ["train.steps"])
    assert set(shipped) == {"typed", "train.seed", "train.steps"}
    assert shipped["typed"] == "demo train.seed=4"
    assert set(parameters(config, Typed("my.yaml"), [])) > {"typed", "train.steps"}


def test_a_result_names_what_matters_and_shows_a_picture() -> None:
    text = result({"val/psnr": 21.5, "val/l1": 1.0}, ["val/psnr"], step=400, run_id="abc", image="gallery/000")
    assert text.startswith("**val/psnr 21.5** after 400 steps")
    assert "(get-artifact?path=images%2Fgallery" in text
    assert "run_uuid=abc" in text
    assert result({}, ["val/psnr"], step=400, run_id="abc", image="") == ""
