"""Follows a job against a stub of Ray's client with scripted answers. The real one: tests/cluster."""

import contextlib
import socket
import threading
from types import SimpleNamespace

import pytest

from trainplane.cluster.context import local
from trainplane.cluster.jobs import client as dashboard
from trainplane.cluster.jobs import logs
from trainplane.cluster.jobs.client import connect, connection_error
from trainplane.cluster.jobs.logs import follow, wait_for_start
from trainplane.cluster.jobs.queue import DRIVER
from trainplane.cluster.jobs.status import JobState, queue_message
from trainplane.errors import RunFailed, UserError


class Cluster:
    """Answers states in turn (the last one for ever) and streams in turn; a stream may end in an error."""

    def __init__(self, states, streams=(), whole=""):
        self.states, self.streams, self.whole = list(states), list(streams), whole
        self.stopped = []

    def get_job_info(self, job):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        status, code, message = (*state, None, "")[:3] if isinstance(state, tuple) else (state, None, "")
        return SimpleNamespace(
            submission_id=job,
            status=status,
            message=message,
            entrypoint="",
            driver_exit_code=code,
            start_time=0,
            end_time=0,
            metadata=None,
        )

    def list_jobs(self):
        return []

    async def tail_job_logs(self, job):
        for chunk in self.streams.pop(0) if self.streams else ():
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def get_job_logs(self, job):
        return self.whole

    def stop_job(self, job):
        self.stopped.append(job)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(logs, "_POLL_S", 0.0)


def followed(cluster):
    written = []
    state = follow(cluster, "job", written.append)
    return state, "".join(written)


def test_the_log_is_passed_on_to_its_last_line():
    cluster = Cluster([("SUCCEEDED", 0)], [["one\n", "two\n"]], whole="one\ntwo\nthree\n")
    state, text = followed(cluster)
    assert (state.exit_status, text) == (0, "one\ntwo\nthree\n")


def test_a_stream_that_breaks_is_taken_up_where_it_stood():
    broken = RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
    streams = [["one\n", "tw", broken], [broken], ["one\n", "two\n", "three\n"]]
    state, text = followed(Cluster(["RUNNING", ("SUCCEEDED", 0)], streams, whole="one\ntwo\nthree\n"))
    assert (state.exit_status, text) == (0, "one\ntwo\nthree\n")


def test_a_stream_that_ends_while_the_job_runs_is_asked_for_again():
    streams = [["one\n"], ["one\n", "two\n"]]
    state, text = followed(Cluster(["RUNNING", ("FAILED", 3)], streams, whole="one\ntwo\n"))
    assert (state.exit_status, text) == (3, "one\ntwo\n")


def test_a_cluster_that_stays_away_is_given_up_and_the_job_is_named(monkeypatch):
    monkeypatch.setattr(logs, "_LOST_AFTER_S", 0.05)
    with pytest.raises(RunFailed, match="does not answer any more, and job job may be running"):
        followed(Cluster([ConnectionError("refused")]))


def test_a_head_that_forgot_the_job_is_said():
    with pytest.raises(RunFailed, match="restarted and does not know job job any more; submit it again"):
        followed(Cluster([RuntimeError("Request failed with status code 404: Job job does not exist")]))


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 3, 3),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 1),
        ("STOPPED", -15, 143),
    ],
)
def test_the_exit_status_is_the_jobs_own(status, code, expected):
    assert JobState("job", status, "", "", code, None, None).exit_status == expected


def test_a_job_that_waits_says_what_for_and_is_stopped_at_the_deadline():
    cluster = Cluster([("PENDING", None, "Waiting for resources: 64 CPU.")])
    with pytest.raises(RunFailed) as raised:
        wait_for_start(cluster, "job", timeout_s=0.05, emit=pytest.fail)
    assert "did not start within 0 s and was told to stop" in str(raised.value)
    assert "Waiting for resources: 64 CPU." in str(raised.value)
    assert cluster.stopped == ["job"]


def test_a_queued_job_reports_its_position():
    def state(job, status, started_ms, takes=DRIVER):
        return JobState(job, status, "Ray says this.", "", None, started_ms, None, takes)

    jobs = [
        state("over", "SUCCEEDED", 1),
        state("runs", "RUNNING", 2),
        state("beside", "PENDING", 3, takes=""),
        state("first", "PENDING", 4),
        state("second", "PENDING", 5),
        state("third", "PENDING", 6),
    ]
    messages = {job.job: queue_message(job, jobs) for job in jobs if job.status == "PENDING"}
    assert messages == {
        "beside": "Ray says this.",
        "first": "it is first in the cluster's queue (1 running)",
        "second": "1 job is before it in the cluster's queue (1 running)",
        "third": "2 jobs are before it in the cluster's queue (1 running)",
    }


def test_a_job_that_the_list_has_lost_is_no_mistake():
    gone = JobState("gone", "PENDING", "", "", None, 7, None, DRIVER)
    assert queue_message(gone, []) == "it is first in the cluster's queue (0 running)"


def test_a_job_that_starts_is_no_longer_waited_for():
    assert (
        wait_for_start(Cluster(["PENDING", "PENDING", "RUNNING"]), "job", timeout_s=10, emit=pytest.fail).status
        == "RUNNING"
    )


def test_an_address_that_drops_packets_is_given_up_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(dashboard, "ROUTE_TIMEOUT_S", 0.2)
    # A block for documentation (RFC 5737): no host has it.
    with pytest.raises(UserError, match=r"no Ray cluster answers at http://198\.51\.100\.7:8265"):
        connect(local(tmp_path).at(ray="http://198.51.100.7:8265"))


def test_a_cluster_that_is_away_while_a_job_waits_is_looked_for_again(monkeypatch):
    from requests.exceptions import ConnectionError as Refused

    cluster = Cluster(["PENDING", Refused("no route"), "PENDING", "RUNNING"])
    assert wait_for_start(cluster, "job", timeout_s=10, emit=pytest.fail).status == "RUNNING"
    monkeypatch.setattr(logs, "_LOST_AFTER_S", 0.05)
    with pytest.raises(RunFailed, match="does not answer any more, and job job may be running"):
        wait_for_start(Cluster([Refused("no route")]), "job", timeout_s=10, emit=pytest.fail)
    with pytest.raises(RunFailed, match="does not know job job any more"):
        wait_for_start(
            Cluster([RuntimeError("status code 404: it does not exist")]), "job", timeout_s=10, emit=pytest.fail
        )


class Unreadable(Cluster):
    """What the job wrote is no UTF-8, which Ray answers with a 500."""

    def get_job_logs(self, job):
        raise RuntimeError("Request failed with status code 500: … UnicodeDecodeError: 'utf-8' codec can't decode …")


def test_a_log_that_ray_cannot_read_does_not_hide_how_the_job_ended():
    state, text = followed(Unreadable([("FAILED", 3)], [["one\n"]]))
    assert state.exit_status == 3
    assert text.startswith("one\n")
    assert "not all UTF-8" in text
    with pytest.raises(RunFailed, match="not all UTF-8; read it on the cluster's head"):
        logs.full_log(Unreadable(["RUNNING"]), "job")


def test_a_connection_that_is_cut_before_the_last_lines_is_taken_up():
    class Cut(Cluster):
        def get_job_logs(self, job):
            if (answer := self.whole.pop(0)) is None:
                raise ConnectionError("refused")
            return answer

    state, text = followed(Cut([("SUCCEEDED", 0)], [["one\n"]], whole=[None, "one\ntwo\n"]))
    assert (state.exit_status, text) == (0, "one\ntwo\n")


@pytest.fixture
def answering():
    """Makes a server that gives every request the same bytes, or nothing at all; returns its port."""
    servers = []

    def make(answer, port=0):
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen(20)
        servers.append(server)
        connections = []

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection)
                if answer is not None:
                    with contextlib.suppress(OSError):
                        connection.recv(65536)
                        connection.sendall(answer)
                        connection.close()

        threading.Thread(target=serve, daemon=True).start()
        return server.getsockname()[1]

    yield make
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<html></html>"
OTHER = b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n{"a":1}'
FAULT = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("answer", [PAGE, OTHER, FAULT, b"\0garbage"])
def test_what_answers_and_is_no_head_of_ray_is_said_in_a_sentence(tmp_path, answering, monkeypatch, answer):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(UserError, match=r"no Ray cluster answers at http://127\.0\.0\.1"):
        connect(local(tmp_path).at(ray=f"http://127.0.0.1:{answering(answer)}"))


def test_what_listens_and_says_nothing_is_given_up(tmp_path, answering, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(dashboard, "ANSWER_TIMEOUT_S", 0.3)
    with pytest.raises(UserError, match="does not answer within 0 s"):
        connect(local(tmp_path).at(ray=f"http://127.0.0.1:{answering(None)}"))


def test_a_port_is_not_taken_for_a_refused_token():
    text = connection_error("http://h:40312", ConnectionError("Failed to connect to Ray at http://h:40312."))
    assert "no Ray cluster answers" in text
