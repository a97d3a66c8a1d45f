"""Kills at any moment of a checkpoint leave no trace.

Two workers under Ray Train, checkpoints on S3 through a proxy. One kill of each target is run nightly. The whole matrix
is `make test-chaos`: there each target is killed at each moment of every checkpoint but the last, three times in a run,
so that the later kills meet a resumed run.
"""

import itertools

import noise_datasets
import pytest
from kill_stage import EVERY, STEPS, TARGETS, Stage
from moments import MOMENTS

from trainplane.storage import ensure_bucket

CHECKPOINTS = tuple(range(EVERY, STEPS, EVERY))
WHOLE = [(target, moment) for moment, target in itertools.product(MOMENTS, TARGETS)]
REDUCED = [
    ("worker 0", "upload"),
    ("worker 1", "staging"),
    ("controller", "before"),
    ("proxy", "upload"),
    ("driver", "commit"),
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory, s3_server, request):
    folder = tmp_path_factory.mktemp("kill")
    ensure_bucket("s3://kill-matrix")
    played = Stage(folder, noise_datasets.make(folder / "datasets"), s3_server, "s3://kill-matrix")
    yield played
    played.close()
    says = request.config.pluginmanager.get_plugin("terminalreporter")
    says.write_line(
        f"\nkill matrix: {played.kills} kills in {played.runs} runs, "
        f"{played.equal} of which ended on the bits of the undisturbed run"
    )


def check(stage, target, moment, steps):
    ended = stage.play(target, moment, steps)
    assert (ended["step"], ended["digest"]) == (STEPS, stage.straight), ended
    # Each death of these ends an attempt, or nothing was tested.
    if target in ("worker 0", "worker 1", "controller"):
        assert sum("resuming at step" in sentence for sentence in ended["told"]) >= len(steps), ended


@pytest.mark.nightly
@pytest.mark.parametrize(("target", "moment"), REDUCED)
def test_a_kill_leaves_no_trace_in_the_result(stage, target, moment):
    check(stage, target, moment, [6])


@pytest.mark.chaos
@pytest.mark.parametrize(("target", "moment"), WHOLE)
def test_no_kill_of_the_whole_matrix_leaves_a_trace(stage, target, moment):
    check(stage, target, moment, CHECKPOINTS)
