"""The line of jobs before a cluster's head: who may enter, and in which order.

A job's driver is a process of some hundred megabytes on the head, so two hundred jobs at once would take it, and every
run, with them. Our heads offer a few places for drivers as a resource of their own, and each job takes one. Ray starts
what waits for a resource of a single node in the order of asking; what could start on several nodes it starts in none.
Not covered: clusters whose head offers no such places (jobs start at once there), and the wait for workers (Ray Train).
"""

from __future__ import annotations

import json

DRIVER = "driver"

# What a head must be told. Ray fails a job that has waited for a quarter of an hour, unless told otherwise: a month.
# To an autoscaler, waiting for a place is a wish that no new node can grant: it must go on, in later versions, too.
PATIENCE = {
    "RAY_JOB_START_TIMEOUT_SECONDS": str(30 * 24 * 3600),
    "RAY_enable_infeasible_task_early_exit": "false",
}


def head_words(drivers: int) -> list[str]:
    """What `ray start --head` is told so that it has so many places."""
    return [f"--resources={json.dumps({DRIVER: drivers})}"]
