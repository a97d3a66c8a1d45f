"""Tests at any time if people prefer a version.

Pure: no I/O. A p-value that is looked at after each vote promotes an equal version sooner or later. The evidence here
is a betting martingale (Ville 1939; Waudby-Smith and Ramdas, JRSS-B 86:1, 2024, "Estimating means of bounded random
variables by betting"): a bettor starts with 1, bets a share of it on the candidate again and again, and where the
candidate is not preferred the bettor has 20 or more, *at any time*, with chance 1/20 at most. Several shares are bet
beside each other (a mixture), because the right one is not known.

Votes of one person are alike, and so are votes on one picture. So the unit is a person, and each person brings one bet:

- A person's first `votes_per_rater` votes are one score, their mean; a vote for the candidate is +1, for the other
  version -1, a tie or "neither" 0. The bet is made when these votes are there, or `wait_s` after the first one; what
  one person adds later counts nothing.
- A picture counts once, for who voted on it first.

So scores are of new people on new pictures, and under the hypothesis that people do not prefer the candidate their mean
is 0 at most, after any bets. It supposes that people do not stop voting because of their own votes. Careless
people cost votes and nothing else: where the order is hidden and random, their votes are fair coins. One person at most
multiplies the evidence by 1 plus the largest share, and never decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# Shares that are bet beside each other, from small preferences to near unanimity.
SHARES = (0.1, 0.2, 0.4, 0.8)
TIES = ("tie", "neither")


@dataclass(frozen=True)
class Vote:
    """One vote between two versions."""

    rater: str  # Who voted; empty: unknown, not counted
    subject: str  # What was looked at, such as a photo's digest; empty: unknown, not counted
    at: float  # Seconds since the epoch
    choice: str  # A label, or one of `TIES`
    digests: Mapping[str, str]  # Label -> model digest
    blind: bool  # False: the versions' names were shown, not counted


@dataclass(frozen=True)
class Preference:
    """Evidence of votes for a candidate and against it."""

    evidence: float  # What a bettor on the candidate would have, from 1; 20 is as sure as p = 0.05
    against: float  # What a bettor on the other version would have
    raters: int  # People whose bet was made
    votes: int  # Votes in these bets
    wins: int
    losses: int
    ties: int
    waiting: int  # Votes of people whose bet is not made yet
    left_out: int  # Votes that are not counted: not blind, a picture or a person that counts already


def measure_preference(
    votes: Iterable[Vote], candidate: str, other: str, *, votes_per_rater: int, wait_s: float, now: float
) -> Preference:
    """Measures a preference by all votes until `now`.

    Args:
        votes: Votes on any versions, in any order.
        candidate: Model digest of the version that may be better.
        other: Model digest of the version to compare with.
        votes_per_rater: Votes of a person that make the bet, 1 or more.
        wait_s: Seconds after a person's first vote at which the bet is made with fewer.
        now: Seconds since the epoch.
    """
    bets, left_out = _bets(
        [vote for vote in votes if set(vote.digests.values()) == {candidate, other}], votes_per_rater
    )
    is_over = [len(bet) == votes_per_rater or now - bet[0].at >= wait_s for bet in bets]
    final = [bet for bet, is_final in zip(bets, is_over, strict=True) if is_final]
    points = [[_points(vote, candidate) for vote in bet] for bet in final]
    scores = [sum(bet) / len(bet) for bet in points]
    flat = [point for bet in points for point in bet]
    return Preference(
        evidence=betting_evidence(scores),
        against=betting_evidence([-score for score in scores]),
        raters=len(final),
        votes=len(flat),
        wins=flat.count(1),
        losses=flat.count(-1),
        ties=flat.count(0),
        waiting=sum(len(bet) for bet in bets) - len(flat),
        left_out=left_out,
    )


def betting_evidence(scores: Sequence[float]) -> float:
    """Fortune of a bettor after scores from -1 to 1.

    Independent scores with means of 0 at most give 1/a or more, ever, with chance `a` at most.
    """
    fortunes = (math.exp(min(700.0, math.fsum(math.log1p(share * score) for score in scores))) for share in SHARES)
    return math.fsum(fortunes) / len(SHARES)


def _bets(votes: Sequence[Vote], votes_per_rater: int) -> tuple[list[list[Vote]], int]:
    """Counted votes of each person; number left out."""
    bets: dict[str, list[Vote]] = {}
    subjects: set[str] = set()
    left_out = 0
    for vote in sorted(votes, key=lambda vote: (vote.at, vote.rater, vote.subject)):
        bet = bets.get(vote.rater, [])
        says_something = vote.choice in TIES or vote.choice in vote.digests
        is_known = bool(vote.blind and vote.rater and vote.subject and says_something)
        if not is_known or vote.subject in subjects or len(bet) >= votes_per_rater:
            left_out += 1
            continue
        subjects.add(vote.subject)
        bets[vote.rater] = [*bet, vote]
    return list(bets.values()), left_out


def _points(vote: Vote, candidate: str) -> int:
    if vote.choice in TIES:
        return 0
    return 1 if vote.digests.get(vote.choice) == candidate else -1
