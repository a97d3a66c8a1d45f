"""Results that wait on this disk for MLflow.

A result waits in the spool of its run (`trainplane.tracking.results`). Older code kept it as a letter,
`HOME/outbox/RUN.json`, beside the folder of its files; such letters are moved into spools and sent from there.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from trainplane.cluster.context import Context
from trainplane.errors import UserError
from trainplane.registry.versions import ModelVersion, evaluation_attachment
from trainplane.tracking.client import TrackingServer, reason, without_secrets
from trainplane.tracking.results import RunResult, send_result, write_result
from trainplane.tracking.spool.sync import UnsentSpool, sync_spools, unsent_spools
from trainplane.tracking.spool.upload import OnVersion, UploadResult

logger = logging.getLogger(__name__)


def send(context: Context, result: RunResult) -> str | None:
    """Sends an evaluation's result; returns a message if it waits."""
    return send_result(context.tracking_server, _spools(context), result, on_version=_card_writer(context))


def sync_all(context: Context, *, also: str | None = None) -> dict[str, UploadResult]:
    """Sends spools for this server or `also`; outcomes by run."""
    # Letters first, so that they are sent with the other spools.
    failures = _import_letters(context)
    outcomes = sync_spools(_spools(context), context.tracking_server, also=also, on_version=_card_writer(context))
    return outcomes | {run_id: UploadResult(unsent=1, error=error) for run_id, error in failures.items()}


def waiting(context: Context) -> list[UnsentSpool]:
    """Spools and letters that MLflow does not have yet."""
    # Only looks: `sync_all` is what moves letters.
    letters = [UnsentSpool(path.stem, _address(path), 1) for path in _letters(context)]
    return [*unsent_spools(_spools(context)), *letters]


def _letters(context: Context) -> list[Path]:
    return sorted((context.home / "outbox").glob("*.json"))


def _address(letter: Path) -> str | None:
    """Server of a letter; None if it cannot be read."""
    try:
        return without_secrets(str(json.loads(letter.read_bytes())["tracking"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _spools(context: Context) -> Path:
    return context.home / "spool"


def _card_writer(context: Context) -> OnVersion:
    # Called when MLflow has the version's evaluation.
    def write_card(name: str, version: str) -> None:
        # Loads torch, which commands that send nothing do without.
        from jobs.evaluation import model_card

        model_card.write(ModelVersion(context.tracking_server, name, version))

    return write_card


def _import_letters(context: Context) -> dict[str, str]:
    """Moves letters into spools; reasons for those that stay."""
    failures = {}
    for path in _letters(context):
        try:
            _import_letter(context, path)
        # Damaged, without its files, or no room for a copy: it stays, and the others are moved.
        except (OSError, ValueError, LookupError, TypeError, UserError) as error:
            logger.info("letter %s", path, exc_info=True)
            # One that is gone was moved by another process at the same time.
            if path.exists():
                failures[path.stem] = reason(error)
    return failures


def _import_letter(context: Context, path: Path) -> None:
    # Keys as older code stored the fields of its letter.
    letter = json.loads(path.read_bytes())
    folder = Path(letter["folder"])
    if not folder.is_dir():
        raise UserError(f"its folder {folder} is gone; put it back, or remove {path} to give the result up")
    attachments = [
        evaluation_attachment(
            entry["address"], entry["evaluation"], {name: Path(file) for name, file in entry["files"].items()}
        )
        for entry in letter["earned"]
    ]
    result = RunResult(
        letter["run_id"],
        folder,
        letter["metrics"],
        letter["tags"],
        run_tags=letter["others"],
        attachments=attachments,
        time_ms=letter["time_ms"],
    )
    # Removed after its spool is complete; a crash in between imports it twice, which changes nothing.
    write_result(TrackingServer(letter["tracking"]), _spools(context), result)
    path.unlink()
