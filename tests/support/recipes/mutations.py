"""Mutated bytes, decided by a seed."""

from __future__ import annotations

import random
import struct


def mutated(rng: random.Random, whole: bytes) -> bytes:
    """The bytes with some changed, removed, doubled, made a large number, or cut off."""
    data = bytearray(whole)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        if not data:
            break
        at, length = rng.randrange(len(data)), rng.randrange(1, 40)
        kind = rng.randrange(5)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 1 << 20]))
        else:
            del data[at:]
    return bytes(data)
