"""`isnet bench search`: what a search costs until it is good, what NaN costs, what kills cost, what a report costs.

Many-trial figures are of a surrogate: a response over three settings, a curve over steps, and noise that was recorded
from the small ISNet (`search_noise.json`). The decisions, the journal and what a kill loses are the real ones
(`trainplane.testing.simulated_search`). The figures about Ray run Ray: its own ASHA and
its reports beside ours.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench.search_on_ray import nan_on_ray, overhead_on_ray
from trainplane.config.load import build
from trainplane.search.config import SearchSettings
from trainplane.search.policy.budget import CostRates
from trainplane.search.policy.scheduler import SearchPlan
from trainplane.search.policy.state import SearchState
from trainplane.search.run.driver import Driver
from trainplane.search.run.journal import MemoryJournal
from trainplane.search.space import Settings, Space
from trainplane.testing.simulated_search import Killed, SimulatedCluster, Value, simulate

NOISE = Path(__file__).parent / "search_noise.json"
STEPS, TRIALS = 1500, 50  # of the author's search
SPACE = {
    "loss.style": {"uniform": [10, 400]},
    "train.lr_g": {"log_uniform": [1e-5, 1e-2]},
    "train.lr_d": {"log_uniform": [1e-6, 1e-2]},
}
OBJECTIVE = {"metric": "val/psnr", "mode": "max"}


def search(args: argparse.Namespace) -> int:
    """The command."""
    from jobs.bench.common import machine
    from jobs.cli.main import emit

    parts: dict[str, Any] = {"budget": budget_to_reach(args.seeds), "nan": nan_cost(), "kills": kills(args.kills)}
    if not args.no_ray:
        parts["nan"]["ray"] = nan_on_ray()
        parts["overhead"] = overhead_on_ray(args.trials, args.reports, args.rounds)
    figures = figures_of(parts)
    emit(args, {"machine": machine(), **parts, "figures": figures}, text_of(figures))
    return 0


def figures_of(parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    found, nan, kill = parts["budget"], parts["nan"], parts["kills"]
    figures = [
        _figure("budget to what the author's way finds, TPE with ASHA, median", found["tpe"]["median"], "ratio", 1 / 3),
        _figure("the same, random with ASHA", found["random"]["median"], "ratio", None),
        _figure("steps on 4 NaN trials of 16, ours", nan["steps"]["share"], "ratio", 0.02),
        _figure("reports of 4 NaN trials of 16, ours", nan["reports"]["share"], "ratio", None),
        _figure("kills after which a search ended otherwise", kill["otherwise"], "of prefixes", 0.0),
        _figure("steps paid twice behind a committed checkpoint", kill["paid_twice"], "steps", 0),
    ]
    if "ray" in nan:
        figures.append(_figure("reports of 4 NaN trials of 16, Ray's own ASHA", nan["ray"]["share"], "ratio", None))
    if "overhead" in parts:
        overhead = parts["overhead"]
        figures.append(_figure("a report, of Ray Tune's own", overhead["ratio"], "ratio", 1.1))
        figures.append(_figure("a report, ours", overhead["ours_ms"], "ms", None))
    return figures


# The surrogate.


def surrogate(seed: int) -> Value:
    """PSNR over settings and steps, dB: best at some style weight and rates of the search's own, noisy like ISNet."""
    chance = np.random.default_rng([seed, 7])
    style, rate, ratio = chance.uniform(100, 300), chance.uniform(-3.6, -2.6), chance.uniform(-1.2, -0.3)
    residuals = noise()

    def value(settings: Settings, trial: int, step: int) -> dict[str, float]:
        lr_g, lr_d = math.log10(settings["train.lr_g"]), math.log10(settings["train.lr_d"])
        off = ((settings["loss.style"] - style) / 150) ** 2 + ((lr_g - rate) / 0.7) ** 2
        off += ((lr_d - lr_g - ratio) / 0.9) ** 2
        end = 14.0 + 10.0 / (1.0 + off)
        # Small rates are slower, and cross those of larger ones late.
        pace = STEPS / 12 * 10 ** (-0.25 * (lr_g + 3))
        residual = residuals[(trial * 7 + seed) % len(residuals)]
        at = min(len(residual) - 1, round(step / STEPS * (len(residual) - 1)))
        return {"val/psnr": 12.0 + (end - 12.0) * (1 - math.exp(-step / pace)) + residual[at]}

    return value


@cache
def noise() -> list[list[float]]:
    """Recorded curves less their mean over seeds, dB, one value for each report."""
    found: list[list[float]] = json.loads(NOISE.read_text())["residuals"]
    return found


def made(
    seed: int, *, value: Value, width: int = 4, reports: int = 27, **given: Any
) -> tuple[Driver, SimulatedCluster]:
    """A search over the surrogate, ready to start."""
    settings = build(SearchSettings, {"space": SPACE, "objective": OBJECTIVE, "seed": seed, "trials": TRIALS, **given})
    plan = SearchPlan(settings, Space.of(settings, {}), STEPS, CostRates(1.0))
    driver = Driver.resume(plan, MemoryJournal([]), key="bench", width=width)
    return driver, SimulatedCluster(
        value, steps_between_reports=max(1, STEPS // reports), steps_between_checkpoints=STEPS // 9
    )


# Figures.


def budget_to_reach(seeds: int) -> dict[str, Any]:
    """Steps until a search has found what 50 trials to the end found, of all steps of those."""
    ways: dict[str, dict[str, Any]] = {
        "tpe": {"algorithm": "tpe", "asha": {"first": 55, "eta": 3}, "startup": 10},
        "random": {"asha": {"first": 55, "eta": 3}},
    }
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(seeds):
        value = surrogate(seed)
        author, world = made(seed, value=value, width=1)
        simulate(author, world)
        target = max(trial.values["val/psnr"] for trial in author.state.trials.values())
        for name, way in ways.items():
            ours, there = made(seed + 1000, value=value, trials=10_000, budget={"steps": STEPS * TRIALS}, **way)
            ratios[name].append(_until(ours, there, target) / (STEPS * TRIALS))
    return {
        name: {
            "median": statistics.median(found),
            "best": min(found),
            "worst": max(found),
            "within a third": sum(ratio <= 1 / 3 for ratio in found),
            "seeds": seeds,
        }
        for name, found in ratios.items()
    }


class _Reached(Exception):
    """The target was reported."""


def _until(driver: Driver, world: SimulatedCluster, target: float) -> float:
    """Steps paid when a value as good was reported at the end of a training; all of them, where none was."""

    def look(state: SearchState) -> None:
        if any(score is not None and score >= target for score in state.rungs.get(STEPS, {}).values()):
            raise _Reached

    driver.on_change = look
    try:
        simulate(driver, world)
    except _Reached:
        return float(world.steps_trained)
    return float(STEPS * TRIALS)


def every_fourth_is_nan(settings: Settings, trial: int, step: int) -> dict[str, float]:
    """Four trials of sixteen never have a finite value."""
    return {"val/psnr": math.nan if trial % 4 == 3 else -(trial + 1.0 / (step + 1))}


def nan_cost() -> dict[str, Any]:
    """The case of peers/asha_nan.py: 16 trials of 27 reports, judged first after one, a third goes on.

    Twice: as told by reports alone, where each NaN trial costs one report and cannot cost less; and in steps of the
    preset search_loss_weights, where a report stands for 55 of them and the guard, which looks at losses every 11th,
    ends a training of NaN alone after 11.
    """
    by_reports = _with_nan(SimulatedCluster(every_fourth_is_nan), steps=27, first=1)
    guarded = SimulatedCluster(
        lambda settings, trial, step: {"val/psnr": -(trial + 1.0 / (step + 1))},
        steps_between_reports=55,
        diverges_at=lambda trial: 11 if trial % 4 == 3 else None,
    )
    return {"reports": by_reports, "steps": _with_nan(guarded, steps=27 * 55, first=55)}


def _with_nan(world: SimulatedCluster, *, steps: int, first: int) -> dict[str, Any]:
    given = {"space": SPACE, "objective": OBJECTIVE, "trials": 16, "asha": {"first": first}}
    settings = build(SearchSettings, given)
    plan = SearchPlan(settings, Space.of(settings, {}), steps, CostRates(1.0))
    driver = Driver.resume(plan, MemoryJournal([]), key="bench", width=2)
    simulate(driver, world)
    lost = [trial.number for trial in driver.state.trials.values() if trial.status == "nan"]
    spent = sum(world.steps_by_trial[number] for number in lost)
    return {"trials": len(lost), "on_nan": spent, "of": world.steps_trained, "share": spent / world.steps_trained}


def kills(most: int) -> dict[str, Any]:
    """Kill a search at every record of its journal and go on: rungs, settings and steps against the undisturbed one.

    most -- records at which each kind of search is killed, evenly spread; 0: at every one
    """
    kinds: dict[str, dict[str, Any]] = {
        "asha": {"asha": {"first": 55}, "trials": 16},
        "tpe and asha": {"algorithm": "tpe", "startup": 6, "asha": {"first": 166}, "trials": 16},
        "pbt": {"algorithm": "pbt", "pbt": {"population": 4, "every": 300}},
    }
    total = otherwise = paid_twice = 0
    for kind in kinds.values():
        start = partial(made, 1, value=surrogate(1), reports=15, **kind)
        straight, there = start()
        simulate(straight, there)
        records = len(straight.journal.records)
        for kill_at in range(3, records, max(1, records // most) if most else 1):
            again, later = start()
            try:
                simulate(again, later, kill_at=kill_at)
            except Killed:
                driver = Driver.resume(again.plan, MemoryJournal(again.journal.records), key="bench", width=4)
                simulate(driver, later)
                otherwise += _told(driver.state) != _told(straight.state)
                paid_twice += later.steps_trained - there.steps_trained - driver.state.usage.repeated
                total += 1
    return {"prefixes": total, "otherwise": otherwise / total, "paid_twice": paid_twice}


def _told(state: SearchState) -> Any:
    """What must be the same: rungs, settings, steps."""
    trials = {number: (trial.settings, trial.status, trial.step) for number, trial in state.trials.items()}
    return state.rungs, trials, state.usage.total_steps


def _figure(name: str, value: float, unit: str, target: float | None) -> dict[str, Any]:
    met = None if target is None else value <= target
    return {"name": name, "value": round(value, 4), "unit": unit, "target": target and round(target, 4), "met": met}


def text_of(figures: list[dict[str, Any]]) -> str:
    lines = []
    for one in figures:
        mark = {True: "met ", False: "MISS", None: "    "}[one["met"]]
        target = f" (target {one['target']})" if one["target"] is not None else ""
        lines.append(f"{mark} {one['name']}: {one['value']} {one['unit']}{target}")
    return "\n".join(lines)
