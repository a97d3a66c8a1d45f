"""A run seen from outside: metrics and profiles show it, and it ends on the same bits."""

import gzip
import json
import re
import urllib.request
from pathlib import Path

import noise_datasets
import pytest
from forked_ranks import run_ranks
from tiny_task import TinyConfig

from trainplane.cluster.ports import free_port
from trainplane.config.load import build
from trainplane.errors import UserError
from trainplane.observe.metric_names import METRICS, PREFIX
from trainplane.observe.profiled_steps import steps_of
from trainplane.observe.sinks import VARIABLE, Metrics, metrics_place, sinks_here
from trainplane.train.loop import run
from trainplane.train.spec import TrainJob

DASHBOARD = Path(__file__).resolve().parents[3] / "infra" / "grafana" / "dashboard.json"
OF_THE_RUN = {name for name in METRICS if name.startswith("isnet_run_")}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return noise_datasets.make(tmp_path_factory.mktemp("datasets"))


def job(datasets, folder, **train):
    values = {"steps": 8, "global_batch": 4, "checkpoint_every": 4, "validate_every": 8, "log_every": 2, **train}
    config = build(TinyConfig, {"name": "tiny", "data": {"train": "t", "val": "v"}, "train": values})
    return TrainJob(config.model_dump(mode="json"), str(datasets / "train"), str(datasets / "val"), str(folder))


def shown_in(text):
    return {name.removeprefix(PREFIX) for name in re.findall(r"^([a-z]\w+)[{ ]", text, re.MULTILINE)}


def test_metrics_and_profile_show_the_run_and_change_no_bit(datasets, tmp_path, monkeypatch):
    undisturbed = run(job(datasets, tmp_path / "undisturbed"))
    monkeypatch.setenv(VARIABLE, f"file:{tmp_path}/prom")
    seen = run(job(datasets, tmp_path / "seen", profile="3..5"))
    assert seen.state_digest == undisturbed.state_digest
    # All metrics of a run are there, with its last values.
    (file,) = (tmp_path / "prom").glob("*.prom")
    text = file.read_text()
    assert shown_in(text) == OF_THE_RUN
    labels = '{rank="0",run="seen"}'
    assert f"ray_isnet_run_step{labels} 8.0" in text
    assert f"ray_isnet_run_active{labels} 0.0" in text
    assert f"ray_isnet_run_checkpoint_step{labels} 4.0" in text
    # The trace is one that a browser opens.
    with gzip.open(tmp_path / "seen" / "profiles" / "rank-0.json.gz") as stream:
        trace = json.load(stream)
    names = {event.get("name") for event in trace["traceEvents"]}
    assert len(trace["traceEvents"]) > 100
    assert any("backward" in str(name).lower() for name in names)
    assert any("profiles of 1 of 1 ranks" in message for message in seen.told)


def test_every_rank_leaves_its_profile(datasets, tmp_path):
    both = job(datasets, tmp_path, profile="2..3")

    def rank(world):
        outcome = run(both, world=world)
        return outcome.told, outcome.state_digest

    (told, digest), _ = run_ranks(rank, 2)
    assert any("profiles of 2 of 2 ranks" in message for message in told)
    assert sorted(path.name for path in (tmp_path / "profiles").iterdir()) == ["rank-0.json.gz", "rank-1.json.gz"]
    quiet = job(datasets, tmp_path / "quiet")
    assert digest == run_ranks(lambda world: run(quiet, world=world).state_digest, 2)[0]


def test_a_profile_ends_with_the_run(datasets, tmp_path):
    outcome = run(job(datasets, tmp_path, steps=4, profile="4..9"))
    assert any("profiles of 1" in message for message in outcome.told)


@pytest.mark.parametrize("text", ["", "5", "5..4", "0..3", "1..2000", "a..b"])
def test_steps_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"write 100\.\.110"):
        steps_of(text)
    assert list(steps_of("100..103")) == [100, 101, 102, 103]


def test_a_port_of_loopback_shows_metrics_until_it_is_closed(monkeypatch):
    port = free_port()
    monkeypatch.setenv(VARIABLE, f"port:{port}")
    metrics = Metrics(sinks_here("queue"), {})
    metrics.show({"isnet_queue_jobs": 3}, state="waiting")
    # A second process on the same port does without, and goes on.
    assert sinks_here("queue") == []
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert 'ray_isnet_queue_jobs{state="waiting"} 3.0' in answer.read().decode()
    metrics.close()
    assert len(sinks_here("queue")) == 1


@pytest.mark.parametrize("value", ["port:80", "file:relative", "http://x", 9, "", "port:"])
def test_places_that_are_none_are_refused(value):
    with pytest.raises(UserError, match="need file:FOLDER"):
        metrics_place(value, "metrics of context 'lab'")


def test_every_metric_of_the_dashboard_is_one_that_is_emitted():
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])] + [
        variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"
    ]
    named = {name for text in expressions for name in re.findall(r"\bray_\w+", text)}
    ours = {name for name in named if name.startswith(f"{PREFIX}isnet_")}
    assert {name.removeprefix(PREFIX) for name in ours} == set(METRICS)
    # The others are Ray's own, of every node.
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    assert named - ours
    assert {name.removeprefix("ray_") for name in named - ours} <= set(METRICS_GAUGES)
    # Each panel has a place of its own and an id.
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
