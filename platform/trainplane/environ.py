"""Environment variables for a while: what a later command of this process starts shall not inherit them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def given_back(*names: str) -> Iterator[None]:
    """Whatever the block makes of these variables, they are afterwards what they were."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def with_variables(values: Mapping[str, str]) -> Iterator[None]:
    """`values` stand in the environment while the block runs."""
    with given_back(*values):
        os.environ.update(values)
        yield
