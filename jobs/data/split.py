"""Splits pictures into sides, such as train and val.

The sha256 of a picture's original bytes decides its side. Copies of one picture are on one side, and no picture moves
when others are added or removed. Shares are percent, `train=90,val=5,test=5`: the sides, in the order of their names,
divide the range of the digest's first eight bytes. Pure: no I/O.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from trainplane.errors import UserError

# Number of values of the digest's first eight bytes.
_RANGE = 2**64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Side:
    """Side of a split: digests in [low, high) of 2**64."""

    name: str
    low: int
    high: int

    def contains(self, data: bytes) -> bool:
        """Tests if these bytes belong to this side."""
        return self.low <= int.from_bytes(hashlib.sha256(data).digest()[:8], "big") < self.high


def parse_shares(text: str) -> dict[str, Fraction]:
    """Parses `train=90,val=5,test=5`, which must sum up to 100."""
    shares: dict[str, Fraction] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        percent = _percent(value)
        if not _NAME.fullmatch(name) or percent is None or percent <= 0 or name in shares:
            raise UserError(
                f"shares {text!r}: {part.strip()!r} is not a share; write names with percent: train=90,val=5,test=5"
            )
        shares[name] = percent
    total = sum(shares.values(), Fraction(0))
    if total != 100:
        raise UserError(f"shares {text!r} sum up to {_exact(total)} percent; need 100, as in train=90,val=5,test=5")
    return shares


def side_of(shares: Mapping[str, Fraction], name: str) -> Side:
    """Returns the side called `name`."""
    if name not in shares:
        raise UserError(f"--split {name} has no share; need one of {', '.join(sorted(shares))}")
    # Sorted by name: the same shares typed in another order are the same split.
    names = sorted(shares)
    below = sum((shares[side] for side in names[: names.index(name)]), Fraction(0))
    low, high = (int(end * _RANGE / 100) for end in (below, below + shares[name]))
    return Side(name, low, high)


def shares_text(shares: Mapping[str, Fraction]) -> str:
    """Formats shares for the manifest, sorted by name."""
    return ",".join(f"{name}={_exact(share)}" for name, share in sorted(shares.items()))


def _exact(percent: Fraction) -> str:
    """Formats percent exactly: parsing it again gives the same split."""
    return f"{(Decimal(percent.numerator) / Decimal(percent.denominator)).normalize():f}"


def _percent(text: str) -> Fraction | None:
    # No exponents and no fractions: the manifest has the text that was typed.
    return Fraction(text) if re.fullmatch(r"\d{1,3}(\.\d{1,6})?", text) else None
