"""Parts of a message: one line of an error, and what to do about it."""

import pytest

from trainplane.errors import error_line, split_remedy


@pytest.mark.parametrize(
    ("error", "first", "last"),
    [
        (ValueError("one"), "one", "one"),
        (RuntimeError("\n one \n\n two\n"), "one", "two"),
        (KeyError(), "KeyError", "KeyError"),
        ("", "no message", "no message"),
        (
            OSError("(raised as a result of Query-invoked autoflush)\ndisk I/O error"),
            "disk I/O error",
            "disk I/O error",
        ),
    ],
)
def test_an_error_is_named_by_one_line_that_is_not_blank(error, first, last):
    assert error_line(error) == first
    assert error_line(error, last=True) == last


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ("no preset 'dem'; did you mean 'demo'?", ("no preset 'dem'", "did you mean 'demo'?")),
        ("a is wrong; b, too; set c", ("a is wrong; b, too", "set c")),
        ("the run's folder is full; empty the run's disk", ("the run's folder is full", "empty the run's disk")),
        ("cannot be read (busy; full [a; b])", ("cannot be read (busy; full [a; b])", "")),
        ("no store (timed out (1; 2)); start it", ("no store (timed out (1; 2))", "start it")),
        ("'a; b' is no name", ("'a; b' is no name", "")),
        ("wrong; run `x; y`", ("wrong", "run `x; y`")),
        ("nothing to do", ("nothing to do", "")),
    ],
)
def test_the_remedy_is_what_stands_behind_the_last_semicolon(message, parts):
    assert split_remedy(message) == parts
