"""Whoever is killed, at whatever moment of whichever checkpoint: the run ends on the bits of an undisturbed one.

Two workers under Ray Train, checkpoints on S3 through a proxy. Reduced to a cell for each who can be killed; the whole
matrix is `make test-chaos`.
"""

import itertools

import noise_datasets
import pytest
from kill_stage import EVERY, STEPS, TARGETS, Stage
from moments import MOMENTS

from trainplane.storage import ensure_bucket

CHECKPOINTS = range(EVERY, STEPS, EVERY)
# Everyone at every moment of the first checkpoint comes first: where time runs out, that much is known.
WHOLE = [(target, moment, step) for step, moment, target in itertools.product(CHECKPOINTS, MOMENTS, TARGETS)]
REDUCED = [
    ("worker 0", "upload", 6),
    ("worker 1", "staging", 6),
    ("controller", "before", 6),
    ("proxy", "upload", 3),
    ("driver", "commit", 6),
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory, s3_server, request):
    folder = tmp_path_factory.mktemp("kill")
    ensure_bucket("s3://kill-matrix")
    played = Stage(folder, noise_datasets.make(folder / "datasets"), s3_server, "s3://kill-matrix")
    yield played
    played.close()
    says = request.config.pluginmanager.get_plugin("terminalreporter")
    says.write_line(f"\nkill matrix: {played.equal} of {played.cells} cells ended on the bits of the undisturbed run")


def check(stage, target, moment, step):
    ended = stage.play(target, moment, step)
    assert (ended["step"], ended["digest"]) == (STEPS, stage.straight), ended
    # Those whose death ends an attempt must have done so, or nothing was tested.
    if target in ("worker 0", "worker 1", "controller"):
        assert any("going on from step" in sentence for sentence in ended["told"]), ended


@pytest.mark.real
@pytest.mark.parametrize(("target", "moment", "step"), REDUCED)
def test_a_kill_leaves_no_trace_in_the_result(stage, target, moment, step):
    check(stage, target, moment, step)


@pytest.mark.chaos
@pytest.mark.parametrize(("target", "moment", "step"), WHOLE)
def test_no_kill_of_the_whole_matrix_leaves_a_trace(stage, target, moment, step):
    check(stage, target, moment, step)
