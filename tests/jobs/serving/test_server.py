"""One signal ends the server soon where nothing is filled, whatever its clients do; a fill under way may end."""

import socket
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import uvicorn
from fastapi import FastAPI

from jobs.serving import server
from jobs.serving.records import trace_queue
from trainplane.cluster.context import local
from trainplane.cluster.ports import free_port


def seconds_to_end(monkeypatch, *, running):
    """Ends a server that has half a request."""
    monkeypatch.setattr(server, "_IDLE_GRACE_S", 0.3)
    monkeypatch.setattr(server, "_GRACE_S", 3)
    app = FastAPI()
    app.state.service = SimpleNamespace(queue=SimpleNamespace(running=running))

    @app.post("/")
    async def read(body: dict) -> None:
        raise AssertionError("it never arrives whole")

    port, listens = free_port(), threading.Event()
    config = uvicorn.Config(app, port=port, log_config=None, ws="none")
    running_server = server.AnnouncingServer(config, listens.set)
    thread = threading.Thread(target=running_server.run)
    thread.start()
    assert listens.wait(60)
    with socket.create_connection(("127.0.0.1", port)) as half, socket.create_connection(("127.0.0.1", port)):
        half.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        deadline = time.monotonic() + 30
        while not running_server.server_state.tasks:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        began = time.monotonic()
        running_server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()
    return time.monotonic() - began


def test_open_connections_do_not_hold_the_end_up_but_a_fill_does(monkeypatch):
    idle = seconds_to_end(monkeypatch, running=0)
    busy = seconds_to_end(monkeypatch, running=1)
    assert busy >= 3
    assert idle < busy - 1.5


def test_records_with_nothing_in_them_are_closed_at_once(tmp_path):
    context = replace(local(tmp_path / "home"), tracking="http://127.0.0.1:9")
    with trace_queue(context, "photo"):
        began = time.monotonic()
    assert time.monotonic() - began < 3
