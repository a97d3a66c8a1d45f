"""Whatever crashed in between, each step stands once, and what stands is one way from the first step to the last."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from trainplane.tracking.client import TrackingServer
from trainplane.tracking.spool.ledger import Ledger
from trainplane.tracking.spool.upload import upload
from trainplane.tracking.tracker import Tracker

STEPS = 12
EVERY = 3


@pytest.fixture(scope="module")
def shared_tracking_uri(empty_tracking_db: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("branches") / "mlflow.db"
    path.write_bytes(empty_tracking_db.read_bytes())
    return f"sqlite:///{path}"


@dataclass(frozen=True)
class Crash:
    """An attempt that ends after `steps` steps.

    told -- whether it lived to record that its last checkpoint is stored; sent -- whether MLflow got what it recorded
    moved -- whether the next attempt is on another node, where there is no spool
    """

    steps: int
    told: bool
    sent: bool
    moved: bool


crashes = st.lists(st.builds(Crash, st.integers(0, 8), st.booleans(), st.booleans(), st.booleans()), max_size=5)


def points(tracking_uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in TrackingServer(tracking_uri).client.get_metric_history(run_id, key)]


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(crashes=crashes)
@example(crashes=[])
@example(crashes=[Crash(1, told=False, sent=True, moved=False), Crash(3, told=False, sent=False, moved=True)])
@example(crashes=[Crash(4, told=False, sent=True, moved=False)] * 5)
def test_each_step_stands_once_and_is_of_the_way_that_led_to_the_end(
    shared_tracking_uri: str, crashes: list[Crash]
) -> None:
    run_id = TrackingServer(shared_tracking_uri).client.create_run("0").info.run_id
    stored, carried = 0, b""
    expected: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        node = 0
        said: set[tuple[int, float]] = set()
        for number, crash in enumerate([*crashes, Crash(STEPS, told=True, sent=True, moved=False)]):
            spool = Path(folder) / f"node-{node}" / run_id
            tracker = Tracker(TrackingServer(shared_tracking_uri), run_id, spool=spool, upload_every_s=600)
            tracker.resume_from(stored, carried)
            expected = {step: value for step, value in expected.items() if step <= stored}
            for step in range(stored + 1, min(STEPS, stored + crash.steps) + 1):
                # A repeated step gives other numbers, as with another number of ranks.
                expected[step] = step + number / 10
                said.add((step, expected[step]))
                tracker.log_metrics(step, {"train/l1": expected[step]})
                tracker.log_metrics(step, {"guard/faults": 1.0})
                if step % EVERY == 0 or step == STEPS:
                    carried = tracker.unsent()
                    stored = step
                    if crash.told:
                        tracker.commit(step)
            tracker.close(0)
            if crash.sent:
                assert upload(spool, TrackingServer(shared_tracking_uri).client).error is None
            node += crash.moved
        assert points(shared_tracking_uri, run_id, "train/l1") == sorted(expected.items())
        assert sorted(expected) == list(range(1, STEPS + 1))
        # What nodes that were left still have arrives late, and changes nothing but what is given up.
        for spool in Path(folder).glob(f"*/{run_id}"):
            assert upload(spool, TrackingServer(shared_tracking_uri).client).error is None
    stands, live = (points(shared_tracking_uri, run_id, key) for key in ("train/l1", "without checkpoint/train/l1"))
    assert stands == sorted(expected.items())
    assert said <= {*stands, *live}
    # What stands is not sent a second time, where its checkpoint is recorded by the time it is sent.
    assert crashes or not live


def test_points_show_at_once_and_stand_when_their_checkpoint_is_stored(tmp_path: Path, tracking_uri: str) -> None:
    client = TrackingServer(tracking_uri).client
    run_id = client.create_run("0").info.run_id
    tracker = Tracker(TrackingServer(tracking_uri), run_id, spool=tmp_path / "s", upload_every_s=600)
    tracker.log_metrics(0, {"val/psnr": 20.0})
    tracker.resume_from(0)
    for step in (1, 2, 3):
        tracker.log_metrics(step, {"train/l1": float(step)})
    upload(tmp_path / "s", client)
    assert points(tracking_uri, run_id, "train/l1") == []
    assert points(tracking_uri, run_id, "without checkpoint/train/l1") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    tracker.commit(2)
    upload(tmp_path / "s", client)
    assert points(tracking_uri, run_id, "train/l1") == [(1, 1.0), (2, 2.0)]
    tracker.log_metrics(2, {"time/step_s": 0.5})
    upload(tmp_path / "s", client)
    assert points(tracking_uri, run_id, "time/step_s") == [(2, 0.5)]
    # The attempt goes back, as a guard does, and takes another way.
    tracker.resume_from(2)
    for step in (3, 4):
        tracker.log_metrics(step, {"train/l1": 10.0 * step})
    tracker.commit(4)
    tracker.close(0)
    assert upload(tmp_path / "s", client).error is None
    assert points(tracking_uri, run_id, "train/l1") == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]
    assert points(tracking_uri, run_id, "val/psnr") == [(0, 20.0)]


def test_an_older_checkpoint_than_the_last_takes_nothing_back_and_repeats_nothing() -> None:
    ledger = Ledger()
    for record in (
        {"k": "branch", "step": 0},
        *({"k": "metrics", "step": step, "v": {"a": 1.0}} for step in range(1, 8)),
        {"k": "commit", "step": 6},
        {"k": "branch", "step": 3},
    ):
        ledger.apply(record)
    assert (ledger.marks, ledger.committed) == ({"a": 6}, 6)


def test_without_checkpoints_every_point_stands_at_once() -> None:
    ledger = Ledger()
    ledger.apply({"k": "commit", "step": 5})
    assert not ledger.is_pending({"k": "metrics", "step": 9, "v": {"a": 1.0}})


def test_a_dashboard_waits_for_no_checkpoint_and_stands_once(tmp_path: Path, tracking_uri: str) -> None:
    client = TrackingServer(tracking_uri).client
    run_id = client.create_run("0").info.run_id
    tracker = Tracker(TrackingServer(tracking_uri), run_id, spool=tmp_path / "s", upload_every_s=600)
    tracker.resume_from(0)
    for step in (1, 2):
        tracker.log_metrics(step, {"dashboard/1 l1": float(step)})
    # The attempt dies, and another one repeats its last step.
    tracker.resume_from(1)
    for step in (2, 3):
        tracker.log_metrics(step, {"dashboard/1 l1": 10.0 + step})
    tracker.close(0)
    upload(tmp_path / "s", client)
    assert points(tracking_uri, run_id, "dashboard/1 l1") == [(1, 1.0), (2, 2.0), (3, 13.0)]
    assert points(tracking_uri, run_id, "without checkpoint/dashboard/1 l1") == []
