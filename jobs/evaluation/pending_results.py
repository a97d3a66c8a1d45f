"""The result of a search or an evaluation on its way to MLflow: kept on this disk first, told then, kept while nobody
answers.

    HOME/outbox/RUN.json    one letter a run: figures, tags, the folder of files, evaluations of registered versions

`isnet runs sync` tells what lies there. Telling a letter twice changes nothing: its points have one time, its files one
name. Not here: what a training records step by step (`trainplane.tracking.spool.spool`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.evaluation import model_card
from trainplane.cluster.context import Context
from trainplane.errors import UserError
from trainplane.registry.versions import attach_evaluation, find_version
from trainplane.tracking.client import client_for, knock, reason, without_secrets
from trainplane.tracking.run_id import find, is_reserved, set_tags
from trainplane.tracking.runs import end_run
from trainplane.tracking.spool.meta import replace_file

log = logging.getLogger(__name__)

_POINTS_A_REQUEST = 1000


@dataclass(frozen=True)
class Earned:
    """What a registered version earned. address: `models:/NAME/VERSION`; files: place on this disk by name."""

    address: str
    evaluation: Mapping[str, Any]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Letter:
    """Everything that MLflow is told of one run when it has finished.

    folder -- its files become the run's artifacts; metrics -- at step 0
    others -- tags of other runs, such as the trials of a search, by run id (reserved ones too)
    tracking -- the address that it is for, as it may be shown; time_ms -- when it was written, Unix milliseconds
    """

    run_id: str
    folder: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    earned: Sequence[Earned] = ()
    tracking: str = ""
    time_ms: int = 0


def send(context: Context, letter: Letter) -> str | None:
    """Keep the letter and tell MLflow; a sentence where it has to wait. Never raises for what a server does."""
    place = _outbox(context) / f"{letter.run_id}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    addressed = {"tracking": without_secrets(context.tracking), "time_ms": time.time_ns() // 1_000_000}
    replace_file(place, json.dumps({**asdict(letter), **addressed}).encode())
    why = _deliver(context, place)
    return why and (
        f"MLflow does not take the result of run {letter.run_id} ({why}); all of it is kept in {place} and "
        f"{letter.folder}; `isnet runs sync` sends it"
    )


def send_waiting(context: Context, *, also: str | None = None) -> dict[str, str | None]:
    """Tell what waits for this context's address, or for the address `also`: why it waits still, by run id."""
    addresses = {without_secrets(address) for address in (context.tracking, also) if address}
    return {
        place.stem: _deliver(context, place)
        for place, address in waiting(context).items()
        if address is None or address in addresses
    }


def waiting(context: Context) -> dict[Path, str | None]:
    """The address that each letter waits for; None where it cannot be read."""
    found: dict[Path, str | None] = {}
    for place in sorted(_outbox(context).glob("*.json")):
        try:
            found[place] = str(json.loads(place.read_bytes())["tracking"])
        except (OSError, ValueError, LookupError, TypeError):
            found[place] = None
    return found


def _outbox(context: Context) -> Path:
    return context.home / "outbox"


def _deliver(context: Context, place: Path) -> str | None:
    """Tell MLflow one letter and remove it; why that was not possible, where it was not."""
    try:
        stored = json.loads(place.read_bytes())
        letter = Letter(**{**stored, "earned": [Earned(**one) for one in stored["earned"]]})
        _tell(context, letter)
    except FileNotFoundError as error:
        # Another process has told it, or somebody took its files away.
        return None if not place.exists() else reason(error)
    # Whatever a server, a database or the store of its artifacts raises: the letter stays and is told again.
    except Exception as error:
        # With its traceback, for it may be a mistake of ours.
        log.info("letter %s", place.stem, exc_info=True)
        return reason(error)
    place.unlink(missing_ok=True)
    return None


def _tell(context: Context, letter: Letter) -> None:
    knock(context.tracking)
    client = client_for(context.tracking)
    from mlflow.entities import Metric

    if not Path(letter.folder).is_dir():
        raise UserError(f"its folder {letter.folder} is gone; put it back, or remove the letter to give it up")
    points = [Metric(key, float(value), letter.time_ms, 0) for key, value in letter.metrics.items()]
    for start in range(0, len(points), _POINTS_A_REQUEST):
        client.log_batch(letter.run_id, metrics=points[start : start + _POINTS_A_REQUEST], synchronous=True)
    client.log_artifacts(letter.run_id, letter.folder)
    for run_id, tags in letter.others.items():
        if (known := _settled(client, run_id)) is not None:
            set_tags(client, known, tags)
    for one in letter.earned:
        version = find_version(context.tracking, one.address)
        files = {name: Path(file) for name, file in one.files.items()}
        attach_evaluation(context.tracking, version.name, version.version, one.evaluation, files=files)
        model_card.write(context, version.name, str(version.version))
    end_run(context.tracking, letter.run_id, "FINISHED", letter.tags)


def _settled(client: Any, run_id: str) -> str | None:
    """MLflow's id of a run; None where its own records were not sent from wherever it ran."""
    if not is_reserved(run_id):
        return run_id
    found = find(client, run_id)
    return None if found is None else str(found.info.run_id)
