"""What people voted and marked under traffic opens and shuts a promotion, through a file of gates."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project_fixtures import png_bytes
from registered_starter import promote, register_starter
from served_traces import cast_vote, open_queue, send, served_trace

from trainplane.cluster.context import Context, resolve
from trainplane.registry.audit import read_trail
from trainplane.registry.versions import ModelVersion
from trainplane.serving.traces import new_trace
from trainplane.storage import open_store

Isnet = Callable
NAME = "photo"
LIKED, NO_WORSE = "preferred over production", "golden set photo-golden psnr"


def hole(number: int) -> bytes:
    mask = np.zeros((70, 91), np.uint8)
    mask[10 + number : 40, 20:60] = 255
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def served(
    context: Context, folder: Path, versions: Sequence[ModelVersion], raters: Sequence[str], choice: str
) -> None:
    """Blind votes of people, each on a photo of their own, which is marked for the golden set."""
    queue = open_queue(folder, model=NAME)
    numbers = tuple(version.version for version in versions)
    digests = {version.version: str(version.model_digest) for version in versions}
    for number, rater in enumerate(raters):
        trace = new_trace()
        photo = png_bytes(int(rater.removeprefix("rater")))
        shown = served_trace(trace, photo=photo, mask=hole(number), versions=numbers, model=NAME)
        answers = tuple(replace(answer, digest=digests[answer.version]) for answer in shown.answers)
        queue.record(replace(shown, answers=answers))
        queue.verdict(replace(cast_vote(trace, choice, rater=rater), model=NAME))
        queue.golden(trace, rater)
    assert send(folder, context.tracking).error is None


def people(first: int, last: int) -> list[str]:
    return [f"rater{number}" for number in range(first, last)]


@pytest.mark.nightly
def test_votes_and_marked_pictures_decide_a_promotion(isnet: Isnet, home: Path, tmp_path: Path) -> None:
    context = resolve()
    # In production a weaker one, then the starter, then one that forgot what it knew.
    old, new, broken = (
        register_starter(context, NAME, tmp_path / f"made-{scale}", scale=scale) for scale in (0.9, 1.0, 0.05)
    )
    promote(context, old)
    store = open_store(context.audit)
    served(context, tmp_path / "few", (old, new), people(0, 4), "B")
    made = isnet("models", "golden", NAME, "--from-traces", "--json")
    assert made.status == 0, made.err
    rules = tmp_path / "gates.yaml"
    golden = {"dataset": "photo-golden", "masks": "photo-golden-masks", "metric": "psnr", "better": "higher", "by": 0.1}
    rules.write_text(
        json.dumps(
            {
                "lineage": [],
                "requires": [],
                "preferred": [{"votes_per_rater": 1, "wait_hours": 0}],
                "golden_set": [golden],
            }
        )
    )

    def promotion(version: ModelVersion) -> tuple[int, dict[str, bool], str]:
        done = isnet(
            "models", "promote", NAME, version.version, "--gates", rules, "--dataset", "photo-golden", "--json"
        )
        assert done.status in (0, 1), done.err
        verdicts = {each["gate"]: each["passed"] for each in done.json()["verdicts"]}
        return done.status, verdicts, str(read_trail(store, NAME).current("production"))

    # Four people are too few to be sure, although all of them like it and it loses nothing.
    status, verdicts, current = promotion(new)
    assert (status, current) == (1, old.version)
    assert (verdicts[LIKED], verdicts[NO_WORSE]) == (False, True)
    # Nine are enough, and the alias moves.
    served(context, tmp_path / "more", (old, new), people(4, 9), "B")
    status, verdicts, current = promotion(new)
    assert (status, current) == (0, new.version), verdicts
    assert all(verdicts.values())
    # One that people like, and that is worse on the pictures that they marked, stays out.
    served(context, tmp_path / "liked", (new, broken), people(20, 30), "B")
    status, verdicts, current = promotion(broken)
    assert (status, current) == (1, new.version)
    assert (verdicts[LIKED], verdicts[NO_WORSE]) == (True, False)
    assert isnet("models", "audit", NAME, "--verify").status == 0
