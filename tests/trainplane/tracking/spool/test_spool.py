"""The spool keeps every record that was accepted, and a drain brings each of them to MLflow once."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from trainplane.errors import UserError
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.mlflow_names import valid_key
from trainplane.tracking.spool.spool import (
    Acknowledged,
    Spool,
    read_acknowledged,
    read_lines,
    upload_lock,
    write_acknowledged,
)
from trainplane.tracking.spool.upload import BUSY, MAX_METRICS, upload

UNREACHABLE = "http://127.0.0.1:9"  # the discard port: connections are refused at once


@pytest.fixture
def run_id(tracking_uri: str) -> str:
    return str(TrackingServer(tracking_uri).client.create_run("0").info.run_id)


def open_spool(folder: Path, run_id: str = "r" * 32) -> Spool:
    return Spool(folder, run_id=run_id, tracking="sqlite:///x.db")


def metric(step: int, value: float = 0.5, key: str = "train/loss", ts: int = 1000) -> dict[str, Any]:
    return {"k": "metrics", "step": step, "ts": ts + step, "v": {key: value}}


def history(tracking_uri: str, run_id: str, key: str = "train/loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in TrackingServer(tracking_uri).client.get_metric_history(run_id, key)]


def test_records_arrive_in_order_and_once(tmp_path: Path, tracking_uri: str, run_id: str) -> None:
    spool = open_spool(tmp_path / "s", run_id)
    for step in range(2500):
        spool.append(metric(step, step / 7))
    result = upload(tmp_path / "s", TrackingServer(tracking_uri).client)
    spool.close()
    assert (result.sent, result.unsent, result.error) == (2500, 0, None)
    assert history(tracking_uri, run_id) == [(step, step / 7) for step in range(2500)]


def test_sending_again_what_was_acknowledged_changes_nothing(tmp_path: Path, tracking_uri: str, run_id: str) -> None:
    spool = open_spool(tmp_path / "s", run_id)
    for step, value in enumerate([0.1, math.nan, math.inf, -math.inf, 1e-300, 0.1]):
        spool.append(metric(step, value))
    spool.append({"k": "params", "v": {"lr": "0.1"}})
    spool.append({"k": "tags", "v": {"note": "a"}})
    spool.append({"k": "tags", "v": {"note": "b"}})
    client = TrackingServer(tracking_uri).client
    upload(tmp_path / "s", client)
    before = history(tracking_uri, run_id)
    for offset in (0, read_acknowledged(tmp_path / "s").offset // 2):
        lines = (tmp_path / "s" / "records.jsonl").read_bytes()
        write_acknowledged(tmp_path / "s", Acknowledged(lines.rfind(b"\n", 0, offset) + 1))
        assert upload(tmp_path / "s", client).error is None
    spool.close()
    assert len(before) == 6
    assert math.isnan(before[1][1])
    assert [value for _, value in before[2:4]] == [sys.float_info.max, -sys.float_info.max]
    assert [step for step, _ in history(tracking_uri, run_id)] == [0, 1, 2, 3, 4, 5]
    run = client.get_run(run_id)
    assert run.data.params == {"lr": "0.1"}
    assert run.data.tags["note"] == "b"


def test_one_record_may_hold_more_than_a_request_does(tmp_path: Path, tracking_uri: str, run_id: str) -> None:
    spool = open_spool(tmp_path / "s", run_id)
    spool.append({"k": "metrics", "step": 1, "ts": 1, "v": {f"m{i}": float(i) for i in range(MAX_METRICS + 200)}})
    spool.append({"k": "params", "v": {f"p{i}": str(i) for i in range(250)}})
    result = upload(tmp_path / "s", TrackingServer(tracking_uri).client)
    spool.close()
    data = TrackingServer(tracking_uri).client.get_run(run_id).data
    assert result.error is None
    assert len(data.metrics) == MAX_METRICS + 200
    assert len(data.params) == 250


def test_a_refused_entity_is_set_aside_and_its_neighbours_arrive(
    tmp_path: Path, tracking_uri: str, run_id: str
) -> None:
    spool = open_spool(tmp_path / "s", run_id)
    for step in range(20):
        spool.append(metric(step))
    spool.append(metric(20, key="no such character: \u2603"))
    spool.append({"k": "params", "v": {"lr": "1", "depth": "4"}})
    spool.append({"k": "params", "v": {"lr": "2", "width": "8"}})
    with (tmp_path / "s" / "records.jsonl").open("ab") as stream:
        stream.write(b"\0\0\0 not JSON\n")
    spool.append(metric(21))
    result = upload(tmp_path / "s", TrackingServer(tracking_uri).client)
    spool.close()
    rejected = [json.loads(line) for line in (tmp_path / "s" / "rejected.jsonl").read_text().splitlines()]
    assert (result.rejected, result.unsent, result.error) == (2, 0, None)
    assert len(rejected) == 2
    # A name that MLflow would refuse is made one that it takes.
    assert [step for step, _ in history(tracking_uri, run_id, valid_key("no such character: \u2603"))] == [20]
    assert [step for step, _ in history(tracking_uri, run_id)] == [*range(20), 21]
    assert TrackingServer(tracking_uri).client.get_run(run_id).data.params == {"lr": "1", "depth": "4", "width": "8"}


def test_records_of_a_deleted_run_wait_until_it_is_restored(tmp_path: Path, tracking_uri: str, run_id: str) -> None:
    spool = open_spool(tmp_path / "s", run_id)
    spool.append(metric(1))
    client = TrackingServer(tracking_uri).client
    client.delete_run(run_id)
    refused = upload(tmp_path / "s", client)
    client.restore_run(run_id)
    accepted = upload(tmp_path / "s", client)
    spool.close()
    assert (refused.unsent, refused.rejected) == (1, 0)
    assert "deleted" in str(refused.error)
    assert (accepted.sent, accepted.unsent) == (1, 0)


def test_a_torn_last_line_is_cut_off_and_writing_goes_on(tmp_path: Path, tracking_uri: str, run_id: str) -> None:
    spool = open_spool(tmp_path / "s", run_id)
    spool.append(metric(1))
    spool.close()
    with (tmp_path / "s" / "records.jsonl").open("ab") as stream:
        stream.write(b'{"k":"metrics","step":2,"ts":3,"v":{"train/lo')
    spool = open_spool(tmp_path / "s", run_id)
    spool.append(metric(3))
    result = upload(tmp_path / "s", TrackingServer(tracking_uri).client)
    spool.close()
    assert (result.sent, result.rejected) == (2, 0)
    assert [step for step, _ in history(tracking_uri, run_id)] == [1, 3]


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "s")
    with pytest.raises(UserError, match="another process is recording"):
        open_spool(tmp_path / "s")
    spool.close()
    open_spool(tmp_path / "s").close()


def test_a_predecessor_that_takes_a_while_to_end_is_waited_for(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "s")
    end = threading.Timer(1.0, spool.close)
    end.start()
    Spool(tmp_path / "s", run_id="r" * 32, tracking="sqlite:///x.db", patience_s=60.0).close()
    end.join()


def test_only_one_drainer_sends_at_a_time(tmp_path: Path, tracking_uri: str, run_id: str) -> None:
    spool = open_spool(tmp_path / "s", run_id)
    spool.append(metric(1))
    with upload_lock(tmp_path / "s") as alone:
        result = upload(tmp_path / "s", TrackingServer(tracking_uri).client)
    spool.close()
    assert alone
    assert (result.sent, result.unsent) == (0, 1)
    assert result.error == BUSY


def test_a_full_disk_raises_and_leaves_no_half_record(tmp_path: Path) -> None:
    script = f"""
import resource, signal
from pathlib import Path
from trainplane.tracking.spool.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool(Path({str(tmp_path / "s")!r}), run_id="r", tracking="t")
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
kept = 0
for step in range(100):
    try:
        spool.append({{"k": "metrics", "step": step, "ts": 1, "v": {{"train/loss": 0.5}}}})
        kept += 1
    except OSError:
        pass
print(kept)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    kept = int(done.stdout)
    records = [record for record, _ in read_lines(tmp_path / "s", 0)]
    assert 0 < kept < 100
    assert [record["step"] for record in records if record] == list(range(kept))


def test_marks_survive_acknowledgement_and_reopening(tmp_path: Path, tracking_uri: str, run_id: str) -> None:
    spool = open_spool(tmp_path / "s", run_id)
    spool.append(metric(7))
    spool.append(metric(4, key="val/psnr"))
    spool.close()
    upload(tmp_path / "s", TrackingServer(tracking_uri).client)
    spool = open_spool(tmp_path / "s", run_id)
    spool.append(metric(9))
    spool.close()
    assert (tmp_path / "s" / "records.jsonl").read_bytes().count(b"\n") == 1
    assert open_spool(tmp_path / "s", run_id).ledger.marks == {"train/loss": 9, "val/psnr": 4}


def test_unsent_records_move_to_another_node_once(tmp_path: Path, tracking_uri: str, run_id: str) -> None:
    lost = open_spool(tmp_path / "lost", run_id)
    for step in range(5):
        lost.append(metric(step))
    carried = lost.unsent()
    lost.close()
    spool = open_spool(tmp_path / "new", run_id)
    assert spool.resume_from(4, carried) == 5
    spool.resume_from(4, carried + b"torn")
    assert spool.ledger.marks == {"train/loss": 4}
    for folder in ("new", "lost"):
        upload(tmp_path / folder, TrackingServer(tracking_uri).client)
    spool.close()
    assert [step for step, _ in history(tracking_uri, run_id)] == [0, 1, 2, 3, 4]


def test_attachments_arrive_and_leave_the_disk(tmp_path: Path, tracking_uri: str, run_id: str) -> None:
    spool = open_spool(tmp_path / "s", run_id)
    for version in ("one", "two"):
        local = spool.attach("config.yaml", version.encode())
        spool.append({"k": "file", "files": [[local, "conf/config.yaml"]]})
    spool.attach("orphan.txt", b"no record refers to it")
    client = TrackingServer(tracking_uri).client
    assert upload(tmp_path / "s", client).error is None
    spool.close()
    open_spool(tmp_path / "s", run_id).close()
    stored = Path(client.download_artifacts(run_id, "conf/config.yaml", str(tmp_path)))
    assert stored.read_text() == "two"
    assert list((tmp_path / "s" / "files").iterdir()) == []


def test_a_folder_that_is_no_spool_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no spool \(about\.json"):
        upload(tmp_path, None)
