"""What a command keeps for itself while it uses Ray."""

import json
import os
import signal
import subprocess
import sys

import pytest

from trainplane.cluster.ray_session import keep_sigterm_handler

LOSES_RAY = """
import json, os, re, signal, time
from trainplane.cluster.ray_session import dead_processes, ray_session
def mask_of(part):
    (kept,) = worker._global_node.all_processes[part]
    return int(re.search(r"SigBlk:\\s*(\\w+)", open(f"/proc/{kept.process.pid}/status").read())[1], 16)
with ray_session(num_cpus=1) as ray:
    from ray._private import worker
    deaf = [bool(mask_of(part) & 1 << signal.SIGHUP - 1) for part in ("gcs_server", "raylet")]
    here = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    before = dead_processes()
    worker._global_node.all_processes["gcs_server"][0].process.kill()
    time.sleep(0.5)
    after = dead_processes()
print(json.dumps([deaf, signal.SIGHUP in here, before, after, dead_processes()]))
"""


def as_ray_does(*, told=False):
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    if told:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def ours():
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGTERM, before)


def test_the_answer_to_sigterm_stays_that_of_the_command(ours):
    """Ray's would end the process at once: a run of two workers was stopped by SIGTERM without being saved."""
    with keep_sigterm_handler():
        as_ray_does()
    assert signal.getsignal(signal.SIGTERM) is ours


def test_sigterm_while_ray_connects_is_an_interruption(ours):
    with pytest.raises(KeyboardInterrupt), keep_sigterm_handler():
        as_ray_does(told=True)
    assert signal.getsignal(signal.SIGTERM) is ours


@pytest.mark.nightly
def test_a_cluster_that_lost_a_part_is_noticed_and_no_part_hears_hangups():
    """A closed terminal tells all processes at once: Ray's would be gone before the ranks could save."""
    done = subprocess.run([sys.executable, "-c", LOSES_RAY], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[True, True], False, [], ["gcs_server"], []]
