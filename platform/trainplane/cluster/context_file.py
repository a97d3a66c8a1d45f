"""The context `stack` in isnet.toml: written, replaced and taken out again, and nothing else of the file touched."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from trainplane.cluster.context import CONFIG_FILE
from trainplane.errors import UserError

NAME = "stack"
_FIRST = "# >>> written by `isnet stack up`, taken out by `isnet stack down --wipe`"
_LAST = "# <<< isnet stack"


def config_file(start: Path) -> Path:
    """The isnet.toml that counts here: the nearest one above, or a new one in `start`."""
    for folder in (start, *start.parents):
        if (folder / CONFIG_FILE).is_file():
            return folder / CONFIG_FILE
    return start / CONFIG_FILE


def check(file: Path) -> None:
    """Raise where the file cannot take our block: it is no TOML, or has a context of this name that is not ours."""
    text = _without_block(_read(file))
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: is no TOML ({error}); correct it") from error
    contexts = tree.get("context", {})
    if isinstance(contexts, dict) and NAME in contexts:
        raise UserError(f"{file} has a context {NAME!r} that is not the stack's; rename it, and run this again")


def write(file: Path, values: Mapping[str, str], secrets: Mapping[str, Path]) -> None:
    """Put the block in, or a new one in its place; secrets by reference to files."""
    lines = [_FIRST, f"[context.{NAME}]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    lines += ["", f"[context.{NAME}.secrets]"]
    lines += [f"{name} = {json.dumps(f'file:{path}')}" for name, path in secrets.items()]
    before = _without_block(_read(file)).rstrip("\n")
    _replace(file, (before + "\n\n" if before else "") + "\n".join([*lines, _LAST]) + "\n")


def remove(file: Path) -> None:
    """Take the block out, and the file with it if nothing else stands there."""
    text = _read(file)
    if _FIRST not in text:
        return
    rest = _without_block(text).rstrip("\n")
    if rest:
        _replace(file, rest + "\n")
    else:
        file.unlink()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); correct it") from error


def _without_block(text: str) -> str:
    first, last = text.find(_FIRST), text.find(_LAST)
    if first < 0 or last < first:
        return text
    return text[:first].rstrip("\n") + ("\n" if text[:first].strip() else "") + text[last + len(_LAST) :]


def _replace(file: Path, text: str) -> None:
    draft = file.with_name(f".{file.name}.new")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); make its folder writable") from error
