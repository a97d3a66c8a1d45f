"""Schedules of learning rates: functions of the step alone, so that a run taken up again ends on the same bits."""

import itertools

import noise_datasets
import pytest
import torch
from breakable_task import BreakableConfig
from hypothesis import given
from hypothesis import strategies as st

from trainplane.config.load import build
from trainplane.errors import UserError
from trainplane.storage import open_store
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.guard.policy import ALL_PLAYERS
from trainplane.train.loop import run
from trainplane.train.schedule import LrCurve, LrSchedule
from trainplane.train.spec import TrainJob

TRAIN = {"steps": 20, "global_batch": 4, "checkpoint_every": 3, "validate_every": 10, "log_every": 2}
FALLING = {"lr_schedule": "cosine", "lr_warmup": 4, "lr_decay_from": 6, "lr_end": 0.1}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return noise_datasets.make(tmp_path_factory.mktemp("datasets"))


def config(guard=None, harm=None, **train):
    tree = {"name": "t", "data": {"train": "t"}, "train": {**TRAIN, **train}, "guard": guard or {}, "harm": harm or {}}
    return build(BreakableConfig, tree)


def trained(settings, datasets, folder, *, stops=()):
    job = TrainJob(settings.model_dump(mode="json"), str(datasets / "train"), None, str(folder))
    for stop in stops:
        asked = itertools.count(1)
        with pytest.raises(KeyboardInterrupt):
            run(job, interrupted=lambda asked=asked, stop=stop: next(asked) == stop)
    return run(job)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_rates_rise_stand_and_fall(kind):
    schedule = LrCurve(kind=kind, warmup=4, decay_from=10, decay_until=20, end=0.1)
    assert [schedule.factor(index) for index in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert {schedule.factor(index) for index in range(4, 11)} == {1.0}
    assert schedule.factor(15) == pytest.approx(0.55)
    assert [schedule.factor(index) for index in (20, 21, 10**9)] == pytest.approx([0.1, 0.1, 0.1])


def test_a_cosine_leaves_and_arrives_gently_where_a_line_does_not():
    line, cosine = (LrCurve(kind=kind, decay_until=100) for kind in ("linear", "cosine"))
    assert cosine.factor(10) > line.factor(10)
    assert cosine.factor(90) < line.factor(90)


@given(
    st.sampled_from(["constant", "linear", "cosine"]),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(1, 100),
    st.floats(0, 1),
)
def test_no_step_before_the_end_is_without_a_rate_and_none_has_more_than_the_full_one(kind, warmup, stand, fall, end):
    schedule = LrCurve(kind=kind, warmup=warmup, decay_from=warmup + stand, decay_until=warmup + stand + fall, end=end)
    factors = [schedule.factor(index) for index in range(warmup + stand + fall)]
    assert all(0 < factor <= 1 for factor in factors)
    # Once it falls, it never rises again.
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


def test_lowered_rates_and_the_schedule_multiply():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizers = {"g": torch.optim.SGD([weight], lr=1.0), "d": torch.optim.SGD([weight], lr=0.1)}
    rates = LrSchedule(LrCurve(kind="linear", decay_until=10), optimizers)
    slowed = [(2, ALL_PLAYERS), (4, "d"), (6, "g")]
    found = {}
    # Asked in any order, as a run is that was interrupted.
    for index in (5, 0, 2, 5):
        rates.set(index, slowed=slowed, slower=0.5)
        found[index] = rates.metrics()
    assert found == {
        0: {"rate/g": 1.0, "rate/d": 0.1},
        2: {"rate/g": 0.4, "rate/d": pytest.approx(0.04)},
        5: {"rate/g": 0.25, "rate/d": pytest.approx(0.0125)},
    }


HARM = {"key": "_7-", "nan": True}


@pytest.mark.parametrize(
    ("guard", "harm"),
    [({}, {}), ({"non_finite": "lower_rate"}, HARM), ({"non_finite": "roll_back"}, {**HARM, "fused": True})],
    ids=["alone", "and lowered", "and rolled back"],
)
def test_a_run_under_a_schedule_taken_up_again_ends_on_the_same_bits(datasets, tmp_path, guard, harm):
    settings = config(guard, harm, **FALLING)
    straight = trained(settings, datasets, tmp_path / "straight")
    for number, stops in enumerate([(1,), (3, 3), (7,), (12,)]):
        broken = trained(settings, datasets, tmp_path / f"broken-{number}", stops=stops)
        assert broken.state_digest == straight.state_digest, stops
    constant = trained(config(guard, harm), datasets, tmp_path / "constant")
    assert constant.state_digest != straight.state_digest


def test_the_stored_state_says_the_rate_of_its_step(datasets, tmp_path):
    trained(config(**FALLING, keep_checkpoints=99), datasets, tmp_path)
    curve, store = config(**FALLING).train.schedule, open_store(str(tmp_path))
    stored = [checkpoints.read(store, checkpoint).state for checkpoint in checkpoints.committed(store)]
    assert len(stored) > 1
    rates = [state.scalars["param_groups"]["adam"][0]["lr"] for state in stored]
    assert rates == [1e-4 * curve.factor(state.step - 1) for state in stored]


def test_a_run_whose_rates_fall_until_its_last_step_is_another_with_more_steps():
    falls = config(lr_schedule="linear")
    assert config(lr_schedule="linear", steps=30).identity() != falls.identity()
    assert config(lr_schedule="linear", lr_decay_until=20).identity() == falls.identity()
    held = {"lr_schedule": "linear", "lr_decay_until": 20, "lr_end": 0.5}
    assert config(**held, steps=30).identity() == config(**held).identity()
    # Under a constant rate nothing of it is part of what a run is, as before there were schedules.
    assert "rates" not in config().identity()
    assert not [
        name for name in config().identity()["train"] if name.startswith("lr_") and name not in ("lr_g", "lr_d")
    ]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"lr_warmup": 20}, r"train\.lr_warmup=20 does not end within train\.steps=20"),
        ({"lr_decay_from": 5}, r"train\.lr_decay_from=5 and train\.lr_schedule=constant"),
        ({"lr_schedule": "linear", "lr_decay_from": 20}, r"fall from step 20 to 20; need"),
        ({"lr_schedule": "cosine", "lr_warmup": 9, "lr_decay_from": 8}, r"rise until step 9 and fall from step 8"),
        ({"lr_schedule": "cosine", "lr_decay_until": 10}, r"steps would learn nothing"),
        ({"lr_schedule": "linar"}, r"train\.lr_schedule='linar': need constant, linear or cosine"),
        ({"lr_end": 2}, r"train\.lr_end=2"),
    ],
)
def test_a_schedule_that_cannot_be_meant_is_refused(train, words):
    with pytest.raises(UserError, match=words):
        config(**train)
