"""Finds searches that were started, by name or folder.

The beginning of a folder's name is enough. Beside its journal a search keeps how it was started (`search.json`), so
nothing of that has to be typed again.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jobs.presets import SEARCH, preset_names
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.config.load import build
from trainplane.errors import RunFailed, UserError, error_line, nearest
from trainplane.search.config import Objective, SearchFile
from trainplane.search.policy.state import SearchState, fold
from trainplane.search.run.journal import DESCRIPTION_FILE, FOLDER, JournalRecord, read_journal
from trainplane.storage import Store, open_store
from trainplane.tidy.inventory import unread

if TYPE_CHECKING:
    from trainplane.search.run.launch import Search

# A search that runs writes its bills every few seconds, and sends them to an object store a little later.
_SILENT_S = 60.0
# Older searches did not keep their objective; nearly all had this one.
_USUAL_GOALS = (Objective(metric="val/psnr", mode="max"),)


@dataclass(frozen=True)
class StoredSearch:
    """A search as the store of checkpoints has it."""

    folder: str  # NAME-KEY
    name: str
    key: str
    description: Mapping[str, Any]  # All of `search.json`
    records: list[JournalRecord]

    @property
    def goals(self) -> tuple[Objective, ...]:
        """Its objectives."""
        return build(SearchFile, self.description["file"]).search.goals if "file" in self.description else _USUAL_GOALS

    @property
    def state(self) -> SearchState:
        """Its state, from its journal."""
        return fold(self.records, self.goals)

    def status(self, state: SearchState) -> str:
        """`finished`, `running`, or `stopped`: the same command continues it."""
        if state.end_reason is not None:
            return "finished"
        driver = next((record for record in reversed(self.records) if record["k"] == "driver"), None)
        is_recent = bool(self.records) and time.time() - self.records[-1]["t"] < _SILENT_S
        if driver is None or not is_recent:
            return "stopped"
        return "running" if driver["host"] != socket.gethostname() or _is_alive(driver["pid"]) else "stopped"

    def search(self, context: Context) -> Search:
        """Builds it as it was started, where that is known."""
        if "file" not in self.description:
            line = command_line("tune", "show", self.name, "A.B=C")
            raise UserError(
                f"search {self.folder} was begun by older code, which did not keep how; name the preset and the "
                f"settings that it was begun with: {line}"
            )
        from jobs.search.spec import LoadedSearch, assemble_search

        tree = self.description
        loaded = LoadedSearch(build(SearchFile, tree["file"]), tree["base"], tuple(tree["words"]))
        return assemble_search(loaded, context, key=self.key)


def stored_searches(context: Context, *, whole: bool = False) -> list[StoredSearch]:
    """All searches of the context's store, by name.

    Those that cannot be read are left out; with `whole` they raise `UserError`.
    """
    store = open_store(context.checkpoints)
    keys = [entry.key for entry in store.list(f"{FOLDER}/")]
    folders = [key.split("/")[1] for key in keys if key.count("/") == 2 and key.endswith(f"/{DESCRIPTION_FILE}")]
    if whole:
        # A journal without a description is a search, too.
        journals = {key.split("/")[1] for key in keys if "/journal" in key}
        for folder in sorted(journals - set(folders)):
            raise unread(f"{store.address}/{FOLDER}/{folder}", f"it lacks {DESCRIPTION_FILE}")
    searches = []
    for folder in folders:
        try:
            searches.append(_read(store, folder))
        # Damaged, or not written by a search.
        except (ValueError, LookupError, TypeError, RunFailed) as error:
            if whole:
                raise unread(f"{store.address}/{FOLDER}/{folder}", error_line(error)) from error
    return searches


def find_search(context: Context, words: Sequence[str]) -> tuple[Search, SearchState]:
    """Search and state that the user's words mean.

    Args:
        context: Its store has the journals.
        words: A preset with the overrides that the search was begun with, or a name or the beginning of NAME-KEY.
    """
    # Imports torch, which a list does without.
    from jobs.search.spec import build_search, load_search
    from trainplane.search.run.launch import read_state

    named, overrides = words[0], words[1:]
    stored = [] if overrides else [s for s in stored_searches(context) if _is_named(s, named)]
    try:
        # Only looks: no dataset is packed.
        search = build_search(load_search(named, overrides), context, may_pack=False)
    except (UserError, RunFailed):
        # No preset, or one whose data are not here: the journal may still be.
        if not stored:
            if named in preset_names() or named.endswith((".yaml", ".yml")) or "/" in named or "=" in named:
                raise
            raise UserError(_unknown(context, named)) from None
    else:
        state = read_state(search, context)
        if state is not None:
            return search, state
        if not stored:
            raise UserError(_not_begun(context, search, words))
    if len(stored) > 1:
        lines = [f"  {command_line('tune', 'show', s.folder)}   {_begun(s)}" for s in stored]
        raise UserError("\n".join([f"several searches are called {named!r}; name one by its folder:", *lines]))
    return stored[0].search(context), stored[0].state


def _unknown(context: Context, named: str) -> str:
    here = sorted({search.name for search in stored_searches(context)})
    if not here:
        searches = " or ".join(command_line("tune", name) for name in preset_names(SEARCH)[:2])
        return f"no search {named!r} in {context.checkpoints}, nor any other; start one, such as {searches}"
    return (
        f"no search {named!r} in {context.checkpoints}{nearest(named, here)}; `{command_line('tune', 'list')}` has all"
    )


def stopped_trials(state: SearchState) -> SearchState:
    """State of a stopped search to show: no trial runs."""
    trials = {
        number: replace(trial, status="interrupted") if trial.status == "running" else trial
        for number, trial in state.trials.items()
    }
    return replace(state, trials=trials)


def _not_begun(context: Context, search: Search, words: Sequence[str]) -> str:
    message = (
        f"search {search.name!r} has no journal in {context.checkpoints}/{search.folder}; start it with "
        f"`{command_line('tune', words[0], *words[1:])}`"
    )
    others = [
        f"\n  {command_line('tune', 'show', s.folder)}" for s in stored_searches(context) if s.name == search.name
    ]
    return message + (f", or look at one begun with other settings:{''.join(others)}" if others else "")


def _read(store: Store, folder: str) -> StoredSearch:
    description = json.loads(store.read(f"{FOLDER}/{folder}/{DESCRIPTION_FILE}"))
    records = read_journal(store, f"{FOLDER}/{folder}")
    return StoredSearch(folder, str(description["name"]), str(description["key"]), description, records)


def _is_named(search: StoredSearch, named: str) -> bool:
    return search.name == named or search.folder.startswith(named) or search.key.startswith(named)


def _begun(search: StoredSearch) -> str:
    return " ".join(search.description.get("words", [])[1:])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
