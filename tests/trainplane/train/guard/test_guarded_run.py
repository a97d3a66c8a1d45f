"""The guard in the loop: a sample that does harm, every answer to it, and the same end after an interruption."""

import json
import os
import weakref

import noise_datasets
import pytest
import safetensors.torch
import torch
from breakable_task import BreakableConfig, BreakableTask
from torch.utils._python_dispatch import TorchDispatchMode

from trainplane.config.load import build
from trainplane.storage import open_store
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.state import is_finite
from trainplane.train.errors import Diverged
from trainplane.train.guard.gradient_check import GradientCheck
from trainplane.train.loop import run
from trainplane.train.spec import NullProgress, TrainJob
from trainplane.train.world import World

# One of 21 samples; batches of four meet it once in five steps.
NAN = {"key": "_7-", "nan": True}
HUGE = {"key": "_7-", "factor": 1e4}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return noise_datasets.make(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def train(datasets, tmp_path):
    """Trains 20 steps in a folder of that name, broken off after the given steps and taken up again."""

    def go(folder, *, guard=None, harm=None, stops=(), **settings):
        values = {"steps": 20, "global_batch": 4, "checkpoint_every": 3, "validate_every": 10, "log_every": 2}
        config = build(
            BreakableConfig,
            {
                "name": "t",
                "data": {"train": "t"},
                "train": {**values, **settings},
                "guard": guard or {},
                "harm": harm or {},
            },
        )
        job = TrainJob(config.model_dump(mode="json"), str(datasets / "train"), None, str(tmp_path / folder))
        for stop in stops:
            # Whoever was told to stop goes on being told so.
            asked = iter(range(1, 1000))
            with pytest.raises(KeyboardInterrupt):
                run(job, interrupted=lambda asked=asked, stop=stop: next(asked) >= stop)
        return run(job)

    return go


ANSWERS = {
    "skip": ({"non_finite": "skip"}, NAN),
    "skip, fused": ({"non_finite": "skip"}, {**NAN, "fused": True}),
    "lower the rate": ({"non_finite": "lower_rate"}, NAN),
    "roll back": ({"non_finite": "roll_back"}, NAN),
    "explosion": ({"exploding": "skip", "norm_factor": 20, "norm_window": 6}, HUGE),
    "explosion, back": ({"exploding": "roll_back", "norm_factor": 20, "norm_window": 6}, HUGE),
    "broken state": ({"budget": 60}, {**NAN, "poison_buffer": True}),
    "balance": ({"unbalanced": "lower_rate", "balance": {"loss": [None, 1e-9]}, "patience": 3}, {}),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_after_every_answer_the_run_ends_finite_and_an_interrupted_one_on_the_same_bits(train, name):
    guard, harm = ANSWERS[name]
    straight = train("straight", guard=guard, harm=harm)
    assert straight.told, "nothing happened"
    for number, stops in enumerate([(1,), (4, 3), (10,), (13,)]):
        broken = train(f"broken-{number}", guard=guard, harm=harm, stops=stops)
        assert broken.state_digest == straight.state_digest, stops


def test_going_back_lets_go_of_the_first_model_before_it_builds_the_second(train, monkeypatch):
    alive, most = weakref.WeakSet(), []
    built = BreakableTask.__init__

    def count(self, *arguments):
        built(self, *arguments)
        alive.add(self)
        most.append(len(alive))

    monkeypatch.setattr(BreakableTask, "__init__", count)
    monkeypatch.setattr("trainplane.train.setup.SMALL_MODEL_BYTES", 0)
    assert train("back", guard={"non_finite": "roll_back"}, harm=NAN).told
    assert len(most) >= 2
    assert max(most) == 1


def test_no_checkpoint_ever_holds_a_number_that_is_not_finite(train, tmp_path):
    for harm in (NAN, {**NAN, "fused": True}, {**NAN, "poison_buffer": True}):
        folder = f"kept-{len(list(tmp_path.iterdir()))}"
        train(folder, guard={"budget": 60}, harm=harm, keep_checkpoints=99)
        store = open_store(str(tmp_path / folder))
        kept = [checkpoints.read(store, one).state for one in checkpoints.committed(store)]
        assert len(kept) >= 6
        assert all(t.isfinite().all() for state in kept for t in state.tensors.values() if t.is_floating_point())


def test_a_skipped_step_moves_nothing_and_a_passed_over_batch_leads_to_the_same_weights(train, tmp_path):
    # The counter differs: a step that was passed over never ran.
    def weights(folder):
        store = open_store(str(tmp_path / folder))
        return {k: v for k, v in checkpoints.newest_good(store).state.tensors.items() if k.startswith("module/")}

    train("skip", guard={"non_finite": "skip"}, harm=NAN)
    train("back", guard={"non_finite": "roll_back"}, harm=NAN)
    train("buffer", guard={"budget": 60}, harm={**NAN, "poison_buffer": True})
    skipped = weights("skip")
    assert skipped
    for other in ("back", "buffer"):
        assert all(torch.equal(value, weights(other)[key]) for key, value in skipped.items())


def test_the_guard_changes_nothing_where_nothing_is_wrong(train):
    for fused in (False, True):
        harm = {"fused": fused}
        on = train(f"on-{fused}", harm=harm)
        off = train(f"off-{fused}", harm=harm, guard={"norm_factor": None})
        assert (on.state_digest, on.told) == (off.state_digest, [])


def test_stop_ends_the_run_with_the_step_the_norms_and_the_batch(train, tmp_path):
    with pytest.raises(Diverged, match=r"stopped at step \d+: non-finite gradients in step \d+ .*adam not fin") as end:
        train("stop", guard={"non_finite": "stop"}, harm=NAN)
    (folder,) = (tmp_path / "stop" / "faults").iterdir()
    assert str(folder) in str(end.value)
    about = json.loads((folder / "samples.json").read_text())
    assert sum("_7-" in sample["key"] for sample in about["samples"]) == 1
    assert about["norms"] == {"adam": None, "sgd": None}
    batch = safetensors.torch.load_file(folder / "rank-0.safetensors")
    assert batch["y"].isnan().sum() == 1
    assert batch["x"].shape == (4, 8)


def test_only_so_many_batches_are_kept(train, tmp_path):
    train("few", guard={"saved_batches": 1}, harm=NAN)
    assert len(list((tmp_path / "few" / "faults").iterdir())) == 1


def test_a_run_that_goes_back_for_balance_is_slower_from_where_it_was_lost(train, tmp_path):
    guard = {"unbalanced": "roll_back", "balance": {"loss": [None, 1e-9]}, "patience": 5, "budget": 2}
    with pytest.raises(Diverged, match=r"the loss wins: loss=.* is above 1e-09 since step 0"):
        train("lost", guard=guard, keep_checkpoints=9)
    # It was out of bounds from the start, so it went back to the oldest checkpoint, twice.
    state = checkpoints.newest_good(open_store(str(tmp_path / "lost"))).state
    rates = {name: group["lr"] for name, (group,) in state.scalars["param_groups"].items()}
    assert state.step == 6
    assert rates == pytest.approx({"adam": 1e-4, "sgd": 1e-5 / 4})


@pytest.fixture
def watched():
    config = build(BreakableConfig, {"name": "t", "data": {"train": "t"}, "train": {"steps": 1, "global_batch": 1}})
    return BreakableTask(config, torch.device("cpu"))


def test_every_number_of_the_state_is_looked_at(watched):
    assert bool(is_finite(watched))
    watched.first[1].running_var[3] = float("inf")
    assert not bool(is_finite(watched))


def test_one_player_beyond_its_limit_holds_all_of_them(watched):
    check = GradientCheck(watched, world=World())
    check.set_limits({"adam": 1e-9})
    before = [p.detach().clone() for p in (*watched.first.parameters(), *watched.second.parameters())]
    batch = {"x": torch.ones(2, 8), "y": torch.zeros(2, 1)}
    check.start()
    shares = watched.step([batch], global_batch=2, reduce=World())
    check.finish(0, shares)
    (observed,) = check.observe()
    assert observed.blocked
    assert observed.is_finite
    assert observed.norms["sgd"] > 0
    after = [*watched.first.parameters(), *watched.second.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert check.observe() == []


class Readings(TorchDispatchMode):
    """Counts how often a value is read from the device, for which the host would have to wait."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_watching_fused_adam_never_waits_for_the_device(watched):
    watched.sgd = torch.optim.Adam(watched.second.parameters(), fused=True)
    watched.adam = torch.optim.Adam(watched.first.parameters(), fused=True)
    check = GradientCheck(watched, world=World())
    batch = {"x": torch.ones(2, 8), "y": torch.full((2, 1), float("nan"))}
    with Readings() as readings:
        for index in range(3):
            check.start()
            check.finish(index, watched.step([batch], global_batch=2, reduce=World()))
    assert readings.count == 0
    assert [observation.blocked for observation in check.observe()] == [True] * 3
    assert bool(is_finite(watched))


def _rank(rank, folder, datasets, rendezvous):
    """One of two ranks; only the second one meets the harmful sample."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    values = {"steps": 20, "global_batch": 4, "checkpoint_every": 3, "validate_every": 10, "log_every": 2}
    digests = []
    for name in ("skip", "roll_back"):
        config = build(
            BreakableConfig,
            {
                "name": "t",
                "data": {"train": "t"},
                "train": {**values, "workers": 2},
                "guard": {"non_finite": name},
                "harm": {**NAN, "poison_buffer": name == "skip"},
            },
        )
        job = TrainJob(config.model_dump(mode="json"), f"{datasets}/train", None, f"{folder}/{name}")
        # Rank 1 is told to stop, and all do.
        asked = iter(range(1, 1000))
        with pytest.raises(KeyboardInterrupt):
            run(job, interrupted=lambda asked=asked: next(asked) >= 7 and rank == 1)
        outcome = run(job, progress=NullProgress())
        straight = run(TrainJob(**{**job.__dict__, "checkpoints": f"{folder}/straight-{name}"}))
        digests.append((outcome.state_digest, straight.state_digest))
    torch.distributed.destroy_process_group()
    if rank == 0:
        with open(f"{folder}/digests.json", "w") as file:
            json.dump(digests, file)


def test_two_ranks_decide_alike_and_one_ranks_notice_stops_both(datasets, tmp_path):
    import torch.multiprocessing as mp

    mp.start_processes(
        _rank, args=(str(tmp_path), str(datasets), str(tmp_path / "meet")), nprocs=2, start_method="fork"
    )
    for resumed, straight in json.loads((tmp_path / "digests.json").read_text()):
        assert resumed == straight != ""
    faults = {path.name for path in (tmp_path / "straight-roll_back" / "faults").rglob("rank-*")}
    assert faults == {"rank-0.safetensors", "rank-1.safetensors"}
