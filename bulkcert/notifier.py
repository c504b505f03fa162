"""Gives the events of a run to a command of the operator's, beside the sender.

In: the events that the command has not got yet, and the command. Out: each event, with its hash, on
the standard input of the command: in order, one at a time, at least once. Whatever the command
does, this must never fail the run, hold it up, keep more than one event in memory, or delay the end
of the process for longer than it may. What is left then is for the next process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import UUID

from bulkcert.event_log import EventType, RunEvent
from bulkcert.events import Detail, Event, Listener, Notice
from bulkcert.outside_command import Ended
from bulkcert.quantities import count, duration
from bulkcert.store.base import Store
from bulkcert.threads import in_thread
from bulkcert.timings import NotifyTimings

_END_OF_PROCESS = "the end of this process"


class Outbox(Protocol):
    """The events that are still to be passed on. It remembers them longer than the process."""

    async def first(self) -> RunEvent | None:
        """The first of them; None if there is none at the moment."""

    async def passed(self, event: RunEvent) -> None:
        """The first of them is passed on, or given up."""

    async def close(self) -> None:
        """Nothing more is passed on."""


class Command(Protocol):
    """See `bulkcert.outside_command.OutsideCommand`."""

    async def run(self, given: Mapping[str, object], timeout_s: float) -> Ended: ...

    def close(self) -> None: ...


class StoredEvents:
    """The outbox of a run: the events in its store, after the last one that was passed on.

    In a shared store only the steward passes them on; for every other host there are none. When
    another host becomes the steward, it begins after the last one that the store knows to be passed
    on, so an event may be given twice, but never not at all.

    Args:
        open_store: opens the store, for this alone.
        lease: returns the lease of this process; None if it has none.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        lease: Callable[[], UUID | None] = lambda: None,
    ) -> None:
        self._open_store, self._lease = open_store, lease
        self._store: Store | None = None
        self._last: int | None = None  # None while others pass events on

    async def first(self) -> RunEvent | None:
        """The first event that is not passed on yet, and is for this process."""
        return await in_thread(self._read)

    async def passed(self, event: RunEvent) -> None:
        """Note that the event is passed on.

        If that can't be stored, the event is passed on again, but not by this process.
        """
        self._last = event.seq
        await in_thread(lambda: self._note(event.seq))

    async def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            await in_thread(self._store.close)

    def _read(self) -> RunEvent | None:
        try:
            return self._look()
        except BaseException:  # the next time with another connection
            self._drop()
            raise

    def _look(self) -> RunEvent | None:
        if self._store is None:
            self._store = self._open_store()
        if not self._store.notifies(self._lease()):
            self._last = None
            return None
        if self._last is None:
            self._last = self._store.notified()
        events = self._store.events(self._last, most=1)
        return events[0] if events else None

    def _note(self, seq: int) -> None:
        if self._store is None:
            self._store = self._open_store()
        store = self._store

        def note() -> None:
            if store.notifies(self._lease()):  # this process may have been stopped for long
                store.set_notified(seq)

        try:
            store.commit(note)
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with contextlib.suppress(Exception):
                store.close()


class Notifier:
    """Passes events on from its entry as a context until a while after its exit.

    Args:
        command: the command.
        timeout_s: each time, it is killed after this time.
        outbox: what is to be passed on.
        on_event: called on the event loop with what people should know; must not raise.
        timings: how long to wait, and for what.

    Attributes:
        unrecorded: an event that could not be recorded, to be passed on after all others.
        given_up: how many events the command has not taken.
    """

    def __init__(
        self,
        command: Command,
        timeout_s: float,
        outbox: Outbox,
        on_event: Listener,
        timings: NotifyTimings = NotifyTimings(),
    ) -> None:
        self._command, self._timeout_s = command, timeout_s
        self._outbox, self._on_event, self._timings = outbox, on_event, timings
        self.unrecorded: Mapping[str, Any] | None = None
        self.given_up = 0
        self._delay_s = timings.first_delay_s
        self._failing = False
        self._at = ""  # which event is to be passed on next
        self._news, self._hurry = asyncio.Event(), asyncio.Event()
        self._over = self._ending = self._leaving = False

    def listen(self, event: Event) -> None:
        """Pass an event of the run to its listener, and notice what is to be passed on."""
        self._on_event(event)
        if isinstance(event, RunEvent):
            self._news.set()
            self._over = self._over or _is_own_end(event)

    async def __aenter__(self) -> Self:
        self._work = asyncio.create_task(self._pass_on())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Pass on what is left, within bounds. After a cancellation there is no time for that."""
        try:
            if not isinstance(error, asyncio.CancelledError):
                await self._end()
        finally:
            self._leave()
            await asyncio.wait([self._work])
            with contextlib.suppress(Exception):
                await self._outbox.close()

    def hurry(self) -> None:
        """Somebody wants the process to end: if its work is over, leave at once."""
        if self._over or self._ending:
            self._leave()

    # ---- the end

    async def _end(self) -> None:
        """Wait for what is left, but not for longer than a process may."""
        self._ending = True
        self._delay_s = self._timings.first_delay_s
        self._news.set()
        self._hurry.set()  # whatever has failed gets another try
        patience_s, say_after_s = self._timings.patience_s, self._timings.say_after_s
        await asyncio.wait([self._work], timeout=say_after_s)
        if not self._work.done():
            for_s = f"for at most {duration(patience_s - say_after_s)}"
            self._on_event(Notice(f"Waiting for the notify command, {for_s}.", warns=False))
            await asyncio.wait([self._work], timeout=patience_s - say_after_s)
        if self._at:
            left = "What is left is passed on when the run is started again."
            if self._at == _END_OF_PROCESS:  # which is not in the log
                left = "It is not given it again."
            self._on_event(Notice(f"The notify command has not taken {self._at} in time. {left}"))

    def _leave(self) -> None:
        self._leaving = True
        self._command.close()
        self._news.set()
        self._hurry.set()

    # ---- the work

    async def _pass_on(self) -> None:
        while True:
            self._news.clear()
            ending = self._ending  # before it looks: nothing more is added then
            event = await self._first()
            self._at = f"event {event.seq} ({event.type})" if event else ""
            if self._leaving:
                return
            if event is not None:
                await self._pass_on_one(event)
            elif ending:
                break
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._timings.look_every_s):
                        await self._news.wait()
        if self.unrecorded is not None:
            self._at = _END_OF_PROCESS
            if await self._is_taken(self.unrecorded):
                self._at = ""

    async def _first(self) -> RunEvent | None:
        try:
            return await self._outbox.first()
        except Exception as error:  # the run has its own way to fail with its store
            self._on_event(Detail(f"The events for the notify command can't be read: {error}"))
            return None

    async def _pass_on_one(self, event: RunEvent) -> None:
        taken = await self._is_taken({**event.as_object(), "hash": event.hash})
        if not taken:
            if self._leaving:
                return
            self.given_up += 1
            tries = count(self._timings.most_tries, "try", "tries")
            self._on_event(
                Notice(
                    f"The notify command has not taken {self._at} in {tries}. Given up so far:"
                    f" {count(self.given_up, 'event')}; events.jsonl has all of them."
                )
            )
        try:
            await self._outbox.passed(event)
        except Exception as error:  # at least once: the next process repeats it
            self._on_event(Detail(f"It can't be noted that {self._at} is passed on: {error}"))

    async def _is_taken(self, given: Mapping[str, Any]) -> bool:
        """Give the command an event until it takes it; False if it never does, or at the end."""
        tries = 0
        # at the end nothing is given up: the next process tries again
        while not self._leaving and (tries < self._timings.most_tries or self._ending):
            tries += 1
            problem = await self._try(given)
            if not problem:
                self._failing, self._delay_s = False, self._timings.first_delay_s
                return True
            if not self._leaving:
                self._say(problem)
                await self._pause()
        return False

    async def _try(self, given: Mapping[str, Any]) -> str:
        """Give the command an event; return why it has not taken it."""
        try:
            ended = await self._command.run(given, self._timeout_s)
        except Exception as error:  # a fault of ours, which must not concern the run
            return f"it can't be run: {error!r}"
        if ended.exit_code == 0:
            return ""
        reason = ended.problem or f"exit code {ended.exit_code}"
        return f"{reason}: {ended.line}" if ended.line else reason

    def _say(self, problem: str) -> None:
        """Say what is wrong: once to everybody, until the command takes an event again."""
        text = f"The notify command has failed for {self._at}: {problem}"
        if self._failing:
            self._on_event(Detail(text))
        else:
            self._failing = True
            self._on_event(Notice(f"{text}. It is tried again; the run goes on."))

    async def _pause(self) -> None:
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, self._timings.longest_delay_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._hurry.wait()
        self._hurry.clear()


def _is_own_end(event: RunEvent) -> bool:
    """Whether an event says that this process has ended, and not another one."""
    if event.type is not EventType.ENDED or event.data["exit_code"] is None:
        return False
    process = event.data.get("process", {})
    return (process.get("host"), process.get("pid")) == (socket.gethostname(), os.getpid())
