"""Blocking work in a thread: a cancellation waits for its end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from bulkcert.threads import in_thread


async def test_it_returns_and_raises_what_the_function_does() -> None:
    assert await in_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_waits_for_the_end(fails: bool) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait()
        if fails:
            raise ZeroDivisionError

    task = asyncio.create_task(in_thread(work))
    while not begun.is_set():  # noqa: ASYNC110 - set by a thread
        await asyncio.sleep(0.001)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.001)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
