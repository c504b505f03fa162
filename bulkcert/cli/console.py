"""Messages for people on standard error, text and data on standard output.

Messages also go to the log file, if there is one. Every line that nobody may be watching begins
with the time: in a log file, and where standard error is not a terminal, of the commands that take
long.

A run must not end because its log is on a full disk, because the reader of its output went away, or
because a name does not fit the character set of the terminal. So no function that writes a message
raises when standard error cannot be written. Nothing that a provider, a certificate or a file name
contains may act on the terminal: see `bulkcert.values.printable`.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bulkcert.cli import streams
from bulkcert.cli.messages import Level, Message
from bulkcert.cli.sink import Sink
from bulkcert.errors import OutputError
from bulkcert.values import printable

PATIENCE_S = 2.0
"""How long the end of a run waits for a log that can't be written."""


@dataclass(slots=True)
class _Settings:
    """How messages are shown; see `configure`."""

    as_json: bool = False
    stamped: bool = False
    least: Level = Level.INFO
    least_in_log: Level = Level.INFO


_settings = _Settings()
_screen = Sink(lambda text: _write_to_stderr(text), lambda: columns() or 80)
_log: Sink | None = None


def reset() -> None:
    """Show messages as every command does that says nothing else."""
    global _settings, _log
    _settings, _log = _Settings(), None


def configure(
    *, as_json: bool, log_file: Path | None, quiet: bool, verbose: bool, stamped: bool = True
) -> None:
    """Set how messages are shown from now on.

    Args:
        as_json: write each as a JSON object.
        log_file: append them to this file too.
        quiet: show only warnings, errors and the result; the log file gets them all.
        verbose: show details too.
        stamped: begin each line with the time where standard error is not a terminal.

    Raises:
        OutputError: the log file can't be opened.
    """
    global _settings, _log
    least = Level.DETAIL if verbose else Level.INFO
    _settings = _Settings(
        as_json=as_json,
        stamped=stamped and not is_terminal(),
        least=Level.WARNING if quiet else least,
        least_in_log=least,
    )
    _log = Sink(_Log(log_file).write) if log_file else None


def write(
    text: str,
    level: Level = Level.INFO,
    *,
    before: str | None = None,
    after: str = "",
    **fields: Any,
) -> None:
    """Write a message for people; see `bulkcert.cli.messages.Message`."""
    message = Message(
        level=level, text=text, at=time.time(), before=before, after=after, fields=fields
    )
    if level >= _settings.least:
        _show(message)
    _log_message(message)


def write_text(text: str, level: Level = Level.INFO, **fields: Any) -> None:
    """Write a message of one or more lines: the first one says in short what it is about."""
    first, _, others = text.partition("\n")
    write(first, level, after=others, **fields)


def log_only(text: str, level: Level = Level.INFO, **fields: Any) -> None:
    """Write a message to the log file and nowhere else."""
    _log_message(Message(level=level, text=text, at=time.time(), fields=fields))


def write_at_once(text: str, level: Level, **fields: Any) -> None:
    """Write a message past those that wait, because the process is about to end.

    For signal handlers: it takes no locks, and leaves out a stream that would block.
    """
    message = Message(level=level, text=text, at=time.time(), fields=fields)
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        descriptor = sys.stderr.fileno()
        if select.select([], [descriptor], [], 0)[1]:
            os.write(descriptor, (_screen.erasing() + _rendered(message)).encode())
    if _log is not None and level >= _settings.least_in_log:
        _log.write_at_once(_rendered_for_log(message))


def write_on_terminal(text: str) -> None:
    """Write text as it is on the terminal that standard error is: a question, or the last bar."""
    _screen.put(text)


def set_status(line: str, cells: int = 0) -> None:
    """Show a line below all messages on the terminal; an empty one removes it."""
    _screen.set_status(line, cells)


@contextmanager
def in_background() -> Iterator[None]:
    """Return a context in which no message holds anything up; see `bulkcert.cli.sink`."""
    with contextlib.ExitStack() as stack:
        for sink in filter(None, (_screen, _log)):
            stack.enter_context(sink.in_background(PATIENCE_S))
        yield


def is_terminal() -> bool:
    """Whether standard error is a terminal on which a line can be replaced."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def has_colours() -> bool:
    """Whether standard error may be coloured; see no-color.org."""
    return is_terminal() and not os.environ.get("NO_COLOR") and not _settings.as_json


def shows_bar() -> bool:
    """Whether a progress bar can be shown: for people, on a terminal."""
    return is_terminal() and not _settings.as_json


def columns(name: str = "stderr") -> int | None:
    """The width of the terminal that a standard stream is, in cells; None if it is none."""
    stream = getattr(sys, name)
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def print_text(text: str) -> None:
    """Write one or more lines for people to standard output.

    Raises:
        OutputError: they can't be written.
    """
    with reporting_output_errors():
        sys.stdout.write(_printable_lines(text))
        sys.stdout.flush()


def print_json(value: Any) -> None:
    """Write one JSON object to standard output, on several lines.

    Raises:
        OutputError: it can't be written.
    """
    from bulkcert.json_lines import as_json  # slow to import

    print_data([as_json(value, indent=True), b"\n"])


def print_data(chunks: Iterable[bytes]) -> None:
    """Write data to standard output, as it is.

    Raises:
        OutputError: it can't be written.
    """
    with reporting_output_errors(), contextlib.ExitStack() as stack:
        if isinstance(chunks, Generator):
            # an abandoned stream ends before the store that it reads from is closed
            stack.enter_context(contextlib.closing(chunks))
        sys.stdout.buffer.writelines(chunks)
        sys.stdout.buffer.flush()


@contextmanager
def ignoring_write_errors() -> Iterator[None]:
    """Continue when standard error cannot be written; discard all further output to it."""
    try:
        yield
    except OSError:
        streams.discard("stderr")


@contextmanager
def reporting_output_errors() -> Iterator[None]:
    """Turn an error of standard output into an `OutputError`.

    A reader that has seen enough (`| head`) is not an error; the command ends quietly.
    """
    try:
        yield
    except BrokenPipeError:
        streams.discard("stdout")
        raise click.exceptions.Exit(streams.READER_IS_GONE) from None
    except OSError as error:
        streams.discard("stdout")
        raise OutputError(
            f"Standard output can't be written: {error.strerror or error}",
            "Free some space there, or send the output somewhere else.",
        ) from error


def _show(message: Message) -> None:
    _screen.put(_rendered(message))


def _rendered(message: Message) -> str:
    if _settings.as_json:
        return message.as_json()
    return message.as_text(
        stamped=_settings.stamped, coloured=has_colours(), columns=columns("stderr")
    )


def _log_message(message: Message) -> None:
    if _log is not None and message.level >= _settings.least_in_log:
        _log.put(_rendered_for_log(message))


def _rendered_for_log(message: Message) -> str:
    return message.as_json() if _settings.as_json else message.as_text(stamped=True)


class _Log:
    """A log file. What can't be written is lost, which is said once.

    Raises:
        OutputError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        # not blocking: a pipe that nobody reads is an error
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        try:
            self._file = os.open(path, flags, 0o666)
            os.set_blocking(self._file, True)
        except OSError as error:
            raise OutputError(
                f"The log file {path} can't be opened: {error.strerror or error}",
                "Name another file with --log-file.",
            ) from error
        self._path = path
        self._failed = False

    def write(self, text: str) -> None:
        try:
            _write_all(self._file, text.encode(errors="backslashreplace"))
        except OSError as error:
            if not self._failed:
                self._failed = True
                reason = error.strerror or error
                problem = f"The log file {self._path} can't be written: {reason}"
                _show(Message(level=Level.WARNING, text=problem, at=time.time()))


def _write_to_stderr(text: str) -> None:
    with ignoring_write_errors():
        try:
            descriptor = sys.stderr.fileno()
        except io.UnsupportedOperation:  # not a file
            sys.stderr.write(text)
            sys.stderr.flush()
        else:
            # not through the stream: a thread that waits for it would keep its lock at the end
            _write_all(descriptor, text.encode(sys.stderr.encoding, "backslashreplace"))


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _printable_lines(text: str) -> str:
    return "".join(f"{printable(line)}\n" for line in text.split("\n"))
