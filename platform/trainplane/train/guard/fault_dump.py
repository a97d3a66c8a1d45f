"""The batch that broke a step, kept beside the checkpoints for whoever wants to know why.

`RUN/faults/step-00000007/rank-0.safetensors` holds what rank 0 was given, as the task's transform made it, and
`samples.json` names the samples of the whole batch. A batch is a function of its step, so nothing has to be kept
aside while training: it is made again. Failing to keep one never stops a run.
"""

from __future__ import annotations

import logging
from contextlib import closing

import safetensors.torch

from trainplane.config.canonical import canonical_json
from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.data.order import Order
from trainplane.data.read.fetch import read_samples
from trainplane.errors import RunFailed
from trainplane.storage import Store
from trainplane.train.guard.policy import Observation
from trainplane.train.world import World

log = logging.getLogger(__name__)


def keep_batch(
    store: Store,
    fault: Observation,
    *,
    loader: Loader,
    dataset: Dataset,
    order: Order,
    world: World,
) -> str:
    """Store this rank's share of a faulty step. Returns, on the first rank, where it is and what is in it."""
    folder = f"faults/step-{fault.index + 1:08d}"
    try:
        with closing(loader):
            _, batch = next(loader.batches(start=fault.index, stop=fault.index + 1))
        tensors = {name: value.contiguous() for name, value in batch.items()}
        store.write(f"{folder}/rank-{world.rank}.safetensors", safetensors.torch.save(tensors))
        if not world.is_first:
            return ""
        samples = [int(sample) for sample in order.batch(fault.index)]
        keys = [sample["__key__"].decode() for sample in read_samples(dataset, samples)]
        about = {
            "step": fault.index + 1,
            "norms": fault.norms,
            "loss_finite": fault.loss_finite,
            "dataset_digest": dataset.digest,
            "samples": [{"index": index, "key": key} for index, key in zip(samples, keys, strict=True)],
        }
        store.write(f"{folder}/samples.json", canonical_json(about))
    except (RunFailed, OSError) as error:
        log.warning("the batch of step %d could not be kept: %s", fault.index + 1, error)
        return ""
    shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
    return f"its batch ({shown}) is in {store.address}/{folder}"
