"""The garbage collector during imports."""

from __future__ import annotations

import gc

import pytest

from trainplane.collector import collector_off


def test_it_is_off_in_the_block_and_on_again_after_an_error() -> None:
    states = []

    def broken_import() -> None:
        with collector_off():
            states.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        broken_import()
    assert (states, gc.isenabled()) == ([False], True)


def test_one_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with collector_off(keep_all=True):
            pass
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()
