"""An alias moves through gates only, onto what everybody expects; a kill anywhere is repaired by the next reader."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trainplane.errors import RunFailed, UserError
from trainplane.notify.event import Event
from trainplane.registry import audit
from trainplane.registry.audit import AuditRecord, Conflict, find_faults
from trainplane.registry.gates import GateVerdict
from trainplane.registry.names import check_alias
from trainplane.registry.promote import AuditedModel, approval_subject
from trainplane.storage import Store, open_store
from trainplane.tracking.client import TrackingServer, set_with_retry

GOOD = [GateVerdict("floor psnr all", True, "psnr in all is 25, need at least 20", {"value": 25.0})]
BAD = [
    *GOOD,
    GateVerdict("no worse ssim | 10-20", False, "ssim in 10-20 is not a finite number", {"value": float("nan")}),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def server(tracking_uri: str, tmp_path: Path) -> TrackingServer:
    """A tracking server with four registered versions of `isnet`."""
    server = TrackingServer(tracking_uri)
    server.client.create_registered_model("isnet")
    for _ in range(4):
        server.client.create_model_version("isnet", source=str(tmp_path))
    return server


@pytest.fixture
def isnet(server: TrackingServer, store: Store) -> AuditedModel:
    return AuditedModel(server, "isnet", store)


def promote(audited: AuditedModel, version: str, verdicts: list[GateVerdict] = GOOD, **options: Any) -> AuditRecord:
    return audited.promote(audited.model.version(version), verdicts=verdicts, **options)


def alias(audited: AuditedModel, name: str = "production") -> str | None:
    return audited.model.aliases().get(name)


def test_a_promotion_moves_the_alias_and_leaves_its_record(isnet: AuditedModel) -> None:
    first = promote(isnet, "1", expected=None, reason="go")
    second = promote(isnet, "2", expected="1")
    assert alias(isnet) == "2"
    assert (first.action, first.from_version, first.to_version, first.reason) == ("promote", None, "1", "go")
    assert (second.from_version, second.to_version) == ("1", "2")
    assert isnet.stored_trail().records == (first, second)
    assert isnet.verify() == []
    assert isnet.current_version() == "2"


def test_moves_refusals_and_moves_by_hand_are_told(server: TrackingServer, store: Store) -> None:
    events: list[Event] = []
    audited = AuditedModel(server, "isnet", store, tell=events.append)
    promote(audited, "1")
    with pytest.raises(RunFailed):
        promote(audited, "2", BAD)
    promote(audited, "2", BAD, force_reason="to look at it")
    audited.rollback(reason="halos")
    audited.model.set_alias("production", "3")
    assert audited.verify()
    audited.reconcile()
    assert [event.kind for event in events] == [
        "alias.promoted",
        "gate.shut",
        "alias.forced",
        "alias.rolled_back",
        "alias.moved_by_hand",
        "alias.moved_by_hand",
    ]
    assert "no worse ssim" in events[1].text


def test_a_failed_gate_stops_the_promotion_and_stays_with_the_version(isnet: AuditedModel) -> None:
    with pytest.raises(RunFailed, match=r"does not reach @production: 1 of 2 gates failed \(no worse ssim . 10-20\)$"):
        promote(isnet, "1", BAD)
    assert alias(isnet) is None
    assert isnet.stored_trail().records == ()
    assert [verdict["passed"] for verdict in isnet.model.version("1").verdicts] == [True, False]
    page = isnet.model.server.client.get_model_version("isnet", "1")
    assert page.tags["gates"] == "failed: no worse ssim | 10-20"
    assert "| **failed** | no worse ssim \\| 10-20 | ssim in 10-20 is not a finite number |" in page.description


def test_a_version_that_no_gate_judged_is_not_promoted(isnet: AuditedModel) -> None:
    with pytest.raises(RunFailed, match="no gate has judged it"):
        promote(isnet, "1", [])


def test_forcing_needs_a_reason_and_is_in_the_record(isnet: AuditedModel, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match="needs a reason"):
        promote(isnet, "1", BAD, force_reason=" ")
    forced = promote(isnet, "1", BAD, force_reason="demo at nine")
    assert (forced.action, forced.reason) == ("force", "demo at nine")
    assert len(str(forced.verdict_digest)) == 64
    assert alias(isnet) == "1"
    assert "FORCED to version 1 past its gates: demo at nine" in caplog.text


@pytest.mark.parametrize("expected", [None, "3"])
def test_an_unexpected_version_in_production_stops_the_promotion(isnet: AuditedModel, expected: str | None) -> None:
    promote(isnet, "1")
    with pytest.raises(Conflict, match=r"isnet@production is version 1, moved there by .*, not (none|3) as expected"):
        promote(isnet, "2", expected=expected)
    assert alias(isnet) == "1"


def test_rollback_returns_to_the_version_before_at_once(isnet: AuditedModel) -> None:
    for version in ("1", "2", "3"):
        promote(isnet, version)
    started = time.monotonic()
    back = isnet.rollback(reason="halos in the sky")
    assert time.monotonic() - started < 20
    assert (back.action, back.from_version, back.to_version, back.reason) == ("rollback", "3", "2", "halos in the sky")
    assert alias(isnet) == "2"
    with pytest.raises(Conflict):
        isnet.rollback(reason="again", expected="3")
    assert isnet.rollback(reason="again", expected="2").to_version == "1"
    with pytest.raises(UserError, match=r"no version to go back to \(now: 1\)"):
        isnet.rollback(reason="and again")
    assert isnet.verify() == []


def test_repeating_a_promotion_changes_nothing(isnet: AuditedModel) -> None:
    first = promote(isnet, "1", expected=None)
    again = promote(isnet, "1", expected=None)
    assert again == first
    assert len(isnet.stored_trail().records) == 1


def test_versions_and_names_that_are_not_there_are_named(isnet: AuditedModel, store: Store) -> None:
    with pytest.raises(UserError, match=r"model 'isnet' has no version 9 \(it has: 4, 3, 2, 1\)"):
        promote(isnet, "9")
    with pytest.raises(UserError, match=r"no registered model 'isnte' \(registered: isnet\)"):
        promote(AuditedModel(isnet.model.server, "isnte", store), "1")
    with pytest.raises(UserError, match="no version to go back to"):
        isnet.rollback(reason="x")
    assert isnet.stored_trail().records == ()


def test_an_alias_moved_behind_the_trails_back_is_found_and_repaired(isnet: AuditedModel) -> None:
    client = isnet.model.server.client
    client.set_registered_model_alias("isnet", "production", "4")
    client.set_registered_model_alias("isnet", "nightly", "4")
    assert isnet.verify() == ["isnet@production points at 4 without any record: it was not set by a promotion"]
    promote(isnet, "1")
    client.set_registered_model_alias("isnet", "production", "3")
    [found] = isnet.verify()
    assert "points at 3, the trail says 1" in found
    assert isnet.reconcile() == ["isnet@production pointed at 3 and points at 1 again"]
    client.delete_registered_model_alias("isnet", "production")
    assert "points at nothing" in isnet.verify()[0]
    assert isnet.current_version() == "1"
    assert alias(isnet) == "1"
    assert alias(isnet, "nightly") == "4"
    assert isnet.reconcile() == []


def test_records_cut_off_the_end_or_rewritten_are_found(isnet: AuditedModel, store: Store) -> None:
    for version in ("1", "2"):
        promote(isnet, version)
    last = "audit/isnet/000002.json"
    stored = store.read(last)
    store.delete(last)
    assert "MLflow saw record 2: records were removed" in isnet.verify()[0]
    store.write(last, stored.replace(b'"to_version":"2"', b'"to_version":"4"'))
    assert "the trail was rewritten" in isnet.verify()[0]
    store.write("audit/isnet/000001.json", b"{}")
    assert isnet.verify() == find_faults(store, "isnet") != []


PROMOTER = """
import json, os, signal, sys
import mlflow
from trainplane.errors import RunFailed
from trainplane.notify.event import Event
from trainplane.registry import audit
from trainplane.registry.gates import GateVerdict
from trainplane.registry.promote import AuditedModel
from trainplane.storage import open_store
from trainplane.tracking.client import TrackingServer

uri, address, kill_at = sys.argv[1:]
isnet = AuditedModel(TrackingServer(uri), "isnet", open_store(address))
isnet.model.server.client.search_registered_models()

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def killed_after(function):
    def call(*arguments, **options):
        function(*arguments, **options)
        die()
    return call

if kill_at == "before the record":
    audit.append = die
elif kill_at == "after the record":
    audit.append = killed_after(audit.append)
elif kill_at == "after the alias":
    mlflow.MlflowClient.set_registered_model_alias = killed_after(mlflow.MlflowClient.set_registered_model_alias)
print("ready", flush=True)
for line in sys.stdin:
    version, expected = json.loads(line)
    try:
        isnet.promote(isnet.model.version(version), verdicts=[GateVerdict("gate", True, "fine", {})], expected=expected)
        print("won", flush=True)
    except audit.Conflict:
        print("lost", flush=True)
"""


def promoter(isnet: AuditedModel, kill_at: str = "never") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROMOTER, isnet.model.server.address, isnet.store.address, kill_at]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def say(process: subprocess.Popen[str], version: str, expected: str | None) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps([version, expected]) + "\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("kill_at", "recorded"), [("before the record", "1"), ("after the record", "2"), ("after the alias", "2")]
)
def test_a_promotion_killed_at_any_step_is_made_whole_by_the_next_reader(
    isnet: AuditedModel, kill_at: str, recorded: str
) -> None:
    promote(isnet, "1")
    killed = promoter(isnet, kill_at)
    assert answer(killed) == "ready"
    say(killed, "2", "1")
    assert killed.wait() == -signal.SIGKILL
    assert isnet.current_version() == recorded == alias(isnet)
    assert isnet.verify() == []
    promote(isnet, "2", expected=recorded)
    assert alias(isnet) == "2"
    assert len(isnet.stored_trail().records) == 2


def test_of_promoters_at_the_same_time_one_wins_every_round(isnet: AuditedModel) -> None:
    promoters = [promoter(isnet) for _ in range(3)]
    assert [answer(process) for process in promoters] == ["ready"] * 3
    current = None
    for turn in range(8):
        others = [version for version in "1234" if version != current]
        for process, version in zip(promoters, others, strict=False):
            say(process, version, current)
        answers = [answer(process) for process in promoters]
        assert sorted(answers) == ["lost", "lost", "won"]
        current = others[answers.index("won")]
        trail = isnet.stored_trail()
        assert len(trail.records) == turn + 1
        assert trail.current("production") == alias(isnet) == current
    for process in promoters:
        process.communicate()
    assert isnet.verify() == []


def test_no_alias_is_repaired_by_a_trail_that_lost_its_end(isnet: AuditedModel, store: Store) -> None:
    for version in ("1", "2"):
        promote(isnet, version)
    store.delete("audit/isnet/000002.json")
    for act in (
        lambda: isnet.reconcile(),
        lambda: isnet.current_version(),
        lambda: promote(isnet, "3"),
        lambda: isnet.rollback(reason="x"),
    ):
        with pytest.raises(RunFailed, match=r"MLflow saw record 2: records were removed; nothing was moved"):
            act()
    assert alias(isnet) == "2"
    assert "records were removed" in isnet.verify()[0]


def test_an_approval_is_a_record_that_moves_nothing(isnet: AuditedModel) -> None:
    promote(isnet, "1")
    version = isnet.model.version("2")
    version.attach_evaluation({"bins": {}})
    subject = approval_subject(version)
    approval = isnet.approve(version, note="seen the pictures")
    assert isnet.approve(isnet.model.version("2")) == approval
    assert alias(isnet) == "1" == isnet.current_version()
    trail = isnet.stored_trail()
    assert trail.approvals("production", "2", subject) == [approval]
    version.attach_evaluation({"bins": {"all": {}}})
    assert trail.approvals("production", "2", approval_subject(version)) == []
    assert trail.approvals("production", "3", subject) == []
    assert isnet.verify() == []
    promote(isnet, "2", expected="1")
    assert isnet.rollback(reason="x").to_version == "1"


def test_one_account_on_two_hosts_approves_once_and_never_for_itself(isnet: AuditedModel, monkeypatch) -> None:
    version = isnet.model.version("2")
    version.attach_evaluation({"bins": {}})
    for who in ("ann@laptop", "ann@head-0", "bob@laptop"):
        monkeypatch.setattr(audit, "whoami", lambda who=who: who)
        isnet.approve(version)
    assert [record.who for record in isnet.stored_trail().records] == ["ann@laptop", "bob@laptop"]
    monkeypatch.setattr(audit, "whoami", lambda: "ann@another-host")
    assert isnet.approvers(version, alias="production") == ["bob"]
    monkeypatch.setattr(audit, "whoami", lambda: "carol@laptop")
    assert isnet.approvers(version, alias="production") == ["ann", "bob"]


def test_records_of_other_aliases_do_not_stop_a_promotion(isnet: AuditedModel, monkeypatch) -> None:
    """Another alias takes the record's number between reading and writing: only another turn is needed."""
    promote(isnet, "1")
    original, calls = audit.append, []

    def late(*arguments, **options):
        if not calls:
            calls.append(1)
            promote(isnet, "3", alias="nightly")
        return original(*arguments, **options)

    monkeypatch.setattr(audit, "append", late)
    promote(isnet, "2", expected="1")
    assert (alias(isnet), alias(isnet, "nightly")) == ("2", "3")
    assert [entry.alias for entry in isnet.stored_trail().records] == ["production", "nightly", "production"]


def test_what_is_in_production_may_be_deleted_and_there_is_a_way_on(isnet: AuditedModel) -> None:
    promote(isnet, "1")
    isnet.model.server.client.delete_model_version("isnet", "1")
    assert isnet.current_version() == "1"
    [told] = isnet.verify()
    assert "version 1 by the trail, and that version was deleted in MLflow" in told
    assert isnet.reconcile() == [told]
    promote(isnet, "2", BAD, force_reason="the one before is lost")
    assert alias(isnet) == "2"
    assert isnet.verify() == []


def test_a_rollback_onto_a_version_that_was_deleted_says_what_else_there_is(isnet: AuditedModel) -> None:
    promote(isnet, "1")
    promote(isnet, "2")
    isnet.model.server.client.delete_model_version("isnet", "1")
    with pytest.raises(UserError, match=r"was version 1 before 2, and that version was deleted.*models promote isnet"):
        isnet.rollback(reason="halos")
    assert alias(isnet) == "2"
    assert len(isnet.stored_trail().records) == 2


def test_of_two_that_set_a_new_tag_at_once_neither_fails() -> None:
    from mlflow.exceptions import MlflowException

    told: list[str] = []

    def setter(value: str) -> None:
        told.append(value)
        if len(told) == 1:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: model_version_tags.key")

    set_with_retry(setter, "gates")
    assert told == ["gates", "gates"]

    def refuses(value: str) -> None:
        told.append(value)
        raise MlflowException("database is locked")

    with pytest.raises(MlflowException, match="locked"):
        set_with_retry(refuses, "other")
    assert told == ["gates", "gates", "other"]


@pytest.mark.parametrize(
    "wrong",
    ["latest", "LATEST", "v2", "V10", "a b/c", "", "prod-ü", "production\n", pytest.param("x" * 256, id="long")],
)
def test_an_alias_that_mlflow_would_refuse_is_refused_before_it_is_recorded(isnet: AuditedModel, wrong: str) -> None:
    for act in (
        lambda: promote(isnet, "1", BAD, force_reason="x", alias=wrong),
        lambda: isnet.approve(isnet.model.version("1"), alias=wrong),
        lambda: isnet.rollback(reason="x", alias=wrong),
    ):
        with pytest.raises(UserError, match="which MLflow keeps for itself; choose another alias"):
            act()
    assert isnet.stored_trail().records == ()
    assert isnet.model.version("1").verdicts == []


def test_every_alias_that_is_let_through_can_be_set(isnet: AuditedModel) -> None:
    for allowed in ("v", "v2x", "latest-1", "-_-", "x" * 255):
        check_alias(allowed)
        isnet.model.server.client.set_registered_model_alias("isnet", allowed, "1")


def test_a_trail_with_an_alias_that_was_never_set_is_readable_and_goes_on_repairing(
    isnet: AuditedModel, store: Store
) -> None:
    promote(isnet, "1")
    for wrong in ("latest", "a b/c"):
        trail = isnet.stored_trail()
        told = {"name": "isnet", "to_version": "2", "reason": "x", "verdict_digest": None}
        audit.append(store, trail, action="force", alias=wrong, **told)
    isnet.model.server.client.set_registered_model_alias("isnet", "production", "3")
    assert isnet.reconcile() == [
        "isnet@a b/c cannot be set in MLflow, so its records moved nothing",
        "isnet@latest cannot be set in MLflow, so its records moved nothing",
        "isnet@production pointed at 3 and points at 1 again",
    ]
    assert isnet.verify() == []


@pytest.mark.parametrize("told", ["abc:def", "-1:x", "", f"0:{'0' * 64}", f"{'9' * 4500}:{'0' * 64}"])
def test_a_garbled_witness_stops_everything_in_a_sentence(isnet: AuditedModel, told: str) -> None:
    for version in ("1", "2"):
        promote(isnet, version)
    isnet.model.server.client.set_registered_model_tag("isnet", "trainplane.audit_head", told)
    isnet.model.server.client.set_registered_model_alias("isnet", "production", "4")
    for act in (
        lambda: isnet.reconcile(),
        lambda: isnet.current_version(),
        lambda: promote(isnet, "3"),
        lambda: isnet.rollback(reason="x"),
    ):
        with pytest.raises(RunFailed, match=r"is no record head .*: it was changed; nothing was moved"):
            act()
    assert alias(isnet) == "4"
    found = isnet.verify()
    assert ["is no record head" in found[0], "points at 4, the trail says 2" in found[1]] == [True, True]
    assert len(isnet.stored_trail().records) == 2
    isnet.model.server.client.delete_registered_model_tag("isnet", "trainplane.audit_head")
    isnet.reconcile()
    assert isnet.verify() == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        *((name, "need letters, digits, - and _") for name in ("a/b", "../m", "..", "", "m m", "x'or'1", "-m")),
        pytest.param("M" * 300, r"has 300 characters, need at most 100", id="long"),
    ],
)
def test_a_name_that_no_model_can_have_is_told_before_anybody_is_asked(store: Store, name: str, sentence: str) -> None:
    # No server: an unknown address would be told otherwise.
    nowhere = AuditedModel(TrackingServer("http://127.0.0.1:9"), name, store)
    for act in (
        nowhere.model.as_json,
        nowhere.reconcile,
        nowhere.verify,
        lambda: nowhere.rollback(reason="x"),
    ):
        with pytest.raises(UserError, match=sentence):
            act()
