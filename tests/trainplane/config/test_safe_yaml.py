"""YAML as people write settings: what looks like a number is the number that it looks like, and words stay words."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trainplane.config import safe_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0100", 100),
        ("-08", -8),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e-4", 1e-4),
        ("2E3", 2000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("null", None),
        ("~", None),
        ("", None),
        ("True", True),
        ("[1, 1e2, no]", [1, 100.0, "no"]),
        ("'7'", "7"),
        *((word, word) for word in ("no", "on", "yes", "2024-01-01", "12:30", "1_000", "1.5.2", "=", "nan")),
    ],
)
def test_plain_words_are_read_as_they_look(text, value):
    read = safe_yaml.load(text)
    assert read == value
    assert type(read) is type(value)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text("01.:-_eExn~tTfyo \"'#é", max_size=6),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1.", max_size=3), inner, max_size=3),
    )
)
def test_what_is_written_is_read_alike_here_and_by_readers_of_yaml_1_1(tree):
    text = safe_yaml.dump(tree)
    assert safe_yaml.load(text) == tree
    assert yaml.safe_load(text) == tree
