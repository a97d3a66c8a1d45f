"""A run begins at the weights or the whole state of another one, which is part of what it is."""

import noise_datasets
import pytest
from tiny_task import TinyConfig

from trainplane.config.load import build
from trainplane.data.manifest import Dataset
from trainplane.errors import RunFailed, UserError
from trainplane.storage import open_store
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.pins import pinned_folders
from trainplane.train.loop import run
from trainplane.train.run_key import RunDir, run_key
from trainplane.train.spec import TrainJob
from trainplane.train.start.prepare import located_start, prepare_start


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return noise_datasets.make(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="module")
def parent(datasets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    return run(job(datasets, folder, config(steps=6, lr_g=0.01, lr_d=0.05)))


def config(**train):
    values = {"steps": 12, "global_batch": 4, "checkpoint_every": 3, "validate_every": 6, "log_every": 2, **train}
    return build(TinyConfig, {"name": "tiny", "data": {"train": "t", "val": "v"}, "train": values})


def job(datasets, folder, settings):
    return TrainJob(settings.model_dump(mode="json"), str(datasets / "train"), str(datasets / "val"), str(folder))


def begun(settings, folder, datasets):
    """Prepares a start as `prepared_run` does; returns the located settings and the report."""
    located = located_start(settings, None)
    dataset = Dataset.open(str(datasets / "train"))
    start = prepare_start(located, None, RunDir("key", folder.name, str(folder)), dataset)
    start.write()
    return located, start.report


def child(parent, **train):
    return config(**{"start_from": parent.checkpoint, "lr_g": 0.001, "lr_d": 0.005, **train})


def test_the_first_prediction_is_the_parents_and_the_report_says_what_was_taken(datasets, tmp_path, parent):
    settings, report = begun(child(parent), tmp_path, datasets)
    first = {}
    outcome = run(
        job(datasets, tmp_path, settings), report=lambda step, metrics: first.setdefault(step, metrics) is not None
    )
    assert first[0] == parent.metrics
    assert report.loaded == {"first": "5 of 5 tensors", "second": "2 of 2 tensors"}
    assert report.digest == settings.train.start_from_digest == parent.state_digest
    assert outcome.told == [str(report)]
    assert "moments of the optimisers fresh (always)" in outcome.told[0]
    # The parent's checkpoint stays, so that the run can be run again.
    assert pinned_folders(open_store(parent.checkpoint.rpartition("/")[0])) == {"step-00000006"}


@pytest.mark.parametrize("stop_after", [1, 4])
def test_interrupted_and_continued_without_the_parent_it_ends_on_the_same_bits(datasets, tmp_path, parent, stop_after):
    settings, _ = begun(child(parent), tmp_path / "straight", datasets)
    straight = run(job(datasets, tmp_path / "straight", settings))
    begun(child(parent), tmp_path / "broken", datasets)
    broken = job(datasets, tmp_path / "broken", settings)
    asked = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        run(broken, interrupted=lambda: next(asked) == stop_after)
    # Every later attempt finds the start in the run's own folder.
    elsewhere = settings.model_copy(update={"train": settings.train.model_copy(update={"start_from": "/gone/step-1"})})
    prepare_start(
        elsewhere, None, RunDir("key", "broken", str(tmp_path / "broken")), Dataset.open(str(datasets / "train"))
    )
    assert run(broken).state_digest == straight.state_digest != parent.state_digest


def test_the_digest_of_the_start_is_part_of_the_key_and_its_address_is_not(parent):
    def key(**train):
        return run_key(config(**train), "ab", None)

    assert key() == key(start_from=None)
    with_start = key(start_from="a", start_from_digest="11")
    assert with_start not in (key(), key(start_from="a", start_from_digest="22"))
    assert with_start == key(start_from="b", start_from_digest="11", start_from_strict=False)
    assert with_start != key(start_from="a", start_from_digest="11", start_state="all")
    assert config().digest() == config(start_from=None).digest()


def test_a_branch_without_changes_ends_as_if_its_parent_had_gone_on(datasets, tmp_path, parent):
    undisturbed = run(job(datasets, tmp_path / "straight", config(steps=12, lr_g=0.01, lr_d=0.05)))
    same = child(parent, start_state="all", lr_g=0.01, lr_d=0.05)
    settings, report = begun(same, tmp_path / "branch", datasets)
    assert (report.step, report.address) == (6, parent.checkpoint)
    assert checkpoints.committed(open_store(str(tmp_path / "branch")))[-1].step == 6
    assert run(job(datasets, tmp_path / "branch", settings)).state_digest == undisturbed.state_digest
    slower, _ = begun(child(parent, start_state="all", lr_g=0.001, lr_d=0.05), tmp_path / "slower", datasets)
    changed = run(job(datasets, tmp_path / "slower", slower))
    assert (changed.step, changed.state_digest != undisturbed.state_digest) == (12, True)


def test_a_branch_of_other_data_goes_on_in_their_order(datasets, tmp_path, parent):
    settings = child(parent, start_state="all", seed=11)
    located, _ = begun(settings, tmp_path, datasets)
    assert run(job(datasets, tmp_path, located)).step == 12


def test_a_branch_beyond_its_last_step_is_refused(datasets, tmp_path, parent):
    with pytest.raises(UserError, match=r"has done 6 steps already, more than train\.steps=4"):
        begun(child(parent, start_state="all", steps=4), tmp_path, datasets)


def test_a_branch_whose_checkpoints_are_gone_does_not_start_over(datasets, tmp_path, parent):
    settings, _ = begun(child(parent, start_state="all"), tmp_path, datasets)
    checkpoints.delete(open_store(str(tmp_path)), "step-00000006")
    with pytest.raises(RunFailed, match="not even the state that the run began at"):
        run(job(datasets, tmp_path, settings))


def test_a_start_that_is_the_run_itself_is_refused(datasets, tmp_path, parent):
    with pytest.raises(UserError, match=r"is of this run itself.*leave train\.start_from out to go on with it"):
        begun(child(parent, lr_g=0.01, lr_d=0.05), tmp_path, datasets)
    assert not list(tmp_path.iterdir())
    # Nothing is left with the parent, either.
    owners = {entry.key for entry in open_store(parent.checkpoint.rpartition("/")[0]).list("pins/")}
    assert not {owner for owner in owners if tmp_path.name in owner}


def test_a_start_that_changed_since_is_refused(datasets, tmp_path, parent):
    with pytest.raises(UserError, match=r"has digest [0-9a-f]{64} now, and train\.start_from_digest is 00;"):
        begun(child(parent, start_from_digest="00"), tmp_path, datasets)


def test_a_checkpoint_of_another_task_is_refused(datasets, tmp_path, parent):
    other = child(parent).model_copy(update={"task": "breakable_task:BreakableTask"})
    with pytest.raises(UserError, match="is a checkpoint of tiny_task:TinyTask, and this run trains breakable_task"):
        begun(other, tmp_path, datasets)


def test_a_damaged_copy_of_the_start_is_told(datasets, tmp_path, parent):
    settings, _ = begun(child(parent), tmp_path, datasets)
    file = tmp_path / "start" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    with pytest.raises(RunFailed, match=r"start/tensors\.safetensors is missing or damaged"):
        run(job(datasets, tmp_path, settings))


def test_settings_of_a_start_without_one_are_refused():
    with pytest.raises(UserError, match=r"train\.start_from is not set; set it, or leave them out"):
        config(start_state="all")
