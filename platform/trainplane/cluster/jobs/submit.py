"""Submits a command to a cluster as a Ray job.

The code travels with the job, secrets never do. The same arguments, code and context are the same job as long as it
waits or runs, so a retry after a lost connection follows it instead of paying for a second one. Once it is over, its
data may be others: the command is run again, and a run or a search that is complete says so in seconds.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainplane.cluster.context import Context
from trainplane.cluster.jobs.client import connect
from trainplane.cluster.jobs.queue import DRIVER
from trainplane.cluster.jobs.status import cluster_resources, job_states
from trainplane.cluster.jobs.upload import check_upload, folder_digest
from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, error_line
from trainplane.passive_waiting import passive_waiting
from trainplane.tracking.lineage import JOB_VARIABLE, user

# Of the ids of jobs.
JOB_PREFIX = "isnet-"
# Between the signal to a job that is stopped and its kill: its ranks save at the end of their step. Ray's own 3 s
# (ray 2.60.0) are too short for that.
STOP_WAIT_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
STOP_WAIT_S = 60
# A head answers a moment before it counts itself among its nodes.
_HEAD_COUNTED_S = 10.0


def submit(
    context: Context,
    args: Sequence[str],
    *,
    entrypoint: str,
    packages: Sequence[Path],
    working_dir: Path,
    environment: Mapping[str, str],
    again: bool,
    cpus: float = 0,
    facts: Mapping[str, str] | None = None,
) -> tuple[str, bool]:
    """Submits a job, unless the same job waits or runs.

    Returns its id, and True if it is new.

    Args:
        context: Names the cluster.
        args: The command and its arguments, as people read it.
        entrypoint: Command line of the job.
        packages: Folders of Python packages that travel with the job.
        working_dir: Folder of small files that become the job's current folder.
        environment: Variables without secrets.
        again: True submits even if the same job waits or runs.
        cpus: Processors of the command itself, on any node, in no order. 0: a place on the head, in the order of
            submission, if the head has places (queue.py).
        facts: More variables, which are no part of the job's identity.
    """
    # Errors of the user's files come before any connection.
    uploads = [*packages, working_dir]
    for folder in uploads:
        check_upload(folder)
    connection = connect(context)
    # The id is derived from the content, so a repeated call finds its job.
    content = [list(args), entrypoint, dict(environment), cpus, [folder_digest(folder) for folder in uploads]]
    stem = f"{JOB_PREFIX}{hashlib.sha256(canonical_json(content)).hexdigest()[:16]}"
    states = {state.job: state for state in job_states(connection)}
    same = [job for job in states if job == stem or job.startswith(f"{stem}-")]
    reusable = [job for job in same if not states[job].is_over]
    if reusable and not again:
        return reusable[-1], False
    # A job that is over keeps its id, so its successor gets a number.
    job = stem if not same else f"{stem}-{len(same) + 1}"
    is_new = start_job(
        connection,
        job,
        args=args,
        entrypoint=entrypoint,
        packages=packages,
        working_dir=working_dir,
        environment={**(facts or {}), **environment},
        cpus=cpus,
        user=user(),
    )
    return job, is_new


def start_job(
    connection: Any,
    job: str,
    *,
    args: Sequence[str],
    entrypoint: str,
    packages: Sequence[Path],
    working_dir: Path,
    environment: Mapping[str, str],
    cpus: float,
    user: str,
) -> bool:
    """Hands a job to Ray; False if its id exists.

    The arguments are those of `submit`; `user` is who submitted it.
    """
    is_queued = not cpus and _has_queue(connection)
    runtime_env = {
        "working_dir": str(working_dir),
        # Ray takes an empty list for none at all, and then for a mistake.
        **({"py_modules": [str(package) for package in packages]} if packages else {}),
        "env_vars": {
            **passive_waiting({}),
            STOP_WAIT_VARIABLE: str(STOP_WAIT_S),
            JOB_VARIABLE: job,
            **environment,
        },
    }
    try:
        connection.submit_job(
            entrypoint=entrypoint,
            submission_id=job,
            runtime_env=runtime_env,
            metadata={"words": shlex.join(args), "user": user, **({"takes": DRIVER} if is_queued else {})},
            entrypoint_num_cpus=cpus or None,
            entrypoint_resources={DRIVER: 1} if is_queued else None,
        )
    except RuntimeError as error:
        # Another `submit` of the same command was a moment faster: there is one job, and both follow it.
        if "already" not in str(error):
            reason = error_line(error, last=True)
            raise RunFailed(f"the cluster did not accept the job: {reason}") from error
        return False
    return True


def _has_queue(connection: Any) -> bool:
    deadline = time.monotonic() + _HEAD_COUNTED_S
    while (capacity := cluster_resources(connection)).nodes == 0 and time.monotonic() < deadline:
        time.sleep(0.2)
    return capacity.drivers >= 1
