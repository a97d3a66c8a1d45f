"""The local stack, up for real: what runs, who gets in, what is written where, what is left."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from small_run import SMALL

from trainplane.cluster.ports import free_port
from trainplane.cluster.stack import supervisor
from trainplane.cluster.stack.stack import STORES, Stack, component_types

KINDS = component_types("ceph" if STORES["ceph"].install_command() is None else "moto")
LACKING = {kind.name: command for kind in KINDS if (command := kind.install_command())}
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {LACKING}"),
]

INFRA = Path(__file__).resolve().parents[2] / "infra"
ISNET = [sys.executable, "-m", "jobs.cli"]
GENERATED = (
    "RAY_AUTH_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "PGPASSWORD",
    "ISNET_SERVE_TOKEN",
)
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


class Place:
    """A folder with a stack below it."""

    def __init__(self, folder):
        self.folder = folder
        self.stack = Stack(folder / "home" / "stack")

    def isnet(self, *words, timeout=400):
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MLFLOW_", "RAY_AUTH", "ISNET"))
        }
        environment |= {"ISNET_HOME": str(self.folder / "home"), "MLFLOW_DISABLE_TELEMETRY": "true"}
        return subprocess.run(
            [*ISNET, *map(str, words)],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def parts(self):
        return {part["name"]: part for part in json.loads(self.isnet("stack", "status", "--json").stdout)["parts"]}

    def secrets(self):
        return {file.name: file.read_text().strip() for file in (self.stack.layout.root / "secrets").iterdir()}

    def processes(self):
        return supervisor.find_marked(self.stack.layout.mark)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = Place(tmp_path_factory.mktemp("stack"))
    try:
        ran = made.isnet("stack", "up", "--json", "--timeout", 400, timeout=600)
        assert ran.returncode == 0, ran.stderr
        yield made
    finally:
        made.isnet("stack", "down", "--wipe")
        for left in made.processes().values():
            left.kill()


def listening(pids):
    """Hexadecimal local addresses that the processes listen on, as the kernel tells them."""
    inodes = set()
    for pid in pids:
        try:
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(entry)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        except OSError:
            continue
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1])
    return found


def answer(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_everything_is_up_and_listens_on_loopback_alone(place):
    parts = place.parts()
    assert {name: part["state"] for name, part in parts.items()} == dict.fromkeys(parts, "up")
    assert list(parts) == [kind.name for kind in KINDS]
    sockets = listening(place.processes())
    assert len(sockets) >= len(parts)
    elsewhere = {one for one in sockets if one.partition(":")[0] not in LOOPBACK}
    assert not elsewhere, f"listening beyond loopback: {elsewhere}"


def test_nobody_gets_in_without_the_word(place):
    parts, secrets = place.parts(), place.secrets()
    head, mlflow = parts["head"]["address"], parts["mlflow"]["address"]
    assert answer(f"{head}/api/jobs/") == 401
    assert answer(f"{head}/api/jobs/", Authorization="Bearer 0000") in (401, 403)
    assert answer(f"{head}/api/jobs/", Authorization=f"Bearer {secrets['RAY_AUTH_TOKEN']}") == 200
    search = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    assert answer(search) == 401
    assert answer(search, Authorization="Basic YWRtaW46cGFzc3dvcmQxMjM0") == 401
    import psycopg2

    host, port = parts["postgres"]["address"].split(":")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(host=host, port=port, user="mlflow", dbname="mlflow", password="0000")
    if os.getuid() == 0:
        (pid,) = parts["postgres"]["pids"]
        assert psutil.Process(pid).username() != "root"
    if place.stack.layout.load().store == "ceph":
        assert answer(f"{parts['store']['address']}/isnet") == 403


def test_a_job_trains_on_it_and_no_secret_is_written_anywhere(place, photos):
    for name in ("mine", "held"):
        packed = place.isnet("data", "pack", photos, name, "--context", "stack", "--parallel", 0)
        assert packed.returncode == 0, packed.stderr
    ran = place.isnet("submit", "--context", "stack", "train", "demo", *SMALL)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert "finished at step 4" in ran.stdout
    # The first job of a stack: a worker node that meets its folders must not remove those that its driver stands in.
    assert "records wait" not in ran.stdout
    assert "could not be recorded" not in ran.stdout
    listed = place.isnet("runs", "list", "--context", "stack", "--json")
    assert listed.returncode == 0, listed.stderr
    assert "FINISHED" in listed.stdout
    shown = place.isnet("doctor", "--context", "stack", "--json")
    findings = json.loads(shown.stdout)["findings"]
    assert [finding for finding in findings if finding["level"] == "error"] == []
    words = set(place.secrets().values()) - {"admin"}
    said = ran.stdout + ran.stderr + listed.stdout + shown.stdout
    nodes = [place.stack.layout.run / name for name in ("head", "worker-1", "worker-2")]
    assert all(any(node.rglob("*.log")) for node in nodes)
    logs = [place.stack.layout.root / "logs", *nodes, place.stack.layout.root / "data" / "ceph"]
    files = [
        file
        for folder in logs
        for file in folder.rglob("*")
        if file.is_file() and file.suffix in (".log", ".out", ".err")
    ]
    assert files
    files += [place.folder / "isnet.toml", place.stack.layout.root / "state.json"]
    commands = {pid: one.cmdline() for pid, one in place.processes().items() if one.is_running()}
    for word in words:
        assert word not in said
        assert not [file for file in files if word in file.read_text(errors="replace")]
        assert not [pid for pid, line in commands.items() if word in " ".join(line)]


def test_no_secret_is_in_what_mlflow_and_the_store_keep(place, monkeypatch):
    from trainplane.cluster.context import resolve
    from trainplane.storage import open_store
    from trainplane.tracking.client import TrackingServer

    monkeypatch.setenv("ISNET_HOME", str(place.folder / "home"))
    context = resolve("stack", start=place.folder)
    for name, value in context.environment.items():
        monkeypatch.setenv(name, value)
    words = set(place.secrets().values()) - {"admin"}
    client = TrackingServer(context.tracking).client
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert runs
    for run in runs:
        text = json.dumps(run.to_dictionary())
        assert not [word for word in words if word in text]
        assert run.info.artifact_uri.startswith("s3://isnet/artifacts/")
    for place_name in (context.checkpoints, context.artifacts):
        store = open_store(place_name)
        entries = [entry for entry in store.list("") if entry.key.endswith((".json", ".yaml", ".txt", ".md"))]
        assert entries
        for entry in entries:
            raw = bytes(store.read(entry.key))
            assert not [word for word in words if word.encode() in raw], entry.key


def s3_client(place, access, secret):
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=place.parts()["store"]["address"],
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, request_checksum_calculation="when_required"),
    )


def granted(call):
    from botocore.exceptions import ClientError

    try:
        call()
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("AccessDenied", "403"):
            raise
        return False
    return True


def test_a_real_store_lets_each_role_do_what_its_policy_says(place):
    if place.stack.layout.load().store != "ceph":
        pytest.skip("moto asks for no keys; this needs Ceph")
    secrets, ceph = place.secrets(), place.stack.layout.data("ceph")
    owner = s3_client(place, secrets["AWS_ACCESS_KEY_ID"], secrets["AWS_SECRET_ACCESS_KEY"])
    owner.create_bucket(Bucket="policies")
    clients, statements = {}, []
    for role in ("packer", "trainer", "promoter", "mlflow"):
        command = [
            "radosgw-admin",
            "-c",
            str(ceph / "ceph.conf"),
            "-n",
            "client.rgw",
            "user",
            "create",
            f"--uid={role}",
        ]
        command += [f"--display-name={role}", "--format=json"]
        told = subprocess.run(command, cwd=ceph, capture_output=True, text=True, check=True).stdout
        keys = json.loads(told[told.index("{") :])["keys"][0]
        clients[role] = s3_client(place, keys["access_key"], keys["secret_key"])
        policy = (INFRA / "s3" / f"{role}.json").read_text().replace(":::isnet", ":::policies")
        for statement in json.loads(policy)["Statement"]:
            # The policy of a user, as one of the bucket's: it then names whom it is about.
            who = {"AWS": [f"arn:aws:iam:::user/{role}"]}
            statements.append({**statement, "Sid": role + statement["Sid"], "Principal": who})
    owner.put_bucket_policy(Bucket="policies", Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
    places = ("datasets", "checkpoints", "artifacts", "audit")
    for name in places:
        owner.put_object(Bucket="policies", Key=f"{name}/there", Body=b"x")
    found = {}
    for role, client in clients.items():
        for name in places:
            calls = {
                "r": lambda: client.get_object(Bucket="policies", Key=f"{name}/there"),  # noqa: B023 - called at once
                "w": lambda: client.put_object(Bucket="policies", Key=f"{name}/{role}", Body=b"y"),  # noqa: B023
                "d": lambda: client.delete_object(Bucket="policies", Key=f"{name}/{role}"),  # noqa: B023
                "l": lambda: client.list_objects_v2(Bucket="policies", Prefix=f"{name}/"),  # noqa: B023
            }
            found[role, name] = "".join(letter for letter, call in calls.items() if granted(call))
    expected = {
        "packer": ("rwdl", "l", "l", "l"),
        "trainer": ("rl", "rwdl", "rwl", "rl"),
        "promoter": ("rl", "rl", "rwl", "rwl"),
        "mlflow": ("", "", "rl", ""),
    }
    assert found == {(role, name): may for role, row in expected.items() for name, may in zip(places, row, strict=True)}


@pytest.mark.nightly
def test_a_job_serves_a_model_to_who_has_the_stacks_token_and_writes_it_nowhere(place, photos):
    for name in ("mine", "held"):
        place.isnet("data", "pack", photos, name, "--context", "stack", "--parallel", 0)
    trained = place.isnet("train", "demo", *SMALL, "tracking.register_as=small", "--context", "stack")
    assert trained.returncode == 0, trained.stderr
    promoted = place.isnet("models", "promote", "small", 1, "--force", "to serve it", "--context", "stack")
    assert promoted.returncode == 0, promoted.stderr
    port, token = free_port(), place.secrets()["ISNET_SERVE_TOKEN"]
    words = ("serve", "small", "--on-ray", "--replicas", 2, "--port", port)
    submitted = place.isnet("submit", "--context", "stack", "--no-follow", "--json", *words)
    assert submitted.returncode == 0, submitted.stderr
    job = json.loads(submitted.stdout)["job"]
    versions = f"http://127.0.0.1:{port}/v1/versions"
    deadline = time.monotonic() + 180
    while answer_or_none(f"http://127.0.0.1:{port}/healthz") != 200 and time.monotonic() < deadline:
        time.sleep(1)
    try:
        assert answer(versions) == 401
        assert answer(versions, Authorization=f"Bearer {token}") == 200
        nodes = [place.stack.layout.run / name for name in ("head", "worker-1", "worker-2")]
        logs = [file for node in nodes for file in node.rglob("*") if file.suffix in (".log", ".out", ".err")]
        assert logs
        assert not [file for file in logs if token in file.read_text(errors="replace")]
    finally:
        stopped = place.isnet("jobs", "stop", job, "--context", "stack")
    assert stopped.returncode == 0, stopped.stderr


def answer_or_none(url):
    try:
        return answer(url)
    except OSError:
        return None


def test_killed_parts_are_told_and_come_back_and_the_rest_is_left_alone(place):
    before = place.parts()
    os.kill(before["mlflow"]["pids"][0], 9)
    os.kill(before["worker-2"]["pids"][0], 9)
    time.sleep(1)
    status = place.isnet("stack", "status", "--json")
    assert status.returncode == 1
    states = {part["name"]: part["state"] for part in json.loads(status.stdout)["parts"]}
    assert states["mlflow"] == "down"
    assert states["worker-2"] == "down"
    ran = place.isnet("stack", "up", "--timeout", 400)
    assert ran.returncode == 0, ran.stderr
    after = place.parts()
    assert {name: part["state"] for name, part in after.items()} == dict.fromkeys(after, "up")
    kept = ("postgres", "store", "head", "worker-1")
    assert {name: after[name]["pids"] for name in kept} == {name: before[name]["pids"] for name in kept}
    # What was recorded before the kill is still there.
    assert "FINISHED" in place.isnet("runs", "list", "--context", "stack").stdout


def test_files_with_secrets_are_the_owners_alone(place):
    folder = place.stack.layout.root / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert set(GENERATED) <= place.secrets().keys()


def test_down_leaves_nothing_running_and_wipe_nothing_at_all(place):
    ports = list(place.stack.layout.load().ports.values())
    run, root = place.stack.layout.run, place.stack.layout.root
    down = place.isnet("stack", "down", "--json")
    assert down.returncode == 0, down.stderr
    assert json.loads(down.stdout)["ended"] > 10
    assert not place.processes()
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert json.loads(place.isnet("stack", "down", "--json").stdout)["ended"] == 0
    assert root.exists()
    wiped = place.isnet("stack", "down", "--wipe")
    assert wiped.returncode == 0, wiped.stderr
    assert not root.exists()
    assert not run.exists()
    assert not (place.folder / "isnet.toml").exists()
    assert "there is no stack here" in place.isnet("stack", "status").stdout
