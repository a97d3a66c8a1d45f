"""The record of a run says what it was made from, by digest and version."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
from importlib import metadata

import pytest

from trainplane.errors import UserError
from trainplane.tracking import lineage
from trainplane.tracking.client import TrackingServer

DIGEST = "0123456789abcdef" * 4


def test_a_dataset_is_an_input_of_the_run_with_its_full_digest_beside_it(
    tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    client = TrackingServer(tracking_uri).client
    run_id = client.create_run("0").info.run_id
    for _ in range(2):
        lineage.log_dataset(
            TrackingServer(tracking_uri),
            run_id,
            name="places2",
            digest=DIGEST,
            address="s3://bucket/places2",
            context="training",
        )
    run = client.get_run(run_id)
    [recorded] = run.inputs.dataset_inputs
    assert recorded.dataset.name == "places2"
    assert recorded.dataset.digest == DIGEST[:36]
    # A bucket is one of an endpoint: the same name elsewhere is another bucket.
    assert json.loads(recorded.dataset.source) == {"uri": "s3://bucket/places2", "endpoint": "http://store:9000"}
    assert [(tag.key, tag.value) for tag in recorded.tags] == [("mlflow.data.context", "training")]
    assert run.data.tags["trainplane.dataset.training"] == DIGEST


def test_a_dataset_cannot_be_recorded_where_no_server_answers() -> None:
    with pytest.raises(UserError, match="does not answer as MLflow"):
        lineage.log_dataset(
            TrackingServer("http://127.0.0.1:9"), "r" * 32, name="a", digest=DIGEST, address="/data", context="training"
        )


def test_facts_are_json_and_name_the_versions_that_run() -> None:
    facts = json.loads(json.dumps(lineage.lineage_record()))
    assert facts["environment"]["torch"] == metadata.version("torch")
    assert facts["environment"]["python"].startswith("3.")
    assert facts["hardware"]["cpus"] >= 1
    assert facts["hardware"]["memory_bytes"] > 2**27


def test_code_is_named_by_its_commit_or_by_what_the_image_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lineage.COMMIT_VARIABLE, "f" * 40)
    tags = lineage.code_tags()
    folder = lineage.__file__.rpartition("/")[0]
    tracked = subprocess.run(
        ["git", "-C", folder, "ls-files", "--error-unmatch", lineage.__file__], capture_output=True
    )
    if tracked.returncode == 0:
        head = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        assert tags["trainplane.commit"] == tags["mlflow.source.git.commit"] == head
        assert tags["trainplane.dirty"] in ("true", "false")
        assert (lineage.code_diff() is not None) >= (tags["trainplane.dirty"] == "true")
    else:
        assert tags == {"trainplane.commit": "f" * 40, "trainplane.dirty": "unknown"}


def test_an_account_is_not_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    before = lineage.account()
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "somebody-else")
    assert lineage.account() == before == pwd.getpwuid(os.getuid()).pw_name
    assert lineage.user() == "somebody-else"
    # A container's user often has no name.
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    assert lineage.account() == f"uid-{2**31 - 7}"


def test_a_long_diff_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "_git", lambda *arguments: "+ line\n" * 1000)
    diff = lineage.code_diff(max_bytes=700)
    assert diff is not None
    assert re.search(r"\[cut here: 6300 of 7000 bytes are not recorded\]", diff)
    assert len(diff) < 800
    assert lineage.is_truncated(diff)
    assert not lineage.is_truncated("+ a line that says [cut here: in its middle\n+ line\n")


def test_a_commit_that_does_not_exist_is_not_there() -> None:
    assert not lineage.has_commit("0" * 40)


@pytest.mark.parametrize(
    ("name", "value"),
    [("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1"), ("GIT_DIR", "/nowhere"), ("GIT_WORK_TREE", "/"), ("HOME", "/nowhere")],
)
def test_the_commit_is_found_in_a_checkout_of_another_user_and_within_a_hook(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    tags = lineage.code_tags()
    monkeypatch.setenv(name, value)
    assert lineage.code_tags() == tags
