"""Whole searches in this process: real trainings, checkpoints and MLflow, with Ray left out."""

from collections import Counter

import noise_datasets
import pytest
from nan_task import NanConfig

from trainplane.cluster.context import local
from trainplane.config.load import build
from trainplane.config.overrides import apply_overrides
from trainplane.search.config import SearchSettings
from trainplane.search.policy.budget import CostRates
from trainplane.search.run.driver import Driver
from trainplane.search.run.journal import open_journal
from trainplane.search.run.launch import Search, assignment_builder, pin_donor, release_donors
from trainplane.search.run.ray_tune import TuneBridge
from trainplane.search.run.trial import Assignment, train_item
from trainplane.search.space import Space, set_dotted
from trainplane.storage import open_store
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.runs import find_or_create_run
from trainplane.train.checkpoint.store import open_address, read

NUMBERS = {"trouble.number": {"choice": list(range(8))}}
RANK = {"metric": "val/rank", "mode": "min"}


class Here:
    """A context of the test's own, and searches in it."""

    def __init__(self, folder, tracking):
        noise_datasets.make(folder / "datasets")
        self.context = local(folder).at(tracking=tracking)
        self.parent = find_or_create_run(
            TrackingServer(tracking),
            RunSpec("tiny", run_key="p", run_name="p", tags={}, artifact_root=str(folder / "artifacts")),
        ).run_id

    def search(self, *, train=None, trouble=None, guard=None, **settings):
        base = {
            "name": "tiny",
            "task": "nan_task:NanTask",
            "data": {"train": "train", "val": "val", "val_samples": 5},
            "train": {"steps": 9, "global_batch": 4, "checkpoint_every": 3, "validate_every": 1, "log_every": 1}
            | {"lr_g": 0.01, "lr_d": 0.01, "threads": 1, **(train or {})},
            "tracking": {"experiment": "tiny", "gallery": 0},
            "trouble": trouble or {},
            "guard": guard or {},
        }

        def configure(number, drawn, segment):
            tree = apply_overrides(base, [])
            for name, value in drawn.items():
                set_dotted(tree, name, value)
            tree["name"] = f"tiny-{number}" + (f"-g{segment}" if segment else "")
            return build(NanConfig, tree)

        made = build(SearchSettings, settings)
        return Search("tiny", "key", made, Space.of(made, {}), configure(0, {}, 0).train, configure)

    def run(self, search, *, items=None, width=1):
        """Train items one after the other, as a driver of so many slots hands them out; at most so many of them."""
        with open_journal(open_store(self.context.checkpoints), search.folder) as journal:
            driver = Driver.resume(search.plan(CostRates(1.0)), journal, key=search.key, width=width)
            driver.pin_donor = lambda takeover: pin_donor(takeover, self.parent)
            bridge = TuneBridge(driver, assignment_builder(search, driver.state))
            while items is None or items > 0:
                name = f"item-{len(journal.records)}-{len(driver.running)}"
                described = bridge.next_config(name)
                if described is None:
                    break
                train_item(
                    Assignment(**described),
                    self.context,
                    parent_run_id=self.parent,
                    emit=lambda message, name=name: bridge.handle(name, message),
                )
                bridge.on_complete(name, error=False)
                items = items if items is None else items - 1
            if driver.is_over:
                release_donors(driver.state, self.parent)
            return driver.state

    def children(self):
        client = TrackingServer(self.context.tracking).client
        runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
        return client, [run for run in runs if "mlflow.parentRunId" in run.data.tags]


@pytest.fixture
def here(tmp_path, tracking_uri, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Here(tmp_path, tracking_uri)


@pytest.mark.nightly
def test_a_metric_that_is_nan_from_the_start_costs_no_step(here):
    state = here.run(
        here.search(trouble={"nan_in": "metric"}, algorithm="grid", asha={"first": 1}, objective=RANK, space=NUMBERS)
    )
    lost = [trial for trial in state.trials.values() if trial.status == "nan"]
    assert [(trial.settings["trouble.number"], trial.step) for trial in lost] == [(3, 0), (7, 0)]
    assert state.trials[0].status == "finished"
    assert sum(state.usage.steps.get(trial.number, 0) for trial in lost) == 0


def test_a_loss_that_is_nan_ends_a_trial_at_the_guards_word(here):
    state = here.run(
        here.search(
            trouble={"nan_in": "loss", "every": 2},
            guard={"non_finite": "stop"},
            algorithm="grid",
            objective=RANK,
            space={"trouble.number": {"choice": [0, 1]}},
        )
    )
    assert [trial.status for trial in state.trials.values()] == ["finished", "nan"]
    assert state.trials[1].step <= 1
    assert "not finite" in state.trials[1].error or "NaN" in state.trials[1].error


@pytest.mark.nightly
def test_stopped_between_items_it_goes_on_and_each_trial_is_one_run_with_each_step_once(here):
    search = here.search(algorithm="grid", asha={"first": 1}, objective=RANK, space=NUMBERS)
    for _ in range(4):
        here.run(search, items=3)
    state = here.run(search)
    assert {step: len(rung) for step, rung in state.rungs.items()} == {1: 8, 3: 2, 9: 1}
    assert state.usage.total_steps == 8 + 2 * 2 + 6
    assert state.usage.repeated == 0
    client, children = here.children()
    assert len(children) == 8
    assert {run.info.status for run in children} == {"FINISHED"}
    for run in children:
        steps = Counter(point.step for point in client.get_metric_history(run.info.run_id, "val/rank"))
        assert set(steps.values()) == {1}


@pytest.mark.nightly
def test_a_rung_is_a_place_on_the_way_and_changes_nothing_of_the_training(here):
    """Trained in pieces it ends on the bits of a training in one go."""
    numbers = {"trouble.number": {"choice": [0]}}
    pieces = here.run(here.search(algorithm="grid", asha={"first": 1}, objective=RANK, space=numbers))
    whole = here.search(algorithm="grid", objective=RANK, space=numbers)
    # The same training under another name.
    whole = Search("whole", "other", whole.settings, whole.space, whole.train, _renamed(whole.configure))
    straight = here.run(whole)
    digests = [open_address(state.trials[0].checkpoint)[1].state_digest for state in (pieces, straight)]
    assert digests[0] == digests[1]


def _renamed(configure):
    return lambda number, drawn, segment: configure(number, drawn, segment).model_copy(update={"name": "whole"})


@pytest.mark.nightly
def test_a_population_takes_over_weights_and_settings_within_one_run_for_each_member(here):
    search = here.search(
        algorithm="pbt",
        pbt={"population": 2, "every": 3, "quantile": 0.5, "resample": 0},
        objective={"metric": "val/error", "mode": "min"},
        space={"train.lr_g": {"log_uniform": [1e-5, 0.3]}, "train.lr_d": {"log_uniform": [1e-5, 0.3]}},
    )
    state = here.run(search, items=4)
    (taker,) = [trial for trial in state.trials.values() if trial.donor]
    # Weights are the donor's, rates the taker's own.
    store = open_store(here.context.checkpoints)
    key = next(e.key for e in store.list(f"tiny-{taker.number}-g1") if e.key.endswith("step-00000003/manifest.json"))
    loaded = read(*open_address(f"{store.address}/{key.removesuffix('/manifest.json')}"))
    assert loaded.state.scalars["param_groups"]["adam"][0]["lr"] == pytest.approx(taker.settings["train.lr_g"])
    assert loaded.state.scalars["counters"] == {"num_steps": 3}

    state = here.run(search)
    assert {trial.step for trial in state.trials.values()} == {9}
    assert sum(len(trial.lineage) for trial in state.trials.values()) == 2
    client, children = here.children()
    assert len(children) == 2
    points = client.get_metric_history(state.trials[taker.number].run_id, "setting/train.lr_g")
    assert points[0].step == 3
    # Nobody holds on to a donor's checkpoint once the search is over.
    assert not [entry.key for entry in store.list() if "/pins/" in entry.key]


def test_a_trial_whose_settings_cannot_be_trained_fails_alone_and_says_why(here):
    state = here.run(here.search(algorithm="grid", objective=RANK, space={"train.global_batch": {"choice": [4, 400]}}))
    assert [trial.status for trial in state.trials.values()] == ["finished", "failed"]
    assert "fewer than one global batch" in state.trials[1].error
