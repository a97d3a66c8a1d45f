"""One line of an error for a message."""

import pytest

from trainplane.errors import error_line


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
