"""One process's work on a run, from opening the connection to the last commit.

In: the wired stages. Out: events, and why the work ended early, if it did. Whatever ends it, what
was sent is on record: the session's figures and every outcome are written before it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from bulkcert.dispatch import Dispatcher
from bulkcert.errors import BulkcertError, ProviderUnusableError
from bulkcert.events import Listener, Notice, Started
from bulkcert.progress import ProgressTracker
from bulkcert.providers.base import ActionHandler
from bulkcert.report.summary import RESUMABLE, exit_code
from bulkcert.store.writer import StoreWriter


@dataclass(slots=True, kw_only=True)
class Execution:
    """Carries out what is left of a run.

    Attributes:
        handler: sends the requests.
        dispatcher: decides when, and what for.
        writer: the store, not started yet.
        tracker: the figures of this process.
        on_event: called on the event loop with every event; must not block, nor raise.
        retry_failed: also retry operations that failed or are unknown.
        progress_every_s: time between two `Progress` events, in seconds.
        leave: called when nothing is sent any more.
        retried: they have been put back to work.
    """

    handler: ActionHandler
    dispatcher: Dispatcher
    writer: StoreWriter
    tracker: ProgressTracker
    on_event: Listener
    progress_every_s: float
    leave: Callable[[], object]
    retry_failed: bool = False
    retried: bool = field(default=False, init=False)
    _opening: asyncio.Task[None] | None = None
    _stopping: bool = False

    async def carry_out(self) -> BulkcertError | None:
        """Work until every operation is settled, or until something ends the work early.

        Returns:
            Why the work ended early; None if it was finished or stopped by `stop`.

        Raises:
            BulkcertError: the credentials or the endpoint can't be used; no operation was begun.
        """
        self.writer.start()
        try:
            return await self._dispatch() if await self._open() else None
        except ProviderUnusableError as error:  # only opening raises it
            return error
        finally:
            await self.handler.close()
            self.leave()

    def stop(self) -> None:
        """Send nothing new; `carry_out` returns when the requests in flight have ended."""
        self._stopping = True
        if self._opening is not None:
            self._opening.cancel()
        self.dispatcher.stop()

    async def _open(self) -> bool:
        """Open the handler; False if the work was stopped before that was done."""
        opened = False
        try:
            self._opening = asyncio.create_task(self.handler.open())
            if self._stopping:
                self._opening.cancel()
            await self._wait_for(self._opening)
            if not self._opening.cancelled():
                self._opening.result()
                opened = not self._stopping
        finally:
            if self._opening is not None and not self._opening.done():
                self._opening.cancel()
                await asyncio.wait([self._opening])
            if not opened:
                # an error here must not hide why the work ends
                with contextlib.suppress(BulkcertError):
                    await self._close_writer(RESUMABLE)
        return opened

    async def _wait_for(self, opening: asyncio.Task[None]) -> None:
        """Wait until the handler is open; say once what delays it, such as a pause."""
        said = False
        while not opening.done():
            await asyncio.wait([opening], timeout=None if said else self.progress_every_s)
            if not said and not opening.done() and (note := self.tracker.delay()):
                self.on_event(Notice(f"Nothing is sent yet: {note}."))
                said = True

    async def _dispatch(self) -> BulkcertError | None:
        """Carry out the operations; return why that ended early, unless `stop` was called."""
        self.tracker.start()
        ticking = asyncio.create_task(self._tick())
        failure: BulkcertError | None = None
        finished = False
        try:
            if self.retry_failed:
                await self.writer.retry_failed()
                self.retried = True
                self.tracker.retry()
            self.on_event(Started(self.tracker.total, self.tracker.settled))
            finished = await self.dispatcher.run()
            await self.writer.flush()
        except BulkcertError as error:
            failure = error
        finally:
            ticking.cancel()
            last = self.tracker.tick()
            try:
                await self._close_writer(
                    exit_code(last.settled) if finished else RESUMABLE, last.rate
                )
            except BulkcertError as error:
                failure = failure or error
        self.on_event(last)
        return failure

    async def _close_writer(self, code: int, rate: float = 0.0) -> None:
        self.writer.note_session(self.tracker.session(rate, "", code))
        await self.writer.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.progress_every_s)
            progress = self.tracker.tick(self.dispatcher.waits)
            figures = self.tracker.session(progress.rate, progress.note, left_s=progress.left_s)
            self.writer.note_session(figures)
            self.on_event(progress)
