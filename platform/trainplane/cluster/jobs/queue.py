"""Queue of jobs before a cluster's head: limit and order.

A job's driver is a process of some hundred megabytes on the head, so two hundred at once would exhaust its memory and
end every run. Our heads offer a few places as a custom resource, and each job takes one. Ray starts jobs that wait for
a resource of a single node in the order of submission; with several nodes, in no order. Other heads start jobs at once.
"""

from __future__ import annotations

import json

DRIVER = "driver"

# Variables of the head. By default Ray fails a job that has waited for a quarter of an hour; this is a month. To an
# autoscaler, waiting for a place is a request that no new node can fulfil: it must not be rejected, in later versions
# either.
QUEUE_VARIABLES = {
    "RAY_JOB_START_TIMEOUT_SECONDS": str(30 * 24 * 3600),
    "RAY_enable_infeasible_task_early_exit": "false",
}


def head_args(drivers: int) -> list[str]:
    """Arguments of `ray start --head` for `drivers` at once."""
    return [f"--resources={json.dumps({DRIVER: drivers})}"]
