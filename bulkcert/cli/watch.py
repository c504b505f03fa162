"""`bulkcert status --watch`: looks at a run until it is over, and shows each look.

In: a run directory. Out: a screen on a terminal, elsewhere lines or JSON objects. A process of its
own that only reads, so that any number of people may watch a run, and none of them disturbs it.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from types import FrameType

import click

from bulkcert.cli import console
from bulkcert.cli.ending import error_object
from bulkcert.cli.format import as_text
from bulkcert.cli.messages import Level
from bulkcert.cli.progress_display import line
from bulkcert.cli.signals import signals_to_stop
from bulkcert.cli.status_screen import status_lines, status_object
from bulkcert.cli.verdict import verdict
from bulkcert.errors import BulkcertError, OutputError
from bulkcert.events import Progress
from bulkcert.found_runs import RunState
from bulkcert.json_lines import as_json, utc
from bulkcert.model import State
from bulkcert.observer import Observer, RunView
from bulkcert.quantities import percent
from bulkcert.rundir import RunDirectory
from bulkcert.values import printable


def watch_run(directory: RunDirectory, as_json: bool) -> None:
    """Show a run until it is over, or somebody leaves.

    Args:
        directory: the run directory.
        as_json: print objects, whatever standard output is.

    Raises:
        RunDirectoryError: it can't be read, or can't be read any more.
        OutputError: standard output can't be written.
    """
    from bulkcert.cli.terminal import can_show_screens

    with _leaving_on_signals():
        if as_json:
            with _errors_on_a_line():
                _print_each(directory, _object)
        elif can_show_screens():
            _show_each(directory)
        else:
            _print_each(directory, _line)


def _show_each(directory: RunDirectory) -> None:
    """Show each look on the terminal; when the run is over, it stays below the prompt."""
    from bulkcert.cli.terminal import Terminal, Woken
    from bulkcert.cli.watch_screen import screen

    observer = Observer(directory)
    view = observer.look()
    with Terminal() as terminal:
        while view.state is not RunState.OVER:
            look, at = None, time.monotonic() + observer.rest_s
            while look is None or not look.done():
                terminal.show(screen(view, *terminal.size, coloured=terminal.has_colours))
                woken = terminal.wait(at - time.monotonic() if look is None else None)
                if woken is Woken.LEAVE:
                    return
                if woken is Woken.SUSPEND:
                    if look is not None:
                        wait([look])  # a snapshot must not stay open for as long
                    terminal.suspend()
                elif woken is Woken.TIME:
                    look = _begin(observer.look, terminal.wake)
            view = look.result()
    console.print_text(as_text(status_lines(view), console.columns("stdout")))


def _begin(look: Callable[[], RunView], then: Callable[[], object]) -> Future[RunView]:
    """Look at a run without holding up those who watch: a large run takes a while.

    Args:
        look: looks at it.
        then: called afterwards.
    """
    looked: Future[RunView] = Future()

    def work() -> None:
        # signals are for the thread that shows the screen
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            looked.set_result(look())
        except BaseException as error:
            looked.set_exception(error)
        then()

    # a daemon: whoever leaves does not wait for a file server that hangs
    threading.Thread(target=work, name="look", daemon=True).start()
    return looked


def _print_each(directory: RunDirectory, text_of: Callable[[RunView], bytes]) -> None:
    """Print each look on a line. What only a person can let go on is not waited for."""
    observer = Observer(directory)
    while True:
        view = observer.look()
        console.print_data([text_of(view)])
        if view.state in (RunState.OVER, RunState.ABORTED):
            return
        time.sleep(observer.rest_s)


@contextmanager
def _errors_on_a_line() -> Iterator[None]:
    """Turn an error into one more object on a line, and a message for people."""
    try:
        yield
    except OutputError:
        raise
    except BulkcertError as error:
        console.print_data([as_json({"error": error_object(error)}) + b"\n"])
        console.write(error.problem, Level.ERROR, after=error.next_step)
        raise click.exceptions.Exit(error.exit_code) from None


def _object(view: RunView) -> bytes:
    return as_json(status_object(view)) + b"\n"


def _line(view: RunView) -> bytes:
    text = f"{utc(view.at)} {printable(watch_line(view))}\n"
    return text.encode(sys.stdout.encoding, "backslashreplace")


def watch_line(view: RunView) -> str:
    """Return a run as one line, like those that the run itself prints."""
    summary = view.summary
    settled = summary.total - view.in_flight - summary.pending
    _tone, sentences = verdict(view)
    if not view.noted or view.all_silent_s is not None:
        share = percent(settled, summary.total)
        said = "; ".join(sentences)
        return f"{settled:,} of {summary.total:,} ({share}), {said}"
    progress = Progress(
        total=summary.total,
        settled={
            State.SUCCEEDED: summary.succeeded,
            State.ALREADY_DONE: summary.already_done,
            State.FAILED: summary.failed,
            State.UNKNOWN: summary.unknown,
        },
        requests=sum(host.requests for host in view.hosts),
        rate=view.rate,
        note=" · ".join(filter(None, (*view.reasons, view.note))),
        left_s=None if view.ends_at is None else view.ends_at - view.at,
        rate_limit=view.campaign.control.requests_per_second,
        slack_s=view.slack_s,
    )
    return line(progress, summary.ceiling)


@contextmanager
def _leaving_on_signals() -> Iterator[None]:
    """Return a context that a signal ends, as if all had been seen; further ones are ignored."""
    signals = signals_to_stop()

    def leave(number: int, frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)  # the terminal is being restored
        raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, leave)
    with suppress(KeyboardInterrupt):
        yield
