"""Which nonces were used: each may be used once while the date of its call is valid.

In: nonces with their time of arrival. Out: whether each one is new. Memory use does not grow with
the length of a run, because old nonces are forgotten.
"""

from __future__ import annotations


class Nonces:
    """The nonces used recently.

    Args:
        life_us: how far the date of a call may be off, in microseconds.
    """

    def __init__(self, life_us: int) -> None:
        self._life_us = life_us
        self._rotated_at_us = 0
        self._recent: set[str] = set()
        self._older: set[str] = set()

    def is_new(self, nonce: str, at_us: int) -> bool:
        """Whether a nonce is new. Marks it as used."""
        # a date may be off into the past or the future, so a call can be replayed for two lives
        if at_us - self._rotated_at_us >= 2 * self._life_us:
            self._older, self._recent = self._recent, set()
            self._rotated_at_us = at_us
        if nonce in self._recent or nonce in self._older:
            return False
        self._recent.add(nonce)
        return True
