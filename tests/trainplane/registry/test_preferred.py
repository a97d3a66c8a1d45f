"""The evidence of votes may be looked at at any time; one person or one picture decides nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trainplane.registry.gates import evaluate_gates
from trainplane.registry.preferred import (
    SHARES,
    Preference,
    Vote,
    betting_evidence,
    measure_preference,
)
from trainplane.registry.rules import GateRules, Preferred

NEW, OLD = "new-digest", "old-digest"
DIGESTS = {"A": NEW, "B": OLD}
DAY_S = 86400.0
ODDS, VOTES = 20.0, 3


def vote(rater: str, subject: str, choice: str = "A", at: float = 0.0) -> Vote:
    return Vote(rater, subject, at, choice, DIGESTS, True)


def measured(votes: list[Vote], *, per_rater: int = VOTES, now: float = 10 * DAY_S) -> Preference:
    return measure_preference(votes, NEW, OLD, votes_per_rater=per_rater, wait_s=DAY_S, now=now)


def test_evidence_is_what_a_bettor_would_have() -> None:
    assert betting_evidence([]) == 1
    scores = [1.0, -1.0, 0.5]
    fortunes = [math.prod(1 + share * score for score in scores) for share in SHARES]
    assert betting_evidence(scores) == pytest.approx(sum(fortunes) / len(fortunes))
    assert math.isfinite(betting_evidence([1.0] * 100_000))


def test_one_person_never_decides() -> None:
    seen = measured([vote("eva", f"photo {number}", at=number) for number in range(1000)], per_rater=1000)
    assert (seen.raters, seen.votes) == (1, 1000)
    assert seen.evidence <= 1 + max(SHARES) < Preferred.model_fields["odds"].metadata[0].ge


def test_one_picture_counts_once() -> None:
    seen = measured([vote(f"rater {number}", "the sample", at=number) for number in range(1000)])
    assert (seen.votes, seen.left_out) == (1, 999)
    assert seen.evidence < 2


def test_many_people_who_agree_decide() -> None:
    votes = [vote(f"rater {person}", f"photo {person} {n}") for person in range(12) for n in range(VOTES)]
    seen = measured(votes)
    assert (seen.wins, seen.raters) == (36, 12)
    assert seen.evidence > ODDS
    assert seen.against < 1


@pytest.mark.parametrize(
    "changes", [{"blind": False}, {"rater": ""}, {"subject": ""}, {"digests": {"A": NEW, "B": "x"}}, {"choice": "C"}]
)
def test_votes_that_prove_nothing_are_not_counted(changes: dict[str, Any]) -> None:
    assert measured([replace(vote("eva", "photo"), **changes)]).votes == 0


def test_ties_count_for_nobody() -> None:
    seen = measured([vote("eva", "one", "tie"), vote("eva", "two", "neither"), vote("eva", "three", "B")])
    assert (seen.wins, seen.losses, seen.ties) == (0, 1, 2)
    assert seen.evidence == pytest.approx(betting_evidence([-1 / 3]))


def test_persons_bet_is_made_by_number_of_votes_or_by_time() -> None:
    votes = [vote("eva", f"photo {number}", at=number) for number in range(2)]
    assert measured(votes, now=DAY_S - 1).waiting == 2
    assert measured(votes, now=DAY_S).votes == 2
    assert measured([*votes, vote("eva", "another", at=5.0)], now=6.0).votes == 3


def test_order_of_arrival_in_the_list_changes_nothing() -> None:
    votes = [vote(f"r{number % 4}", f"p{number % 7}", "AB"[number % 2], at=number) for number in range(40)]
    assert measured(votes) == measured(votes[::-1])


def deciding_votes(rng: np.random.Generator, count: int, chance: float) -> list[int]:
    """Votes until the gate opens, by the function itself, looked at after each person."""
    counts = []
    for _ in range(count):
        scores: list[float] = []
        while betting_evidence(scores) < ODDS:
            scores.append(float(np.where(rng.random(VOTES) < chance, 1, -1).mean()))
        counts.append(VOTES * len(scores))
    return counts


def false_openings(rng: np.random.Generator, count: int, votes: int) -> float:
    """Share of series of an equal candidate that ever open the gate.

    People and pictures have tastes of their own, with no preference on the whole; a fifth of the votes are ties.
    """
    people = votes // VOTES
    tastes = rng.uniform(-0.25, 0.25, (count, people, 1)) + rng.uniform(-0.25, 0.25, (count, people, VOTES))
    points = np.where(rng.random((count, people, VOTES)) < 0.5 + tastes, 1.0, -1.0)
    points[rng.random(points.shape) < 0.2] = 0
    scores = points.mean(axis=2)[..., None]
    fortunes = np.exp(np.cumsum(np.log1p(scores * np.array(SHARES)), axis=1)).mean(axis=2)
    # The array computes what the function does.
    assert fortunes[0, -1] == pytest.approx(betting_evidence(scores[0, :, 0].tolist()))
    return float((fortunes >= ODDS).any(axis=1).mean())


def test_equal_candidate_opens_the_gate_in_one_of_twenty_series_at_most() -> None:
    assert false_openings(np.random.default_rng(1), 1000, 600) <= 0.05


def test_sixty_to_forty_is_decided_within_200_votes() -> None:
    assert np.median(deciding_votes(np.random.default_rng(2), 150, 0.6)) <= 200


@pytest.mark.nightly
def test_ten_thousand_series_keep_the_promise() -> None:
    rng = np.random.default_rng(3)
    share = float(np.mean([false_openings(rng, 500, 3000) for _ in range(20)]))
    median = float(np.median(deciding_votes(np.random.default_rng(4), 1000, 0.6)))
    print(f"false {share:.4f} of 10,000 series of 3,000 votes; 60:40 decided after {median:.0f} votes at the median")
    assert share <= 0.05
    assert median <= 200


def gates(seen: Preference | None) -> dict[str, tuple[bool, str]]:
    rules = GateRules(preferred=(Preferred(),))
    verdicts = evaluate_gates(
        rules,
        None,
        baselines={},
        production=None,
        lineage={},
        preferences=None if seen is None else [seen],
    )
    return {verdict.gate: (verdict.passed, verdict.evidence) for verdict in verdicts}


def test_gate_says_what_the_votes_are() -> None:
    votes = [vote(f"rater {person}", f"photo {person} {n}") for person in range(12) for n in range(VOTES)]
    passed, text = gates(measured(votes))["preferred over production"]
    assert passed
    assert "36 votes of 12 people (36 for it, 0 against, 0 neither)" in text
    few, text = gates(measured(votes[:3]))["preferred over production"]
    assert not few
    assert "ask more people" in text
    worse, text = gates(measured([replace(one, choice="B") for one in votes]))["preferred over production"]
    assert not worse
    assert "they prefer production" in text


def test_first_promotion_has_nothing_to_be_preferred_to() -> None:
    assert "preferred over production" not in gates(None)
