"""A private cluster: where it listens, and what Ray is kept from writing down."""

import os
import subprocess
import sys

import pytest

LISTENING = """
import os
from pathlib import Path

import psutil

from trainplane.cluster.ray_session import ray_session

before = dict(os.environ)
with ray_session(num_cpus=1) as ray:
    assert ray.get(ray.remote(lambda: 1).remote()) == 1
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    tables = [line.split() for line in lines]
    listening = {fields[9]: fields[1].partition(":")[0] for fields in tables if fields[3] == "0A"}
    for process in psutil.Process().children(recursive=True):
        try:
            sockets = [os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
        except OSError:
            continue
        for socket in sockets:
            if socket.startswith("socket:[") and socket[8:-1] in listening:
                print("listens", listening[socket[8:-1]])
left = {name for name, value in os.environ.items() if before.get(name) != value}
ours = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
assert not left & ours, f"left in the environment: {left & ours}"
print("token in the home:", (Path.home() / ".ray/auth_token").exists())
ray.init("local", num_cpus=1, log_to_driver=False)
assert ray.get(ray.remote(lambda: 2).remote()) == 2
"""


# Ray reads its variables once. A notebook that has imported it, or used a cluster of its own, gets the same.
RAY_BEFORE = {"not imported": "", "used": "import ray; ray.init('local', num_cpus=1); ray.shutdown()"}


@pytest.mark.real
@pytest.mark.parametrize("before", RAY_BEFORE)
def test_a_private_cluster_listens_on_loopback_alone(before, tmp_path):
    program = RAY_BEFORE[before] + LISTENING
    # Ray's own clusters write a token into the home, which later ones of other tests would ask for.
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    # Ours writes none.
    assert f"token in the home: {before == 'used'}" in done.stdout
    found = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("listens")}
    assert found
    assert found <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.real
def test_tune_sends_no_keys_of_the_store():
    code = (
        "from trainplane.search.run.ray_tune import keep_aws_keys_local; keep_aws_keys_local()\n"
        "from ray.tune.execution import class_cache\n"
        "print([name for name in class_cache.ENV_VARS_TO_PROPAGATE if 'AWS' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip().endswith("[]")
