"""How long a call is tried again without which nothing goes on: for a token, or the first of all.

In: calls. Out: their results, and whether to try once more. The wait for the pacer's permission
does not count: it may be as long as the provider asks, and says nothing about whether it works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bulkcert.providers.call import CallKind, CallResult, OnDeparture

_FIRST_BACKOFF_S = 0.1


class Patience:
    """Patience with one thing that may fail a few times.

    Args:
        patience_s: how long to try, in seconds.
        longest_backoff_s: limit of the doubling of the time between two calls.
    """

    def __init__(self, patience_s: float, longest_backoff_s: float) -> None:
        self._left_s = patience_s
        self._backoff_s = _FIRST_BACKOFF_S
        self._longest_backoff_s = longest_backoff_s
        self._begun_at = 0.0
        self._in_front = False  # something in front of the provider refused the last call

    async def call(self, send: Callable[[OnDeparture], Awaitable[CallResult]]) -> CallResult:
        """Make one call.

        Args:
            send: sends the request, and calls its argument when the request leaves.
        """
        self._begin()
        result = await send(self._begin)  # what counts begins anew when the request leaves
        self._left_s -= _now() - self._begun_at
        return result

    def hopeless(self, result: CallResult) -> bool:
        """Whether no further call will do better: the account is refused.

        A page from something in front of the provider may be a moment's; a second one in a row says
        that this is not the provider's endpoint.
        """
        before = self._in_front
        self._in_front = result.account_wide and result.kind is CallKind.DISPUTED
        refused = result.account_wide and (before or not self._in_front)
        return result.kind is CallKind.UNUSABLE or refused

    async def back_off(self) -> bool:
        """Wait before the next call; return False at once if patience does not last until then."""
        self._left_s -= self._backoff_s
        if self._left_s < 0:
            return False
        await asyncio.sleep(self._backoff_s)
        self._backoff_s = min(2 * self._backoff_s, self._longest_backoff_s)
        return True

    def _begin(self, _source: str = "") -> None:
        self._begun_at = _now()


def _now() -> float:
    return asyncio.get_running_loop().time()
