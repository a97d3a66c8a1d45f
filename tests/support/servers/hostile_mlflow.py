"""An MLflow server whose first answers to a call are spoilt by a seed; the later ones are sound."""

from __future__ import annotations

import json
import random
from typing import Any
from urllib.parse import urlsplit

import hostile_store
from hostile_store import Answer, HostileStore

RUN_ID = "a" * 32
INFO = {"run_id": RUN_ID, "experiment_id": "1", "status": "RUNNING", "start_time": 1, "artifact_uri": "s3://b/a"}
DATA = {
    "metrics": [{"key": "val/psnr", "value": 24.5, "timestamp": 1, "step": 3}],
    "params": [{"key": "train.steps", "value": "4"}],
    "tags": [{"key": "mlflow.runName", "value": "demo"}],
}
RUN = {"info": INFO, "data": DATA}
EXPERIMENT = {"experiment_id": "1", "name": "isnet", "lifecycle_stage": "active", "artifact_location": "s3://b/a"}
VERSION = {"name": "m", "version": "3", "run_id": RUN_ID, "status": "READY", "creation_timestamp": 1}
MODEL = {"name": "m", "latest_versions": [VERSION], "aliases": [{"alias": "production", "version": "3"}]}

# The answer of each route, by the end of its path.
ROUTES: dict[str, dict[str, Any]] = {
    "runs/get": {"run": RUN},
    "runs/create": {"run": RUN},
    "runs/search": {"runs": [RUN]},
    "runs/log-batch": {},
    "runs/set-tag": {},
    "experiments/search": {"experiments": [EXPERIMENT]},
    "experiments/get-by-name": {"experiment": EXPERIMENT},
    "metrics/get-history": {"metrics": DATA["metrics"]},
    "metrics/get-history-bulk-interval": {"metrics": [{"step": 3, "value": 24.5}]},
    "model-versions/get": {"model_version": VERSION},
    "model-versions/search": {"model_versions": [VERSION]},
    "registered-models/get": {"registered_model": MODEL},
    "registered-models/alias": {"model_version": VERSION},
}
# Values that stand where another is expected.
ODD_VALUES = (None, True, -1, 2**70, 1e308, "", "NaN", "\u2028", "x" * 3000, [], [[]], {}, {"a": 1}, [None])
# Spoilt without a trace of it: values of JSON that MLflow itself could have sent.
PLAUSIBLE = "X-Plausible"


def sound_answer(method: str, target: str, headers: dict[str, str]) -> Answer:
    """The answer of a server that has one run and one model."""
    path = urlsplit(target).path
    for route, content in ROUTES.items():
        if path.endswith(f"/mlflow/{route}"):
            return _json(200, content)
    return _json(404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path})


def _json(status: int, content: Any) -> Answer:
    body = json.dumps(content).encode()
    return Answer(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))], body)


def spoil(answer: Answer, rng: random.Random) -> None:
    """Makes it one that MLflow does not give, or one of a gateway."""
    chosen = rng.choices(_SPOILERS, k=rng.choice((1, 1, 2)))
    # Pieces without a length cannot be told from right ones, so they are of the right body.
    for spoiler in sorted(set(chosen), key=lambda spoiler: (spoiler is not hostile_store._chunked, spoiler.__name__)):
        spoiler(answer, rng)


def _odd_json(answer: Answer, rng: random.Random) -> None:
    """Puts an odd value at a random place, or takes one away."""
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError):
        return
    if not isinstance(content, dict) or not content:
        return
    holder: Any = content
    while True:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
            break
        holder = inner
    if isinstance(holder, dict) and rng.random() < 0.25:
        del holder[key]
    else:
        holder[key] = rng.choice(ODD_VALUES)
    answer.header(PLAUSIBLE, "1")
    hostile_store._set_body(answer, json.dumps(content).encode())


def _refusal(answer: Answer, rng: random.Random) -> None:
    answer.status = rng.choice((200, 400, 401, 403, 404, 409, 429, 500, 502, 503, 504))
    codes = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "", 7, None, ["x"], "b\r\nX: y")
    message = rng.choice(("no", "", None, {"a": 1}, "x" * 5000, "two\nlines"))
    hostile_store._set_body(answer, json.dumps({"error_code": rng.choice(codes), "message": message}).encode())


def _odd_body(answer: Answer, rng: random.Random) -> None:
    deep = b'{"runs":' * 3000
    odd = (
        b"",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"\0" * 100,
        b"\xff\xfe\xfa",
        b"{",
        deep,
        b"[" * 90_000,
        rng.randbytes(300),
    )
    hostile_store._set_body(answer, rng.choice(odd))


def _encoding(answer: Answer, rng: random.Random) -> None:
    answer.header("Content-Encoding", rng.choice(("gzip", "deflate", "br", "zstd", "gzip, gzip", "odd")))


_SPOILERS = (
    *(_odd_json, _odd_json, _odd_json, _refusal, _odd_body, _encoding),
    *(hostile_store._page, hostile_store._status, hostile_store._odd_header, hostile_store._shorter),
    *(hostile_store._under_half_the_length, hostile_store._dropped, hostile_store._late, hostile_store._chunked),
)


class HostileMlflow(HostileStore):
    """An MLflow server with one run and one model."""

    def __init__(self) -> None:
        super().__init__(sound_answer, spoil)
