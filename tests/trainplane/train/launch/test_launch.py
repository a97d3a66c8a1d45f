"""What is done about an attempt that failed: decided by its cause, without a cluster."""

import pytest

from trainplane.train.errors import WorkerLost
from trainplane.train.launch.worker_group import classify_failure


class WorkerHealthCheckFailedError(Exception):
    """Named as Ray names what it raises for a rank whose process is gone."""


class GroupFailed(Exception):
    """As Ray's: an exception for each rank that failed."""

    def __init__(self, *failures):
        super().__init__("the group failed")
        self.worker_failures = dict(enumerate(failures))


CUT_OFF = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:1234")
DEAD = WorkerHealthCheckFailedError("not answering")
BUG = ValueError("shapes differ")


@pytest.mark.parametrize("failures", [(DEAD,), (CUT_OFF, DEAD), (CUT_OFF, CUT_OFF)])
def test_a_dead_process_is_a_lost_worker(failures):
    assert isinstance(classify_failure(GroupFailed(*failures)), WorkerLost)


@pytest.mark.parametrize("failures", [(BUG,), (BUG, CUT_OFF), (CUT_OFF, BUG)])
def test_an_error_of_the_code_is_shown_as_it_is_though_its_peers_were_cut_off(failures):
    error = GroupFailed(*failures)
    assert classify_failure(error) is error
