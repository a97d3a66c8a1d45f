"""Answers of a tracking server that are JSON and not MLflow's."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList

from trainplane.errors import UserError
from trainplane.tracking.answers import CheckedClient
from trainplane.tracking.client import TrackingServer, all_pages, is_refusal

RUN = {"info": {"run_id": "a", "experiment_id": "1", "status": "RUNNING", "start_time": 1}, "data": {}}
EXPERIMENT = {"experiment_id": "1", "name": "e", "lifecycle_stage": "active"}


@pytest.fixture
def answering() -> Iterator[Callable[[Any], TrackingServer]]:
    """A server that gives one answer to every request."""
    answers: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answers[-1])))
            self.end_headers()
            self.wfile.write(answers[-1])

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

        def answer(value: Any) -> TrackingServer:
            answers.append(value if isinstance(value, bytes) else json.dumps(value).encode())
            return TrackingServer(f"http://127.0.0.1:{server.server_port}")

        yield answer
        server.shutdown()


@pytest.mark.parametrize(
    "answer",
    [
        {"experiments": {"a": 1}},
        {"experiments": [{"name": {"x": [1]}, "experiment_id": {"x": [1]}}]},
        {"experiments": [{}]},
        {"experiments": [{"name": "e"}]},
        {"experiments": "text"},
        {"experiments": [EXPERIMENT | {"creation_time": "NaN"}]},
        [1, 2],
        "text",
        7,
        None,
        b"[" * 100_000 + b"]" * 100_000,
        b"\xff\xfe",
        b"<html>log in</html>",
    ],
)
def test_experiments_that_are_none_are_an_error_of_the_server(answering, answer: Any) -> None:
    server = answering(answer)
    with pytest.raises(MlflowException) as failed:
        all_pages(server.client.search_experiments)
    assert is_refusal(failed.value)
    assert isinstance(server.unreachable(failed.value), UserError)
    assert "does not answer as MLflow" in str(server.unreachable(failed.value))


@pytest.mark.parametrize(
    "run",
    [
        {"info": "text"},
        {"data": {}},
        {"info": {"experiment_id": "1"}},
        {"info": RUN["info"] | {"start_time": "NaN"}},
        {"info": RUN["info"] | {"status": 99}},
        {"info": RUN["info"], "data": {"metrics": {"a": 1}}},
        {"info": RUN["info"], "data": {"tags": [{"key": 1}]}},
    ],
)
def test_a_run_that_is_none_is_an_error_of_the_server(answering, run: Any) -> None:
    with pytest.raises(MlflowException):
        answering({"run": run}).client.get_run("a")


@pytest.mark.parametrize(
    "version", [{}, {"name": "m"}, {"name": "m", "version": "newest"}, {"version": "1"}, {"name": "m", "version": [1]}]
)
def test_a_version_that_is_none_is_an_error_of_the_server(answering, version: Any) -> None:
    with pytest.raises(MlflowException):
        answering({"model_version": version}).client.get_model_version("m", "1")


def test_what_a_newer_server_adds_is_no_error(answering) -> None:
    server = answering({"experiments": [EXPERIMENT | {"mood": "fine"}], "news": {}})
    assert [experiment.name for experiment in all_pages(server.client.search_experiments)] == ["e"]


def test_mistakes_of_callers_stay_theirs() -> None:
    class Client:
        def refuse(self) -> None:
            raise UserError("no")

    with pytest.raises(UserError, match="no"):
        CheckedClient(Client()).refuse()


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


def searching(*pages: tuple[list[str], str | None]) -> Callable[..., PagedList]:
    """A search whose pages come in this order, the last one again and again."""
    left = list(pages)

    def search(page_token: str | None) -> PagedList:
        names, token = left.pop(0) if len(left) > 1 else left[0]
        return PagedList([Named(name) for name in names], token)

    return search


def test_pages_are_followed_to_their_end() -> None:
    found = all_pages(searching((["a", "b"], "1"), ([], "2"), (["c"], None)))
    assert [entity.name for entity in found] == ["a", "b", "c"]


@pytest.mark.parametrize("page", [(["a"], "same"), ([], "same")])
def test_the_same_token_again_ends_a_search(page: tuple[list[str], str]) -> None:
    with pytest.raises(MlflowException, match="without an end"):
        all_pages(searching(page))


@pytest.mark.parametrize("names", [["a"], []])
def test_the_same_page_under_fresh_tokens_ends_a_search(names: list[str]) -> None:
    numbers = iter(range(10_000))
    with pytest.raises(MlflowException, match="without an end"):
        all_pages(lambda page_token: PagedList([Named(name) for name in names], f"t{next(numbers)}"))
