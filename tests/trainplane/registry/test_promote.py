"""An alias moves through gates only, onto what everybody expects; a kill anywhere is repaired by the next reader."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainplane.errors import RunFailed, UserError
from trainplane.registry import audit
from trainplane.registry.audit import Conflict, faults, read_trail
from trainplane.registry.gates import Verdict
from trainplane.registry.names import check_alias
from trainplane.registry.promote import (
    approve,
    current_version,
    promote,
    reconcile,
    rollback,
    subject,
    verify_audit,
)
from trainplane.registry.versions import show, show_version
from trainplane.storage import Store, open_store
from trainplane.tracking.client import TrackingServer, set_with_retry

GOOD = [Verdict("floor psnr all", True, "psnr in all is 25, need at least 20", {"value": 25.0})]
BAD = [*GOOD, Verdict("no worse ssim | 10-20", False, "ssim in 10-20 is not a finite number", {"value": float("nan")})]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def registry(tracking_uri: str, tmp_path: Path) -> str:
    """A tracking address with four registered versions of `isnet`."""
    client = TrackingServer(tracking_uri).client
    client.create_registered_model("isnet")
    for _ in range(4):
        client.create_model_version("isnet", source=str(tmp_path))
    return tracking_uri


def alias(tracking_uri: str, name: str = "production") -> str | None:
    found = TrackingServer(tracking_uri).client.get_registered_model("isnet").aliases.get(name)
    return None if found is None else str(found)


def test_a_promotion_moves_the_alias_and_leaves_its_record(registry: str, store: Store) -> None:
    first = promote("isnet", "1", verdicts=GOOD, store=store, tracking_uri=registry, expected_current=None, reason="go")
    second = promote("isnet", "2", verdicts=GOOD, store=store, tracking_uri=registry, expected_current="1")
    assert alias(registry) == "2"
    assert (first.action, first.from_version, first.to_version, first.reason) == ("promote", None, "1", "go")
    assert (second.from_version, second.to_version) == ("1", "2")
    assert read_trail(store, "isnet").entries == (first, second)
    assert verify_audit("isnet", store=store, tracking_uri=registry) == []
    assert current_version("isnet", store=store, tracking_uri=registry) == "2"


def test_a_failed_gate_stops_the_promotion_and_stays_with_the_version(registry: str, store: Store) -> None:
    with pytest.raises(RunFailed, match=r"version 1 of isnet does not reach @production: no worse ssim .*10-20 is not"):
        promote("isnet", "1", verdicts=BAD, store=store, tracking_uri=registry)
    assert alias(registry) is None
    assert read_trail(store, "isnet").entries == ()
    assert [verdict["passed"] for verdict in show_version(registry, "isnet", "1")["gates"]] == [True, False]
    page = TrackingServer(registry).client.get_model_version("isnet", "1")
    assert page.tags["gates"] == "failed: no worse ssim | 10-20"
    assert "| **failed** | no worse ssim \\| 10-20 | ssim in 10-20 is not a finite number |" in page.description


def test_a_version_that_no_gate_judged_is_not_promoted(registry: str, store: Store) -> None:
    with pytest.raises(RunFailed, match="no gate has judged it"):
        promote("isnet", "1", verdicts=[], store=store, tracking_uri=registry)


def test_forcing_needs_a_reason_and_is_in_the_record(
    registry: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match="needs a reason"):
        promote("isnet", "1", verdicts=BAD, store=store, tracking_uri=registry, force_reason=" ")
    forced = promote("isnet", "1", verdicts=BAD, store=store, tracking_uri=registry, force_reason="demo at nine")
    assert (forced.action, forced.reason) == ("force", "demo at nine")
    assert len(str(forced.verdict_digest)) == 64
    assert alias(registry) == "1"
    assert "FORCED to version 1 past its gates: demo at nine" in caplog.text


@pytest.mark.parametrize("expected", [None, "3"])
def test_an_unexpected_version_in_production_stops_the_promotion(
    registry: str, store: Store, expected: str | None
) -> None:
    promote("isnet", "1", verdicts=GOOD, store=store, tracking_uri=registry)
    with pytest.raises(Conflict, match=r"isnet@production is version 1, moved there by .*, not (none|3) as expected"):
        promote("isnet", "2", verdicts=GOOD, store=store, tracking_uri=registry, expected_current=expected)
    assert alias(registry) == "1"


def test_rollback_returns_to_the_version_before_at_once(registry: str, store: Store) -> None:
    for version in ("1", "2", "3"):
        promote("isnet", version, verdicts=GOOD, store=store, tracking_uri=registry)
    started = time.monotonic()
    back = rollback("isnet", store=store, tracking_uri=registry, reason="halos in the sky")
    assert time.monotonic() - started < 20
    assert (back.action, back.from_version, back.to_version, back.reason) == ("rollback", "3", "2", "halos in the sky")
    assert alias(registry) == "2"
    with pytest.raises(Conflict):
        rollback("isnet", store=store, tracking_uri=registry, reason="again", expected_current="3")
    assert rollback("isnet", store=store, tracking_uri=registry, reason="again", expected_current="2").to_version == "1"
    with pytest.raises(UserError, match=r"no version to go back to \(now: 1\)"):
        rollback("isnet", store=store, tracking_uri=registry, reason="and again")
    assert verify_audit("isnet", store=store, tracking_uri=registry) == []


def test_repeating_a_promotion_changes_nothing(registry: str, store: Store) -> None:
    first = promote("isnet", "1", verdicts=GOOD, store=store, tracking_uri=registry, expected_current=None)
    again = promote("isnet", "1", verdicts=GOOD, store=store, tracking_uri=registry, expected_current=None)
    assert again == first
    assert len(read_trail(store, "isnet").entries) == 1


def test_versions_and_names_that_are_not_there_are_named(registry: str, store: Store) -> None:
    with pytest.raises(UserError, match=r"model 'isnet' has no version 9 \(it has: 4, 3, 2, 1\)"):
        promote("isnet", "9", verdicts=GOOD, store=store, tracking_uri=registry)
    with pytest.raises(UserError, match=r"no registered model 'isnte' \(registered: isnet\)"):
        promote("isnte", "1", verdicts=GOOD, store=store, tracking_uri=registry)
    with pytest.raises(UserError, match="no version to go back to"):
        rollback("isnet", store=store, tracking_uri=registry, reason="x")
    assert read_trail(store, "isnet").entries == ()


def test_an_alias_moved_behind_the_trails_back_is_found_and_repaired(registry: str, store: Store) -> None:
    client = TrackingServer(registry).client
    client.set_registered_model_alias("isnet", "production", "4")
    client.set_registered_model_alias("isnet", "nightly", "4")
    assert verify_audit("isnet", store=store, tracking_uri=registry) == [
        "isnet@production points at 4 without any record: it was set behind the trail's back"
    ]
    promote("isnet", "1", verdicts=GOOD, store=store, tracking_uri=registry)
    client.set_registered_model_alias("isnet", "production", "3")
    [found] = verify_audit("isnet", store=store, tracking_uri=registry)
    assert "points at 3, the trail says 1" in found
    assert reconcile("isnet", store=store, tracking_uri=registry) == [
        "isnet@production pointed at 3 and points at 1 again"
    ]
    client.delete_registered_model_alias("isnet", "production")
    assert "points at nothing" in verify_audit("isnet", store=store, tracking_uri=registry)[0]
    assert current_version("isnet", store=store, tracking_uri=registry) == "1"
    assert alias(registry) == "1"
    assert alias(registry, "nightly") == "4"
    assert reconcile("isnet", store=store, tracking_uri=registry) == []


def test_records_cut_off_the_end_or_rewritten_are_found(registry: str, store: Store) -> None:
    for version in ("1", "2"):
        promote("isnet", version, verdicts=GOOD, store=store, tracking_uri=registry)
    last = "audit/isnet/000002.json"
    stored = store.read(last)
    store.delete(last)
    assert "MLflow saw record 2: records were removed" in verify_audit("isnet", store=store, tracking_uri=registry)[0]
    store.write(last, stored.replace(b'"to_version":"2"', b'"to_version":"4"'))
    assert "the trail was rewritten" in verify_audit("isnet", store=store, tracking_uri=registry)[0]
    store.write("audit/isnet/000001.json", b"{}")
    assert verify_audit("isnet", store=store, tracking_uri=registry) == faults(store, "isnet") != []


PROMOTER = """
import json, os, signal, sys
import mlflow
from trainplane.errors import RunFailed
from trainplane.registry import audit
from trainplane.registry.gates import Verdict
from trainplane.registry.promote import promote
from trainplane.storage import open_store
from trainplane.tracking.client import TrackingServer, set_with_retry

uri, address, kill_at = sys.argv[1:]
store = open_store(address)
client_for(uri).search_registered_models()

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
        promote("isnet", version, verdicts=[Verdict("gate", True, "fine", {})], store=store, tracking_uri=uri,
                expected_current=expected)
        print("won", flush=True)
    except audit.Conflict:
        print("lost", flush=True)
"""


def promoter(tracking_uri: str, store: Store, kill_at: str = "never") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROMOTER, tracking_uri, store.address, kill_at]
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
    registry: str, store: Store, kill_at: str, recorded: str
) -> None:
    promote("isnet", "1", verdicts=GOOD, store=store, tracking_uri=registry)
    killed = promoter(registry, store, kill_at)
    assert answer(killed) == "ready"
    say(killed, "2", "1")
    assert killed.wait() == -signal.SIGKILL
    assert current_version("isnet", store=store, tracking_uri=registry) == recorded == alias(registry)
    assert verify_audit("isnet", store=store, tracking_uri=registry) == []
    promote("isnet", "2", verdicts=GOOD, store=store, tracking_uri=registry, expected_current=recorded)
    assert alias(registry) == "2"
    assert len(read_trail(store, "isnet").entries) == 2


def test_of_promoters_at_the_same_time_one_wins_every_round(registry: str, store: Store) -> None:
    promoters = [promoter(registry, store) for _ in range(3)]
    assert [answer(process) for process in promoters] == ["ready"] * 3
    current = None
    for turn in range(8):
        others = [version for version in "1234" if version != current]
        for process, version in zip(promoters, others, strict=False):
            say(process, version, current)
        answers = [answer(process) for process in promoters]
        assert sorted(answers) == ["lost", "lost", "won"]
        current = others[answers.index("won")]
        trail = read_trail(store, "isnet")
        assert len(trail.entries) == turn + 1
        assert trail.current("production") == alias(registry) == current
    for process in promoters:
        process.communicate()
    assert verify_audit("isnet", store=store, tracking_uri=registry) == []


def test_no_alias_is_repaired_by_a_trail_that_lost_its_end(registry: str, store: Store) -> None:
    for version in ("1", "2"):
        promote("isnet", version, verdicts=GOOD, store=store, tracking_uri=registry)
    store.delete("audit/isnet/000002.json")
    for act in (
        lambda: reconcile("isnet", store=store, tracking_uri=registry),
        lambda: current_version("isnet", store=store, tracking_uri=registry),
        lambda: promote("isnet", "3", verdicts=GOOD, store=store, tracking_uri=registry),
        lambda: rollback("isnet", store=store, tracking_uri=registry, reason="x"),
    ):
        with pytest.raises(RunFailed, match=r"MLflow saw record 2: records were removed; nothing was moved"):
            act()
    assert alias(registry) == "2"
    assert "records were removed" in verify_audit("isnet", store=store, tracking_uri=registry)[0]


def test_an_approval_is_a_record_that_moves_nothing(registry: str, store: Store) -> None:
    promote("isnet", "1", verdicts=GOOD, store=store, tracking_uri=registry)
    what = subject("model", "evaluation")
    given = approve("isnet", "2", subject=what, store=store, tracking_uri=registry, note="seen the pictures")
    assert approve("isnet", "2", subject=what, store=store, tracking_uri=registry) == given
    assert alias(registry) == "1" == current_version("isnet", store=store, tracking_uri=registry)
    trail = read_trail(store, "isnet")
    assert trail.approvals("production", "2", what) == [given]
    assert trail.approvals("production", "2", subject("model", "another evaluation")) == []
    assert trail.approvals("production", "3", what) == []
    assert verify_audit("isnet", store=store, tracking_uri=registry) == []
    promote("isnet", "2", verdicts=GOOD, store=store, tracking_uri=registry, expected_current="1")
    assert rollback("isnet", store=store, tracking_uri=registry, reason="x").to_version == "1"


def test_records_of_other_aliases_do_not_stop_a_promotion(registry: str, store: Store, monkeypatch) -> None:
    """Another alias takes the record's number between reading and writing: only another turn is needed."""
    promote("isnet", "1", verdicts=GOOD, store=store, tracking_uri=registry)
    original, calls = audit.append, []

    def late(*arguments, **options):
        if not calls:
            calls.append(1)
            promote("isnet", "3", verdicts=GOOD, store=store, tracking_uri=registry, alias="nightly")
        return original(*arguments, **options)

    monkeypatch.setattr(audit, "append", late)
    promote("isnet", "2", verdicts=GOOD, store=store, tracking_uri=registry, expected_current="1")
    assert (alias(registry), alias(registry, "nightly")) == ("2", "3")
    assert [entry.alias for entry in read_trail(store, "isnet").entries] == ["production", "nightly", "production"]


def test_what_is_in_production_may_be_deleted_and_there_is_a_way_on(registry: str, store: Store) -> None:
    places = {"store": store, "tracking_uri": registry}
    promote("isnet", "1", verdicts=GOOD, **places)
    TrackingServer(registry).client.delete_model_version("isnet", "1")
    assert current_version("isnet", **places) == "1"
    [told] = verify_audit("isnet", **places)
    assert "version 1 by the trail, and that version was deleted in MLflow" in told
    assert reconcile("isnet", **places) == [told]
    promote("isnet", "2", verdicts=BAD, force_reason="the one before is lost", **places)
    assert alias(registry) == "2"
    assert verify_audit("isnet", **places) == []


def test_a_rollback_onto_a_version_that_was_deleted_says_what_else_there_is(registry: str, store: Store) -> None:
    places = {"store": store, "tracking_uri": registry}
    promote("isnet", "1", verdicts=GOOD, **places)
    promote("isnet", "2", verdicts=GOOD, **places)
    TrackingServer(registry).client.delete_model_version("isnet", "1")
    with pytest.raises(UserError, match=r"was version 1 before 2, and that version was deleted.*models promote isnet"):
        rollback("isnet", reason="halos", **places)
    assert alias(registry) == "2"
    assert len(read_trail(store, "isnet").entries) == 2


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
def test_an_alias_that_mlflow_would_refuse_is_refused_before_it_is_recorded(
    registry: str, store: Store, wrong: str
) -> None:
    places = {"store": store, "tracking_uri": registry, "alias": wrong}
    for act in (
        lambda: promote("isnet", "1", verdicts=BAD, force_reason="x", **places),
        lambda: approve("isnet", "1", subject=subject("model", "evaluation"), **places),
        lambda: rollback("isnet", reason="x", **places),
    ):
        with pytest.raises(UserError, match="which MLflow keeps for itself; choose another alias"):
            act()
    assert read_trail(store, "isnet").entries == ()
    assert show_version(registry, "isnet", "1")["gates"] == []


def test_every_alias_that_is_let_through_can_be_set(registry: str) -> None:
    for allowed in ("v", "v2x", "latest-1", "-_-", "x" * 255):
        check_alias(allowed)
        TrackingServer(registry).client.set_registered_model_alias("isnet", allowed, "1")


def test_a_trail_with_an_alias_that_was_never_set_is_readable_and_goes_on_repairing(
    registry: str, store: Store
) -> None:
    places = {"store": store, "tracking_uri": registry}
    promote("isnet", "1", verdicts=GOOD, **places)
    for wrong in ("latest", "a b/c"):
        trail = read_trail(store, "isnet")
        told = {"name": "isnet", "to_version": "2", "reason": "x", "verdict_digest": None}
        audit.append(store, trail, action="force", alias=wrong, **told)
    TrackingServer(registry).client.set_registered_model_alias("isnet", "production", "3")
    assert reconcile("isnet", **places) == [
        "isnet@a b/c cannot be set in MLflow, so its records moved nothing",
        "isnet@latest cannot be set in MLflow, so its records moved nothing",
        "isnet@production pointed at 3 and points at 1 again",
    ]
    assert verify_audit("isnet", **places) == []


@pytest.mark.parametrize("told", ["abc:def", "-1:x", "", f"0:{'0' * 64}", f"{'9' * 4500}:{'0' * 64}"])
def test_a_garbled_witness_stops_everything_in_a_sentence(registry: str, store: Store, told: str) -> None:
    places = {"store": store, "tracking_uri": registry}
    for version in ("1", "2"):
        promote("isnet", version, verdicts=GOOD, **places)
    TrackingServer(registry).client.set_registered_model_tag("isnet", "trainplane.audit_head", told)
    TrackingServer(registry).client.set_registered_model_alias("isnet", "production", "4")
    for act in (
        lambda: reconcile("isnet", **places),
        lambda: current_version("isnet", **places),
        lambda: promote("isnet", "3", verdicts=GOOD, **places),
        lambda: rollback("isnet", reason="x", **places),
    ):
        with pytest.raises(RunFailed, match=r"is no witness .*: it was changed; nothing was moved"):
            act()
    assert alias(registry) == "4"
    found = verify_audit("isnet", **places)
    assert ["is no witness" in found[0], "points at 4, the trail says 2" in found[1]] == [True, True]
    assert len(read_trail(store, "isnet").entries) == 2
    TrackingServer(registry).client.delete_registered_model_tag("isnet", "trainplane.audit_head")
    reconcile("isnet", **places)
    assert verify_audit("isnet", **places) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        *((name, "need letters, digits, - and _") for name in ("a/b", "../m", "..", "", "m m", "x'or'1", "-m")),
        pytest.param("M" * 300, r"has 300 characters, need at most 100", id="long"),
    ],
)
def test_a_name_that_no_model_can_have_is_told_before_anybody_is_asked(store: Store, name: str, sentence: str) -> None:
    # No server: an unknown address would be told otherwise.
    places = {"store": store, "tracking_uri": "http://127.0.0.1:9"}
    for act in (
        lambda: show("http://127.0.0.1:9", name),
        lambda: reconcile(name, **places),
        lambda: verify_audit(name, **places),
        lambda: rollback(name, reason="x", **places),
    ):
        with pytest.raises(UserError, match=sentence):
            act()
