"""Memory of a rank: the state is exact, the step grows with the micro-batch."""

import numpy as np
import pytest
import torch

from isnet.training.memory import state_bytes
from jobs.config import load_run_config
from jobs.isnet_task import ISNetTask
from jobs.train.memory import memory_of, new_state_bytes, step_bytes
from jobs.train.resources import ranks_here
from trainplane.train.checkpoint.state import capture
from trainplane.train.world import World


@pytest.fixture(scope="module")
def small():
    return load_run_config("ablation_base+laptop", ["data.size=32", "model.width=4", "model.blocks=1"])


def test_the_state_is_reckoned_to_the_byte(small):
    task = ISNetTask(small, torch.device("cpu"))
    batch = {
        "image": torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)),
        "mask": torch.ones(4, 1, 32, 32, dtype=torch.bool),
    }
    batch["mask"][..., :9] = False
    task.step([batch], global_batch=4, reduce=World())
    real = capture(task, step=1)
    reckoned = memory_of(small, ranks_here(small)).state
    assert reckoned == state_bytes(task.modules(), task.optimizers())
    assert reckoned == sum(tensor.nbytes for tensor in real.tensors.values())
    # A third of BaseModel's weights never move; only a step tells.
    assert new_state_bytes(small) > reckoned


def test_memory_grows_with_the_batch_and_not_with_turns(small):
    def step(**train):
        config = small.model_copy(update={"train": small.train.model_copy(update=train)})
        return memory_of(config, ranks_here(config)).step

    whole = step(global_batch=8)
    in_turns = step(global_batch=8, micro_batch=2)
    assert in_turns < whole / 1.2
    assert in_turns == pytest.approx(step(global_batch=16, micro_batch=2), rel=0.1)


def test_activations_computed_again_take_less_memory():
    kept, again = (load_run_config("places2", overrides) for overrides in ([], ["train.recompute=true"]))
    assert step_bytes(again, ranks=1, on_gpu=True).peak < 0.65 * step_bytes(kept, ranks=1, on_gpu=True).peak
