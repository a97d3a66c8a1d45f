"""`isnet serve` and `isnet models share` as commands: mistakes are sentences, and a server follows other processes."""

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project_fixtures import runner
from urllib3.filepost import encode_multipart_formdata

from jobs.bench.traffic import TrafficClient, measure
from jobs.cli.main import main
from jobs.serving.on_ray import ReplicaSettings, room_message
from trainplane.cluster.context import resolve
from trainplane.cluster.ports import free_port
from trainplane.registry.audit import read_trail
from trainplane.registry.shares import current_share
from trainplane.storage import open_store


@pytest.fixture
def isnet(served_home, capfd):
    return runner(capfd)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nothing",), "no registered model 'nothing' (registered: photo)"),
        (("photo", "--candidate", "9"), "has no version 9 (it has: 3, 2, 1)"),
        (("photo", "--candidate", "1"), "version 1 is photo@production already"),
        (("photo", "--alias", "staging"), "alias 'staging' points at nothing"),
        (("photo/2",), "isnet serve photo --candidate 2"),
        (("photo", "--shadow"), "isnet serve photo --candidate VERSION --shadow"),
        (("photo", "--canary", "10%"), "isnet serve photo --candidate VERSION"),
        (("photo", "--candidate", "2", "--canary", "110%"), "110% is no share; need more than 0 and at most 1"),
        (("photo", "--port", "99999"), "99999 is not a port"),
    ],
)
def test_a_mistake_is_a_sentence_and_nothing_is_recorded(isnet, served_home, words, sentence):
    records = len(read_trail(open_store(str(served_home / "audit")), "photo").records)
    done = isnet("serve", *words)
    assert done.status == 2, done.err
    assert sentence in done.err
    assert len(read_trail(open_store(str(served_home / "audit")), "photo").records) == records


def test_a_job_is_asked_for_a_token_because_its_log_is_kept(isnet, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    done = isnet("serve", "photo")
    assert (done.status, "set ISNET_SERVE_TOKEN on the cluster's nodes" in done.err) == (2, True), done.err


def test_a_token_of_the_users_own_is_not_printed(served_home, monkeypatch, capfd):
    monkeypatch.setenv("ISNET_SERVE_TOKEN", secret := "a-token-of-the-users-own")
    monkeypatch.setattr("jobs.commands.serve.run_server", lambda app, *, announce, **_: announce())
    for words in (("serve", "photo"), ("serve", "photo", "--json")):
        monkeypatch.setenv("ISNET_SERVE_TOKEN", secret)
        assert main(list(words)) == 0
        out, err = capfd.readouterr()
        assert secret not in out + err
        assert "http://127.0.0.1:" in out


def test_a_token_that_is_too_short_is_refused_without_being_shown(isnet, monkeypatch):
    monkeypatch.setenv("ISNET_SERVE_TOKEN", "hunter2")
    done = isnet("serve", "photo")
    assert (done.status, "has 7 characters; need at least 16" in done.err) == (2, True)
    assert "hunter2" not in done.err


def test_a_share_is_recorded_and_ended(isnet, served_home):
    store = open_store(str(served_home / "audit"))
    done = isnet("models", "share", "photo", "2", "12.5%", "--reason", "a first look", "--json")
    assert done.status == 0, done.err
    assert done.json()["audit"]["action"] == "share"
    share = current_share(read_trail(store, "photo"), "production")
    assert (share.version, share.share, share.reason) == ("2", 0.125, "a first look")
    assert isnet("models", "share", "photo", "2", "off").status == 0
    assert current_share(read_trail(store, "photo"), "production").mode == "off"
    assert isnet("models", "audit", "photo", "--verify").status == 0
    refused = isnet("models", "share", "photo", "1", "10%")
    assert (refused.status, "has all requests already" in refused.err) == (2, True)


@pytest.fixture
def serving(served_home):
    """Starts `isnet serve WORDS`; gives its process, address and report."""
    processes = []

    def start(*words):
        port = free_port()
        command = [sys.executable, "-m", "jobs.cli", "serve", "photo", "--port", str(port), "--json", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        processes.append(process)
        told = json.loads(process.stdout.readline())
        # Neither the token nor anything made from it stands in the list of processes.
        assert told["token"] not in Path(f"/proc/{process.pid}/cmdline").read_text()
        return process, told

    yield start
    for process in processes:
        process.kill()
        process.wait()


def production(told):
    with urllib.request.urlopen(f"{told['address']}/healthz", timeout=30) as answer:
        return json.load(answer)["production"]


@pytest.mark.real
def test_a_server_follows_a_promotion_and_a_rollback_of_another_process_and_ends_in_peace(serving, isnet):
    process, told = serving("--candidate", "2")
    assert production(told) == "1"
    assert isnet("models", "promote", "photo", "2", "--force", "a test").status == 0
    assert isnet("models", "rollback", "photo").status == 0
    ended = time.monotonic()
    while production(told) != "1":
        assert time.monotonic() - ended < 2
    # Ten seconds where nothing is filled, though a client has sent half a request.
    with socket.create_connection(("127.0.0.1", int(told["address"].rpartition(":")[2]))) as half:
        lines = ("POST /invocations HTTP/1.1", "Host: x", f"Authorization: Bearer {told['token']}", "Content-Length: 9")
        half.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def leave_in_mid_fill(told):
    """Asks for a fill of a second, and closes the connection."""
    side = 500
    photo, hole = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
    hole[100:400, 100:400] = 255
    files = [(name, (name, png(array), "image/png")) for name, array in (("photo", photo), ("mask", hole))]
    body, kind = encode_multipart_formdata(files)
    connection = http.client.HTTPConnection(told["address"].removeprefix("http://"), timeout=30)
    connection.request("POST", "/v1/fill", body, {"Content-Type": kind, "Authorization": f"Bearer {told['token']}"})
    connection.close()


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def figures(told):
    request = urllib.request.Request(f"{told['address']}/metrics", headers={"Authorization": f"Bearer {told['token']}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@pytest.mark.real
def test_closed_tabs_free_their_places(serving):
    _, told = serving("--workers", "1")
    for _ in range(6):
        leave_in_mid_fill(told)
    places = ('trainplane_serving_running{model="photo"}', 'trainplane_serving_waiting{model="photo"}')
    deadline = time.monotonic() + 60
    while [figures(told).get(place) for place in places] != [0, 0]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert TrafficClient(told["address"], told["token"], 48).ask(("1",)).status == 200


@pytest.mark.real
def test_ray_serve_answers_by_the_same_routes(serving):
    pytest.importorskip("ray.serve", reason="needs the extra serve")
    # Two take both processors of a small machine: the page must have room beside them.
    replicas = str(min(2, os.cpu_count() or 1))
    _, told = serving("--candidate", "2", "--on-ray", "--replicas", replicas)
    assert production(told) == "1"
    client = TrafficClient(told["address"], told["token"], 64)
    client.wait_for_versions({"1", "2"})
    for versions in (("1",), ("2",), ("2", "1")):
        asked = client.ask(versions)
        assert (asked.status, asked.answered, asked.is_named) == (200, versions, True)


@pytest.mark.parametrize(
    ("replicas", "resources", "sentence"),
    [
        (ReplicaSettings(2), {"CPU": 2.0}, None),
        (ReplicaSettings(3), {"CPU": 2.0}, "--replicas 3 needs 3 CPU, and there is 2; give --replicas 2"),
        (ReplicaSettings(4, 0.5), {"CPU": 8.0, "GPU": 2.0}, None),
        (ReplicaSettings(4, 0.5), {"CPU": 8.0, "GPU": 1.0}, "needs 2 GPU, and there is 1; give --replicas 2"),
        (ReplicaSettings(1, 1.0), {"CPU": 8.0}, "--gpus 1 needs 1 GPU, and there is 0; leave --gpus out"),
    ],
)
def test_replicas_without_room_are_told_and_not_waited_for(replicas, resources, sentence):
    found = room_message(replicas, resources)
    assert found is None if sentence is None else sentence in found


@pytest.mark.real
def test_more_replicas_than_this_machine_has_processors_are_refused(isnet):
    pytest.importorskip("ray.serve", reason="needs the extra serve")
    processors = os.cpu_count()
    done = isnet("serve", "photo", "--on-ray", "--replicas", str(processors + 1))
    assert done.status == 2, done.err
    assert f"there is {processors}; give --replicas {processors}" in done.err


@pytest.mark.nightly
def test_no_request_fails_while_versions_move_and_mlflow_is_away(served_home):
    figures = {figure["name"]: figure for figure in measure("photo", "2", resolve(), users=4, requests=30, side=64)}
    assert figures["answered by the canary before its promotion"]["value"] > 0
    for name in ("failed", "answered by a version not asked for", "without a named version", "traces lost"):
        assert figures[name]["value"] == 0, figures
    assert figures["traces doubled"]["value"] == 0
    assert figures["last old answer after the rollback"]["value"] <= 2
