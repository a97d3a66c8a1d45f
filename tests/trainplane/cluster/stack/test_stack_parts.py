"""Parts of a stack, without starting one: processes, ports, secrets, its context."""

import http.server
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import tomllib

import psutil
import pytest

from trainplane.cluster import context_file
from trainplane.cluster.context import resolve
from trainplane.cluster.health import health_error, main
from trainplane.cluster.ports import HOST, free_port, is_free
from trainplane.cluster.stack import supervisor
from trainplane.cluster.stack.layout import StackLayout, StackState
from trainplane.cluster.stack.stack import Stack, assign_ports, component_types
from trainplane.cluster.stack.supervisor import Launch
from trainplane.errors import UserError
from trainplane.locks import ProcessId

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
# Ignores a polite request, and has a child that would survive it.
STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('ready', flush=True)\ntime.sleep(600)"
)


@pytest.fixture
def layout(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    layout = StackLayout(tmp_path / "stack")
    layout.make()
    yield layout
    for process in supervisor.find_marked(layout.mark).values():
        process.kill()


def launch(layout, command, name="part"):
    return supervisor.start(Launch(name, command, {}, layout.root), log=layout.log(name), mark=layout.mark)


def wait_until(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_is_known_by_its_birth_not_by_its_number(layout):
    recorded = launch(layout, SLEEP)
    assert supervisor.find(recorded).pid == recorded.pid
    # A reused number is another process.
    assert supervisor.find(ProcessId.born_at(recorded.pid, recorded.born - 60)) is None
    assert supervisor.find(ProcessId.born_at(os.getpid(), 1.0)) is None
    assert supervisor.find(None) is None


def test_what_ignores_the_request_is_killed_with_its_children(layout):
    recorded = launch(layout, [sys.executable, "-c", STUBBORN])
    wait_until(lambda: b"ready" in layout.log("part").read_bytes())
    family = supervisor.find_family([recorded])
    assert len(family) == 2
    supervisor.stop(family.pop(recorded.pid), family.values(), how=signal.SIGTERM, patience_s=0.2)
    wait_until(lambda: not supervisor.find_marked(layout.mark))


def test_children_of_a_killed_leader_are_found_by_their_mark(layout):
    recorded = launch(layout, [sys.executable, "-c", STUBBORN])
    wait_until(lambda: b"ready" in layout.log("part").read_bytes())
    os.kill(recorded.pid, signal.SIGKILL)
    os.waitpid(recorded.pid, 0)
    assert supervisor.find(recorded) is None
    (orphan,) = supervisor.find_marked(layout.mark).values()
    stack = Stack(layout.root)
    assert stack.down(wipe=False, emit=lambda text: None) == 1
    assert not psutil.pid_exists(orphan.pid) or psutil.Process(orphan.pid).status() == "zombie"


def test_processes_of_others_are_left_alone(layout, tmp_path):
    other = subprocess.Popen(SLEEP, env={**os.environ, supervisor.MARK: "of another stack"})
    try:
        state = StackState(store="moto", processes={"postgres": ProcessId.born_at(other.pid, 12345.0)})
        layout.save(state)
        Stack(layout.root).down(wipe=True, emit=lambda text: None)
        assert other.poll() is None
        assert not layout.root.exists()
    finally:
        other.kill()
        other.wait()


def test_secrets_are_made_once_for_the_owners_eyes(layout):
    first = layout.secret("RAY_AUTH_TOKEN")
    assert layout.secret("RAY_AUTH_TOKEN") == first
    assert len(first) == 48
    assert layout.secret("OTHER") != first
    file = layout.root / "secrets" / "RAY_AUTH_TOKEN"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(layout.run.stat().st_mode) == 0o700


def test_a_folder_that_somebody_else_put_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    layout = StackLayout(tmp_path / "stack")
    (tmp_path / "elsewhere").mkdir()
    layout.run.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="belongs to another user"):
        layout.make()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ports": 3}', '{"ports": {}, "processes": {"a": 5}}'])
def test_a_state_file_that_was_cut_counts_as_none(layout, text):
    (layout.root / "state.json").write_text(text)
    assert layout.load() == StackState()
    assert Stack(layout.root).status() == []


def test_ports_stay_unless_somebody_else_has_them(layout):
    kinds = component_types("moto")
    state, messages = StackState(store="moto"), []
    assign_ports(state, kinds, messages.append)
    first = dict(state.ports)
    assert len(set(first.values())) == len(first) == 9
    assert all(20_000 <= port < 32_000 for port in first.values())
    assign_ports(state, kinds, messages.append)
    assert (state.ports, messages) == (first, [])
    with socket.socket() as taker:
        taker.bind((HOST, first["mlflow"]))
        taker.listen()
        assert not is_free(first["mlflow"])
        assign_ports(state, kinds, messages.append)
    assert state.ports["mlflow"] != first["mlflow"]
    assert {**state.ports, "mlflow": 0} == {**first, "mlflow": 0}
    assert messages == [
        f"port {first['mlflow']} of mlflow is taken by another program; it is {state.ports['mlflow']} now"
    ]


def test_ports_of_a_part_that_runs_are_its_own(layout):
    state = StackState(store="moto")
    kinds = component_types("moto")
    assign_ports(state, kinds, pytest.fail)
    first = dict(state.ports)
    state.processes["mlflow"] = launch(layout, SLEEP)
    with socket.socket() as itself:
        itself.bind((HOST, first["mlflow"]))
        itself.listen()
        assign_ports(state, kinds, pytest.fail)
    assert state.ports == first


def test_parts_that_are_not_installed_are_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("trainplane.cluster.stack.postgres.find_programs", lambda: None)
    monkeypatch.setattr("trainplane.cluster.stack.ceph.PROGRAMS", ("no-such-program",))
    with pytest.raises(UserError) as refused:
        Stack(tmp_path / "stack").up(store="ceph", emit=pytest.fail)
    assert "nothing was started" in str(refused.value)
    assert "apt-get install -y --no-install-recommends postgresql" in str(refused.value)
    assert "ceph-mon ceph-osd radosgw ceph-common" in str(refused.value)
    assert not (tmp_path / "stack" / "secrets").exists()


def test_two_commands_at_once_are_not_let_in(layout):
    stack = Stack(layout.root)
    with stack.exclusive(), pytest.raises(UserError, match="another `isnet stack up` or `down` is running"):
        stack.up(store="moto")


def test_another_store_than_it_has_is_refused(layout, monkeypatch):
    layout.save(StackState(store="moto"))
    monkeypatch.setattr(Stack, "_check_installed", lambda *_: None)
    with pytest.raises(UserError, match="keeps its objects in moto"):
        Stack(layout.root).up(store="ceph")


OWN = 'default = "lab"\n\n[context.lab]\nray = "http://head:8265"\n'


@pytest.mark.parametrize("before", [None, "", OWN, OWN.rstrip("\n")])
def test_the_context_comes_and_goes_and_the_rest_stays(tmp_path, monkeypatch, before):
    monkeypatch.delenv("ISNET_CONTEXT", raising=False)
    file = tmp_path / "isnet.toml"
    if before is not None:
        file.write_text(before)
    token = tmp_path / "token"
    token.write_text("word\n")
    values = {"ray": "http://127.0.0.1:21000", "tracking": "http://127.0.0.1:21001", "store": "s3://isnet"}
    for _ in range(2):
        context_file.check(file)
        context_file.write(file, values, {"RAY_AUTH_TOKEN": token})
    assert "word" not in file.read_text()
    context = resolve("stack", start=tmp_path)
    assert (context.ray, context.checkpoints) == ("http://127.0.0.1:21000", "s3://isnet/checkpoints")
    assert context.environment["RAY_AUTH_TOKEN"] == "word"
    if before:
        assert resolve(start=tmp_path).name == "lab"
    context_file.remove(file)
    context_file.remove(file)
    assert not file.exists() if not before else file.read_text() == OWN


def test_text_behind_the_context_stays_too(tmp_path):
    file = tmp_path / "isnet.toml"
    context_file.write(file, {"ray": "http://127.0.0.1:1"}, {})
    file.write_text(file.read_text() + '\n[context.mine]\nray = "http://head:8265"\n')
    context_file.write(file, {"ray": "http://127.0.0.1:2"}, {})
    tree = tomllib.loads(file.read_text())["context"]
    assert tree == {"mine": {"ray": "http://head:8265"}, "stack": {"ray": "http://127.0.0.1:2", "secrets": {}}}


def test_a_context_of_that_name_which_is_not_ours_is_refused(tmp_path):
    file = tmp_path / "isnet.toml"
    file.write_text('[context.stack]\nray = "http://head:8265"\n')
    with pytest.raises(UserError, match="has a context 'stack' that `isnet stack up` did not write"):
        context_file.check(file)
    file.write_text("[context\n")
    with pytest.raises(UserError, match="is not valid TOML"):
        context_file.check(file)


@pytest.fixture
def server():
    """Answers by path: /ok 200, /moved 302, /broken 500."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response({"/ok": 200, "/moved": 302}.get(self.path, 500))
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()

        def log_message(self, *words):
            pass

    running = http.server.ThreadingHTTPServer((HOST, 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://{HOST}:{running.server_address[1]}"
    running.shutdown()
    running.server_close()


def test_health_is_any_answer_that_is_no_error(server):
    assert health_error(f"{server}/ok") is None
    assert health_error(f"{server}/moved") is None
    assert health_error(f"{server}/broken") == f"{server}/broken: HTTP 500"
    assert health_error(server.replace("http", "tcp")) is None
    assert "not an address to check" in health_error("ftp://x")
    assert main([f"{server}/ok", f"{server}/moved"]) == 0
    assert main([f"{server}/ok", f"{server}/broken"]) == 1


def test_health_of_what_does_not_speak_http_or_is_not_there():
    with socket.socket() as strange:
        strange.bind((HOST, 0))
        strange.listen()

        def babble():
            connection, _ = strange.accept()
            connection.recv(1000)
            connection.sendall(b"\x00\x00\x12\x04 not http\r\n")
            connection.close()

        threading.Thread(target=babble, daemon=True).start()
        assert "127.0.0.1" in health_error(f"http://{HOST}:{strange.getsockname()[1]}/")
    nobody = free_port()
    assert health_error(f"tcp://{HOST}:{nobody}").endswith("Connection refused")
    assert health_error(f"http://{HOST}:{nobody}/") is not None


def test_health_addresses_come_from_the_environment_and_a_driver_has_none(monkeypatch, server):
    monkeypatch.setenv("ISNET_HEALTH", f"{server}/ok {server}/broken")
    assert main([]) == 1
    monkeypatch.delenv("ISNET_HEALTH")
    assert main([]) == 0


@pytest.mark.parametrize("noted", [{"store": "moto", "ports": {}}, {"store": "other", "ports": {"store": 9000}}])
def test_a_state_that_is_not_whole_counts_as_none(tmp_path, monkeypatch, noted):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stack = Stack(tmp_path / "stack")
    stack.layout.make()
    (stack.layout.root / "state.json").write_text(json.dumps({**noted, "processes": {}}))
    assert stack.status() == []
    assert stack.down(wipe=True, emit=print) == 0
    assert not stack.layout.root.exists()


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path):
    (tmp_path / "stack").write_text("")
    with pytest.raises(UserError, match="is not a folder and cannot be created"):
        Stack(tmp_path / "stack").down(wipe=True)
