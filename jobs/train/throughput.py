"""How many pictures a second a run makes: as the last run like it did, or as a few real steps here do.

Runs are alike when what costs time is: networks, losses' terms, sizes, batch, arithmetic, ranks, GPU or CPU. Their
common digest is the tag `isnet.speed_key`.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.config import ISNetConfig
from jobs.train.resources import RanksHere
from trainplane.cluster.context import Context
from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.tracking.client import client_for, unreachable
from trainplane.train.batch_size import arithmetic
from trainplane.train.world import World

SPEED_TAG = "isnet.speed_key"
RATE_METRIC = "time/pictures_per_s"
MEASURED_STEPS = 3


@dataclass(frozen=True)
class Rate:
    """Pictures per second of all ranks together, and where that is known from."""

    pictures_per_s: float
    source: str

    def __str__(self) -> str:
        return f"{self.pictures_per_s:.3g} pictures/s ({self.source})"


def speed_key(config: ISNetConfig, *, gpu: bool) -> str:
    """sha256 over what decides the speed."""
    train, loss = config.train, config.loss.model_dump(mode="json")
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


def last_rate(config: ISNetConfig, context: Context, *, gpu: bool) -> Rate | None:
    """The rate of the newest run like this one in MLflow; None where there is none. Creates no database."""
    uri = context.tracking
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///").partition("?")[0]).exists():
        return None
    from mlflow.exceptions import MlflowException

    client = client_for(uri)
    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        wanted = f"tags.`{SPEED_TAG}` = '{speed_key(config, gpu=gpu)}' and metrics.`{RATE_METRIC}` > 0"
        found: list[Any] = client.search_runs(
            experiments, filter_string=wanted, order_by=["attributes.start_time DESC"], max_results=1
        )
    except MlflowException as error:
        raise unreachable(uri, error) from error
    if not found:
        return None
    return Rate(found[0].data.metrics[RATE_METRIC], f"as run {found[0].info.run_id[:8]} had")


def measured_rate(config: ISNetConfig, ranks: RanksHere) -> Rate:
    """Real steps of one rank's share on this machine, with made pictures and random VGG weights, times the ranks."""
    from jobs.isnet_task import ISNetTask

    if ranks.where != "this machine" and ranks.gpu and not torch.cuda.is_available():
        raise UserError("--measure times steps where it is typed, and there is no GPU here; leave it out")
    train = config.train
    loss = config.loss.model_copy(update={"perceptual_weights": "random"})
    device = torch.device("cuda" if ranks.gpu else "cpu")
    task = ISNetTask(config.model_copy(update={"loss": loss}), device)
    cut = arithmetic(global_batch=train.global_batch, ranks=ranks.most, micro_batch=train.fixed_micro)
    size = config.data.size
    batch = {
        "image": torch.randint(0, 256, (cut.micro_batch, 3, size, size), dtype=torch.uint8, device=device),
        "mask": torch.rand(cut.micro_batch, 1, size, size, device=device) > 0.3,
    }
    batches = [batch] * cut.accumulation
    for warm in (True, False):
        started = time.monotonic()
        for _ in range(1 if warm else MEASURED_STEPS):
            task.step(batches, global_batch=cut.share, reduce=World())
        if ranks.gpu:
            torch.cuda.synchronize()
    rate = cut.global_batch * MEASURED_STEPS / (time.monotonic() - started)
    alone = f" × {ranks.most} ranks, if they do not slow each other" if ranks.most > 1 else ""
    return Rate(rate, f"{MEASURED_STEPS} steps timed here, without reading data{alone}")
