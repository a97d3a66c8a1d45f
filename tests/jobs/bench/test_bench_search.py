"""The search's figures come out of the real decisions: what they count can be checked, and a fault would show."""

import pytest

from jobs.bench import search as bench


def test_the_report_has_the_figures_with_their_targets(isnet):
    ran = isnet("bench", "search", "--seeds", "1", "--kills", "3", "--no-ray", "--json")
    assert ran.status == 0, ran.err
    report = ran.json()
    assert set(report) >= {"machine", "figures", "budget", "nan", "kills"}
    by_name = {figure["name"]: figure for figure in report["figures"]}
    assert by_name["kills after which a search ended otherwise"]["value"] == 0
    assert by_name["steps on 4 NaN trials of 16, ours"]["target"] == 0.02
    assert all(figure["met"] in (True, False, None) for figure in report["figures"])


def test_a_nan_trial_costs_one_report_and_less_where_the_guard_looks():
    cost = bench.nan_cost()
    assert cost["reports"] == {"trials": 4, "on_nan": 4, "of": 50, "share": pytest.approx(0.08)}
    assert cost["steps"]["on_nan"] == 4 * 11


def test_no_kill_changes_a_search_or_pays_twice():
    outcome = bench.kills(4)
    assert outcome["prefixes"] >= 12
    assert (outcome["otherwise"], outcome["paid_twice"]) == (0, 0)


def test_the_surrogate_is_of_its_seed_alone_and_carries_recorded_noise():
    settings = {"loss.style": 200.0, "train.lr_g": 1e-3, "train.lr_d": 1e-4}
    first, second = bench.surrogate(3), bench.surrogate(3)
    assert first(settings, 0, 600) == second(settings, 0, 600)
    assert first(settings, 0, 600) != first(settings, 1, 600)
    assert len(bench.noise()) >= 8
    assert 0.1 < max(abs(value) for curve in bench.noise() for value in curve) < 1
