"""Runs searches: `isnet tune`."""

from __future__ import annotations

import os

from jobs.api.session import session
from jobs.api.settings import Settings, words_of
from jobs.search.run import FinishedSearch, run
from jobs.search.spec import load_search
from trainplane.cluster.context import Context


def tune(
    search: str | os.PathLike[str], settings: Settings = (), *, context: Context | str | None = None
) -> FinishedSearch:
    """Runs one search, or goes on with it.

    Args:
        search: Shipped search or YAML file.
        settings: On top: `{"search.trials": 8}`, or words as on the command line.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: Something in the call cannot be; nothing was started.
        RunFailed: No trial has a finite result.
    """
    with session(context, is_recording=True, is_long=True) as opened:
        return run(load_search(os.fspath(search), words_of(settings)), opened)
