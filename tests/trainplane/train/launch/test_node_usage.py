"""Usage of other nodes reaches rank 0, each sample once."""

from trainplane.train.launch.progress_actor import ProgressActor


def test_each_sample_of_a_node_is_taken_once():
    actor = ProgressActor()
    assert actor.take_usage() == {}
    for cpu in (10.0, 20.0):
        actor.set_usage(1, {"cpu_percent": cpu, "gpu_0_percent": 90.0})
    actor.set_usage(3, {"cpu_percent": 5.0})
    assert actor.take_usage() == {
        "node-1/cpu_percent": 20.0,
        "node-1/gpu_0_percent": 90.0,
        "node-3/cpu_percent": 5.0,
    }
    # A node that is gone leaves no line that goes on.
    assert actor.take_usage() == {}
