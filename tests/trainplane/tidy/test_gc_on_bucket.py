"""`isnet gc` in a bucket: what is needed stays, the rest goes, and a kill at any deletion loses nothing needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from small_datasets import items, make
from stored_run import store_run

from trainplane.data.grow.derive import derive
from trainplane.data.grow.inheritance import whole
from trainplane.data.manifest import Dataset
from trainplane.data.pack.pack import PackItem
from trainplane.data.verify import verify
from trainplane.storage import Store, open_store
from trainplane.testing.fault_proxy import FaultProxy, no_fault
from trainplane.tracking.client import TrackingServer
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.pins import pin

STAYS = {"keep": [2, 4, 8], "child": [5], "alive": [1, 2]}
DATASETS = ("used", "mine/versions/000003", "mine/versions/000004")
GOES = {
    "checkpoints/keep/step-00000006",
    "checkpoints/old",
    "checkpoints/old/step-00000001",
    "checkpoints/old/step-00000003",
    "datasets/mine",
    "datasets/mine/versions/000002",
}
REMOVE = ("gc", "--older-than", "0", "--yes")


@dataclass(frozen=True)
class Bucket:
    """A context whose store is a bucket, behind a proxy."""

    proxy: FaultProxy
    store: Store
    folder: Path

    def fill(self) -> None:
        """Stores runs and datasets, of which some are needed."""
        address = self.store.address
        used = make(f"{address}/datasets/used", 10)
        # Its newest version shares nothing with it: the run alone needs the older one.
        make(f"{address}/datasets/used/versions/000002", 8, seed=7)
        first = make(f"{address}/datasets/mine", 20)
        derive([whole(first)], f"{first.address}/versions/000002", how="add", name="mine", entries=others(2))
        fresh = make(f"{first.address}/versions/000003", 10, seed=5)
        derive([whole(fresh)], f"{first.address}/versions/000004", how="add", name="mine", entries=others(4))
        runs = f"{address}/checkpoints"
        keep = store_run(f"{runs}/keep", (2, 4, 6, 8), digest=used.digest, keep_best=1, best_metric="val/psnr")
        store_run(f"{runs}/old", (1, 3))
        child = store_run(f"{runs}/child", (5,), start_from=f"{runs}/keep/step-00000002")
        store_run(f"{runs}/alive", (1, 2))
        pin(keep, "step-00000008", by="models:/m")
        pin(child, "step-00000005", by="models:/m")

    def clear(self) -> None:
        for entry in list(self.store.list()):
            self.store.delete(entry.key)

    def record_runs(self, home: Path) -> None:
        """Tells MLflow that all have ended but one."""
        client = TrackingServer(f"sqlite:///{home}/mlflow.db").client
        for name in (*STAYS, "old"):
            tags = {"trainplane.checkpoints": f"{self.store.address}/checkpoints/{name}"}
            run = client.create_run("0", tags=tags)
            if name != "alive":
                client.set_terminated(run.info.run_id)

    def damage(self) -> list[str]:
        """What is missing or broken of the things that are needed."""
        found: list[str] = []
        for name, steps in STAYS.items():
            run = self.store.child(f"checkpoints/{name}")
            present = checkpoints.committed(run)
            for checkpoint in present:
                checkpoints.read(run, checkpoint)
            if missing := set(steps) - {checkpoint.step for checkpoint in present}:
                found.append(f"{name} lacks steps {sorted(missing)}")
        for name in DATASETS:
            found += [str(problem) for problem in verify(Dataset.open(self.store.child(f"datasets/{name}")))]
        return found

    def objects(self) -> set[str]:
        return {entry.key for entry in self.store.list()}


def others(seed: int) -> list[PackItem]:
    return [replace(item, source=f"v{seed}/{item.source}") for item in items(3, seed=seed)]


@pytest.fixture
def bucket(s3_server: str, s3_address: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with FaultProxy(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", proxy.endpoint)
        (tmp_path / "isnet.toml").write_text(
            f'default = "lab"\n[context.lab]\nstore = "{s3_address}"\ns3_endpoint = "{proxy.endpoint}"\n'
        )
        bucket = Bucket(proxy, open_store(s3_address), tmp_path)
        bucket.record_runs(home)
        yield bucket


def test_what_is_needed_stays_and_the_rest_goes(bucket: Bucket, isnet) -> None:
    bucket.fill()
    before = {key: bucket.store.read(key) for key in bucket.objects()}
    planned = isnet(*REMOVE[:-1], "--json")
    assert planned.status == 0, planned.err
    addresses = {f"{bucket.store.address}/{name}" for name in GOES}
    assert {entry["address"] for entry in planned.json()["removals"]} == addresses
    assert bucket.objects() == set(before)
    removed = isnet(*REMOVE, "--json").json()
    assert removed["kept"] == []
    assert {entry["address"] for entry in removed["removed"]} == addresses
    assert bucket.damage() == []
    # Nothing else was touched: only the run that was fenced has a newer token.
    after = {key: bucket.store.read(key) for key in bucket.objects()}
    assert {key for key in after if after[key] != before.get(key)} == {"checkpoints/keep/attempt.json"}
    gone = {key for key in before if key not in after}
    assert {key.rpartition("/")[0] for key in gone} == GOES
    assert "nothing to remove" in isnet(*REMOVE[:-1]).out


@pytest.mark.nightly
def test_killed_at_any_deletion_nothing_needed_is_gone_and_the_next_call_ends_it(bucket: Bucket, isnet) -> None:
    bucket.fill()
    deletions: list[str] = []
    bucket.proxy.fault = lambda method, path, number: deletions.append(path) if method == "DELETE" else None
    assert isnet(*REMOVE).status == 0
    bucket.proxy.fault = no_fault
    whole_removal, ended = len(deletions), bucket.objects()
    assert whole_removal > 15
    for number in range(1, whole_removal + 1, 2):
        bucket.clear()
        bucket.fill()
        assert killed_at(bucket, number) == -signal.SIGKILL
        assert bucket.damage() == [], f"killed at deletion {number}"
        again = isnet(*REMOVE)
        assert again.status == 0, again.err
        assert bucket.damage() == []
        assert bucket.objects() == ended, f"killed at deletion {number}"


def killed_at(bucket: Bucket, number: int) -> int:
    """Status of a removal that is killed with its nth deletion, before the bucket has it or after."""
    count, process = 0, None

    def fault(method: str, path: str, request: int) -> str | None:
        nonlocal count
        count += method == "DELETE"
        if method != "DELETE" or count != number:
            return None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return "503" if number % 4 == 1 else None

    bucket.proxy.fault = fault
    command = [sys.executable, "-m", "jobs.cli", *REMOVE]
    process = subprocess.Popen(command, cwd=bucket.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status = process.wait(timeout=300)
    bucket.proxy.fault = no_fault
    return status
