"""The parts of `isnet bench search` that run Ray Tune: its own ASHA on NaN, and what a report costs it and us."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainplane.cluster.ray_session import ray_session, scratch_folder
from trainplane.config.load import build
from trainplane.search.config import SearchSettings
from trainplane.search.policy.budget import CostRates
from trainplane.search.policy.scheduler import SearchPlan
from trainplane.search.run.driver import Driver
from trainplane.search.run.journal import open_journal
from trainplane.search.run.ray_tune import run_on_tune
from trainplane.search.space import Space
from trainplane.storage import open_store

CPUS = 2


def nan_on_ray() -> dict[str, Any]:
    """peers/asha_nan.py as it is: Ray's own ASHA on 16 trials of 27 reports, four of which report NaN alone."""

    def trial(config: dict[str, Any]) -> None:
        from ray import tune

        for number in range(27):
            tune.report({"loss": math.nan if config["i"] % 4 == 3 else config["i"] + 1.0 / (number + 1)})

    with ray_session(num_cpus=CPUS), scratch_folder() as scratch:
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        tuner = tune.Tuner(
            trial,
            param_space={"i": tune.grid_search(list(range(16)))},
            tune_config=tune.TuneConfig(
                metric="loss",
                mode="min",
                scheduler=ASHAScheduler(max_t=27, grace_period=1, reduction_factor=3),
                max_concurrent_trials=CPUS,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="nan", storage_path=scratch, verbose=0),
        )
        rows = [(one.metrics["training_iteration"], one.metrics["loss"]) for one in tuner.fit()]
    lost = sum(count for count, loss in rows if math.isnan(loss))
    total = sum(count for count, _ in rows)
    return {"reports": lost, "of": total, "share": lost / total}


def overhead_on_ray(trials: int, reports: int, rounds: int) -> dict[str, Any]:
    """Seconds of Ray Tune's own random search and of ours, of so many trials with so many reports that do nothing.

    In turns on one cluster; both reuse processes, which Ray does only when told. Ours writes its journal to the disk.
    """
    taken: dict[str, list[float]] = {"ours": [], "ray": []}
    ways: dict[str, Callable[[int, int, str], None]] = {"ours": _ours, "ray": _ray}
    with ray_session(num_cpus=CPUS):
        for number in range(rounds):
            for name in sorted(ways, reverse=number % 2 == 1):
                with scratch_folder() as scratch:
                    began = time.perf_counter()
                    ways[name](trials, reports, scratch)
                    taken[name].append(time.perf_counter() - began)
    ratios = [ours / theirs for ours, theirs in zip(taken["ours"], taken["ray"], strict=True)]
    ms = {f"{name}_ms": 1000 * statistics.median(found) / (trials * reports) for name, found in taken.items()}
    return {"trials": trials, "reports": reports, "rounds": rounds, "ratio": statistics.median(ratios), **ms}


def _ray(trials: int, reports: int, scratch: str) -> None:
    from ray import tune

    def trial(config: dict[str, Any]) -> None:
        for number in range(reports):
            tune.report({"v": config["x"] + number})

    tuner = tune.Tuner(
        trial,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            metric="v", mode="max", num_samples=trials, reuse_actors=True, max_concurrent_trials=CPUS
        ),
        run_config=tune.RunConfig(name="theirs", storage_path=scratch, verbose=0),
    )
    found = tuner.fit()
    assert len(found) == trials, "Ray ended before its trials did"
    assert not found.errors


def _ours(trials: int, reports: int, scratch: str) -> None:
    space = {"x": {"uniform": [0, 1]}}
    settings = build(SearchSettings, {"space": space, "objective": {"metric": "v", "mode": "max"}, "trials": trials})
    plan = SearchPlan(settings, Space.of(settings, {}), reports, CostRates(1.0))

    def body(item: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
        for step in range(1, reports):
            emit({"k": "seen", "step": step, "values": {"v": item["x"] + step}})
        values = {"v": item["x"] + reports}
        emit({"k": "done", "status": "finished", "step": reports, "values": values})

    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as folder:
        with open_journal(open_store(str(Path(folder))), "search") as journal:
            driver = Driver.resume(plan, journal, key="bench", width=CPUS)
            run_on_tune(
                driver,
                body,
                lambda item: {"x": driver.state.trials[item.trial].settings["x"]},
                resources={"CPU": 1.0},
                scratch=scratch,
            )
        assert len(driver.state.trials) == trials, "ours ended before its trials did"
