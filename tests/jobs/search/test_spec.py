"""What cannot be searched is refused in a sentence, with status 2, before anything starts."""

import pytest
from small_run import SMALL

HERE = [word for word in SMALL if not word.startswith("train.workers")]


def refused(isnet, *words):
    ran = isnet("tune", "search_demo", *HERE, "train.workers=1", *words)
    assert (ran.status, ran.out) == (2, ""), ran.err
    assert ran.err.count("\n") == 1, ran.err
    return ran.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["search.objective.metric=val/psnrr"], "did you mean 'val/psnr'"),
        (["search.objective.metric=train/generator"], "no trial reports 'train/generator'"),
        (["search.objective={metric: val/psnr}"], "search.objective.mode is not set"),
        (["search.space.loss.styl.uniform=[1, 2]"], "did you mean 'style'"),
        (["search.space.loss.style.uniform=[2, 1]"], "is empty"),
        (["search.space.model.blocks.choice=[1, 9]"], "model.blocks=9"),
        (["search.space.data.val.choice=[a, b]"], "cannot be compared"),
        (["search.space.train.steps.choice=[1, 2]"], "belongs to the budget"),
        (["search.constraints=['lr_d > lr_g', 'lr_d < lr_g']"], "contradict each other"),
        (["search.constraints=['lr_d <= lr_q']"], "names no setting 'lr_q'"),
        (["search.constraints=['__import__(\"os\")']"], "cannot be used"),
        (["search.budget.steps=3"], "less than one trial of 4 steps"),
        (["search.budget.money=3"], "no price is set"),
        (["train.workers=4", "train.cpus_per_worker=64"], "for the trial itself"),
        (["search.algorithm=pbt"], "cannot change under trained weights"),
        (["search.algorithm=tpe", "search.warm_start=never"], "no search of that name"),
        (["data.val=null"], "needs held-out pictures"),
        (["search.algorithm=annealing"], "search.algorithm"),
        (["search.asha.first=4"], "no trial would ever be stopped early"),
        (["search.register_as=a/b"], "search.register_as='a/b'"),
        (["search.space.model.blocks.choice=[1, 1]"], "names a value twice"),
        # Resources are counted once for all trials: one that needs more than the others could wait forever.
        (["search.space.train.cpus_per_worker.choice=[1, 64]"], "belongs to the budget"),
        (["search.space.name.choice=[a, b]"], "changes nothing that is trained"),
        # Trials that could never start are no result of a search.
        (["search.space.train.global_batch.choice=[4, 4096]"], "fewer than one global batch of 4096"),
        (["name=../up"], "name='../up'"),
        (["search.space.data.masks.choice=[irregular, nowhere]"], "neither a generator"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_starts(isnet_there, words, told):
    assert told in refused(isnet_there, *words)


def test_show_needs_a_search_that_was_run(isnet_there):
    assert "needs a search" in isnet_there("tune", "show").err
    ran = isnet_there("tune", "show", "search_demo", *HERE, "train.workers=1")
    assert ran.status == 2
    assert "has no journal" in ran.err


def test_a_name_given_to_a_search_is_the_searchs(isnet_there):
    ran = isnet_there("tune", "show", "search_demo", *HERE, "train.workers=1", "name=another")
    assert "search 'another' has no journal" in ran.err


def test_a_store_that_cannot_be_written_is_found_before_the_search_is_recorded(isnet, photos, home):
    for name in ("mine", "held"):
        assert isnet("data", "pack", photos, name).status == 0
    (home / "checkpoints").write_text("no folder")
    assert "journal cannot be written to" in refused(isnet)
    assert "search-demo" not in isnet("runs", "list").out


def test_show_looks_and_packs_nothing(isnet, home):
    ran = isnet("tune", "show", "search_demo")
    assert ran.status == 2
    assert "there is no dataset" in ran.err
    assert not (home / "datasets").exists()


def test_registering_needs_one_source(isnet_there):
    assert isnet_there("models", "register", "--name", "x").status == 2
    ran = isnet_there("models", "register", "--from-search", "search_demo", *HERE, "train.workers=1")
    assert ran.status == 2
    assert "has no journal" in ran.err


def test_a_plan_tells_what_a_search_takes_and_starts_nothing(isnet_there):
    words = ["plan", "tune", "search_demo", *HERE, "train.workers=1", "train.steps=27", "search.asha.first=3"]
    found = isnet_there(*words, "search.trials=9", "--json").json()
    assert found["ok"]
    assert (found["trials"], found["rungs"]) == (9, [3, 9, 27])
    # Nine to 3 steps, three of them to 9, one of those to 27.
    assert found["steps_at_most"] == 9 * 3 + 3 * 6 + 18
    refused = isnet_there(*words, "search.budget.steps=3", "--json")
    assert refused.status == 2
    assert not refused.json()["ok"]
