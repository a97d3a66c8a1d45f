"""`isnet bench search`: costs of a search.

Measured are the budget until a search is good, and the costs of NaN, kills and reports. Many-trial figures are of a
surrogate: a response over three settings, a curve over steps, and noise that was recorded from the small ISNet
(`search_noise.json`). The decisions, the journal and the losses by a kill are the real ones
(`trainplane.testing.simulated_search`). The figures about Ray run Ray: its own ASHA and its reports beside ours.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench.common import Figure, figure, median_quotient, report, results_in_turns
from trainplane.cluster.ray_session import ray_session, scratch_folder
from trainplane.config.load import build
from trainplane.search.config import SearchSettings
from trainplane.search.policy.budget import CostRates
from trainplane.search.policy.scheduler import SearchPlan
from trainplane.search.policy.state import SearchState
from trainplane.search.run.driver import Driver
from trainplane.search.run.journal import MemoryJournal, open_journal
from trainplane.search.run.ray_tune import run_on_tune
from trainplane.search.space import Settings, Space
from trainplane.storage import open_store
from trainplane.testing.simulated_search import Killed, SimulatedCluster, Value, simulate

NOISE = Path(__file__).parent / "search_noise.json"
STEPS, TRIALS = 1500, 50  # of the author's search
CPUS = 2  # of the Ray session
SPACE = {
    "loss.style": {"uniform": [10, 400]},
    "train.lr_g": {"log_uniform": [1e-5, 1e-2]},
    "train.lr_d": {"log_uniform": [1e-6, 1e-2]},
}
OBJECTIVE = {"metric": "val/psnr", "mode": "max"}


def search(args: argparse.Namespace) -> int:
    """`isnet bench search`."""
    parts: dict[str, Any] = {"budget": budget_to_reach(args.seeds), "nan": nan_cost(), "kills": kills(args.kills)}
    if not args.no_ray:
        parts["nan"]["ray"] = nan_on_ray()
        parts["overhead"] = overhead_on_ray(args.trials, args.reports, args.rounds)
    report(args, figures_of(parts), **parts)
    return 0


def figures_of(parts: Mapping[str, Any]) -> list[Figure]:
    """Figures with their targets."""
    budget, nan, kill = parts["budget"], parts["nan"], parts["kills"]
    figures = [
        figure("budget to what the author's way finds, TPE with ASHA, median", budget["tpe"]["median"], "ratio", 1 / 3),
        figure("the same, random with ASHA", budget["random"]["median"], "ratio"),
        figure("steps on 4 NaN trials of 16, ours", nan["steps"]["share"], "ratio", 0.02),
        figure("reports of 4 NaN trials of 16, ours", nan["reports"]["share"], "ratio"),
        figure("kills after which a search ended otherwise", kill["otherwise"], "of prefixes", 0.0),
        figure("steps paid twice behind a committed checkpoint", kill["paid_twice"], "steps", 0),
    ]
    if "ray" in nan:
        figures.append(figure("reports of 4 NaN trials of 16, Ray's own ASHA", nan["ray"]["share"], "ratio"))
    if "overhead" in parts:
        overhead = parts["overhead"]
        figures.append(figure("a report, of Ray Tune's own", overhead["ratio"], "ratio", 1.1))
        figures.append(figure("a report, ours", overhead["ours_ms"], "ms"))
    return figures


# The surrogate.


def surrogate(seed: int) -> Value:
    """PSNR over settings and steps, dB, noisy like ISNet's."""
    # The best style weight and rates are of the seed alone.
    rng = np.random.default_rng([seed, 7])
    style, rate, ratio = rng.uniform(100, 300), rng.uniform(-3.6, -2.6), rng.uniform(-1.2, -0.3)
    residuals = noise()

    def value(settings: Settings, trial: int, step: int) -> dict[str, float]:
        lr_g, lr_d = math.log10(settings["train.lr_g"]), math.log10(settings["train.lr_d"])
        off = ((settings["loss.style"] - style) / 150) ** 2 + ((lr_g - rate) / 0.7) ** 2
        off += ((lr_d - lr_g - ratio) / 0.9) ** 2
        # PSNR at the end of a training: 24 dB at the best settings, 14 far from them.
        end = 14.0 + 10.0 / (1.0 + off)
        # Small rates are slower, and cross those of larger ones late.
        pace = STEPS / 12 * 10 ** (-0.25 * (lr_g + 3))
        # Each trial has one of the recorded curves of noise, stretched over its steps.
        residual = residuals[(trial * 7 + seed) % len(residuals)]
        at = min(len(residual) - 1, round(step / STEPS * (len(residual) - 1)))
        return {"val/psnr": 12.0 + (end - 12.0) * (1 - math.exp(-step / pace)) + residual[at]}

    return value


@cache
def noise() -> list[list[float]]:
    """Recorded curves minus their mean over seeds, dB, by report."""
    residuals: list[list[float]] = json.loads(NOISE.read_text())["residuals"]
    return residuals


def driver_of(settings: Mapping[str, Any], *, steps: int, width: int) -> Driver:
    """Driver of a search that is ready to start."""
    complete = build(SearchSettings, {"space": SPACE, "objective": OBJECTIVE, **settings})
    plan = SearchPlan(complete, Space.of(complete, {}), steps, CostRates(1.0))
    return Driver.resume(plan, MemoryJournal([]), key="bench", width=width)


def surrogate_search(
    seed: int, *, value: Value, width: int = 4, reports: int = 27, **settings: Any
) -> tuple[Driver, SimulatedCluster]:
    """Search over the surrogate, ready to start."""
    driver = driver_of({"seed": seed, "trials": TRIALS, **settings}, steps=STEPS, width=width)
    return driver, SimulatedCluster(
        value, steps_between_reports=max(1, STEPS // reports), steps_between_checkpoints=STEPS // 9
    )


# Figures.


def budget_to_reach(seeds: int) -> dict[str, Any]:
    """Share of the steps that reaches 50 whole trials' best."""
    # The same ASHA with and without a model of the settings.
    ways: dict[str, dict[str, Any]] = {
        "tpe": {"algorithm": "tpe", "asha": {"first": 55, "eta": 3}, "startup": 10},
        "random": {"asha": {"first": 55, "eta": 3}},
    }
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(seeds):
        value = surrogate(seed)
        # The author's way: one whole trial after the other.
        author, cluster = surrogate_search(seed, value=value, width=1)
        simulate(author, cluster)
        target = max(trial.values["val/psnr"] for trial in author.state.trials.values())
        for name, way in ways.items():
            budget = {"steps": STEPS * TRIALS}
            ours, cluster = surrogate_search(seed + 1000, value=value, trials=10_000, budget=budget, **way)
            ratios[name].append(_steps_until(ours, cluster, target) / (STEPS * TRIALS))
    return {
        name: {
            "median": statistics.median(shares),
            "best": min(shares),
            "worst": max(shares),
            "within a third": sum(share <= 1 / 3 for share in shares),
            "seeds": seeds,
        }
        for name, shares in ratios.items()
    }


class _Reached(Exception):
    """The target was reported."""


def _steps_until(driver: Driver, cluster: SimulatedCluster, target: float) -> float:
    # A value counts at the end of a training; all steps are paid where none reaches the target.
    def check(state: SearchState) -> None:
        if any(score is not None and score >= target for score in state.rungs.get(STEPS, {}).values()):
            raise _Reached

    driver.on_change = check
    try:
        simulate(driver, cluster)
    except _Reached:
        return float(cluster.steps_trained)
    return float(STEPS * TRIALS)


def every_fourth_is_nan(settings: Settings, trial: int, step: int) -> dict[str, float]:
    """Value of which four trials of sixteen are never finite."""
    return {"val/psnr": math.nan if trial % 4 == 3 else -(trial + 1.0 / (step + 1))}


def nan_cost() -> dict[str, Any]:
    """Cost of NaN trials in the case of peers/asha_nan.py.

    There 16 trials make 27 reports, are compared first after one, and a third continues. It is measured twice: by
    reports alone, where each NaN trial costs one report and cannot cost less; and in steps of the preset
    search_loss_weights, where a report stands for 55 steps and the guard, which checks losses every 11th step, ends a
    training of NaN alone after 11.
    """
    by_reports = _with_nan(SimulatedCluster(every_fourth_is_nan), steps=27, first=1)
    guarded = SimulatedCluster(
        lambda settings, trial, step: {"val/psnr": -(trial + 1.0 / (step + 1))},
        steps_between_reports=55,
        diverges_at=lambda trial: 11 if trial % 4 == 3 else None,
    )
    return {"reports": by_reports, "steps": _with_nan(guarded, steps=27 * 55, first=55)}


def _with_nan(cluster: SimulatedCluster, *, steps: int, first: int) -> dict[str, Any]:
    driver = driver_of({"trials": 16, "asha": {"first": first}}, steps=steps, width=2)
    simulate(driver, cluster)
    nan = [trial.number for trial in driver.state.trials.values() if trial.status == "nan"]
    spent, total = sum(cluster.steps_by_trial[number] for number in nan), cluster.steps_trained
    return {"trials": len(nan), "on_nan": spent, "of": total, "share": spent / total}


def kills(most: int) -> dict[str, Any]:
    """Kills a search at its journal's records and resumes it.

    Rungs, settings and steps are compared with those of an undisturbed search. `most` is the number of records, evenly
    spread, at which each kind of search is killed; 0 means all.
    """
    # Every kind of decision: rungs, a model of the settings, and exploits. In a fixed order of results a killed search
    # ends as an undisturbed one.
    fixed: dict[str, Any] = {"order": "fixed", "trials": 16}
    kinds: dict[str, dict[str, Any]] = {
        "asha": {"asha": {"first": 55}, **fixed},
        "tpe and asha": {"algorithm": "tpe", "startup": 6, "asha": {"first": 166}, **fixed},
        "pbt": {"algorithm": "pbt", "pbt": {"population": 4, "every": 300}},
    }
    total = otherwise = paid_twice = 0
    for kind in kinds.values():
        start = partial(surrogate_search, 1, value=surrogate(1), reports=15, **kind)
        undisturbed, calm_cluster = start()
        simulate(undisturbed, calm_cluster)
        records = len(undisturbed.journal.records)
        for kill_at in range(3, records, max(1, records // most) if most else 1):
            killed, cluster = start()
            try:
                simulate(killed, cluster, kill_at=kill_at)
            except Killed:
                # Only the journal and the cluster's checkpoints survive the kill.
                driver = Driver.resume(killed.plan, MemoryJournal(killed.journal.records), key="bench", width=4)
                simulate(driver, cluster)
                otherwise += _outcome(driver.state) != _outcome(undisturbed.state)
                paid_twice += cluster.steps_trained - calm_cluster.steps_trained - driver.state.usage.repeated
                total += 1
    return {"prefixes": total, "otherwise": otherwise / total, "paid_twice": paid_twice}


def _outcome(state: SearchState) -> Any:
    # Scores of rungs, settings of trials and paid steps must all be equal.
    trials = {number: (trial.settings, trial.status, trial.step) for number, trial in state.trials.items()}
    return state.rungs, trials, state.usage.total_steps


# Figures of Ray.


def nan_on_ray() -> dict[str, Any]:
    """Cost of NaN trials with Ray's own ASHA.

    It runs peers/asha_nan.py as it is: 16 trials of 27 reports, four of which report NaN alone.
    """

    def trial(config: dict[str, Any]) -> None:
        from ray import tune

        for number in range(27):
            tune.report({"loss": math.nan if config["i"] % 4 == 3 else config["i"] + 1.0 / (number + 1)})

    with ray_session(num_cpus=CPUS), scratch_folder() as scratch:
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        asha = ASHAScheduler(max_t=27, grace_period=1, reduction_factor=3)
        space = {"i": tune.grid_search(list(range(16)))}
        results = _fit(trial, space, scratch, metric="loss", mode="min", scheduler=asha)
        rows = [(result.metrics["training_iteration"], result.metrics["loss"]) for result in results]
    on_nan = sum(count for count, loss in rows if math.isnan(loss))
    total = sum(count for count, _ in rows)
    return {"reports": on_nan, "of": total, "share": on_nan / total}


def _fit(trial: Callable[[dict[str, Any]], None], space: dict[str, Any], scratch: str, **settings: Any) -> Any:
    from ray import tune

    # Without reuse Ray starts a process for each trial.
    tune_config = tune.TuneConfig(reuse_actors=True, max_concurrent_trials=CPUS, **settings)
    run_config = tune.RunConfig(name="bench", storage_path=scratch, verbose=0)
    return tune.Tuner(trial, param_space=space, tune_config=tune_config, run_config=run_config).fit()


def overhead_on_ray(trials: int, reports: int, rounds: int) -> dict[str, Any]:
    """Times reports in Ray Tune's random search and in ours.

    The trials do nothing. In turns on one cluster; both reuse processes, which Ray does only on request. Ours writes
    its journal to the disk.
    """

    def seconds(search: Callable[[int, int, str], None]) -> float:
        with scratch_folder() as scratch:
            start = time.perf_counter()
            search(trials, reports, scratch)
            return time.perf_counter() - start

    with ray_session(num_cpus=CPUS):
        ways = {"ours": partial(seconds, _ours), "ray": partial(seconds, _ray)}
        times = results_in_turns(ways, rounds=rounds, warmup=0)
    ratio = median_quotient(times["ours"], times["ray"])
    ms = {f"{name}_ms": 1000 * statistics.median(runs) / (trials * reports) for name, runs in times.items()}
    return {"trials": trials, "reports": reports, "rounds": rounds, "ratio": ratio, **ms}


def _ray(trials: int, reports: int, scratch: str) -> None:
    from ray import tune

    def trial(config: dict[str, Any]) -> None:
        for number in range(reports):
            tune.report({"v": config["x"] + number})

    space = {"x": tune.uniform(0, 1)}
    results = _fit(trial, space, scratch, metric="v", mode="max", num_samples=trials)
    assert len(results) == trials, "Ray ended before its trials did"
    assert not results.errors


def _ours(trials: int, reports: int, scratch: str) -> None:
    space = {"x": {"uniform": [0, 1]}}
    settings = build(SearchSettings, {"space": space, "objective": {"metric": "v", "mode": "max"}, "trials": trials})
    plan = SearchPlan(settings, Space.of(settings, {}), reports, CostRates(1.0))

    def body(item: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
        for step in range(1, reports):
            emit({"k": "seen", "step": step, "values": {"v": item["x"] + step}})
        values = {"v": item["x"] + reports}
        emit({"k": "done", "status": "finished", "step": reports, "values": values})

    # A trial does nothing but report, so that the time is that of reports alone.
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
