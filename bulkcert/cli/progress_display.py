"""Shows the progress of a run: a bar on a terminal, a line every few seconds elsewhere.

In: the events of a run. Out: text on standard error. It never stops the run, whatever happens to
standard error.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from bulkcert.cli import console
from bulkcert.cli.console import ignoring_write_errors
from bulkcert.cli.format import duration, number
from bulkcert.events import Event, Notice, Progress, Settled, Started
from bulkcert.model import State
from bulkcert.values import printable

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_EVERY_S = 5.0


class ProgressDisplay:
    """Shows the events of a run on standard error.

    Args:
        ceiling: the most requests in any second, shown beside the rate.
        wanted: whether to show progress; notices are shown in any case.
        clock: monotonic time in seconds.
    """

    def __init__(
        self, ceiling: float, wanted: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ceiling = ceiling
        self._wanted = wanted
        self._clock = clock
        self._terminal = sys.stderr.isatty()
        self._bar: tqdm[NoReturn] | None = None
        self._next_line_at = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            with ignoring_write_errors():
                self._bar.close()

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Settled):
            return  # there is one for each operation; Progress sums them up
        with ignoring_write_errors():
            self._show(event)

    def write(self, text: str) -> None:
        """Write a line without disturbing the bar."""
        if self._bar is None:
            console.write(text)
            return
        with ignoring_write_errors():
            self._bar.write(printable(text), file=sys.stderr)

    def _show(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.write(event.text)  # also with --no-progress
        if not self._wanted:
            return
        match event:
            case Started(total, settled) if self._terminal:
                from tqdm import tqdm

                self._bar = tqdm(
                    total=total,
                    initial=settled,
                    file=sys.stderr,
                    bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}",
                    dynamic_ncols=True,
                )
            case Progress() if self._bar is not None:
                self._bar.total = event.total
                self._bar.n = sum(event.settled.values())
                self._bar.set_postfix_str(printable(self._details(event, brief=True)))
            case Progress() if not self._terminal and self._clock() >= self._next_line_at:
                self._next_line_at = self._clock() + LINE_EVERY_S
                done = sum(event.settled.values())
                console.write(f"{done:,} of {event.total:,}, {self._details(event)}")

    def _details(self, progress: Progress, *, brief: bool = False) -> str:
        """Describe the progress; briefly, so that the bar keeps some width in 80 columns."""
        details = [f"{progress.rate:.0f}/s of {number(self._ceiling)}"]
        details += [
            f"{settled:,} {state}"
            for state in (State.FAILED, State.UNKNOWN)
            if (settled := progress.settled[state])
        ]
        if progress.left_s and not (brief and progress.note):
            details.append(f"{duration(progress.left_s)} left")
        if progress.note:
            details.append(progress.note)
        return ", ".join(details)
