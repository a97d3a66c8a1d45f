"""Environment and errors of Ray tasks."""

from __future__ import annotations

import os
from typing import Any

from trainplane.store_wait import VARIABLE as STORE_WAIT

# Names that boto3 and pyarrow read, and the limit of waiting.
_STORE_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", STORE_WAIT)
_CHECKSUMS = "AWS_REQUEST_CHECKSUM_CALCULATION"


def portable_environment() -> dict[str, str]:
    """Variables that lead another node to the same store."""
    # Nothing secret is among them: credentials are set on the cluster's nodes.
    variables = {name: os.environ[name] for name in _STORE_VARIABLES if name in os.environ}
    return {**variables, _CHECKSUMS: os.environ.get(_CHECKSUMS, "when_required")}


def task_result(ray: Any, reference: Any) -> Any:
    """Waits for a task; raises our error without Ray's traceback."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
