"""Promotes from several processes, and kills one in every round.

Each round all processes try to move one alias from the version they all expect to one of their own; one of them is
killed before or after some call of the store or of MLflow. Afterwards exactly one record more must stand in the audit
trail, its version must be that of the process that answers `won` (or of the killed one, if none does), and the alias,
read as the next user would, must be the last record's. Measured beside it: a promotion and a rollback, without the
start of a process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from promoter import NAME

from jobs.bench.common import Figure, figure
from trainplane.errors import RunFailed
from trainplane.registry.gates import GateVerdict
from trainplane.registry.promote import AuditedModel
from trainplane.registry.rules import PRODUCTION
from trainplane.storage import open_store
from trainplane.tracking.client import TrackingServer

ROLLBACK_TARGET_S = 2.0
PROMOTER = str(Path(__file__).with_name("promoter.py"))


@dataclass(frozen=True)
class Round:
    """Result of one round; `place` is where the victim dies."""

    place: int
    died: bool
    fault: str | None


def measured(tracking: str, folder: Path, *, processes: int, rounds: int) -> list[Figure]:
    """Runs all rounds and returns the figures."""
    audited = AuditedModel(TrackingServer(tracking), NAME, open_store(str(folder / "store")))
    name_of_versions = _versions(audited, folder, processes + 1)
    num_places = _num_places(audited, folder, name_of_versions[:2])
    with _promoters(audited, processes) as workers:
        done = [
            _round(workers, name_of_versions, turn, place_of(turn, rounds, num_places), audited)
            for turn in range(rounds)
        ]
    faults = [result.fault for result in done if result.fault is not None] + audited.verify()
    for fault in faults:
        print(f"promoters: {fault}", file=sys.stderr)
    promoting, rolling = _seconds(audited, name_of_versions)
    good = sum(result.fault is None for result in done)
    killed = [result.place for result in done if result.died]
    places = len(set(killed))
    return [
        figure("rounds with one winner, alias = last record", good, f"of {rounds}", rounds, good == rounds),
        figure("contradictions of trail and registry afterwards", len(faults), "", 0, not faults),
        figure("processes killed on the way", len(killed), f"of {rounds}"),
        figure("different places of killing", places, f"of {num_places}"),
        figure("promotion beside the start of a process", promoting, "s"),
        figure("rollback beside the start of a process", rolling, "s", ROLLBACK_TARGET_S, rolling < ROLLBACK_TARGET_S),
    ]


def _versions(audited: AuditedModel, folder: Path, count: int) -> list[str]:
    client = audited.model.server.client
    audited.model.create()
    return [str(client.create_model_version(NAME, source=str(folder)).version) for _ in range(count)]


def _num_places(audited: AuditedModel, folder: Path, versions: list[str]) -> int:
    """Number of places at which a promotion can be killed.

    It is counted on a promotion that is not the first, in a separate store.
    """
    apart = open_store(str(folder / "counting"))
    environment = {**os.environ, "ISNET_COUNT_CALLS": "1"}
    command = [sys.executable, PROMOTER, audited.model.server.address, apart.address]
    lines = [
        json.dumps({"version": v, "expected": e, "kill_at": None})
        for v, e in zip(versions, (None, versions[0]), strict=True)
    ]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, env=environment, check=False)
    counts = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("calls ")]
    client = audited.model.server.client
    client.delete_registered_model_alias(NAME, PRODUCTION)
    client.delete_registered_model_tag(NAME, "trainplane.audit_head")
    if len(counts) != 2:
        raise RunFailed(f"promoting does not work here at all: {done.stdout} {done.stderr[-500:]}")
    return counts[-1]


def place_of(turn: int, rounds: int, num_places: int) -> int:
    """Place at which the victim of a round dies.

    All places have their turn, the last one first, or as many as there are rounds. These lie evenly from the last place
    to the first one: a victim that loses early never comes to the later places.
    """
    count = min(rounds, num_places)
    return (num_places - 1) * (count - 1 - turn % count) // max(count - 1, 1)


@contextmanager
def _promoters(audited: AuditedModel, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, PROMOTER, audited.model.server.address, audited.store.address]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for worker in workers:
            if _read_line(worker) != "ready":
                raise RunFailed("a promoting process did not start")
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def _round(
    workers: list[subprocess.Popen[str]], versions: list[str], turn: int, place: int, audited: AuditedModel
) -> Round:
    before = audited.stored_trail()
    current = before.current(PRODUCTION)
    others = [version for version in versions if version != current][: len(workers)]
    victim = turn % len(workers)
    for number, (worker, version) in enumerate(zip(workers, others, strict=True)):
        assert worker.stdin is not None
        kill_at = place if number == victim else None
        worker.stdin.write(json.dumps({"version": version, "expected": current, "kill_at": kill_at}) + "\n")
        worker.stdin.flush()
    answers = [_read_line(worker) for worker in workers]
    return Round(place, answers[victim] == "killed", _fault(answers, others, victim, len(before.records), audited))


def _read_line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def _fault(answers: list[str], versions: list[str], victim: int, before: int, audited: AuditedModel) -> str | None:
    """Fault of a round, None when all is as promised."""
    points = audited.current_version()
    alias = audited.model.aliases().get(PRODUCTION)
    trail = audited.stored_trail()
    winners = [version for answer, version in zip(answers, versions, strict=True) if answer == "won"]
    strange = [answer for answer in answers if answer not in ("won", "lost", "killed")]
    if strange:
        return f"answers {strange}"
    if len(trail.records) != before + 1:
        return f"{len(trail.records) - before} records were written in one round"
    last = trail.records[-1].to_version
    if not alias == points == last:
        return f"the alias is {alias}, the last record says {last}"
    expected = winners or [versions[victim]]
    return None if expected == [last] else f"{winners} won, the last record says {last}"


def _seconds(audited: AuditedModel, versions: list[str]) -> tuple[float, float]:
    """Median seconds of a promotion and of its rollback."""
    promoting, rolling = [], []
    for _ in range(5):
        current = audited.current_version()
        version = next(version for version in versions if version != current)
        start = time.perf_counter()
        audited.promote(audited.model.version(version), verdicts=[GateVerdict("gate", True, "fine", {})])
        promoting.append(time.perf_counter() - start)
        start = time.perf_counter()
        audited.rollback(reason="bench")
        rolling.append(time.perf_counter() - start)
    return statistics.median(promoting), statistics.median(rolling)
