"""The bytes of a picture decide its side of a split."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.data.split import parse_shares, shares_text, side_of
from trainplane.errors import UserError

SHARES = parse_shares("train=90,val=5,test=5")
PICTURES = st.lists(st.binary(max_size=30), max_size=40)


def sides(pictures: list[bytes], shares=SHARES) -> dict[bytes, list[str]]:
    return {data: [name for name in shares if side_of(shares, name).contains(data)] for data in pictures}


@given(PICTURES, PICTURES)
def test_pictures_that_come_or_go_move_no_other(pictures: list[bytes], others: list[bytes]) -> None:
    before, after = sides(pictures), sides([*others, *pictures])
    assert {data: after[data] for data in before} == before


@given(PICTURES)
def test_every_picture_is_on_exactly_one_side(pictures: list[bytes]) -> None:
    assert all(len(names) == 1 for names in sides(pictures).values())


@given(st.permutations(["a=33.3", "b=0.7", "c=66"]), st.binary(max_size=20))
def test_the_order_in_which_shares_are_typed_does_not_matter(parts: list[str], data: bytes) -> None:
    shares = parse_shares(",".join(parts))
    assert shares_text(shares) == "a=33.3,b=0.7,c=66"
    assert sides([data], shares) == sides([data], parse_shares("a=33.3,b=0.7,c=66"))


@given(st.integers(1, 10**8 - 1).map(lambda millionths: Fraction(millionths, 10**6)))
def test_what_the_manifest_says_of_shares_is_read_as_the_same_split(share: Fraction) -> None:
    shares = {"a": share, "b": 100 - share}
    assert parse_shares(shares_text(shares)) == shares


@pytest.mark.parametrize("text", ["train=95,val=5", "a=33.3,b=66.7", "a=100", "a=99.5,b=0.5", "a=10,b=20,c=70",
                                  "a=50.00004,b=49.99996", "a=99.999999,b=0.000001"])  # fmt: skip
def test_shares_stand_in_the_manifest_as_they_are_typed(text: str) -> None:
    assert shares_text(parse_shares(text)) == text


def test_sides_get_their_shares() -> None:
    train, val = side_of(SHARES, "train"), side_of(SHARES, "val")
    pictures = [number.to_bytes(4, "big") for number in range(20_000)]
    assert sum(train.contains(data) for data in pictures) / 20_000 == pytest.approx(0.9, abs=0.01)
    assert sum(val.contains(data) for data in pictures) / 20_000 == pytest.approx(0.05, abs=0.01)


def test_the_side_of_one_known_picture_never_changes() -> None:
    # sha256 of the empty file begins e3b0c442…: 0.8894 of the range; sides in the order of their names.
    assert sides([b""]) == {b"": ["train"]}
    assert sides([b""], parse_shares("a=89,b=11")) == {b"": ["a"]}
    assert sides([b""], parse_shares("a=88.9,b=11.1")) == {b"": ["b"]}


@pytest.mark.parametrize("text", ["", "train", "train=", "train=90", "train=50,val=60", "train=100,val=0", "a=50,a=50",
                                  "train=1e2", "tr ain=50,val=50", "a=-1,b=101", "a=100,", "a=nan,b=1"])  # fmt: skip
def test_invalid_shares_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="shares"):
        parse_shares(text)


def test_a_sum_near_100_is_reported_exactly() -> None:
    with pytest.raises(UserError, match=r"sum up to 100\.000001 percent; need 100"):
        parse_shares("a=50,b=50.000001")


def test_a_side_without_a_share_is_refused() -> None:
    with pytest.raises(UserError, match="--split all has no share; need one of test, train, val"):
        side_of(SHARES, "all")
