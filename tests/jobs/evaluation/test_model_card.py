"""A model card and its short form show pictures that are there, and no others."""

from __future__ import annotations

from typing import Any

from jobs.evaluation.model_card import MAX_DESCRIPTION, card, version_description
from trainplane.tracking.pages import artifact_link
from trainplane.tracking.tracker import gallery_key, newest_image

NEWEST = newest_image(gallery_key(0))
RUN: dict[str, Any] = {"params": {}, "tags": {}, "datasets": []}


def entry(**changes: Any) -> dict[str, Any]:
    facts = dict.fromkeys(("dataset_digest", "config_digest", "commit", "model_digest"), "0")
    gates = [{"gate": "loads", "passed": True, "evidence": "in 1 s"}]
    return {"version": "1", "aliases": [], "evaluation": None, "gates": gates, "run_id": "abc", **facts, **changes}


def test_the_runs_picture_comes_first_and_the_evaluations_after_its_numbers() -> None:
    figure = "evaluations/1/figure.png"
    text = version_description("m", entry(), [figure, "evaluations/1/scores.csv", NEWEST])
    places = [text.index(part) for part in (artifact_link("abc", NEWEST), "### Gates", artifact_link("abc", figure))]
    assert places == sorted(places)
    assert "scores.csv" not in text


def test_files_that_are_not_there_are_not_named() -> None:
    text = card("m", entry(), RUN, files=[], tracking="sqlite:///x.db") + version_description("m", entry(), [])
    assert "![" not in text
    assert not [name for name in ("figure.png", "worst.png", "report.html", "gallery") if name in text]


def test_the_line_that_serves_the_model_names_the_store() -> None:
    text = card("m", entry(), RUN, files=[], tracking="sqlite:////home/me/my runs/mlflow.db")
    assert "MLFLOW_TRACKING_URI='sqlite:////home/me/my runs/mlflow.db' mlflow models serve -m models:/m/1" in text


def test_a_description_fits_however_many_gates_there_are() -> None:
    gates = [{"gate": f"gate {n}", "passed": False, "evidence": "e" * 90} for n in range(200)]
    text = version_description("m", entry(gates=gates), [NEWEST])
    assert len(text) <= MAX_DESCRIPTION
    assert artifact_link("abc", NEWEST) in text
