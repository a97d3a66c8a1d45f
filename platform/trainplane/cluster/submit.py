"""Ray Jobs: the same commands on a cluster. The project's code travels with the job; secrets never do.

A job is known by its content: the same words, code and context are the same job, so that a retry after a lost
connection follows the job that is there instead of paying for a second one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainplane.cluster.context import Context
from trainplane.cluster.health import complaint
from trainplane.config import canonical_json
from trainplane.errors import RunFailed, UserError

# Ray refuses larger uploads with an answer that names no file (ray#38566).
MAX_UPLOAD_BYTES = 100 * 2**20
ROUTE_TIMEOUT_S = 10.0
_POLL_S = 0.5
# A head that is restarted is back within a minute; its jobs are gone, and that is said.
_LOST_AFTER_S = 60.0


@dataclass(frozen=True)
class JobState:
    """A job as the cluster sees it."""

    job: str
    status: str
    message: str
    entrypoint: str
    exit_code: int | None
    started_ms: int | None
    ended_ms: int | None

    @property
    def is_over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def exit_status(self) -> int:
        """What `isnet submit` exits with: the job's own status, 128 and the signal where one killed it (as shells
        have it), 1 where it was stopped or never started."""
        if self.status == "SUCCEEDED":
            return 0
        if self.exit_code is not None and self.exit_code < 0:
            return 128 - self.exit_code
        return self.exit_code or 1


def client(context: Context) -> Any:
    """A connection to the context's cluster; a `UserError` says what to do where there is none."""
    if context.ray is None:
        raise UserError(
            f'context {context.name!r} names no cluster; add ray = "http://HEAD:8265" to it in isnet.toml '
            "and choose it with --context"
        )
    has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token else "disabled")
    if text := _no_route(context.ray):
        raise UserError(text)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # It reports every closed connection, which is no news.
    for noisy in ("modules.job.sdk", "modules.dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.{noisy}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    try:
        connection = JobSubmissionClient(context.ray)
        # The first call that the token is asked for.
        connection.list_jobs()
    except (ConnectionError, RuntimeError, AuthenticationError) as error:
        raise UserError(_no_connection(context.ray, error)) from error
    return connection


def _no_route(address: str) -> str | None:
    """Why nothing listens at the address, or None: Ray's own client waits two minutes for a host that drops packets."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if complaint(f"tcp://{parts.hostname}:{port}", ROUTE_TIMEOUT_S) is None:
        return None
    return _no_connection(address, ConnectionError("no connection"))


def _no_connection(address: str, error: Exception) -> str:
    text = str(error)
    if "401" in text or "403" in text or "auth" in text.lower():
        return (
            f"the Ray cluster at {address} refused our token; give the right one as secret RAY_AUTH_TOKEN "
            "of the context in isnet.toml"
        )
    return (
        f"no Ray cluster answers at {address}; start its head (ray start --head), open the route, "
        "or correct `ray` of the context in isnet.toml"
    )


def submit(
    context: Context,
    words: Sequence[str],
    *,
    entrypoint: str,
    packages: Sequence[Path],
    working_dir: Path,
    environment: Mapping[str, str],
    again: bool,
    cpus: float = 0,
    facts: Mapping[str, str] | None = None,
) -> tuple[str, bool]:
    """Hand a job over; returns its id and whether it is new.

    packages    -- folders of Python packages that travel with the job
    working_dir -- folder of small files that the job finds in its current folder
    environment -- variables without secrets
    facts       -- more variables, which do not decide whether it is the same job
    cpus        -- processors that the command itself takes; it waits in the cluster's line until they are free
    """
    uploads = [*packages, working_dir]
    for folder in uploads:
        check_upload(folder)
    connection = client(context)
    content = [list(words), entrypoint, dict(environment), cpus, [_folder_digest(folder) for folder in uploads]]
    stem = f"isnet-{hashlib.sha256(canonical_json(content)).hexdigest()[:16]}"
    known = {state.job: state for state in states(connection)}
    mine = [job for job in known if job == stem or job.startswith(f"{stem}-")]
    reusable = [job for job in mine if known[job].status in ("PENDING", "RUNNING", "SUCCEEDED")]
    if reusable and not again:
        return reusable[-1], False
    job = stem if not mine else f"{stem}-{len(mine) + 1}"
    runtime_env = {
        "working_dir": str(working_dir),
        # Ray takes an empty list for none at all, and then for a mistake.
        **({"py_modules": [str(package) for package in packages]} if packages else {}),
        "env_vars": {**(facts or {}), **environment},
    }
    try:
        connection.submit_job(
            entrypoint=entrypoint,
            submission_id=job,
            runtime_env=runtime_env,
            metadata={"words": " ".join(words)},
            entrypoint_num_cpus=cpus or None,
        )
    except RuntimeError as error:
        # Another `submit` of the same words was a moment faster: there is one job, and both follow it.
        if "already" not in str(error):
            raise RunFailed(f"the cluster at {context.ray} did not take the job: {_last_line(error)}") from error
        return job, False
    return job, True


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def await_start(connection: Any, job: str, *, timeout_s: float, say: Callable[[str], None]) -> JobState:
    """Wait until the job runs or is over, saying what it waits for; tell it to stop and raise after the deadline.

    Ray cannot take back a job that waits for processors: it ends it when it would start, or after 15 minutes.
    """
    begun, told = time.monotonic(), ""
    while True:
        state = state_of(connection, job)
        if state.status != "PENDING":
            return state
        waited_s = time.monotonic() - begun
        if waited_s > timeout_s:
            connection.stop_job(job)
            raise RunFailed(
                f"job {job} did not start within {timeout_s:.0f} s and was told to stop, which Ray does when its turn "
                f"would come, or after 15 minutes; the cluster says: {state.message} "
                "Free or add nodes (`isnet jobs list`), ask for less with --cpus, or wait longer with --wait"
            )
        # A start takes a few seconds, which are no news.
        if state.message != told and waited_s > 5:
            told = state.message
            say(f"job {job} waits: {told}")
        time.sleep(_POLL_S)


def follow(connection: Any, job: str, write: Callable[[str], None]) -> JobState:
    """Pass the job's output on until it is over; returns its final state.

    A stream that breaks is taken up where it stood; a cluster that stays away for a minute raises `RunFailed`.
    """
    from aiohttp import ClientError

    tail = _Tail(connection, job, write)
    silent_since: float | None = None
    while True:
        try:
            asyncio.run(tail.stream())
            state = state_of(connection, job)
            silent_since = None
        except UserError as error:
            raise RunFailed(
                f"the cluster's head was restarted and does not know job {job} any more; submit it again, "
                "a run goes on from its last checkpoint"
            ) from error
        except (TimeoutError, OSError, RuntimeError, ClientError) as error:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > _LOST_AFTER_S:
                raise RunFailed(
                    f"the cluster does not answer any more, and job {job} may be running; look with `isnet jobs show "
                    f"{job}` when it is back ({_last_line(error)})"
                ) from error
            time.sleep(_POLL_S)
            continue
        if state.is_over:
            tail.finish()
            return state
        # The stream may end before the state is settled, or be cut in the middle of a run.
        time.sleep(_POLL_S)


class _Tail:
    """The output of a job, each character once: every stream begins anew with the first one."""

    def __init__(self, connection: Any, job: str, write: Callable[[str], None]) -> None:
        self._connection, self._job, self._write = connection, job, write
        self._written = 0

    async def stream(self) -> None:
        """Until it ends or breaks."""
        seen = 0
        async for chunk in self._connection.tail_job_logs(self._job):
            self._pass_on(seen, chunk)
            seen += len(chunk)

    def finish(self) -> None:
        """What came after the last stream had ended."""
        self._pass_on(0, self._connection.get_job_logs(self._job))

    def _pass_on(self, start: int, text: str) -> None:
        fresh = text[max(0, self._written - start) :]
        if fresh:
            self._write(fresh)
            self._written = start + len(text)


def wait(connection: Any, job: str, *, timeout_s: float) -> JobState:
    """Poll until the job is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        state = state_of(connection, job)
        if state.is_over:
            return state
        if time.monotonic() > deadline:
            raise RunFailed(f"job {job} is still {state.status} {timeout_s:.0f} s after its output ended")
        time.sleep(0.5)


def state_of(connection: Any, job: str) -> JobState:
    """One job; `UserError` where the cluster does not know it."""
    try:
        return _state(connection.get_job_info(job))
    except RuntimeError as error:
        if "404" in str(error) or "does not exist" in str(error):
            raise UserError(f"no job {job!r} on this cluster; `isnet jobs list` shows those it knows") from error
        raise


def ray_version(connection: Any) -> str:
    """The version of Ray that the cluster runs (its client's `get_version` is that of the jobs' protocol)."""
    return str(connection._do_request("GET", "/api/version").json()["ray_version"])


@dataclass(frozen=True)
class Room:
    """What the cluster's nodes have together, and how many of them there are."""

    nodes: int
    cpus: float
    gpus: float


def room(connection: Any) -> Room:
    """Of the nodes that are alive."""
    answer = connection._do_request("GET", "/api/v0/nodes?limit=10000&detail=true").json()
    nodes = [node for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"]
    totals = [node.get("resources_total") or {} for node in nodes]
    return Room(len(nodes), sum(t.get("CPU", 0.0) for t in totals), sum(t.get("GPU", 0.0) for t in totals))


def states(connection: Any) -> list[JobState]:
    """All submitted jobs, oldest first."""
    found = [_state(info) for info in connection.list_jobs() if info.submission_id]
    return sorted(found, key=lambda state: (state.started_ms or 0, state.job))


def _state(info: Any) -> JobState:
    return JobState(
        job=info.submission_id,
        status=str(getattr(info.status, "value", info.status)),
        message=info.message or "",
        entrypoint=info.entrypoint,
        exit_code=info.driver_exit_code,
        started_ms=info.start_time,
        ended_ms=info.end_time,
    )


def is_loopback(address: str) -> bool:
    """Whether an address leads to this machine alone."""
    return urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def check_upload(folder: Path) -> None:
    """Refuse a folder that is too large to send, naming its largest files."""
    sizes = {path: path.stat().st_size for path in _files(folder)}
    total = sum(sizes.values())
    if total > MAX_UPLOAD_BYTES:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        named = ", ".join(f"{path.relative_to(folder)} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
        raise UserError(
            f"{folder}: {total / 2**20:.0f} MiB to upload, at most {MAX_UPLOAD_BYTES // 2**20} are accepted; "
            f"move away the largest: {named}"
        )


def _folder_digest(folder: Path) -> str:
    sha = hashlib.sha256()
    for path in _files(folder):
        sha.update(str(path.relative_to(folder)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()
