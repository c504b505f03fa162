"""The one thread that writes the store, and its interface on the event loop.

In: claims and changes. Out: durable commits, with many changes in each. The event loop never waits
for the disk. Whoever needs something to be durable first, such as the intent before its request
leaves, awaits it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from bulkcert.errors import BulkcertError, StoreError
from bulkcert.event_log import RunEvent
from bulkcert.model import Change, HistoryEntry
from bulkcert.rules.gate import Gate
from bulkcert.store.base import Session, Store
from bulkcert.store.claims import Claimed, Claims
from bulkcert.threads import in_thread

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Order:
    """What the event loop asks the thread to do in its next commit."""

    changes: Sequence[Change] = ()
    claim: int = 0
    lookup_first: Collection[int] = ()
    session: Session | None = None
    work: Callable[[Store], object] | None = None
    answer: object = None
    done: asyncio.Future[object] | None = None


@dataclass(slots=True)
class Batch:
    """What is written in one commit, in the order in which it was asked for."""

    changes: list[Change] = field(default_factory=list)
    history: list[HistoryEntry] = field(default_factory=list)
    orders: list[_Order] = field(default_factory=list)

    def add(self, item: Change | HistoryEntry | _Order) -> None:
        if isinstance(item, Change):
            self.changes.append(item)
        elif isinstance(item, HistoryEntry):
            self.history.append(item)
        else:
            self.changes += item.changes
            self.orders.append(item)


class StoreWriter:
    """Owns a store from `start` to `close`.

    Args:
        store: the store; no other thread may use it in between.
        on_durable: called on the event loop with changes that have become durable. Its exceptions
            go to the loop's exception handler and delay nobody.
        claims: the rules; without any, everything may be claimed.
        on_gate: called on the event loop after each commit, with the gate that the rules have set.
        on_events: called on the event loop with new events of the log, of other processes too, once
            they are durable.
        mirror: called on the thread after a commit with new events, and after the first one, with
            the store; copies the log to where people look. Must not raise.
        on_error: called on the event loop, once, when the store can no longer be written. Orders
            that were not carried out by then fail with the same error. Also called with what
            `on_gate` or `on_events` has raised; then the store goes on.
        commit_every_s: minimum time between two commits, see `bulkcert.timings.Timings`.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_durable: Callable[[Sequence[Change]], None],
        on_error: Callable[[BulkcertError], None],
        commit_every_s: float,
        claims: Claims | None = None,
        on_gate: Callable[[Gate], None] = lambda gate: None,
        on_events: Callable[[Sequence[RunEvent]], None] = lambda events: None,
        mirror: Callable[[Store], None] = lambda store: None,
    ) -> None:
        self._store = store
        self._claims = claims or Claims()
        self._on_gate = on_gate
        self._on_events, self._mirror = on_events, mirror
        self._last_event: int | None = None  # its number; None before the first commit
        self._on_durable = on_durable
        self._on_error = on_error
        self._commit_every_s = commit_every_s
        # changes and history come by the thousand, so each of them is an order by itself
        self._orders: queue.SimpleQueue[Change | HistoryEntry | _Order | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._error: BulkcertError | None = None

    def start(self) -> None:
        """Start the thread. Call it on the event loop that receives the results."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def claim(self, most: int, lookup_first: Collection[int] = ()) -> Claimed:
        """Claim operations, if the rules allow it; what they intend is durable then."""
        claimed = await self._ask(_Order(claim=most, lookup_first=lookup_first))
        return cast(Claimed, claimed)

    async def record_now(self, changes: Sequence[Change]) -> None:
        """Record changes; they are durable when this returns."""
        await self._ask(_Order(changes=changes))

    def record(self, change: Change) -> None:
        """Record a change with the next commit, then call `on_durable`."""
        self._orders.put(change)

    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Keep what happened to operations, with the next commit."""
        for entry in entries:
            self._orders.put(entry)

    def write(self, work: Callable[[Store], object]) -> None:
        """Have something done to the store with the next commit, on the thread."""
        self._orders.put(_Order(work=work))

    async def write_now(self, work: Callable[[Store], T]) -> T:
        """The same; it is durable when this returns what it has returned."""
        return cast(T, await self._ask(_Order(work=work)))

    async def flush(self) -> None:
        """Return when everything that was ordered so far is durable."""
        await self._ask(_Order())

    def look(self) -> None:
        """Look at the rules again, even if nothing else is to be written."""
        self._orders.put(_Order())

    def note_session(self, session: Session) -> None:
        """Store the session's figures with the next commit."""
        self._orders.put(_Order(session=session))

    async def close(self) -> None:
        """Carry out all orders, end the thread and close the store.

        Raises:
            StoreError: something could not be written.
        """
        self._orders.put(None)
        try:
            await in_thread(self._thread.join)
        finally:
            self._store.close()
        if self._error is not None:
            raise self._error

    async def _ask(self, order: _Order) -> object:
        order.done = self._loop.create_future()
        self._orders.put(order)
        return await order.done

    # ---- on the thread

    def _write(self) -> None:
        last = False
        while not last:
            batch, last = self._next_batch()
            if batch is not None:
                self._commit(batch)
            if not last:
                time.sleep(self._commit_every_s)

    def _next_batch(self) -> tuple[Batch | None, bool]:
        """Wait for an order, then take all that have arrived.

        Returns:
            The orders, if there are any, and whether they are the last ones.
        """
        batch = None
        order = self._orders.get()
        while order is not None:
            batch = batch or Batch()
            batch.add(order)
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit(self, batch: Batch) -> None:
        before = self._claims.memory() if self._store.shared else {}
        tries = 0

        def work() -> tuple[int, list[RunEvent]]:
            nonlocal tries
            tries += 1
            if tries > 1:
                self._claims.restore(before)
            known = self._known_events()
            self._claims.begin(self._store)
            self._store.record(batch.changes)
            self._store.add_history(batch.history)
            for order in batch.orders:
                if order.work is not None:
                    order.answer = order.work(self._store)
            self._claims.judge(self._store, batch.changes)
            for order in batch.orders:
                if order.claim:
                    order.answer = self._claims.claim(self._store, order.claim, order.lookup_first)
                if order.session is not None:
                    self._store.note_session(order.session)
            return known, self._store.events(known)

        try:
            if self._error is not None:
                raise self._error
            known, events = self._store.commit(work)
        except Exception as error:  # handed to the event loop, which ends the run
            if not isinstance(error, BulkcertError):
                error = StoreError(f"The checkpoint can't be written: {error!r}")
            is_first = self._error is None
            # from now on nothing is written, even before the event loop knows of the error
            self._error = error
            self._loop.call_soon_threadsafe(self._failed, batch, error, is_first)
        else:
            if events or self._last_event is None:
                self._mirror(self._store)
            self._last_event = events[-1].seq if events else known
            self._loop.call_soon_threadsafe(self._succeeded, batch, self._claims.gate, events)

    def _known_events(self) -> int:
        """The number of the last event that was there before this commit."""
        if self._last_event is not None:
            return self._last_event
        return max((event.seq for event in self._store.events()), default=0)

    # ---- back on the event loop

    def _succeeded(
        self,
        batch: Batch,
        gate: Gate,
        events: Sequence[RunEvent],
    ) -> None:
        try:
            if events:
                self._on_events(events)
            self._on_gate(gate)
        except Exception as error:  # a fault of ours: what can't obey the rules must end
            self._on_error(BulkcertError(f"The rules of the run can't be obeyed: {error!r}"))
        if batch.changes:
            # in a callback of its own, so that its exceptions do not reach the waiting orders
            self._loop.call_soon(self._on_durable, batch.changes)
        for order in batch.orders:
            if order.done is not None and not order.done.done():
                order.done.set_result(order.answer)

    def _failed(self, batch: Batch, error: BulkcertError, is_first: bool) -> None:
        for order in batch.orders:
            if order.done is not None and not order.done.done():
                order.done.set_exception(error)
        if is_first:
            self._on_error(error)
