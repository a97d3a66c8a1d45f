"""Ray Jobs: the same commands on a cluster. The project's code travels with the job; secrets never do.

A job is known by its content: the same words, code and context are the same job, so that a retry after a lost
connection follows the job that is there instead of paying for a second one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainplane.cluster.context import Context
from trainplane.cluster.jobs.client import client, last_line
from trainplane.cluster.jobs.queue import DRIVER
from trainplane.cluster.jobs.status import room, states
from trainplane.cluster.jobs.upload import check_upload, folder_digest
from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed

# A head answers a moment before it counts itself among its nodes.
_COUNTED_WITHIN_S = 10.0


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
    cpus        -- processors that the command itself takes, on any node; it waits until they are free, in no order.
                   With 0 it takes a place on the head, in the order of submission, where it has such (line.py)
    """
    uploads = [*packages, working_dir]
    for folder in uploads:
        check_upload(folder)
    connection = client(context)
    content = [list(words), entrypoint, dict(environment), cpus, [folder_digest(folder) for folder in uploads]]
    stem = f"isnet-{hashlib.sha256(canonical_json(content)).hexdigest()[:16]}"
    known = {state.job: state for state in states(connection)}
    mine = [job for job in known if job == stem or job.startswith(f"{stem}-")]
    reusable = [job for job in mine if known[job].status in ("PENDING", "RUNNING", "SUCCEEDED")]
    if reusable and not again:
        return reusable[-1], False
    job = stem if not mine else f"{stem}-{len(mine) + 1}"
    in_line = not cpus and _has_line(connection)
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
            metadata={"words": " ".join(words), **({"takes": DRIVER} if in_line else {})},
            entrypoint_num_cpus=cpus or None,
            entrypoint_resources={DRIVER: 1} if in_line else None,
        )
    except RuntimeError as error:
        # Another `submit` of the same words was a moment faster: there is one job, and both follow it.
        if "already" not in str(error):
            raise RunFailed(f"the cluster at {context.ray} did not take the job: {last_line(error)}") from error
        return job, False
    return job, True


def _has_line(connection: Any) -> bool:
    deadline = time.monotonic() + _COUNTED_WITHIN_S
    while (found := room(connection)).nodes == 0 and time.monotonic() < deadline:
        time.sleep(0.2)
    return found.drivers >= 1
