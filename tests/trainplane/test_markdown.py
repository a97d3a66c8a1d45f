"""Names in Markdown are shown as text."""

import pytest

from trainplane.markdown import code_span, escaped


@pytest.mark.parametrize(
    ("text", "escaped_text"),
    [
        ("models:/isnet/1, 0.5 > 0.4", "models:/isnet/1, 0.5 > 0.4"),
        ("author:<img src=x>&amp;", "author:&lt;img src=x>&amp;amp;"),
        ("a|b`c`\nd", "a\\|b\\`c\\` d"),
        ("a\\|b\\", "a\\\\\\|b\\\\"),
    ],
)
def test_a_name_is_text(text, escaped_text):
    assert escaped(text) == escaped_text


@pytest.mark.parametrize(("text", "code"), [("a<b", "`a<b`"), ("a`<b>`", "`` a`<b>` ``"), ("``\n", "```" + " ``  ```")])
def test_code_cannot_be_left(text, code):
    assert code_span(text) == code
