"""Dump of a faulty batch, beside the checkpoints.

`RUN/faults/step-00000007/rank-0.safetensors` holds rank 0's batch after the task's transform, `samples.json` names the
samples of all ranks. A batch is a function of its step, so a faulty one is loaded again. A failed dump stops no run.
"""

from __future__ import annotations

import logging
from contextlib import closing

import safetensors.torch

from trainplane.config.canonical import canonical_json
from trainplane.data.load.loader import Loader
from trainplane.data.mixture import Mixture, TrainingData, datasets_of
from trainplane.data.read.fetch import read_samples
from trainplane.errors import RunFailed
from trainplane.storage import Store
from trainplane.train.guard.policy import Observation
from trainplane.train.world import World

log = logging.getLogger(__name__)


def dump_batch(
    store: Store,
    fault: Observation,
    *,
    loader: Loader,
    data: TrainingData,
    world: World,
) -> str:
    """Stores this rank's share of a faulty step.

    Returns on rank 0 a message with the address and the first samples, else "". Closes `loader`, which must be fresh.
    """
    folder = f"faults/step-{fault.index + 1:08d}"
    try:
        # Every rank: its share of the batch.
        with closing(loader):
            _, batch = next(loader.batches(start=fault.index, stop=fault.index + 1))
        tensors = {name: value.contiguous() for name, value in batch.items()}
        store.write(f"{folder}/rank-{world.rank}.safetensors", safetensors.torch.save(tensors))
        if not world.is_first:
            return ""
        # Rank 0: the samples of the whole batch.
        samples = _described(loader, data, fault.index)
        keys = [str(sample["key"]) for sample in samples]
        about = {
            "step": fault.index + 1,
            "norms": fault.norms,
            "loss_finite": fault.loss_finite,
            "dataset_digest": data.digest,
            "samples": samples,
        }
        store.write(f"{folder}/samples.json", canonical_json(about))
    except (RunFailed, OSError) as error:
        log.warning("the batch of step %d could not be stored: %s", fault.index + 1, error)
        return ""
    names = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
    return f"its batch ({names}) is in {store.address}/{folder}"


def _described(loader: Loader, data: TrainingData, step: int) -> list[dict[str, object]]:
    """Numbers and keys of a batch, in its order."""
    placed = loader.samples_at(step)
    keys: dict[tuple[int, int], str] = {}
    for number, dataset in enumerate(datasets_of(data)):
        indices = [sample for of, sample in placed if of == number]
        read = read_samples(dataset, indices)
        keys.update(((number, index), each["__key__"].decode()) for index, each in zip(indices, read, strict=True))
    return [
        {
            "index": index,
            "key": keys[number, index],
            # Of one dataset, its digest stands above.
            **({"dataset_digest": datasets_of(data)[number].digest} if isinstance(data, Mixture) else {}),
        }
        for number, index in placed
    ]
