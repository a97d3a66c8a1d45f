"""Writes contexts into isnet.toml.

The context `stack` stands between two marker lines; the rest stays as it is. A job gets a file of its own.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from trainplane.cluster.context import CONFIG_FILE, Context, project_folder, searched_folders
from trainplane.command_line import command_line
from trainplane.config.text_file import read_text
from trainplane.errors import CLI, UserError
from trainplane.notify.targets import to_tables
from trainplane.observe.json_lines import VARIABLE as LOG
from trainplane.observe.sinks import VARIABLE as METRICS
from trainplane.store_wait import VARIABLE as STORE_WAIT

NAME = "stack"
_FIRST = f"# >>> written by `{command_line('stack', 'up')}`, taken out by `{command_line('stack', 'down', '--wipe')}`"
_LAST = f"# <<< {CLI} stack"


def config_file(start: Path) -> Path:
    """Nearest isnet.toml, else the one to be made."""
    files = [folder / CONFIG_FILE for folder in searched_folders(start)]
    return next((file for file in files if file.is_file()), project_folder(start) / CONFIG_FILE)


def check(file: Path) -> None:
    """Raises `UserError` where our block cannot be written."""
    # The block itself is left out, because it is replaced.
    text = _without_block(_read(file))
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: is not valid TOML ({error}); correct it") from error
    contexts = tree.get("context", {})
    if isinstance(contexts, dict) and NAME in contexts:
        raise UserError(
            f"{file} has a context {NAME!r} that `{command_line('stack', 'up')}` did not write; "
            "rename it, and run this again"
        )


def write(file: Path, values: Mapping[str, str], secrets: Mapping[str, Path]) -> None:
    """Writes or replaces our block; secrets are file references."""
    references = {name: f"file:{path}" for name, path in secrets.items()}
    lines = [_FIRST, *_table(f"context.{NAME}", values), "", *_table(f"context.{NAME}.secrets", references), _LAST]
    # The block moves to the end: lines after a table header would belong to that table.
    before = _without_block(_read(file)).rstrip("\n")
    _replace(file, (before + "\n\n" if before else "") + "\n".join(lines) + "\n")


def remove(file: Path) -> None:
    """Removes our block, and a file that becomes empty."""
    text = _read(file)
    if _FIRST not in text:
        return
    remainder = _without_block(text).rstrip("\n")
    if remainder:
        _replace(file, remainder + "\n")
    else:
        file.unlink()


def text_for_job(context: Context) -> str:
    """Text of the isnet.toml that travels with a job.

    Without `ray`, because the job is on the cluster, and without secrets: the cluster's nodes have their own. Targets
    of events keep their references.
    """
    places = ("tracking", "datasets", "checkpoints", "artifacts", "audit")
    values: dict[str, object] = {name: getattr(context, name) for name in places}
    for key, variable in (("s3_endpoint", "AWS_ENDPOINT_URL"), ("s3_region", "AWS_DEFAULT_REGION")):
        if variable in context.environment:
            values[key] = context.environment[variable]
    if STORE_WAIT in context.environment:
        values["store_wait_s"] = float(context.environment[STORE_WAIT])
    for key, variable in (("metrics", METRICS), ("log", LOG)):
        if variable in context.environment:
            values[key] = context.environment[variable]
    if context.store is not None:
        values["store"] = context.store
    name = json.dumps(context.name)
    tables = [_table(f"context.{name}", values)]
    tables += [_table(f"context.{name}.notify.{target}", keys) for target, keys in to_tables(context.notify).items()]
    return "\n".join([f"default = {name}", "", *("\n".join([*table, ""]) for table in tables)])


def _table(name: str, values: Mapping[str, object]) -> list[str]:
    return [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]


def _read(file: Path) -> str:
    try:
        return read_text(file)
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); correct it") from error


def _without_block(text: str) -> str:
    # A block without its last line was cut by hand: the text stays as it is.
    first, last = text.find(_FIRST), text.find(_LAST)
    if first < 0 or last < first:
        return text
    return text[:first].rstrip("\n") + ("\n" if text[:first].strip() else "") + text[last + len(_LAST) :]


def _replace(file: Path, text: str) -> None:
    # Renaming is atomic: an interruption leaves the old file or the new one, never half of it.
    draft = file.with_name(f".{file.name}.new")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); make its folder writable") from error
