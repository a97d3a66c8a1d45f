"""The evaluation and the loop that `isnet bench evaluate` compares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.bench import evaluate as bench
from jobs.evaluation import evaluation
from trainplane.cluster.context import resolve


def test_loop_and_evaluation_measure_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISNET_HOME", str(tmp_path / "home"))
    measured: dict[str, list[float]] = {"loop": [], "evaluation": []}
    measure, score_here = bench.measure, evaluation.score_here

    def of_loop(*images: torch.Tensor, **options: str) -> dict[str, torch.Tensor]:
        metrics = measure(*images, **options)
        measured["loop"].append(float(metrics["psnr"][0]))
        return metrics

    def of_evaluation(*words: object) -> list[evaluation.Score]:
        scored = score_here(*words)
        measured["evaluation"] += [pair.scores[0].psnr for pair in scored]
        return scored

    monkeypatch.setattr(bench, "measure", of_loop)
    monkeypatch.setattr(evaluation, "score_here", of_evaluation)
    figures = bench.compare("classical:telea", resolve(None), pictures=6, side=32, rounds=1, tasks=0)
    assert [row["unit"] for row in figures] == ["pictures/s", "pictures/s", "times its rate"]
    # The evaluation pairs pictures and holes anew, so only means compare.
    assert len(measured["loop"]) == len(measured["evaluation"]) == 6
    assert sum(measured["loop"]) / 6 == pytest.approx(sum(measured["evaluation"]) / 6, abs=2)
