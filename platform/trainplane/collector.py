"""The garbage collector, off during large imports.

An import of torch or MLflow makes a million objects that stay; searching them for garbage is a sixth of its time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off(*, keep_all: bool = False) -> Iterator[None]:
    """Turns the collector off during the block.

    Args:
        keep_all: Never search what exists at the end of the block, for the beginning of a process.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
        if keep_all:
            gc.freeze()
    finally:
        if was_on:
            gc.enable()
