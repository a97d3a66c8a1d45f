"""Whatever an MLflow server answers: a right result or an error of ours, in bounded time and memory."""

from __future__ import annotations

import resource
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hostile_mlflow import PLAUSIBLE, RUN_ID, HostileMlflow
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from trainplane.errors import RunFailed, UserError
from trainplane.tracking import answer_limits
from trainplane.tracking.client import TrackingServer, all_pages
from trainplane.tracking.local.lists import FoundRun
from trainplane.tracking.query.curves import read_curves

MOST_S = 20.0
RUN = FoundRun(RUN_ID, "demo", "1", "RUNNING", 1, {"val/psnr": 24.5})
OPERATIONS: dict[str, tuple[Callable[[TrackingServer], object], object]] = {
    "run": (lambda server: dict(server.client.get_run(RUN_ID).data.metrics), {"val/psnr": 24.5}),
    "runs": (lambda server: [run.info.run_id for run in pages(server, "search_runs", ["1"])], [RUN_ID]),
    "create": (lambda server: server.client.create_run("1").info.run_id, RUN_ID),
    "record": (lambda server: server.client.log_batch(RUN_ID, metrics=[Metric("a", 1.0, 1, 1)]), None),
    "tag": (lambda server: server.client.set_tag(RUN_ID, "a", "b"), None),
    "experiments": (lambda server: [each.name for each in pages(server, "search_experiments")], ["isnet"]),
    "experiment": (lambda server: experiment_id(server), "1"),
    "history": (lambda server: [m.value for m in server.client.get_metric_history(RUN_ID, "val/psnr")], [24.5]),
    "version": (lambda server: str(server.client.get_model_version("m", "3").version), "3"),
    "versions": (lambda server: [str(each.version) for each in pages(server, "search_model_versions")], ["3"]),
    "model": (lambda server: server.client.get_registered_model("m").name, "m"),
    "curve": (lambda server: read_curves(server, RUN, ["val/psnr"])[0].values, (24.5,)),
    "alias": (lambda server: str(server.client.get_model_version_by_alias("m", "production").version), "3"),
}


def pages(server: TrackingServer, search: str, *arguments: object) -> list:
    method = getattr(server.client, search)
    return all_pages(lambda page_token: method(*arguments, page_token=page_token))


def experiment_id(server: TrackingServer) -> str:
    experiment = server.client.get_experiment_by_name("isnet")
    if experiment is None:
        raise NotFound
    return experiment.experiment_id


class NotFound(Exception):
    """The server says that there is no such thing."""


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileMlflow]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    server = HostileMlflow()
    yield server
    server.close()


def problem_of(seed: int, hostile: HostileMlflow, server: TrackingServer) -> str | None:
    """What is wrong about an operation against the answers of a seed, if anything is."""
    name = list(OPERATIONS)[seed % len(OPERATIONS)]
    operation, truth = OPERATIONS[name]
    hostile.begin(seed)
    started = time.monotonic()
    try:
        result = operation(server)
    except NotFound:
        is_told = any(b"RESOURCE_DOES_NOT_EXIST" in answer.body for answer in hostile.sent)
        return None if is_told else f"{name}: nothing there, from {hostile.sent}"
    except (MlflowException, OSError, UserError, RunFailed) as error:
        sentence = str(server.unreachable(error))
        if "hunter2" in sentence or len(sentence) > 1000 or "\n" in sentence:
            return f"{name}: says {sentence[:300]!r}"
        result = truth
    except BaseException as error:
        return f"{name}: {type(error).__name__}: {error} from {str(hostile.sent)[:2000]}"
    if time.monotonic() - started > MOST_S:
        return f"{name}: took {time.monotonic() - started:.1f} s, from {str(hostile.sent)[:2000]}"
    plausible = any(header == PLAUSIBLE for answer in hostile.sent for header, _ in answer.headers)
    if result == truth or plausible:
        return None
    return f"{name}: {str(result)[:100]} taken for right, from {str(hostile.sent)[:2000]}"


def problems(seeds: range, hostile: HostileMlflow) -> list[str]:
    server = TrackingServer(hostile.endpoint)
    found = ((seed, problem_of(seed, hostile, server)) for seed in seeds)
    return [f"seed {seed}: {problem}" for seed, problem in found if problem is not None]


def test_a_slice_of_all_answers(hostile: HostileMlflow) -> None:
    assert problems(range(120), hostile) == []


@pytest.mark.nightly
def test_five_thousand_answers_in_bounded_memory(hostile: HostileMlflow) -> None:
    assert problems(range(500), hostile) == []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = problems(range(500, 5_000), hostile)
    assert Counter(text.split()[2] for text in found) == {}, found[:20]
    # KiB: no answer took more than a few buffers.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.fixture
def endless() -> Iterator[TrackingServer]:
    """A server whose answers have no end: by drops, and by megabytes where the path says so."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = self.rfile.readline()
            piece, pause_s = (b" " * 2**20, 0.0) if b"experiments" in request else (b" ", 0.05)
            try:
                self.wfile.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999999999999\r\n\r\n"
                )
                while True:
                    self.wfile.write(piece)
                    time.sleep(pause_s)
            except OSError:
                pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield TrackingServer(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()


def test_an_answer_by_drops_ends(endless: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_limits, "MAX_ANSWER_S", 0.3)
    with pytest.raises(MlflowException, match="no end after") as failed:
        endless.client.get_run(RUN_ID)
    assert "does not answer as MLflow" in str(endless.unreachable(failed.value))


def test_an_answer_without_end_takes_little_memory(endless: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_limits, "MAX_ANSWER_BYTES", 2**23)
    with pytest.raises(MlflowException, match="more than 8 MiB"):
        endless.client.get_experiment_by_name("isnet")
