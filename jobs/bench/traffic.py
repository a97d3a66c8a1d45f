"""`isnet bench traffic`: users, moving versions, and MLflow away.

Users ask all the time, some by version. In the first third the candidate gets a tenth of the traffic; in the second
MLflow is down and the share widens to all; in the third MLflow is back, the candidate is promoted and rolled back. Then
one user asks alone, for what the server adds to a fill. The trail is changed from this process, which is another one
than the server's. With `--replicas N` the server computes on Ray Serve, and one replica is killed in the first third.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import secrets
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from urllib3.filepost import encode_multipart_formdata

from isnet.masks import irregular
from jobs.bench.common import Figure, figure, report
from jobs.serving.records import trace_experiment
from trainplane.cluster.context import Context, resolve
from trainplane.cluster.ports import free_port
from trainplane.environ import SERVE_TOKEN_VARIABLE
from trainplane.errors import RunFailed
from trainplane.registry.promote import AuditedModel
from trainplane.registry.shares import record_share
from trainplane.registry.versions import ModelVersion
from trainplane.storage import open_store
from trainplane.testing.mlflow_server import tracking_server
from trainplane.tracking.client import TrackingServer, all_pages

_HOME = "ISNET_HOME"
# Name that Ray Serve gives the processes of jobs.serving.on_ray.FillReplica.
_REPLICA = "ray::ServeReplica:isnet:fills"
_START_S, _END_S = 300.0, 120.0
_UPLOAD_S = 180.0
# What the server may add to a fill at the 95th percentile, and how long an old version may answer.
_ADDED_MS, _OLD_ANSWER_S = 25.0, 2.0
_ALONE = 40


@dataclass(frozen=True)
class Asked:
    """One request and what came of it."""

    began: float
    ended: float
    status: int
    asked: tuple[str, ...]
    answered: tuple[str, ...]
    is_named: bool  # Headers and body name the same versions and digests
    trace: str
    fill_ms: float  # By the server, of all its versions


@dataclass
class Crowd:
    """Requests of all users, in the order of their ends."""

    done: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, asked: Asked) -> None:
        """Adds one request."""
        with self.lock:
            self.done.append(asked)

    def wait_for(self, count: int, watched: Sequence[threading.Thread]) -> None:
        """Waits until so many requests have ended, or all users."""
        while len(self.done) < count and any(thread.is_alive() for thread in watched):
            time.sleep(0.05)


def traffic(args: argparse.Namespace) -> int:
    """`isnet bench traffic`."""
    context = resolve(args.context)
    context.activate()
    if not context.tracking.startswith("sqlite:"):
        raise RunFailed("this bench stops MLflow for a while, so it runs on a context whose tracking is a SQLite file")
    sizes = {"users": args.users, "requests": args.requests, "side": args.side, "replicas": args.replicas}
    return report(args, measure(args.name, args.candidate, context, **sizes))


def measure(
    name: str, candidate: str, context: Context, *, users: int, requests: int, side: int, replicas: int = 0
) -> list[Figure]:
    """Runs the scenario; returns its figures."""
    audited = AuditedModel(context.tracking_server, name, open_store(context.audit))
    production = audited.current_version()
    assert production is not None, "the server says so in a sentence"
    port, token = free_port(), secrets.token_urlsafe(24)
    folder = context.home / "bench-traffic"
    words = ["serve", name, "--candidate", candidate, "--port", str(port), "--keep", "facts"]
    if replicas:
        words += ["--on-ray", "--replicas", str(replicas)]
    with _Mlflow(context) as mlflow, _server(context, mlflow, folder, words, token) as address:
        client = TrafficClient(address, token, side)
        client.wait_for_versions({production, candidate})
        crowd, started = Crowd(), time.time()
        # Some name no version, some one, some both.
        plans = [(), (production,), (candidate,), (), (production, candidate)]
        threads = [
            threading.Thread(target=_user, args=(client, crowd, plans[number:] + plans[:number], requests), daemon=True)
            for number in range(users)
        ]
        for thread in threads:
            thread.start()
        total = users * requests
        store = open_store(context.audit)

        def share(value: float) -> None:
            record_share(store, name, candidate, alias="production", mode="canary", share=value, reason="bench traffic")

        share(0.1)
        if replicas:
            crowd.wait_for(total // 6, threads)
            kill_replica(folder / "home")
        crowd.wait_for(total // 3, threads)
        mlflow.stop()
        share(0.5)
        crowd.wait_for(total // 2, threads)
        share(1.0)
        crowd.wait_for(2 * total // 3, threads)
        mlflow.start()
        version = ModelVersion(context.tracking_server, name, candidate)
        audited.promote(version, verdicts=[], force_reason="bench traffic")
        promoted = time.time()
        crowd.wait_for(5 * total // 6, threads)
        audited.rollback(reason="bench traffic")
        rolled_back = time.time()
        for thread in threads:
            thread.join()
        alone = [client.ask((production,)) for _ in range(_ALONE)]
        traces = _traces(context, name, started, expected=len(crowd.done) + _ALONE)
    return _figures(crowd.done, alone, traces, candidate, promoted, rolled_back)


def _figures(
    done: Sequence[Asked],
    alone: Sequence[Asked],
    traces: Counter[str],
    candidate: str,
    promoted: float,
    rolled_back: float,
) -> list[Figure]:
    good = [request for request in done if request.status == 200]
    wrong = sum(bool(request.asked) and set(request.asked) != set(request.answered) for request in good)
    free = [request for request in good if not request.asked]
    late = [
        request.ended - rolled_back for request in free if request.ended > rolled_back and candidate in request.answered
    ]
    before = [request for request in free if request.ended <= promoted and candidate in request.answered]
    names = {request.trace for request in (*good, *alone)}
    missing, twice = len(names - traces.keys()), sum(count > 1 for count in traces.values())
    added = sorted(1000 * (request.ended - request.began) - request.fill_ms for request in alone)
    p95 = added[int(0.95 * len(added))]
    oldest = max(late, default=0.0)
    return [
        figure("requests", len(done), "requests"),
        figure("answered by the canary before its promotion", len(before), "requests"),
        figure("failed", len(done) - len(good), "requests", target=0, met=len(good) == len(done)),
        figure("answered by a version not asked for", wrong, "requests", target=0, met=wrong == 0),
        figure(
            "without a named version",
            sum(not request.is_named for request in good),
            "requests",
            target=0,
            met=all(request.is_named for request in good),
        ),
        figure("last old answer after the rollback", oldest, "s", target=_OLD_ANSWER_S, met=oldest <= _OLD_ANSWER_S),
        figure("traces lost", missing, "traces", target=0, met=missing == 0),
        figure("traces doubled", twice, "traces", target=0, met=twice == 0),
        figure("added to a fill by the server, median", statistics.median(added), "ms"),
        figure("added to a fill by the server, 95 %", p95, "ms", target=_ADDED_MS, met=p95 <= _ADDED_MS),
    ]


def _user(client: TrafficClient, crowd: Crowd, plans: Sequence[tuple[str, ...]], requests: int) -> None:
    for versions in itertools.islice(itertools.cycle(plans), requests):
        crowd.add(client.ask(versions))


class TrafficClient:
    """Asks the server as a program does."""

    def __init__(self, address: str, token: str, side: int) -> None:
        self._address, self._headers = address, {"Authorization": f"Bearer {token}"}
        rng = np.random.default_rng(0)
        rows, columns = np.mgrid[0:side, 0:side]
        photo = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)
        files = {"photo": photo, "mask": irregular(side, side, rng, ratio=(0.1, 0.2))}
        self._files = [(name, (f"{name}.png", _png(array), "image/png")) for name, array in files.items()]

    def wait_for_versions(self, versions: set[str]) -> None:
        """Waits until these are open."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            request = urllib.request.Request(f"{self._address}/v1/versions", headers=self._headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                if versions <= {version["version"] for version in json.load(answer)["versions"]}:
                    return
            time.sleep(0.2)
        raise RunFailed(f"the versions {', '.join(sorted(versions))} were not open in {_START_S:.0f} s")

    def ask(self, versions: tuple[str, ...]) -> Asked:
        """Fills once."""
        body, kind = encode_multipart_formdata([*self._files, *(("versions", version) for version in versions)])
        headers = {**self._headers, "Content-Type": kind}
        request = urllib.request.Request(f"{self._address}/v1/fill", data=body, headers=headers)
        start = time.time()
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                headers_back, status = answer.headers, answer.status
                fills: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            error.read()
            return Asked(start, time.time(), error.code, versions, (), False, "", 0.0)
        except OSError:
            return Asked(start, time.time(), 0, versions, (), False, "", 0.0)
        ended = time.time()
        answered = tuple(fill["version"] for fill in fills["fills"])
        digests = ", ".join(fill["digest"] for fill in fills["fills"])
        names = (headers_back["X-ISNet-Version"], headers_back["X-ISNet-Digest"])
        is_named = bool(answered) and names == (", ".join(answered), digests)
        fill_ms = sum(fill["milliseconds"] for fill in fills["fills"])
        return Asked(start, ended, status, versions, answered, is_named, fills["trace"], fill_ms)


class _Mlflow:
    """MLflow's server over the context's database, that can be away."""

    def __init__(self, context: Context) -> None:
        self._context, self._port, self._running = context, free_port(), ExitStack()
        self.address = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> _Mlflow:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it, at the same address each time."""
        self._running.enter_context(
            tracking_server(self._context.tracking, port=self._port, artifacts=self._context.artifacts)
        )

    def stop(self) -> None:
        """Kills it."""
        self._running.close()


@contextmanager
def _server(context: Context, mlflow: _Mlflow, folder: Path, words: Sequence[str], token: str) -> Iterator[str]:
    """Runs `isnet serve` as a process, with this MLflow."""
    folder.mkdir(parents=True, exist_ok=True)
    store = {"datasets": context.datasets, "checkpoints": context.checkpoints}
    rows = {"tracking": mlflow.address, **store, "artifacts": context.artifacts, "audit": context.audit}
    table = "".join(f"{key} = {json.dumps(value)}\n" for key, value in rows.items())
    (folder / "isnet.toml").write_text(f"[context.traffic]\n{table}", encoding="utf-8")
    port = words[words.index("--port") + 1]
    environment = {**os.environ, SERVE_TOKEN_VARIABLE: token, _HOME: str(folder / "home"), "ISNET_CONTEXT": "traffic"}
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *words, "--context", "traffic"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, address, folder / "serve.log")
            yield address
            # SIGINT is ignored in what a script starts in the background.
            process.terminate()
            process.wait(_END_S)
        finally:
            process.kill()
            process.wait()


def kill_replica(home: Path) -> None:
    """Kills one replica of the server with this home.

    Raises:
        RunFailed: There is none.
    """
    for process in psutil.process_iter():
        # Processes of other users, and those that end meanwhile.
        with suppress(psutil.Error):
            is_replica = " ".join(process.cmdline()).startswith(_REPLICA)  # and then the method it runs
            if is_replica and process.environ().get(_HOME) == str(home):
                process.kill()
                return
    raise RunFailed(f"no process is called {_REPLICA}; see what Ray calls its replicas now")


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RunFailed(f"the server did not start: {log.read_text(errors='replace')[-500:]}")


def _traces(context: Context, name: str, started: float, *, expected: int) -> Counter[str]:
    """Counts the traces that MLflow has, once they have arrived."""
    client = TrackingServer(context.tracking).client
    deadline, traces = time.monotonic() + _UPLOAD_S, Counter[str]()
    while time.monotonic() < deadline:
        experiment = client.get_experiment_by_name(trace_experiment(name))
        if experiment is not None:
            query = f"timestamp_ms >= {int(1000 * started)}"
            pages = all_pages(
                client.search_traces, locations=[experiment.experiment_id], filter_string=query, include_spans=False
            )
            traces = Counter(trace.info.trace_id for trace in pages)
        # Those that arrive while pages are read make some stand on two pages.
        if len(traces) == traces.total() >= expected:
            break
        time.sleep(1)
    return traces


def _png(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()
