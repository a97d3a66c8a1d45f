"""What needs Ray: two workers, a search, a job on a head with a token, a worker killed in the middle."""

import contextlib
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
from small_run import SMALL

from trainplane.cluster.jobs.queue import head_args
from trainplane.cluster.ports import free_port
from trainplane.cluster.ray_session import own_token

ISNET = [sys.executable, "-m", "jobs.cli"]
TWO = [word for word in SMALL if not word.startswith("train.workers")] + ["train.workers=2"]


def shell(*words, cwd, timeout=300, **environment):
    """A command in a process of its own, as a user runs it."""
    env = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    command = [*ISNET, *[str(word) for word in words]]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def children_of_ray(marker):
    """Processes that carry `marker` in their environment: whatever a command of ours started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ISNET_TEST_MARK") == marker and process.pid != os.getpid():
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def ranks_of(marker):
    """Those among them that train; what ends while it is looked at is none."""
    found = []
    for process in children_of_ray(marker):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.fixture
def mark():
    """A mark that all processes of a command inherit; none of them may outlive it."""
    marker = secrets.token_hex(8)
    yield marker
    deadline = time.monotonic() + 20
    while (left := children_of_ray(marker)) and time.monotonic() < deadline:
        time.sleep(0.5)
    names = [process.name() for process in left]
    for process in left:
        process.kill()
    assert not names, f"left behind: {names}"


@pytest.mark.nightly
def test_two_workers_learn_what_one_learns_and_leave_nothing_behind(project, mark):
    one = project.run
    ran = shell("train", "demo", *TWO, "--fresh", "--json", cwd=project.folder, ISNET_TEST_MARK=mark)
    assert ran.returncode == 0, ran.stderr
    two = json.loads(ran.stdout)
    assert (two["status"], two["step"]) == ("finished", 4)
    assert two["metrics"].keys() == one["metrics"].keys()
    # The same pictures in the same steps: only the order of additions differs.
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, rel=1e-3), name


@pytest.mark.real
def test_a_killed_worker_is_replaced_and_the_run_ends_on_the_same_bits(project, mark):
    settings = [*TWO, "train.steps=18", "train.checkpoint_every=3", "train.validate_every=18", "train.seed=5"]
    straight = shell("train", "demo", *settings, "--json", cwd=project.folder, ISNET_TEST_MARK=mark)
    assert straight.returncode == 0, straight.stderr
    command = [*ISNET, "train", "demo", *settings, "--fresh", "--json"]
    environment = {**os.environ, "ISNET_TEST_MARK": mark}
    with subprocess.Popen(
        command, cwd=project.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        deadline = time.monotonic() + 200
        killed = False
        while run.poll() is None and not killed and time.monotonic() < deadline:
            fresh = list((project.folder / "home" / "checkpoints").glob("demo-*.2/step-*/manifest.json"))
            workers = ranks_of(mark)
            if fresh and workers:
                workers[-1].send_signal(signal.SIGKILL)
                killed = True
            time.sleep(0.02)
        out, err = run.communicate(timeout=300)
    assert killed, "the run was over before a worker could be killed"
    assert run.returncode == 0, err
    assert json.loads(out)["state_digest"] == json.loads(straight.stdout)["state_digest"]


@pytest.mark.nightly
def test_a_worker_told_to_end_saves_first_and_an_elastic_run_goes_on_with_the_room_there_is(project, mark):
    # No checkpoint is due on the way: only the notice can have saved the step that the run goes on from.
    settings = [word for word in SMALL if not word.startswith(("train.workers", "train.validate", "train.steps"))]
    settings += ["train.workers=[1,2]", "train.steps=60", "train.validate_every=60", "train.seed=17"]
    settings += ["train.checkpoint_every=500"]
    command = [*ISNET, "train", "demo", *settings, "--json"]
    environment = {**os.environ, "ISNET_TEST_MARK": mark}
    with subprocess.Popen(
        command, cwd=project.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        said = []
        for line in run.stderr:
            said.append(line)
            if re.search(r"step ([1-9]|[1-4]\d)/60", line):
                break
        workers = ranks_of(mark)
        assert workers, said
        workers[-1].send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=400)
    told = "".join(said) + err
    assert run.returncode == 0, told
    assert "room for 2 of 1 to 2 workers: 4 samples a step = 2 ranks × 2 at once × 1 in turn" in told
    saved = re.search(r"the node was about to shut down; resuming at step (\d+)", told)
    assert saved, told
    assert 0 < int(saved[1]) < 60
    straight = shell("train", "demo", *settings, "--fresh", "--json", cwd=project.folder, ISNET_TEST_MARK=mark)
    assert json.loads(out)["state_digest"] == json.loads(straight.stdout)["state_digest"]


@pytest.mark.nightly
def test_a_search_is_one_parent_with_its_trials_and_goes_on(project, mark):
    from trainplane.tracking.client import TrackingServer

    words = ["tune", "search_demo", *SMALL, "search.trials=3", "search.register_as=found", "--json"]
    ran = shell(*words, cwd=project.folder, ISNET_TEST_MARK=mark)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert [(trial["status"], trial["error"]) for trial in report["trials"]] == [("finished", None)] * 3, ran.stderr
    best = max(report["trials"], key=lambda trial: trial["metrics"]["val/psnr"])
    assert report["best"]["run_id"] == best["run_id"]
    assert report["registered"] == {"name": "found", "version": "1"}

    again = json.loads(shell(*words, cwd=project.folder, ISNET_TEST_MARK=mark).stdout)
    assert [t["run_id"] for t in again["trials"]] == [t["run_id"] for t in report["trials"]]
    assert again["registered"] == report["registered"]
    client = TrackingServer(f"sqlite:///{project.folder / 'home' / 'mlflow.db'}").client
    experiment = client.get_run(report["search_run_id"]).info.experiment_id
    runs = client.search_runs([experiment])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == report["search_run_id"]]
    assert len(children) == 3
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.fixture
def ray_head(project, tmp_path):
    """A Ray head on loopback that asks for a token; yields its job address and the token."""
    # Ray keeps the first token that a process has used, and some tests of this process start clusters of their own.
    token = own_token()
    ports: list[int] = []
    for _ in range(4):
        ports.append(free_port(ports))
    command = [os.path.join(os.path.dirname(sys.executable), "ray"), "start", "--head", "--block"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=2", "--disable-usage-stats"]
    command += [f"--port={ports[0]}", f"--dashboard-port={ports[1]}", f"--dashboard-agent-listen-port={ports[2]}"]
    command += [f"--ray-client-server-port={ports[3]}", *head_args(2)]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    with open(tmp_path / "head.log", "wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        wait_for(address, token, head, tmp_path / "head.log")
        yield address, token
    finally:
        family = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        # All at once and by number: `ray stop` would end every cluster of this machine.
        head.kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()


def wait_for(address, token, head, log):
    deadline = time.monotonic() + 120
    request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(request, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(log.read_text())


@pytest.mark.real
def test_a_job_runs_on_the_cluster_and_its_status_is_ours(project, ray_head, tmp_path):
    address, token = ray_head
    (project.folder / "isnet.toml").write_text(
        f'[context.head]\nray = "{address}"\n[context.head.secrets]\nRAY_AUTH_TOKEN = "env:HEAD_TOKEN"\n'
    )
    try:
        there = {"cwd": project.folder, "HEAD_TOKEN": token}
        settings = [*TWO, "train.seed=7"]
        ran = shell("submit", "--context", "head", "train", "demo", *settings, **there)
        assert ran.returncode == 0, ran.stderr + ran.stdout
        assert "finished at step 4" in ran.stdout
        job = re.search(r"job (isnet-\w+)", ran.stderr).group(1)

        # A job that is over is not followed: its data may be others now. The run is complete, and says so.
        again = shell("submit", "--context", "head", "train", "demo", *settings, **there)
        assert again.returncode == 0
        assert f"submitted job {job}-2" in again.stderr

        failing = shell("submit", "--context", "head", "evaluate", "classical:mean", "nowhere", **there)
        assert failing.returncode == 2, failing.stderr + failing.stdout
        assert "nowhere" in failing.stdout

        jobs = json.loads(shell("jobs", "list", "--context", "head", "--json", **there).stdout)["jobs"]
        assert [entry["status"] for entry in jobs] == ["FAILED", "SUCCEEDED", "SUCCEEDED"]
        logs = json.loads(shell("jobs", "logs", job, "--context", "head", "--json", **there).stdout)["logs"]
        assert "finished at step 4" in logs
        assert token not in json.dumps(jobs) + logs

        # Packing as a job: by tasks on all processors, the bytes that are packed here.
        packed = shell("submit", "--context", "head", "data", "pack", project.photos, tmp_path / "set", **there)
        assert packed.returncode == 0, packed.stderr + packed.stdout
        here = shell("data", "pack", project.photos, "here", "--name", "set", "--json", **there)
        assert json.loads(here.stdout)["digest"] in packed.stdout

        wrong = shell("jobs", "list", "--context", "head", cwd=project.folder, HEAD_TOKEN="0" * 64)
        assert wrong.returncode == 2
        assert "refused our token" in wrong.stderr
    finally:
        (project.folder / "isnet.toml").unlink()


@pytest.mark.real
def test_no_cluster_at_the_address_is_said_in_a_sentence(project):
    port = free_port()
    (project.folder / "isnet.toml").write_text(f'[context.gone]\nray = "http://127.0.0.1:{port}"\n')
    try:
        ran = shell("submit", "--context", "gone", "train", "demo", cwd=project.folder)
    finally:
        (project.folder / "isnet.toml").unlink()
    assert ran.returncode == 2
    assert f"no Ray cluster answers at http://127.0.0.1:{port}" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.real
def test_more_workers_than_the_machine_has_are_refused_with_the_arithmetic(project, mark):
    cpus = os.cpu_count()
    settings = [*TWO, f"train.workers={cpus * 4}", f"train.global_batch={cpus * 4}"]
    ran = shell("train", "demo", *settings, cwd=project.folder, ISNET_TEST_MARK=mark)
    assert ran.returncode == 2
    assert f"the cluster has {cpus}" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.real
def test_platform_is_the_standard_librarys_inside_workers(project):
    code = (
        "from trainplane.cluster.ray_session import ray_session\n"
        "with ray_session() as ray:\n"
        "    @ray.remote\n"
        "    def where():\n"
        "        import os, platform, trainplane\n"
        "        return f'{os.environ[\"GOMP_SPINCOUNT\"]} {platform.python_version()}'\n"
        "    print(ray.get(where.remote()))\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=200, check=True
    )
    # Threads of workers sleep while they wait (trainplane/passive_waiting.py).
    assert done.stdout.split()[-2:] == ["0", ".".join(map(str, sys.version_info[:3]))]


@pytest.mark.nightly
def test_sigterm_ends_two_workers_once_they_have_saved_and_the_run_is_recorded_as_killed(project, mark):
    # Not Ctrl-C, which the next test has: Ray would take SIGTERM for itself and end the command unsaved.
    settings = [*TWO, "train.steps=400", "train.checkpoint_every=5", "train.validate_every=400", "train.seed=13"]
    command = [*ISNET, "train", "demo", *settings, "--json"]
    environment = {**os.environ, "ISNET_TEST_MARK": mark}
    with subprocess.Popen(
        command, cwd=project.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        for line in run.stderr:
            if re.search(r"step [1-9]\d*/400", line):
                break
        time.sleep(2)
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=120)
    assert run.returncode == 130, err
    assert "stopping after this step, saving a checkpoint" in err
    assert "run the same command again" in err
    assert re.fullmatch(r"interrupted \(step \d+ of 400 is saved\)", json.loads(out)["error"])
    runs = json.loads(shell("runs", "list", "--json", cwd=project.folder).stdout)["runs"]
    assert runs[0]["status"] == "KILLED"


@pytest.mark.nightly
def test_ctrl_c_saves_where_it_stands_and_the_next_call_goes_on(project, mark):
    settings = [*SMALL, "train.steps=400", "train.checkpoint_every=400", "train.validate_every=400", "train.seed=9"]
    command = [*ISNET, "train", "demo", *settings, "--json"]
    environment = {**os.environ, "ISNET_TEST_MARK": mark}
    with subprocess.Popen(
        command, cwd=project.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        for line in run.stderr:
            if "step " in line and "/400" in line:
                break
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=120)
    assert run.returncode == 130, err
    assert "run the same command again" in err
    saved = re.fullmatch(r"interrupted \(step (\d+) of 400 is saved\)", json.loads(out)["error"])
    shorter = [word for word in settings if not word.startswith("train.steps")]
    reached = max(
        int(path.parent.name.removeprefix("step-"))
        for path in (project.folder / "home" / "checkpoints").glob("*/step-*/manifest.json")
        if json.loads((path.parents[1] / "run.json").read_text())["config"]["train"]["seed"] == 9
    )
    assert saved is not None
    assert int(saved[1]) == reached
    assert 0 < reached < 400
    resumed = shell("train", "demo", *shorter, f"train.steps={reached + 3}", "--json", cwd=project.folder)
    straight = shell("train", "demo", *shorter, f"train.steps={reached + 3}", "--fresh", "--json", cwd=project.folder)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["state_digest"] == json.loads(straight.stdout)["state_digest"]


@pytest.mark.nightly
def test_jobs_that_go_wrong_end_with_their_own_status_and_a_reason(project, ray_head, tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    from trainplane.cluster.context import local
    from trainplane.cluster.jobs import client as dashboard
    from trainplane.cluster.jobs import logs as following
    from trainplane.cluster.jobs import status as job_state
    from trainplane.cluster.jobs.submit import submit
    from trainplane.errors import RunFailed

    address, token = ray_head
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "note.txt").write_text("sent along")
    context = local(tmp_path / "home").at(ray=address)

    def hand_over(entrypoint, **options):
        places = {"packages": [], "working_dir": tmp_path / "files", "environment": {}}
        return submit(context, [entrypoint], entrypoint=entrypoint, again=False, **places, **options)

    connection = dashboard.connect(context)
    deadline = time.monotonic() + 60
    # The head answers a moment before it counts itself.
    while job_state.cluster_resources(connection).nodes == 0 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert job_state.cluster_resources(connection) == job_state.ClusterResources(1, 2.0, 0.0, drivers=2.0)
    for entrypoint, status in (("cat note.txt; exit 3", 3), ("echo before; kill -9 $$", 137)):
        written = []
        job, is_new = hand_over(entrypoint)
        assert is_new
        assert following.follow(connection, job, written.append).exit_status == status
        assert ("sent along" if status == 3 else "before") in "".join(written)

    # Two of the same at the same moment are one job.
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: hand_over("sleep 5"), range(2)))
    assert both[0][0] == both[1][0]
    assert sorted(is_new for _, is_new in both) == [False, True]
    job_state.wait_until_over(connection, both[0][0], timeout_s=120)

    # Two drivers at once, the others in their order, and each knows its place. The first ones wait until the last has
    # told it: on a busy machine they would be over before the line is complete.
    gate, said = tmp_path / "gate", []
    wait = f"until [ -e {gate} ]; do sleep 0.2; done"
    line = [hand_over(f"echo {number}; date +%s.%N; {wait}")[0] for number in range(6)]

    def told(text):
        said.append(text)
        if "(2 running)" in text:
            gate.touch()

    following.wait_for_start(connection, line[-1], timeout_s=300, emit=told)
    queued = r"waits: 3 jobs are before it in the cluster's queue \(2 running\)"
    assert any(re.search(queued, text) for text in said), said
    assert [job_state.wait_until_over(connection, job, timeout_s=120).status for job in line] == ["SUCCEEDED"] * 6
    # Ray writes into the same log, anywhere.
    moments = [float(re.search(r"^\d{10}\.\d+", connection.get_job_logs(job), re.M)[0]) for job in line]
    assert all(earlier < later for earlier, later in zip(moments, moments[2:], strict=False)), moments

    said = []
    job, _ = hand_over("true", cpus=64)
    with pytest.raises(RunFailed, match=f"job {job} did not start within 8 s and was told to stop"):
        following.wait_for_start(connection, job, timeout_s=8, emit=said.append)
    assert any("waits: " in text for text in said)
    # It never ran: nobody has 64 processors.
    assert job_state.job_state(connection, job).status in ("PENDING", "STOPPED", "FAILED")


@pytest.mark.nightly
def test_a_job_gives_way_to_a_higher_priority_and_ends_on_the_undisturbed_bits(project, ray_head, mark):
    address, token = ray_head
    home = project.folder / "home"
    (project.folder / "isnet.toml").write_text(
        f'[context.head]\nray = "{address}"\nstore = "{home}"\ntracking = "sqlite:///{home}/mlflow.db"\n'
        '[context.head.secrets]\nRAY_AUTH_TOKEN = "env:HEAD_TOKEN"\n'
    )
    there = {"cwd": project.folder, "HEAD_TOKEN": token}
    settings = [word for word in TWO if not word.startswith(("train.steps", "train.checkpoint", "train.validate"))]
    listed = json.loads(shell("runs", "list", "--json", cwd=project.folder).stdout)["runs"]
    earlier = {run["run_id"] for run in listed}
    # No checkpoint is due on the way: only giving way can have saved the step that the run goes on from.
    settings += ["train.steps=150", "train.checkpoint_every=500", "train.validate_every=150", "train.seed=23"]
    try:
        command = [*ISNET, "submit", "--context", "head", "--priority", "0", "train", "demo", *settings]
        environment = {**os.environ, "HEAD_TOKEN": token}
        with subprocess.Popen(
            command, cwd=project.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as low:
            said = []
            for line in low.stdout:
                said.append(line)
                if re.search(r"step [1-9]\d*/150", line):
                    break
            words = ["submit", "--context", "head", "--priority", "5", "train", "demo", *TWO, "train.seed=24"]
            urgent = shell(*words, **there)
            assert urgent.returncode == 0, urgent.stderr + urgent.stdout
            out, _ = low.communicate(timeout=400)
        told = "".join(said) + out
        assert low.returncode == 0, told
        records = [json.loads(path.read_text()) for path in (home / "queue" / "jobs").glob("*.json")]
        by_priority = {record["template"]["priority"]: record for record in records}
        assert [by_priority[number]["attempts"] for number in (0, 5)] == [2, 1]
        # A minute on a machine of its own; a crowded one takes longer to save and to end the first.
        assert by_priority[5]["started"] - by_priority[5]["submitted"] < 180
        # It went on at the very step that it stopped after.
        saved = int(re.search(r"step (\d+) of 150 is saved", told)[1])
        before, _, after = told.partition(" of 150 is saved")
        assert max(int(step) for step in re.findall(r"step (\d+)/150", before)) <= saved
        assert min(int(step) for step in re.findall(r"step (\d+)/150", after)) > saved
        straight = shell("train", "demo", *settings, "--fresh", "--json", cwd=project.folder, ISNET_TEST_MARK=mark)
        assert re.findall(r"state digest +(\w+)", told) == [json.loads(straight.stdout)["state_digest"]]
        runs = json.loads(shell("runs", "list", "--json", cwd=project.folder).stdout)["runs"]
        # The run that gave way was never KILLED; runs of earlier tests may have been.
        assert {run["status"] for run in runs if run["run_id"] not in earlier} == {"FINISHED"}
    finally:
        (project.folder / "isnet.toml").unlink()
