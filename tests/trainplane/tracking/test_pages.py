"""Addresses open MLflow's pages for training, and views stay as people left them."""

from __future__ import annotations

import json

from trainplane.tracking import pages
from trainplane.tracking.client import TrackingServer

ADDRESS = "http://127.0.0.1:5000"


def test_addresses_lead_to_training_and_to_our_view() -> None:
    page = f"{ADDRESS}/#/experiments/1/runs/abc?workflowType=machine_learning"
    assert pages.run_page(f"{ADDRESS}/", "1", "abc") == page
    assert pages.runs_page(ADDRESS, "1").endswith("/runs?workflowType=machine_learning&viewStateShareKey=results")
    assert pages.runs_page("", "1", key="k").startswith("#/experiments/1/runs?")


def test_a_view_shows_metric_and_settings(tracking_uri: str) -> None:
    client = TrackingServer(tracking_uri).client
    pages.write_view(client, "0", metrics=["val/psnr"], params=["typed"], key="k", name="trials", parent="abc")
    written = json.loads(client.get_experiment("0").tags["mlflow.sharedViewState.k"])
    state = json.loads(written["state"])
    assert written["name"] == "trials"
    assert state["selectedColumns"][:2] == ["metrics.`val/psnr`", "params.`typed`"]
    assert state["searchFilter"] == "tags.`mlflow.parentRunId` = 'abc'"


def test_a_view_that_people_changed_stays(tracking_uri: str) -> None:
    client = TrackingServer(tracking_uri).client
    client.set_experiment_tag("0", "mlflow.sharedViewState.results", "theirs")
    pages.write_view(client, "0", metrics=["val/psnr"], params=[])
    assert client.get_experiment("0").tags["mlflow.sharedViewState.results"] == "theirs"


def test_the_first_page_is_the_newest_runs_experiment_in_our_view_where_it_has_one(tracking_uri: str) -> None:
    server = TrackingServer(tracking_uri)
    assert pages.first_page(server, ADDRESS) == pages.experiments_page(ADDRESS)
    # Of older code, or of another program.
    server.client.create_run("0")
    assert pages.first_page(server, ADDRESS) == f"{ADDRESS}/#/experiments/0/runs?workflowType=machine_learning"
    # One with our view is shown even if another has a newer run.
    number = server.client.create_experiment("trainings")
    server.client.create_run(number, start_time=1)
    pages.write_view(server.client, number, metrics=["val/psnr"], params=[])
    assert pages.first_page(server, ADDRESS) == pages.runs_page(ADDRESS, number)
