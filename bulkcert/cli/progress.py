"""Shows how far a run is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

import click

from bulkcert.cli.job import duration
from bulkcert.cli.telling import unheard
from bulkcert.events import Event, Notice, Progress, Settled, Started
from bulkcert.job import Job
from bulkcert.model import State

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_EVERY_S = 5.0


class Display:
    """Takes the events of a run and shows them on standard error.

    Args:
        job: for its ceiling.
        wanted: True or False as the user says, None to show what suits the terminal.
    """

    def __init__(self, job: Job, wanted: bool | None) -> None:
        self._ceiling = job.ceiling
        self._silent = wanted is False
        self._terminal = sys.stderr.isatty()
        self._bar: tqdm[NoReturn] | None = None
        self._next_line_at = 0.0
        self._note = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            with unheard():
                self._bar.close()

    def show(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, Settled):
            return  # there are many, and Progress sums them up
        with unheard():
            self._show(event)

    def say(self, text: str) -> None:
        """Show a line without tearing the bar."""
        with unheard():
            if self._bar is not None:
                self._bar.write(text, file=sys.stderr)
            else:
                click.echo(text, err=True)

    def _show(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.say(event.text)  # wanted or not
        if self._silent:
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
                self._bar.set_postfix_str(self._words(event))
            case Progress() if not self._terminal and time.monotonic() >= self._next_line_at:
                self._next_line_at = time.monotonic() + LINE_EVERY_S
                done = sum(event.settled.values())
                click.echo(f"{done:,} of {event.total:,}, {self._words(event)}", err=True)

    def _words(self, progress: Progress) -> str:
        words = [f"{progress.rate:.0f}/s of {self._ceiling:g}"]
        bad = {
            state: count
            for state in (State.FAILED, State.UNKNOWN)
            if (count := progress.settled[state])
        }
        words += [f"{count:,} {state}" for state, count in bad.items()]
        if progress.left_s:
            words.append(f"{duration(progress.left_s)} left")
        if progress.note:
            words.append(progress.note)
        return ", ".join(words)
