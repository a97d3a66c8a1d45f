"""PURE: which side of a split a picture belongs to, for ever.

The side follows from the sha256 of the picture's bytes as they were found, so copies of one picture share a side and
no picture ever moves because others came or went. Shares are percent, `train=90,val=5,test=5`: the sides, in the
order of their names, divide the range of the digest's first eight bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from trainplane.errors import UserError

_WHOLE = 2**64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Side:
    """One side of a split: the digests in [low, high) of 2**64."""

    name: str
    low: int
    high: int

    def has(self, data: bytes) -> bool:
        """Whether a picture of these bytes belongs here."""
        return self.low <= int.from_bytes(hashlib.sha256(data).digest()[:8], "big") < self.high


def read_shares(text: str) -> dict[str, Fraction]:
    """`train=90,val=5,test=5` to percent by name; a `UserError` unless they are above 0 and sum up to 100."""
    shares: dict[str, Fraction] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        percent = _percent(value)
        if not _NAME.fullmatch(name) or percent is None or percent <= 0 or name in shares:
            raise UserError(
                f"shares {text!r}: {part.strip()!r} is none; write names with percent: train=90,val=5,test=5"
            )
        shares[name] = percent
    total = sum(shares.values(), Fraction(0))
    if total != 100:
        raise UserError(f"shares {text!r} sum up to {_exact(total)} percent; need 100, as in train=90,val=5,test=5")
    return shares


def side_of(shares: Mapping[str, Fraction], name: str) -> Side:
    """The side called `name`; a `UserError` for a name without a share."""
    if name not in shares:
        raise UserError(f"--split {name} has no share; need one of {', '.join(sorted(shares))}")
    ends = [Fraction(0)]
    # By name: the same shares typed in another order are the same split.
    for other in sorted(shares):
        ends.append(ends[-1] + shares[other])
    place = sorted(shares).index(name)
    low, high = (int(end * _WHOLE / 100) for end in ends[place : place + 2])
    return Side(name, low, high)


def described(shares: Mapping[str, Fraction]) -> str:
    """The shares in one spelling, for the manifest."""
    return ",".join(f"{name}={_exact(share)}" for name, share in sorted(shares.items()))


def _exact(percent: Fraction) -> str:
    """As typed, without zeros at the end: what the manifest says is read again and means the same split."""
    return f"{(Decimal(percent.numerator) / Decimal(percent.denominator)).normalize():f}"


def _percent(text: str) -> Fraction | None:
    # No exponents and no fractions: what is typed is what the manifest says.
    return Fraction(text) if re.fullmatch(r"\d{1,3}(\.\d{1,6})?", text) else None
