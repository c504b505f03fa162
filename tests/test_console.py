"""What reaches a terminal: one safe line for each line, in any character set, and no exception."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.cli import console, main, streams
from bulkcert.cli.fault import keep_details, short
from bulkcert.cli.messages import Level
from bulkcert.cli.output import write_output
from bulkcert.cli.process import report_faults
from bulkcert.cli.sink import MOST_KEPT, Sink
from bulkcert.errors import OutputError
from bulkcert.values import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("泵站 é – “x”", "泵站 é – “x”"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),  # spaces of other languages
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("one\r\ntwo\t", "one\\r\\ntwo\\t"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("a\u2066b\u200bc\u2028d\ufeff", "a\\u2066b\\u200bc\\u2028d\\ufeff"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_could_act_on_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_any_text_is_one_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert all(character.isprintable() or character.isspace() for character in shown)
    assert printable(shown) == shown


class Streams:
    """Standard streams in some character set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
        self.out, self.err = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(self.out, encoding))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(self.err, encoding))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"j\xe4\n"), encoding))
        streams.prepare()


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "泵 é \\udcff"),
        ("gbk", "泵 é \\udcff"),
        ("latin-1", "\\u6cf5 é \\udcff"),
        ("ascii", "\\u6cf5 \\xe9 \\udcff"),
    ],
)
def test_characters_that_a_console_does_not_have_are_escaped(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str
) -> None:
    streams = Streams(monkeypatch, encoding)
    console.print_text("泵 é \udcff")
    console.write("泵 é \udcff")
    console.print_data([b"\xe6\xb3\xb5\n"])
    data = b"\xe6\xb3\xb5\n"  # data is UTF-8 everywhere
    assert streams.out.getvalue() == f"{shown}\n".encode(encoding) + data
    assert streams.err.getvalue() == f"{shown}\n".encode(encoding)


def test_input_that_is_not_in_the_character_set_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Streams(monkeypatch, "utf-8")
    assert sys.stdin.readline() == "j\ufffd\n"


def test_a_message_is_one_line_and_a_text_has_several(capsys: pytest.CaptureFixture[str]) -> None:
    console.write("one\nline")
    console.write_text("two\nlines\x1b")
    console.write("")
    assert capsys.readouterr().err == "one\\nline\ntwo\nlines\\x1b\n\n"


class Broken(io.RawIOBase):
    """A full disk, or a pipe that nobody reads."""

    def __init__(self, error: OSError) -> None:
        self.error = error
        self.writes = True

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        if self.writes:
            raise self.error
        return len(bytes(content))  # type: ignore[call-overload, no-any-return]


@pytest.fixture(params=[console.print_text, lambda text: console.print_data([text.encode()])])
def printing(request: pytest.FixtureRequest) -> Any:
    """Each of the functions that write to standard output."""
    return request.param


def breaks(monkeypatch: pytest.MonkeyPatch, error: OSError) -> Broken:
    """Let standard output fail."""
    raw = Broken(error)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(raw)))
    return raw


def test_standard_output_that_cannot_be_written_is_an_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, printing: Any
) -> None:
    raw = breaks(monkeypatch, OSError(28, "No space left on device"))
    with pytest.raises(OutputError, match=r"^Standard output can't be written: No space left"):
        printing("x")
    raw.writes = False  # as if its descriptor was replaced, which needs a real one


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(
    monkeypatch: pytest.MonkeyPatch, printing: Any
) -> None:
    raw = breaks(monkeypatch, BrokenPipeError(32, "Broken pipe"))
    with pytest.raises(click.exceptions.Exit):
        printing("x")
    raw.writes = False


def test_messages_that_cannot_be_written_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Broken(OSError(5, "Input/output error"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(raw)))
    console.write("x")  # such as on a terminal that was closed
    raw.writes = False


def test_standard_streams_that_were_closed_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    streams.prepare()
    with sys.stdout, sys.stderr:
        console.print_text("x")
        console.write("x")
    assert sys.stdin is None


@pytest.mark.parametrize("columns", ["", "0", "-5", "20", "52", "79", "80", "200", "wide", " 70 "])
def test_a_help_text_is_as_wide_as_click_makes_it(
    monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert streams.text_width() == click.HelpFormatter(max_width=80).width


def test_a_help_text_has_a_width_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "__stdout__", None)
    assert streams.text_width() == click.HelpFormatter(max_width=80).width == 78


# ---- messages: levels, times, JSON, a log file


TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture
def configured() -> Iterator[Any]:
    """Set how messages are shown, for one test."""

    def configure(**settings: Any) -> None:
        defaults = {"as_json": False, "log_file": None, "quiet": False, "verbose": False}
        console.configure(**defaults | settings)

    yield configure
    console.reset()


def say_everything() -> None:
    """Write a message of each level."""
    for level in Level:
        console.write(level.name.lower(), level)


@pytest.mark.parametrize(
    ("settings", "shown", "logged"),
    [
        ({}, ["info", "warning", "error", "result"], ["info", "warning", "error", "result"]),
        ({"quiet": True}, ["warning", "error", "result"], ["info", "warning", "error", "result"]),
        ({"verbose": True}, [level.name.lower() for level in Level], None),
        ({"quiet": True, "verbose": True}, ["warning", "error", "result"], None),
    ],
)
def test_what_is_shown_and_what_is_logged(
    configured: Any,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    settings: dict[str, bool],
    shown: list[str],
    logged: list[str] | None,
) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    configured(log_file=log, **settings)
    say_everything()
    prefixes = {"warning": "Warning: warning", "error": "Error: error"}

    def lines(names: list[str]) -> str:
        return "".join(f"{TIME} {prefixes.get(name, name)}\n" for name in names)

    everything = [level.name.lower() for level in Level]
    assert re.fullmatch(lines(shown), capsys.readouterr().err)
    assert re.fullmatch("before\n" + lines(logged or everything), log.read_text())


def test_each_line_of_a_message_has_the_time_and_blank_ones_are_left_out(
    configured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configured()
    console.write("Finished.", Level.RESULT, before="", after="  one\n  two\x1b")
    expected = rf"{TIME} Finished\.\n{TIME}   one\n{TIME}   two\\x1b\n"
    assert re.fullmatch(expected, capsys.readouterr().err)


def test_messages_as_json_are_one_object_a_line(
    configured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(as_json=True, verbose=True)
    say_everything()
    console.write("a\nb\x9b", Level.ERROR, before="rows", after="more", event="error", code=2)
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    levels = ["debug", "info", "warning", "error", "info", "error"]
    assert [entry["level"] for entry in entries] == levels
    assert all(re.fullmatch(TIME, entry.pop("time")) for entry in entries)
    assert entries[-1] == {"level": "error", "text": "a\nb\x9b", "event": "error", "code": 2}


def test_a_log_file_that_can_not_be_opened_is_an_error(configured: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # that nobody reads
    for name in ("missing/log", "pipe", "."):
        with pytest.raises(OutputError, match=r"log file .* can't be opened"):
            configured(log_file=tmp_path / name)


def test_a_full_log_file_is_reported_once_and_holds_nothing_up(
    configured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(log_file=Path("/dev/full"))
    console.write("one")
    console.write("two")
    warning = "Warning: The log file /dev/full can't be written: No space left on device"
    shown = capsys.readouterr().err
    assert re.fullmatch(rf"{TIME} one\n{TIME} {warning}\n{TIME} two\n", shown)


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_only_where_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], coloured: bool
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    console.write("Look out.", Level.WARNING)
    warning = "\x1b[33mWarning:\x1b[0m" if coloured else "Warning:"
    assert terminal.getvalue() == f"{warning} Look out.\n"


def test_a_status_line_stays_below_the_messages() -> None:
    written: list[str] = []
    width = 10
    sink = Sink(written.append, lambda: width)
    sink.set_status("12345678", 8)
    sink.put("a message\n")
    sink.set_status("12345678", 8)  # nothing is new
    width = 3  # the terminal became narrower, and shows the line on three
    sink.set_status("abc", 3)
    sink.set_status("", 0)
    assert written == [
        "12345678",
        "\r\x1b[Ja message\n12345678",
        "\r\x1b[2A\x1b[Jabc",
        "\r\x1b[J",
    ]


def test_a_stream_that_is_stuck_holds_nothing_up() -> None:
    """Such as a terminal that somebody has stopped with Ctrl-S."""
    writing, goes_on = threading.Event(), threading.Event()
    written: list[str] = []

    def write(text: str) -> None:
        written.append(text)
        writing.set()
        assert goes_on.wait(60)

    sink = Sink(write)
    with sink.in_background(patience_s=0):
        sink.put("first\n")
        assert writing.wait(60)
        for number in range(MOST_KEPT + 100):
            sink.put(f"{number}\n")
            sink.set_status(str(number), 5)
    thread = sink._thread
    assert thread is not None
    goes_on.set()
    thread.join(60)
    text = "".join(written)
    assert text.startswith("first\n0\n1\n")
    assert text.endswith("(100 messages could not be written)\n10099")


def test_what_is_written_in_the_background_is_complete_and_in_order() -> None:
    written: list[str] = []
    sink = Sink(written.append)
    with sink.in_background(patience_s=60):
        for number in range(1000):
            sink.put(f"{number}\n")
    sink.put("end\n")
    assert "".join(written) == "".join(f"{number}\n" for number in range(1000)) + "end\n"


# ---- files that -o names


def test_a_link_of_this_user_is_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data/out.csv")
    (tmp_path / "second").symlink_to("link")
    for content in (b"first", b"second"):
        write_output([content], tmp_path / "second")
        assert (tmp_path / "data" / "out.csv").read_bytes() == content
    assert (tmp_path / "link").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link of another user")
def test_a_link_of_another_user_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out.csv").symlink_to(victim)
    os.lchown(tmp_path / "out.csv", 12345, 12345)
    with pytest.raises(OutputError, match="belongs to another user"):
        write_output([b"new"], tmp_path / "out.csv")
    assert victim.read_text() == "precious"


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="a symbolic link to itself"):
        write_output([b"new"], tmp_path / "loop")


def test_links_in_place_of_guessable_names_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("out.csv.partial", ".out.csv.partial", "out.csv.tmp", "out.csv~"):
        (tmp_path / name).symlink_to(victim)
    write_output([b"new"], tmp_path / "out.csv")
    assert victim.read_text() == "precious"
    assert (tmp_path / "out.csv").read_bytes() == b"new"


def test_an_open_file_is_written_in_place(tmp_path: Path) -> None:
    """Such as /dev/stdout, whose folder can't be written."""
    with (tmp_path / "redirected").open("wb") as file:
        write_output([b"a", b"b"], Path(f"/dev/fd/{file.fileno()}"))
    assert (tmp_path / "redirected").read_bytes() == b"ab"


def test_a_dash_is_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_output([b"data\n"], Path("-"))
    assert capfdbinary.readouterr().out == b"data\n"


# ---- exceptions that nobody foresaw


class UnforeseenError(Exception):
    """Not foreseen."""


@pytest.mark.parametrize(("command", "code"), [("run", 3), ("plan", 2), ("status", 2)])
def test_a_fault_of_the_program_has_an_exit_code_and_leaves_its_details_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, code: int
) -> None:
    def fail(*_: object) -> None:
        raise UnforeseenError("the secret is s3cret-value\x1b")

    monkeypatch.setenv("ENOS_APP_SECRET", "s3cret-value")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(click.Command, "invoke", fail)
    ended = CliRunner().invoke(main, [command, "x"])
    assert ended.exit_code == code
    assert (
        "Error: bulkcert itself has failed: UnforeseenError: the secret is ***\\x1b" in ended.stderr
    )
    assert "Traceback" not in ended.output
    [details] = tmp_path.iterdir()
    assert str(details) in ended.stderr
    assert "Traceback" in details.read_text()
    assert "s3cret-value" not in details.read_text()
    assert details.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_ends_any_command_with_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(click.Command, "invoke", interrupted)
    ended = CliRunner().invoke(main, ["status", "x"])
    assert (ended.exit_code, ended.stderr) == (3, "Stopped.\n")


@pytest.mark.system
def test_help_that_cannot_be_written_is_an_error_with_its_reason() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "bulkcert", "-h"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert ended.returncode == 2
    message = b"Error: Standard output can't be written: No space left on device\n"
    assert ended.stderr == message


async def test_the_first_exception_that_nobody_awaits_is_reported_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> None:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report_faults()
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": "unclosed connection"})
    for error in (ConnectionResetError(), UnforeseenError("first"), UnforeseenError("second")):
        loop.call_soon(fail, error)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first, details = capsys.readouterr().err.splitlines()
    assert first == "Error: bulkcert itself has failed: UnforeseenError: first"
    assert details.startswith(f"The details are in {tmp_path}")


def test_of_several_exceptions_the_first_is_named_and_long_ones_are_cut() -> None:
    group = ExceptionGroup("tasks", [ExceptionGroup("tasks", [UnforeseenError("x" * 1000)])])
    assert short(group).startswith("UnforeseenError: xxx")
    assert len(short(group)) < 400


def test_details_that_cannot_be_written_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert keep_details(UnforeseenError()) == ""
