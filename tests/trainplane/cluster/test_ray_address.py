"""RAY_ADDRESS: what it may be, and what a leftover one is answered with."""

from __future__ import annotations

import http.server
import socket
import threading
import time

import pytest

from trainplane.cluster.ports import free_port
from trainplane.cluster.ray_address import check_cluster, is_job, named_address
from trainplane.cluster.ray_session import in_ray_job
from trainplane.errors import UserError


@pytest.mark.parametrize(
    ("text", "address"),
    [("", None), (" ", None), ("local", None), ("auto", "auto"), ("head:6379", "head:6379"), ("[::1]:1", "[::1]:1")],
)
def test_what_names_a_cluster(text, address):
    assert named_address({"RAY_ADDRESS": text}) == address
    assert named_address({}) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://127.0.0.1:8265", ["a dashboard", "isnet submit", "unset it"]),
        ("ray://head:10001", ["need HOST:PORT", "unset it"]),
        ("head", ["need HOST:PORT"]),
        ("head:port", ["need HOST:PORT"]),
        ("head:6379/x", ["need HOST:PORT"]),
    ],
)
def test_what_names_none_is_refused(text, words):
    with pytest.raises(UserError) as refusal:
        named_address({"RAY_ADDRESS": text})
    for word in words:
        assert word in str(refusal.value)


def test_a_job_is_known_by_what_ray_sets_in_it():
    assert is_job({"RAY_JOB_ID": "01000000"})
    assert is_job({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_ADDRESS": "10.0.0.1:6379"})
    assert not is_job({"RAY_ADDRESS": "10.0.0.1:6379"})


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch):
    for name in ("RAY_JOB_ID", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    started = time.monotonic()
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address}.*unset it"):
        in_ray_job()
    assert time.monotonic() - started < 10
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert not in_ray_job()


def test_a_port_that_no_machine_has_is_refused():
    with pytest.raises(UserError, match="no Ray cluster answers"):
        check_cluster("127.0.0.1:99999")


def test_another_server_is_no_cluster():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        with pytest.raises(UserError, match="is no Ray cluster"):
            check_cluster(f"127.0.0.1:{server.server_port}")
        server.shutdown()


def test_what_speaks_as_rays_servers_do_is_taken():
    """Their first frame, after that of the client, is one of settings."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
                connection.recv(100)

        thread = threading.Thread(target=answer)
        thread.start()
        check_cluster(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
