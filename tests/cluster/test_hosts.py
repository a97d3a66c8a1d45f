"""Training across hosts of their own addresses: one is cut off, another is killed, and the numbers are right."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest
from hosts import hosts, refusal
from small_run import SMALL

REFUSAL = refusal()
pytestmark = [pytest.mark.nightly, pytest.mark.skipif(REFUSAL is not None, reason=REFUSAL or "")]

ISNET = [sys.executable, "-m", "jobs.cli"]
RAY = os.path.join(os.path.dirname(sys.executable), "ray")
WORKERS = ("east", "west", "spare")
STEPS = 60
SETTINGS = [word for word in SMALL if not word.startswith(("train.workers", "train.steps", "train.validate_every"))]
SETTINGS += ["train.workers=2", f"train.steps={STEPS}", f"train.validate_every={STEPS}", "train.checkpoint_every=5"]
SETTINGS += ["train.seed=23", "train.log_every=1"]


class Cluster:
    """A Ray head and three workers of one processor each, every one in a namespace of its own."""

    def __init__(self, network, folder):
        self.network, self.folder = network, folder
        self.token = secrets.token_hex(32)
        self.started = []

    def environment(self):
        return {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_ADDRESS": f"{self.network.address['head']}:6379",
            # The machine's name leads to an address that no namespace has.
            "GLOO_SOCKET_IFNAME": "eth0",
            # A lost host is noticed after seconds; with Ray's own numbers after a minute.
            "RAY_health_check_period_ms": "2000",
            "RAY_health_check_timeout_ms": "5000",
            "RAY_health_check_failure_threshold": "3",
            # And a host that was cut off gives up after as long, and its ranks with it.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
        }

    def start(self, name):
        words = [RAY, "start", "--block", f"--node-ip-address={self.network.address[name]}", "--disable-usage-stats"]
        words += ["--object-store-memory=100000000"]
        if name == "head":
            words += ["--head", "--port=6379", "--dashboard-port=8265", "--num-cpus=0", f"--temp-dir={self.folder}/ray"]
            words += [f"--dashboard-host={self.network.address['head']}"]
        else:
            words += [f"--address={self.network.address['head']}:6379", "--num-cpus=1"]
        environment = self.environment()
        del environment["RAY_ADDRESS"]
        with open(f"{self.folder}/{name}.log", "ab") as log:
            command = self.network.command(name, *words)
            self.started.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            )

    def kill(self, name):
        """The power goes: every process of that host at once."""
        for pid in self.network.pids(name):
            os.kill(pid, signal.SIGKILL)

    def nodes(self):
        """Addresses of the nodes that are alive."""
        url = f"http://{self.network.address['head']}:8265/api/v0/nodes?detail=true"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                found = json.load(answer)["data"]["result"]["result"]
        except OSError:
            return set()
        return {node["node_ip"] for node in found if node["state"] == "ALIVE"}

    def training(self):
        """Hosts with a rank of the run on them."""
        return [name for name in WORKERS if any(is_rank(pid) for pid in self.network.pids(name))]

    def end(self):
        for name in self.network.address:
            self.kill(name)
        for process in self.started:
            process.wait()


def is_rank(pid):
    try:
        return "RayTrainWorker" in " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def until(condition, what, log=None, timeout_s=240):
    """What `condition` found; what stands in the file `log` belongs to the reason why it did not."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        said = f":\n{log.read_text()[-4000:]}" if log else ""
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}{said}"
        time.sleep(0.5)
    return found


@pytest.fixture
def cluster(tmp_path_factory):
    # Unix sockets of Ray lie below it, and their paths are short.
    folder = f"/tmp/is-{secrets.token_hex(3)}"
    os.mkdir(folder, 0o700)
    with hosts("head", *WORKERS) as network:
        made = Cluster(network, folder)
        try:
            made.start("head")
            until(lambda: len(made.nodes()) == 1, "the head")
            # One after the other, as machines come; each may try again, for Ray's patience is 30 s.
            for name in WORKERS:
                for _ in range(3):
                    made.start(name)
                    until(
                        lambda name=name: network.address[name] in made.nodes() or made.started[-1].poll() is not None,
                        f"{name} to join",
                    )
                    if made.started[-1].poll() is None:
                        break
            yield made
        finally:
            made.end()
            subprocess.run(["rm", "-rf", folder], check=True)


def checkpoints(home):
    """Steps of the run on the cluster that are stored."""
    found = home.glob("checkpoints/*/step-*/manifest.json")
    return [int(re.search(r"step-(\d+)", str(path)).group(1)) for path in found]


def test_a_run_across_hosts_survives_a_cut_cable_and_a_lost_machine(project, cluster, tmp_path):
    home = tmp_path / "home"
    environment = {**cluster.environment(), "ISNET_HOME": str(home)}
    source = project.folder / "home" / "datasets"
    (home).mkdir()
    (home / "datasets").symlink_to(source)
    command = cluster.network.command("head", *ISNET, "train", "demo", *SETTINGS, "--json")
    with (
        open(tmp_path / "run.log", "w+") as log,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as run,
    ):
        said = tmp_path / "run.log"
        try:
            until(lambda: checkpoints(home) or run.poll() is not None, "a checkpoint", said)
            assert run.poll() is None, said.read_text()
            first = until(cluster.training, "ranks", said)
            assert len(first) == 2, "both ranks on one host"
            cluster.network.cut(first[0])
            until(lambda: cluster.network.address[first[0]] not in cluster.nodes(), "the cut to be noticed", said)
            reached = max(checkpoints(home))
            until(lambda: max(checkpoints(home)) > reached or run.poll() is not None, "training after the cut", said)
            assert run.poll() is None, said.read_text()
            second = until(lambda: [n for n in cluster.training() if n != first[0]], "ranks on other hosts", said)
            cluster.kill(second[0])
            # The machine comes back, as a cloud's would.
            cluster.start(second[0])
            out, _ = run.communicate(timeout=400)
        finally:
            if run.poll() is None:
                run.kill()
    assert run.returncode == 0, said.read_text()
    report = json.loads(out)
    assert (report["status"], report["step"]) == ("finished", STEPS)

    straight = subprocess.run(
        [*ISNET, "train", "demo", *SETTINGS, "--fresh", "--json"],
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert straight.returncode == 0, straight.stderr
    assert report["state_digest"] == json.loads(straight.stdout)["state_digest"]
