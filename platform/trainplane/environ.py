"""Environment variables for the length of a block.

Processes that a later command starts must not inherit them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def preserved_variables(*names: str) -> Iterator[None]:
    """Restores these variables after the block."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        # A variable that was absent is removed, not set to an empty text.
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def with_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables during the block."""
    with preserved_variables(*values):
        os.environ.update(values)
        yield
