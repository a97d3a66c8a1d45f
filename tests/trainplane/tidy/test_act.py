"""Removal from real folders: what became needed after the plan is kept, and a kill loses nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from small_datasets import items, make
from stored_run import store_run

from trainplane.data.grow.derive import derive
from trainplane.data.grow.inheritance import whole
from trainplane.data.manifest import Dataset
from trainplane.data.verify import verify
from trainplane.errors import UserError
from trainplane.storage import open_store
from trainplane.tidy.act import StillUsed, act
from trainplane.tidy.datasets import DatasetRemover, list_datasets
from trainplane.tidy.datasets import restore_hidden as restore_datasets
from trainplane.tidy.decide import TidyPlan, decide
from trainplane.tidy.inventory import KINDS, Inventory, Item, TidyRules
from trainplane.tidy.local import CacheRemover, SpoolRemover, list_local
from trainplane.tidy.runs import RunRemover, list_runs, restore_hidden
from trainplane.tracking.spool.spool import Acknowledged, write_acknowledged
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.fencing import FencingToken
from trainplane.train.checkpoint.pins import pin
from trainplane.train.errors import Superseded

NOW = TidyRules(0.0)


def a_run(store: Path, name: str, steps: tuple[int, ...], **train: object) -> Path:
    store_run(f"{store}/{name}", steps, **train)
    return store / name


def seen(home: Path, *, alive: dict[str, str] | None = None, with_newest: bool = False) -> Inventory:
    found = [
        *list_runs(str(home / "checkpoints"), alive or {}),
        *list_datasets(str(home / "datasets"), resolve=lambda name: f"{home}/datasets/{name}", with_newest=with_newest),
        *list_local(home),
    ]
    return Inventory(tuple(found), time.time() + 1)


def plan_of(home: Path, **looking: bool) -> TidyPlan:
    return decide(seen(home, **looking), NOW)  # type: ignore[arg-type]


def remove(home: Path, plan: TidyPlan, meanwhile: Callable[[], None] = lambda: None, **looking: bool):
    runs = RunRemover()
    removers = {
        "run": runs,
        "checkpoint": runs,
        "dataset": DatasetRemover(),
        "cache": CacheRemover(),
        "spool": SpoolRemover(),
    }

    def look() -> Inventory:
        meanwhile()
        return seen(home, **looking)  # type: ignore[arg-type]

    return act(plan, NOW, removers, look)


def names(home: Path) -> set[str]:
    return {path.name for path in (home / "checkpoints").glob("*/step-*")}


def test_of_an_ended_run_newest_best_and_pinned_stay_and_without_them_it_goes(tmp_path: Path) -> None:
    run = a_run(tmp_path / "checkpoints", "keep", (2, 4, 6, 8), keep_best=1, best_metric="val/psnr")
    old = a_run(tmp_path / "checkpoints", "old", (1, 3))
    child = a_run(tmp_path / "checkpoints", "child", (5,), start_from=f"{run}/step-00000002")
    pin(open_store(str(run)), "step-00000008", by="models:/m")
    pin(open_store(str(child)), "step-00000005", by="models:/m")
    plan = plan_of(tmp_path)
    assert plan.addresses == {
        str(run / "step-00000006"), str(old), str(old / "step-00000001"), str(old / "step-00000003"),
    }  # fmt: skip
    reasons = {one.item.address: one.reason for one in plan.needed}
    assert reasons[str(run / "step-00000008")] == "pinned by models:/m"
    assert reasons[str(run / "step-00000002")] == f"run {child}"
    result = remove(tmp_path, plan)
    assert result.kept == ()
    assert not old.exists()
    assert names(tmp_path) == {"step-00000002", "step-00000004", "step-00000008", "step-00000005"}
    assert [c.step for c in checkpoints.committed(open_store(str(run)))] == [2, 4, 8]
    for checkpoint in checkpoints.committed(open_store(str(run))):
        checkpoints.read(open_store(str(run)), checkpoint)


@pytest.mark.parametrize("moment", ["before the fence", "after it"])
@pytest.mark.parametrize("what", ["pinned", "resumed", "running", "start of another"])
def test_what_became_needed_after_the_plan_is_kept(tmp_path: Path, what: str, moment: str) -> None:
    run = a_run(tmp_path / "checkpoints", "old", (1, 3))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "attempt.json"}
    alive: dict[str, str] = {}

    def need() -> None:
        if what == "pinned":
            for step in (1, 3):
                pin(open_store(str(run)), f"step-0000000{step}", by="models:/m")
        elif what == "resumed":
            FencingToken.acquire(open_store(str(run)))
        elif what == "running":
            alive[str(run)] = "a running job"
        else:
            child = a_run(tmp_path / "checkpoints", "child", (7,), start_from=f"{run}/step-00000003")
            pin(open_store(str(run)), "step-00000003", by="run child")
            pin(open_store(str(run)), "step-00000001", by="run child")
            pin(open_store(str(child)), "step-00000007", by="models:/m")

    plan = plan_of(tmp_path)
    if moment == "before the fence":
        need()
        result = remove(tmp_path, plan, alive=alive)  # type: ignore[arg-type]
    else:
        result = remove(tmp_path, plan, need, alive=alive)  # type: ignore[arg-type]
    assert not result.gone
    assert all(one.reason for one in result.kept)
    after = {path: path.read_bytes() for path in before}
    assert after == before


def test_a_pin_between_the_last_look_and_the_deletion_brings_the_checkpoint_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path / "checkpoints", "old", (1, 3))
    plan, store = plan_of(tmp_path), open_store(str(run))
    look = checkpoints.pins.pinned_folders

    def pinned_first(opened: object) -> set[str]:
        pin(store, "step-00000003", by="models:/m")
        return look(store)

    monkeypatch.setattr("trainplane.tidy.runs.pins.pinned_folders", pinned_first)
    result = remove(tmp_path, plan)
    assert {item.address for item in result.gone} == {str(run / "step-00000001")}
    assert [c.step for c in checkpoints.committed(store)] == [3]


def test_an_attempt_that_begins_meanwhile_stops_the_removal(tmp_path: Path) -> None:
    run = a_run(tmp_path / "checkpoints", "old", (1, 3, 5))
    store = open_store(str(run))
    item = next(one.item for one in plan_of(tmp_path).removals if one.item.address.endswith("step-00000001"))
    remover = RunRemover()
    remover.prepare(item)
    FencingToken.acquire(store)
    with pytest.raises(Superseded):
        remover.remove(item)
    assert [c.step for c in checkpoints.committed(store)] == [1, 3, 5]


def test_killed_at_any_deletion_what_is_needed_is_whole(tmp_path: Path) -> None:
    deaths = 0
    for count in range(1, 12, 2):
        home = tmp_path / str(count)
        run = a_run(home / "checkpoints", "keep", (2, 4, 6))
        pin(open_store(str(run)), "step-00000006", by="models:/m")
        plan, child = plan_of(home), os.fork()
        if not child:
            unlink, calls = Path.unlink, [0]

            def dying(path: Path, missing_ok: bool = False, unlink=unlink, calls=calls, count=count) -> None:
                calls[0] += 1
                if calls[0] == count:
                    os.kill(os.getpid(), signal.SIGKILL)
                unlink(path, missing_ok=missing_ok)

            Path.unlink = dying  # type: ignore[method-assign, assignment]
            remove(home, plan)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        deaths += os.WIFSIGNALED(status)
        restore_hidden(str(home / "checkpoints"))
        for checkpoint in checkpoints.committed(open_store(str(run))):
            checkpoints.read(open_store(str(run)), checkpoint)
        assert checkpoints.committed(open_store(str(run)))[-1].step == 6
        # And it can be run again.
        remove(home, plan_of(home))
        assert names(home) == {"step-00000006"}
    assert deaths >= 4


def test_the_token_that_a_killed_removal_left_goes_next_time(tmp_path: Path) -> None:
    run = a_run(tmp_path / "checkpoints", "old", ())
    (run / "run.json").unlink()
    assert plan_of(tmp_path).addresses == {str(run)}
    assert remove(tmp_path, plan_of(tmp_path)).kept == ()
    assert not run.exists()


def test_a_version_that_shares_its_shards_stays_and_a_superseded_one_goes(tmp_path: Path) -> None:
    first = make(tmp_path / "datasets" / "mine", 20)
    shared = derive([whole(first)], f"{first.address}/versions/000002", how="add", name="mine", entries=_new(2))
    fresh = make(tmp_path / "datasets" / "mine" / "versions" / "000003", 10, seed=5)
    again = derive([whole(fresh)], f"{first.address}/versions/000004", how="add", name="mine", entries=_new(4))
    plan = plan_of(tmp_path)
    assert plan.addresses == {first.address, shared.address}
    assert remove(tmp_path, plan).kept == ()
    assert verify(Dataset.open(fresh.address)) == verify(Dataset.open(again.address)) == []
    with pytest.raises(UserError, match="there is no dataset"):
        Dataset.open(first.address)


def test_a_dataset_that_gets_a_sharer_while_it_is_hidden_comes_back_or_the_sharer_does_not_exist(
    tmp_path: Path,
) -> None:
    first = make(tmp_path / "datasets" / "mine", 20)
    plan = plan_of(tmp_path, with_newest=True)
    assert plan.addresses == {first.address}
    target, refused = f"{tmp_path}/datasets/part", []

    def share() -> None:
        # The dataset was opened before it was hidden, so its samples can still be read.
        try:
            derive([whole(first)], target, how="subset", name="part")
        except UserError as error:
            refused.append(str(error))

    result = remove(tmp_path, plan, share, with_newest=True)
    assert refused == [f"{first.address} was removed meanwhile; name a version that is there"]
    assert not Path(target, "manifest.json").exists()
    assert not Path(first.address, "shard-000000.tar").exists()
    assert len(result.gone) == 1
    # The other way round: the sharer stands, then the dataset is hidden, and comes back.
    first = make(tmp_path / "datasets" / "mine", 20)
    plan = plan_of(tmp_path, with_newest=True)
    derive([whole(first)], target, how="subset", name="part")
    pinned = open_store(target)
    # By the rules both could go, but only one was in the plan: the other stays, and needs it.
    assert plan_of(tmp_path, with_newest=True).addresses == {first.address, target}
    result = remove(tmp_path, plan, with_newest=True)
    assert not result.gone
    reasons = {Path(one.item.address).name: one.reason for one in result.kept}
    assert reasons == {"part": "it was packed meanwhile", "mine": f"dataset {target}"}
    assert verify(Dataset.open(pinned)) == []
    assert verify(Dataset.open(first.address)) == []


def test_a_dataset_that_a_killed_removal_hid_is_shown_again(tmp_path: Path) -> None:
    first = make(tmp_path / "datasets" / "mine", 20)
    item = plan_of(tmp_path, with_newest=True).removals[0].item
    DatasetRemover().prepare(item)
    # Hidden, it is still in the inventory, under the same digest.
    assert plan_of(tmp_path, with_newest=True).removals[0].item.names == item.names
    assert restore_datasets(f"{tmp_path}/datasets") == 1
    assert Dataset.open(first.address).digest == first.digest


def test_what_cannot_go_after_all_keeps_what_it_needs() -> None:
    version = Item("version", "models:/m/1", 0, 0.0, needs=frozenset({"run/step-1"}))
    checkpoint = Item("checkpoint", "run/step-1", 5, 0.0, needs=frozenset({"run"}))
    inventory = Inventory((version, checkpoint, Item("run", "run", 1, 0.0), Item("cache", "c", 3, 0.0)), 10.0)
    done: list[str] = []

    class Stubborn:
        def prepare(self, item: Item) -> None:
            done.append(f"prepare {item.address}")

        def restore(self, item: Item) -> None:
            done.append(f"restore {item.address}")

        def remove(self, item: Item) -> None:
            if item.kind == "version":
                raise StillUsed("m@production needs it by now")
            done.append(f"remove {item.address}")

    result = act(decide(inventory, NOW), NOW, dict.fromkeys(KINDS, Stubborn()), lambda: inventory)
    assert [item.address for item in result.gone] == ["c"]
    assert {one.item.address: one.reason for one in result.kept} == {
        "models:/m/1": "m@production needs it by now",
        "run/step-1": "version models:/m/1",
        "run": "checkpoint run/step-1",
    }
    assert done[-2:] == ["restore run/step-1", "restore run"]


def test_a_spool_with_records_that_wait_and_a_letter_stay(tmp_path: Path) -> None:
    for name, sent in (("sent", 12), ("unsent", 0)):
        folder = tmp_path / "spool" / name
        folder.mkdir(parents=True)
        (folder / "about.json").write_text(json.dumps({"run_id": name, "tracking": "sqlite:///x", "birth": None}))
        (folder / "records.jsonl").write_bytes(b'{"kind":1}\n\n'[:12])
        write_acknowledged(folder, Acknowledged(offset=sent))
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / "run.json").write_text("{}")
    (tmp_path / "cache" / "models").mkdir(parents=True)
    (tmp_path / "cache" / "models" / "package.bin").write_bytes(b"x" * 1000)
    plan = plan_of(tmp_path)
    assert {Path(address).name for address in plan.addresses} == {"sent", "package.bin"}
    assert {one.reason for one in plan.needed} >= {"it waits for MLflow"}
    (tmp_path / "cache" / "models" / "package.bin").write_bytes(b"y" * 1000)
    result = remove(tmp_path, plan)
    assert [Path(one.item.address).name for one in result.kept] == ["package.bin"]
    assert not (tmp_path / "spool" / "sent").exists()
    assert (tmp_path / "spool" / "unsent").exists()


def _new(number: int):
    return [item.__class__(f"v{number}/{item.source}", item.data, "png", item.extra) for item in items(3, seed=number)]


def age(folder: Path, days: float) -> None:
    moment = time.time() - days * 86_400
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (moment, moment))


def test_what_is_old_goes_though_preparing_it_writes_to_it(tmp_path: Path) -> None:
    run = a_run(tmp_path / "checkpoints", "old", (1,))
    dataset = make(tmp_path / "datasets" / "old", 4)
    age(tmp_path, 40)
    rules = TidyRules(30 * 86_400.0)
    runs = RunRemover()
    removers = {"run": runs, "checkpoint": runs, "dataset": DatasetRemover()}

    def look() -> Inventory:
        return seen(tmp_path, with_newest=True)

    result = act(decide(look(), rules), rules, removers, look)  # type: ignore[arg-type]
    assert result.kept == ()
    assert not run.exists()
    assert not open_store(dataset.address).size("manifest.json")


def test_a_store_that_cannot_be_read_whole_is_left_alone(tmp_path: Path) -> None:
    run = a_run(tmp_path / "checkpoints", "run", (1, 2))
    dataset = make(tmp_path / "datasets" / "d", 4)
    manifest = Path(dataset.address) / "manifest.json"
    for path in (run / "run.json", manifest):
        whole = path.read_bytes()
        path.write_bytes(whole[:-2])
        with pytest.raises(UserError, match=f"{path.name} cannot be read .* nothing is removed; mend it"):
            plan_of(tmp_path)
        path.write_bytes(whole)
    for link in (tmp_path / "checkpoints" / "link", tmp_path / "datasets" / "d" / "versions"):
        link.symlink_to(tmp_path)
        with pytest.raises(UserError, match="it is a link to another folder"):
            plan_of(tmp_path)
        link.unlink()
    # Of a damaged checkpoint the others of its run tell what it needs.
    (run / "step-00000001" / "manifest.json").write_bytes(b"{")
    plan = plan_of(tmp_path)
    assert not plan.addresses & {str(run), str(run / "step-00000001"), str(run / "step-00000002")}
    (run / "step-00000002" / "manifest.json").write_bytes(b"{")
    with pytest.raises(UserError, match="it is damaged, or of newer code"):
        plan_of(tmp_path)


def test_a_start_that_another_machine_recorded_under_its_own_path_stays(tmp_path: Path) -> None:
    run = a_run(tmp_path / "checkpoints", "run", (1, 2))
    child = a_run(tmp_path / "checkpoints", "child", (3,), start_from="/mnt/elsewhere/checkpoints/run/step-00000001")
    pin(open_store(str(child)), "step-00000003", by="models:/m")
    assert not plan_of(tmp_path).addresses
    assert not decide(seen(tmp_path, alive={"/mnt/elsewhere/checkpoints/run": "a job"}), NOW).addresses
    assert run.exists()


def test_a_run_without_checkpoints_keeps_all_datasets_that_it_reads(tmp_path: Path) -> None:
    held_out = make(tmp_path / "datasets" / "val", 4)
    run = a_run(tmp_path / "checkpoints", "run", ())
    holes = [make(tmp_path / "datasets" / name, 4, seed=n) for n, name in enumerate(("masks", "val-masks"), 1)]
    data = {"masks_digest": {"address": holes[0].digest}, "val_masks_digest": holes[1].digest}
    (run / "run.json").write_text(json.dumps({"config": {"data": data}, "datasets": [held_out.digest]}))
    addresses = {each.address for each in (held_out, *holes)}
    assert addresses <= plan_of(tmp_path, with_newest=True).addresses
    living = seen(tmp_path, with_newest=True, alive={str(run): "a job"})
    assert not addresses & decide(living, NOW).addresses


@pytest.mark.parametrize("error", [KeyboardInterrupt, StillUsed])
def test_what_is_hidden_comes_back_when_its_removal_fails(tmp_path: Path, error: type[BaseException]) -> None:
    datasets = [make(tmp_path / "datasets" / name, 4, seed=n) for n, name in enumerate(("a", "b"))]

    class Failing(DatasetRemover):
        def remove(self, item: Item) -> None:
            raise error("used")

    plan = plan_of(tmp_path, with_newest=True)
    assert len(plan.removals) == 2
    with nullcontext() if error is StillUsed else pytest.raises(error):
        act(plan, NOW, {"dataset": Failing()}, lambda: seen(tmp_path, with_newest=True))
    for dataset in datasets:
        assert verify(Dataset.open(dataset.address)) == []
