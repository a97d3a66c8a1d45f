"""Figures for people."""

import pytest

from jobs.cli.format import duration, size


@pytest.mark.parametrize(
    ("seconds", "text"), [(42, "42 s"), (420, "7 min"), (11100, "3 h 05 min"), (187200, "2 d 4 h")]
)
def test_durations_have_two_units_at_most(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(512, "512 B"), (1234, "1.23 KB"), (53.4e9, "53.4 GB"), (2.5e15, "2,500.0 TB")]
)
def test_sizes_have_three_digits(num_bytes, text):
    assert size(num_bytes) == text
