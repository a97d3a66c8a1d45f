"""Speed of a run: similar runs have the same key."""

from jobs.config import load_run_config
from jobs.train.throughput import speed_key


def test_speed_is_alike_where_what_costs_time_is():
    def key(*overrides):
        return speed_key(load_run_config("demo", list(overrides)), gpu=False)

    assert key() == key("train.steps=9", "train.lr_g=0.1", "data.train=other", "loss.style=1", "train.seed=3")
    others = ["data.size=128", "model.blocks=2", "loss.style=0", "train.global_batch=4", "train.workers=1"]
    resized = "data.resize=null"
    assert len({key(), *(key(other, resized) for other in others)}) == 6
