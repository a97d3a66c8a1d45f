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
from trainplane.config import canonical_json
from trainplane.errors import RunFailed, UserError

# Ray refuses larger uploads with an answer that names no file (ray#38566).
MAX_UPLOAD_BYTES = 100 * 2**20


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
        """What `isnet submit` exits with: the job's own status; 1 where it was stopped or never started."""
        if self.status == "SUCCEEDED":
            return 0
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
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # It reports every closed connection, which is no news.
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    try:
        connection = JobSubmissionClient(context.ray)
        # The first call that the token is asked for.
        connection.list_jobs()
    except (ConnectionError, RuntimeError, AuthenticationError) as error:
        raise UserError(_no_connection(context.ray, error)) from error
    return connection


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
) -> tuple[str, bool]:
    """Hand a job over; returns its id and whether it is new.

    packages    -- folders of Python packages that travel with the job
    working_dir -- folder of small files that the job finds in its current folder
    environment -- variables without secrets
    """
    uploads = [*packages, working_dir]
    for folder in uploads:
        _check_upload(folder)
    connection = client(context)
    content = [list(words), entrypoint, dict(environment), [_folder_digest(folder) for folder in uploads]]
    stem = f"isnet-{hashlib.sha256(canonical_json(content)).hexdigest()[:16]}"
    known = {state.job: state for state in states(connection)}
    mine = [job for job in known if job == stem or job.startswith(f"{stem}-")]
    reusable = [job for job in mine if known[job].status in ("PENDING", "RUNNING", "SUCCEEDED")]
    if reusable and not again:
        return reusable[-1], False
    job = stem if not mine else f"{stem}-{len(mine) + 1}"
    connection.submit_job(
        entrypoint=entrypoint,
        submission_id=job,
        runtime_env={
            "working_dir": str(working_dir),
            "py_modules": [str(package) for package in packages],
            "env_vars": dict(environment),
        },
        metadata={"words": " ".join(words)},
    )
    return job, True


def follow(connection: Any, job: str, write: Callable[[str], None]) -> JobState:
    """Pass the job's output on until it is over; returns its final state."""

    async def tail() -> None:
        async for chunk in connection.tail_job_logs(job):
            write(chunk)

    asyncio.run(tail())
    # The stream may end before the state is settled.
    return wait(connection, job, timeout_s=60.0)


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


def _check_upload(folder: Path) -> None:
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
