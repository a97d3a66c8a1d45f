"""Which checkpoints stay, decided purely; and that what is pinned is never removed or overwritten."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainplane.errors import RunFailed, UserError
from trainplane.storage import AccessDenied, open_store
from trainplane.train.checkpoint import pins
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.async_writer import CheckpointWriter
from trainplane.train.checkpoint.resume import drop_checkpoints_after
from trainplane.train.checkpoint.retention import RetentionRules, check_metric, first_of_each, steps_to_keep
from trainplane.train.checkpoint.state import TrainingState

STEPS = st.lists(st.integers(1, 500), unique=True, min_size=1, max_size=25).map(sorted)
VALUES = st.one_of(st.floats(-50, 50), st.sampled_from([math.nan, math.inf, 1.0]))
RULES = st.builds(
    RetentionRules,
    last=st.integers(1, 4),
    best=st.integers(0, 3),
    metric=st.just("val/psnr"),
    mode=st.sampled_from(["max", "min"]),
    every=st.one_of(st.none(), st.integers(1, 120)),
    final=st.one_of(st.none(), st.just(500)),
)


@st.composite
def runs(draw):
    steps = draw(STEPS)
    metrics = draw(st.dictionaries(st.sampled_from(steps), VALUES))
    pinned = draw(st.sets(st.sampled_from([*steps, 999])))
    return steps, metrics, pinned, draw(RULES)


@given(runs())
def test_the_newest_the_fallback_and_the_pinned_stay_and_nothing_else_is_invented(run):
    steps, metrics, pinned, rules = run
    kept = steps_to_keep(steps, metrics=metrics, pins=pinned, rules=rules)
    assert kept <= set(steps)
    assert steps[-1] in kept
    assert pinned & set(steps) <= kept
    if steps[-1] != rules.final:
        assert set(steps[-2:]) <= kept


@given(runs())
def test_asking_again_removes_nothing_more(run):
    steps, metrics, pinned, rules = run
    kept = steps_to_keep(steps, metrics=metrics, pins=pinned, rules=rules)
    assert steps_to_keep(kept, metrics=metrics, pins=pinned, rules=rules) == kept


@given(runs())
def test_asked_after_every_checkpoint_or_once_at_the_end_the_same_stay(run):
    steps, metrics, pinned, rules = run
    present: set[int] = set()
    for step in steps:
        present = steps_to_keep({*present, step}, metrics=metrics, pins=pinned, rules=rules)
    assert present == steps_to_keep(steps, metrics=metrics, pins=pinned, rules=rules)


@given(runs())
def test_no_removed_one_is_better_than_a_kept_best(run):
    steps, metrics, _, rules = run
    kept = steps_to_keep(steps, metrics=metrics, pins=(), rules=rules)
    sign = 1 if rules.mode == "max" else -1
    finite = {step: sign * value for step, value in metrics.items() if math.isfinite(value)}
    best = sorted(finite.values(), reverse=True)[: rules.best]
    assert sorted((value for step, value in finite.items() if step in kept), reverse=True)[: rules.best] == best


@given(runs(), st.data())
def test_damaged_ones_count_for_nothing_and_only_a_pin_keeps_them(run, data):
    steps, metrics, pinned, rules = run
    damaged = data.draw(st.sets(st.sampled_from(steps)))
    kept = steps_to_keep(steps, metrics=metrics, pins=pinned, rules=rules, damaged=damaged)
    good = [step for step in steps if step not in damaged]
    assert kept & damaged == pinned & damaged
    assert kept - damaged == (steps_to_keep(good, metrics=metrics, pins=pinned, rules=rules) if good else set())


@pytest.mark.parametrize(
    ("every", "stay"), [(100, {100, 250, 300}), (200, {250}), (1, {50, 100, 250, 260, 300}), (999, set())]
)
def test_the_first_at_or_after_each_multiple_stays_for_ever(every, stay):
    assert first_of_each([50, 100, 250, 260, 300], every) == stay


def test_best_by_something_that_is_not_measured_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'val/psnr'"):
        check_metric(RetentionRules(last=1, best=1, metric="val/pnsr"), ["val/psnr", "val/ssim"])
    with pytest.raises(UserError, match=r"set data\.val"):
        check_metric(RetentionRules(last=1, best=1, metric="val/psnr"), [])
    check_metric(RetentionRules(last=1), [])


def state(step, value=1.0):
    return TrainingState(step, {"module/g/w": torch.full((2, 3), value)}, {"counters": {}, "param_groups": {}})


def present(store):
    return [checkpoint.key for checkpoint in checkpoints.committed(store)]


def train(store, steps, *, rules, metrics=None, writer=None):
    writer = writer or CheckpointWriter(store, rules)
    for step in steps:
        value = {"val/psnr": metrics[step]} if metrics and step in metrics else {}
        writer.save(state(step), meta={}, metrics=value)
        writer.finish()
    return writer


def test_a_run_keeps_its_best_its_milestones_and_its_last(tmp_path):
    store = open_store(str(tmp_path))
    metrics = {1: 20.0, 2: 30.0, 3: math.nan, 4: 25.0, 6: 29.0}
    rules = RetentionRules(last=1, best=2, metric="val/psnr", every=5, final=8)
    train(store, range(1, 9), rules=rules, metrics=metrics)
    assert present(store) == [f"step-{step:08d}" for step in (2, 5, 6, 8)]
    assert {entry.key.split("/")[0] for entry in store.list()} == set(present(store))


def test_tidying_reads_every_manifest_once(tmp_path, monkeypatch):
    store, reads = open_store(str(tmp_path)), []
    read = type(store).read
    monkeypatch.setattr(type(store), "read", lambda self, key, **args: (reads.append(key), read(self, key, **args))[1])
    writer = train(store, range(1, 9), rules=RetentionRules(last=2, every=1))
    assert sorted(reads) == [f"step-{step:08d}/manifest.json" for step in range(1, 9)]
    # What was written again is read again.
    checkpoints.write(store, state(8, value=2.0), meta={})
    reads.clear()
    train(store, [9], rules=writer.rules, writer=writer)
    assert sorted(reads) == [f"step-{step:08d}/manifest.json" for step in (8, 9)]


def test_what_is_pinned_outlives_the_rules_until_the_last_pin_is_gone(tmp_path):
    store = open_store(str(tmp_path))
    writer = train(store, [1, 2], rules=RetentionRules(last=1))
    assert pins.pin(store, "step-00000001", by="models:/isnet")
    assert not pins.pin(store, "step-00000001", by="models:/isnet")
    pins.pin(store, "step-00000001", by="search 1")
    train(store, [3, 4], rules=RetentionRules(last=1), writer=writer)
    assert present(store) == ["step-00000001", "step-00000003", "step-00000004"]
    pins.unpin(store, "step-00000001", by="models:/isnet")
    train(store, [5], rules=RetentionRules(last=1), writer=writer)
    assert "step-00000001" in present(store)
    pins.unpin(store, "step-00000001", by="search 1")
    train(store, [6], rules=RetentionRules(last=1), writer=writer)
    assert present(store) == ["step-00000005", "step-00000006"]


def test_a_pinned_step_that_is_stored_again_lies_beside_the_old_one(tmp_path):
    store = open_store(str(tmp_path))
    first = checkpoints.write(store, state(3, 1.0), meta={})
    pins.pin(store, first.key, by="models:/isnet")
    second = checkpoints.write(store, state(3, 2.0), meta={})
    assert second.key == "step-00000003.2"
    assert checkpoints.newest_good(store).state.digest() == state(3, 2.0).digest()
    assert checkpoints.read(store, first).state.digest() == state(3, 1.0).digest()


def test_going_back_behind_a_pinned_one_leaves_it_readable_and_never_goes_on_from_it(tmp_path):
    store = open_store(str(tmp_path))
    writer = train(store, [10, 20, 30, 40], rules=RetentionRules(last=9))
    pins.pin(store, "step-00000030", by="models:/isnet")
    drop_checkpoints_after(store, 20)
    assert present(store) == ["step-00000010", "step-00000020"]
    assert checkpoints.newest_good(store).checkpoint.step == 20
    _, found = checkpoints.open_address(f"{tmp_path}/step-00000030")
    assert checkpoints.read(store, found).state.step == 30
    train(store, [30], rules=RetentionRules(last=9), writer=writer)
    assert present(store)[-1] == "step-00000030.2"
    # Let go of, it is swept up.
    pins.unpin(store, "step-00000030", by="models:/isnet")
    train(store, [40], rules=RetentionRules(last=9), writer=writer)
    assert store.size("step-00000030/manifest.json") is None


def test_a_damaged_newest_one_never_costs_the_good_one_that_the_run_went_on_from(tmp_path):
    store = open_store(str(tmp_path))
    train(store, [10, 20, 30], rules=RetentionRules(last=9))
    for step in (20, 30):
        store.write(f"step-{step:08d}/tensors.safetensors", b"not what the manifest says")
    good = checkpoints.newest_good(store)
    assert good.checkpoint.step == 10
    writer = CheckpointWriter(store, RetentionRules(last=1))
    writer.resume_from(good.checkpoint)
    train(store, [15], rules=RetentionRules(last=1), writer=writer)
    # Two stay while the run goes on; the damaged ones are not among them.
    assert present(store) == ["step-00000010", "step-00000015"]


class Interrupted(BaseException):
    """Stands for a kill between two deletions."""


@pytest.mark.parametrize("survives", range(4))
def test_a_kill_while_removing_leaves_nothing_that_reads_as_a_checkpoint_and_is_swept_up_later(
    tmp_path, survives, monkeypatch
):
    store = open_store(str(tmp_path))
    checkpoints.write(store, state(1), meta={})
    whole, count = type(store).delete, iter(range(99))

    def delete(self, key):
        if next(count) == survives:
            raise Interrupted
        whole(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "delete", delete)
        with pytest.raises(Interrupted):
            checkpoints.delete(store, "step-00000001")
    left = checkpoints.newest_good(store)
    assert (left is not None) == (survives == 0)
    train(store, [2, 3, 4], rules=RetentionRules(last=2, final=4))
    assert {entry.key.split("/")[0] for entry in store.list()} == {"step-00000003", "step-00000004"}
    # No empty folders are left of the others.
    assert {path.name for path in tmp_path.glob("step-*")} == {"step-00000003", "step-00000004"}


def test_a_pin_that_came_too_late_is_taken_back_and_said(tmp_path):
    store = open_store(str(tmp_path))
    train(store, [1], rules=RetentionRules(last=1))
    with pytest.raises(RunFailed, match="was removed while"), pins.pinned(store, "step-00000001", by="models:/isnet"):
        checkpoints.delete(store, "step-00000001")
    assert pins.pinned_folders(store) == set()


def test_a_failed_use_lets_go_and_one_that_was_pinned_before_stays_so(tmp_path):
    store = open_store(str(tmp_path))
    train(store, [1], rules=RetentionRules(last=1))
    for expected in (set(), {"step-00000001"}):
        with pytest.raises(KeyError), pins.pinned(store, "step-00000001", by="models:/isnet"):
            raise KeyError
        assert pins.pinned_folders(store) == expected
        pins.pin(store, "step-00000001", by="models:/isnet")


def test_a_checkpoint_that_may_not_be_pinned_is_used_all_the_same(tmp_path, monkeypatch, caplog):
    store = open_store(str(tmp_path))
    train(store, [1], rules=RetentionRules(last=1))
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "create", lambda *_: (_ for _ in ()).throw(AccessDenied("refuses to create")))
        with pins.pinned(store, "step-00000001", by="models:/isnet"):
            pass
        with pytest.raises(RunFailed, match="was removed while"), pins.pinned(store, "step-00000001", by="m"):
            checkpoints.delete(store, "step-00000001")
    assert "used without a pin" in caplog.text
    assert pins.pinned_folders(store) == set()
