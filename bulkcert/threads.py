"""Blocking work in a thread, which no cancellation leaves half done.

In: a function that blocks. Out: what it returns. `asyncio.to_thread` returns at once when its task
is cancelled, while the function goes on; here whoever awaits knows that it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


async def in_thread(function: Callable[[], _Result]) -> _Result:
    """Call a function in a thread.

    Returns:
        What the function returns.

    Raises:
        CancelledError: the task was cancelled meanwhile; the function has ended nevertheless.
        Exception: what the function raises.
    """
    # not a task, because at its end `asyncio.run` cancels all tasks
    ended = asyncio.get_running_loop().run_in_executor(None, function)
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        ended.exception()  # or it would be reported as never retrieved
        raise cancelled
    return ended.result()
