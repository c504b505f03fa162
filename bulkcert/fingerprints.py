"""How many targets were added to a plan, and how many are gone: 64 bits for each operation. Pure.

In: fingerprints in ascending order, so that one pass compares two plans. Out: the numbers. They are
for people who want to know how much has changed; whether anything has, only the hash of the plan
says.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

_PACKED = struct.Struct(">Q")


class Changed(NamedTuple):
    """How many operations two plans do not have in common."""

    added: int
    gone: int

    def __str__(self) -> str:
        if not self.added and not self.gone:
            return "the same, in another order"
        return f"{self.added:,} added, {self.gone:,} gone"


def fingerprint(fields: str) -> bytes:
    """Return the fingerprint of an operation.

    Args:
        fields: its fields, as they are stored.
    """
    return hashlib.blake2b(fields.encode(), digest_size=_PACKED.size).digest()


def unpacked(content: bytes) -> Iterator[int]:
    """Read fingerprints from a file; what is not a whole one at the end is left out."""
    whole = len(content) // _PACKED.size * _PACKED.size
    return (found for (found,) in _PACKED.iter_unpack(content[:whole]))


def compared(before: Iterator[int], now: Iterator[int]) -> Changed:
    """Compare fingerprints in ascending order."""
    added = gone = 0
    old, new = next(before, None), next(now, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old < new):
            gone += 1
            old = next(before, None)
        elif old is None or new < old:
            added += 1
            new = next(now, None)
        else:
            old, new = next(before, None), next(now, None)
    return Changed(added, gone)
