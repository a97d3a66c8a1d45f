"""What MLflow has of a run already: the last step of every metric and of every picture."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from trainplane.tracking.spool.ledger import picture_mark


def recorded_steps(client: Any, run_id: str) -> dict[str, int]:
    """The last step that MLflow has of each metric, and of each picture under `picture KEY`."""
    run = client.get_run(run_id)
    # The public `metrics` mapping has values only; the protobuf message has the steps, too.
    steps = {metric.key: int(metric.step) for metric in run.data.to_proto().metrics}
    if "mlflow.loggedImages" in run.data.tags:
        for artifact in client.list_artifacts(run_id, "images"):
            key, _, rest = PurePosixPath(artifact.path).name.partition("+step+")
            step = rest.partition("+")[0]
            if step.isdigit():
                steps[picture_mark(key)] = max(steps.get(picture_mark(key), 0), int(step))
    return steps
