"""Estimates a run's pictures per second.

The rate is that of the last similar run in MLflow (or is measured, see `jobs.train.measure`). Runs are similar if
everything agrees that costs time; they then have the same digest in the tag `isnet.speed_key`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.config import ISNetConfig
from trainplane.cluster.context import Context
from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.tracking.run_id import KEY_TAG
from trainplane.train.config import TrainConfig

# Tag of the digest, and metric of the rate, in MLflow.
SPEED_TAG = "isnet.speed_key"
RATE_METRIC = "time/pictures_per_s"


@dataclass(frozen=True)
class Rate:
    """Pictures per second of all ranks together, and its source."""

    pictures_per_s: float
    source: str

    def __str__(self) -> str:
        return f"{self.pictures_per_s:.3g} pictures/s ({self.source})"


def speed_key(config: ISNetConfig, *, gpu: bool) -> str:
    """Hashes the settings that decide the speed (sha256)."""
    train, loss = config.train, config.loss.model_dump(mode="json")
    # A loss term costs the same time at every weight above 0.
    terms = {name: value > 0 if isinstance(value, float) else value for name, value in loss.items()}
    terms.pop("perceptual_weights")
    settings = {
        "gpu": gpu,
        "model": config.model.model_dump(mode="json"),
        "loss": terms,
        "size": config.data.size,
        "train": train.model_dump(
            mode="json",
            include={"global_batch", "micro_batch", "workers", "precision", "compile", "channels_last", "threads"},
        ),
        "ema": train.ema is not None,
    }
    return hashlib.sha256(canonical_json(settings)).hexdigest()


def check_stall_limit(train: TrainConfig, rate: Rate | None) -> None:
    """Refuses a stall limit under a step's time, if known."""
    step_s = train.global_batch / rate.pictures_per_s if rate is not None else 0.0
    if train.max_workers > 1 and train.stall_s < step_s:
        raise UserError(
            f"train.stall_s={train.stall_s:g}, and a step takes {step_s:.3g} s ({rate}): every step would be taken for "
            f"a stall; set train.stall_s={math.ceil(10 * step_s)}, or leave it out"
        )


def last_rate(config: ISNetConfig, context: Context, *, gpu: bool, run_key: str | None = None) -> Rate | None:
    """Returns the run's own rate, or a similar run's.

    Args:
        config: of the run that is planned.
        context: its MLflow has the rates.
        gpu: True if ranks have one each.
        run_key: key of the run that is gone on with, which may be slower than others: its data are other files.
    """
    server = context.tracking_server
    uri = server.address
    # MLflow would create a database that does not exist.
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///").partition("?")[0]).exists():
        return None
    from mlflow.exceptions import MlflowException

    client = server.client
    similar = f"tags.`{SPEED_TAG}` = '{speed_key(config, gpu=gpu)}' and metrics.`{RATE_METRIC}` > 0"
    queries = [f"{similar} and tags.`{KEY_TAG}` = '{run_key}'"] if run_key else []
    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        for query in (*queries, similar):
            runs: list[Any] = client.search_runs(
                experiments, filter_string=query, order_by=["attributes.start_time DESC"], max_results=1
            )
            if runs:
                return Rate(runs[0].data.metrics[RATE_METRIC], f"as run {runs[0].info.run_id[:8]} had")
    except MlflowException as error:
        raise server.unreachable(error) from error
    return None
