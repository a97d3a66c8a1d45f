"""Speed of a run: similar runs have the same key."""

import pytest

from jobs.config import load_run_config
from jobs.train.throughput import RATE_METRIC, SPEED_TAG, Rate, check_stall_limit, last_rate, speed_key
from trainplane.cluster.context import resolve
from trainplane.errors import UserError
from trainplane.tracking.run_id import KEY_TAG


def test_speed_is_alike_where_what_costs_time_is():
    def key(*overrides):
        return speed_key(load_run_config("demo", list(overrides)), gpu=False)

    assert key() == key("train.steps=9", "train.lr_g=0.1", "data.train=other", "loss.style=1", "train.seed=3")
    others = ["data.size=128", "model.blocks=2", "loss.style=0", "train.global_batch=4", "train.workers=1"]
    resized = "data.resize=null"
    assert len({key(), *(key(other, resized) for other in others)}) == 6


def test_a_limit_of_stalls_under_the_time_of_a_step_is_refused_where_that_is_known():
    train = load_run_config("demo", ["train.stall_s=10"]).train
    slow = Rate(train.global_batch / 12.5, "as run abc had")
    with pytest.raises(UserError, match=r"train\.stall_s=10, and a step takes 12\.5 s .* set train\.stall_s=125"):
        check_stall_limit(train, slow)
    check_stall_limit(train, None)
    check_stall_limit(load_run_config("demo", []).train, slow)
    # A single rank has no group that could be replaced.
    check_stall_limit(load_run_config("demo", ["train.stall_s=10", "train.workers=1"]).train, slow)


def test_a_run_that_goes_on_is_as_fast_as_it_was_and_a_new_one_as_the_newest(home):
    context, config = resolve(), load_run_config("demo", [])
    client = context.tracking_server.client
    number = client.create_experiment("lab")
    for start, key, rate in ((1, "mine", 12.5), (2, "other", 0.5), (3, "mine", None)):
        tags = {SPEED_TAG: speed_key(config, gpu=False), KEY_TAG: key}
        run = client.create_run(number, start_time=start, tags=tags)
        if rate is not None:
            client.log_metric(run.info.run_id, RATE_METRIC, rate)
    rates = [last_rate(config, context, gpu=False, run_key=key) for key in ("mine", "unknown", None)]
    assert [rate.pictures_per_s for rate in rates] == [12.5, 0.5, 0.5]
    assert last_rate(config, context, gpu=True) is None
