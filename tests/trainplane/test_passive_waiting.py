"""Threads that wait sleep, unless the user chose otherwise."""

import json
import os
import subprocess
import sys

import pytest

from trainplane.passive_waiting import NAMES, passive_waiting

SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}

# Ends at the first import of torch, with the variables that its runtime would read.
AT_IMPORT = """
import json, os, sys
class AtTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(json.dumps({name: os.environ.get(name) for name in json.loads(sys.argv[1])}), flush=True)
            os._exit(0)
sys.meta_path.insert(0, AtTorch())
from jobs.cli import cluster_main, main
sys.exit(main.main(["plan", "train", "demo+laptop"]))
"""


@pytest.mark.parametrize(
    ("chosen", "result"),
    [
        ({}, SLEEP),
        ({"PATH": "/bin"}, SLEEP),
        ({"OMP_WAIT_POLICY": "passive"}, {**SLEEP, "OMP_WAIT_POLICY": "passive"}),
        # GNU's count wins over the policy, so the user's spinning stays.
        ({"GOMP_SPINCOUNT": "30000"}, {**SLEEP, "GOMP_SPINCOUNT": "30000"}),
        # A policy of the user's would be undone by the other two variables.
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"OMP_WAIT_POLICY": "active", "KMP_BLOCKTIME": "9"}, {"OMP_WAIT_POLICY": "active", "KMP_BLOCKTIME": "9"}),
    ],
)
def test_threads_sleep_unless_the_user_chose_otherwise(chosen, result):
    assert passive_waiting(chosen) == result


@pytest.mark.parametrize(("chosen", "spins"), [({}, "0"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_the_command_sets_it_before_torch_is_imported(tmp_path, chosen, spins):
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", AT_IMPORT, json.dumps(NAMES)],
        env={**environment, **chosen, "ISNET_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert json.loads(done.stdout) == {**SLEEP, "GOMP_SPINCOUNT": spins}, done.stderr
