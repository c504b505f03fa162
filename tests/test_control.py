"""The control state, and the PAUSE file: what is in force, out of what was asked for."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.control import (
    FULL_RATE,
    Control,
    ControlEntry,
    Verb,
    control_after,
    pause_file,
    who,
)

WITHOUT_VALUE = [Verb.PAUSE, Verb.RESUME, Verb.STOP]


def log(*asked: str) -> list[ControlEntry]:
    """Controls as people write them: "rate 50"."""
    words = [text.partition(" ") for text in asked]
    return [
        ControlEntry(number, 1000.0 + number, "ann@host", "", Verb(verb), value)
        for number, (verb, _, value) in enumerate(words, start=1)
    ]


def logs() -> st.SearchStrategy[list[ControlEntry]]:
    one = st.one_of(
        st.sampled_from([str(verb) for verb in WITHOUT_VALUE]),
        st.sampled_from(["rate 50", "rate 0.5", "rate max", "go canary", "go 10%"]),
    )
    return st.lists(one, max_size=12).map(lambda asked: log(*asked))


def test_at_first_nothing_is_in_force() -> None:
    assert control_after([]) == Control()
    assert Control().requests_per_second is None


@pytest.mark.parametrize(
    ("asked", "paused"),
    [
        (["pause"], 1),
        (["pause", "pause"], 2),
        (["pause", "resume"], None),
        (["resume"], None),
        (["pause", "resume", "pause"], 3),
        (["pause", "stop", "rate 50", "go canary"], 1),
    ],
)
def test_the_last_pause_is_in_force_until_a_resume(asked: list[str], paused: int | None) -> None:
    state = control_after(log(*asked))
    assert (state.paused.id if state.paused else None) == paused


@pytest.mark.parametrize(
    ("asked", "rate"),
    [
        (["rate 50"], 50.0),
        (["rate 50", "rate 0.5"], 0.5),
        (["rate 50", f"rate {FULL_RATE}"], None),
        (["rate 50", "pause", "resume"], 50.0),
    ],
)
def test_the_last_rate_is_in_force(asked: list[str], rate: float | None) -> None:
    assert control_after(log(*asked)).requests_per_second == rate


def test_every_go_stays_in_force() -> None:
    state = control_after(log("go canary", "pause", "go 10%", "go canary"))
    assert {wave: entry.id for wave, entry in state.goes.items()} == {"canary": 4, "10%": 3}


def test_the_last_stop_is_known_by_its_number() -> None:
    """A process that begins later compares it with the last control that it found."""
    state = control_after(log("stop", "pause", "stop", "resume"))
    assert state.stop
    assert (state.stop.id, state.last_id) == (3, 4)


@given(logs(), st.integers(0, 12))
def test_a_process_that_reads_on_reaches_the_state_of_one_that_reads_all(
    entries: list[ControlEntry], read: int
) -> None:
    assert control_after(entries[read:], control_after(entries[:read])) == control_after(entries)


@given(logs().filter(bool))
def test_repeating_the_last_control_changes_nothing_but_who_asked_last(
    entries: list[ControlEntry],
) -> None:
    def in_force(state: Control) -> tuple[object, ...]:
        return bool(state.paused), state.requests_per_second, set(state.goes)

    last = entries[-1]
    again = ControlEntry(last.id + 1, last.at, last.who, last.why, last.verb, last.value)
    state = control_after(entries)
    assert in_force(control_after([again], state)) == in_force(state)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("pause", "paused, by ann@host: why"),
        ("resume", "resumed, by ann@host: why"),
        ("stop", "stopped, by ann@host: why"),
        ("rate 0.5", "rate 0.5/s, by ann@host: why"),
        ("rate max", "full rate, by ann@host: why"),
        ("go 10%", "go after 10%, by ann@host: why"),
    ],
)
def test_a_control_says_what_it_is_and_whose(asked: str, text: str) -> None:
    [entry] = log(asked)
    assert str(entry._replace(why="why")) == text
    assert str(entry) == text.removesuffix(": why")


# ---- the PAUSE file


def test_without_a_file_nothing_is_paused(tmp_path: Path) -> None:
    assert pause_file(tmp_path) is None
    assert pause_file(tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", ""),
        (b"\n\n", ""),
        (b"disk of the CA is full\nask Ann\n", "disk of the CA is full"),
        (b"\xef\xbb\xbf  incident 42  \r\n", "incident 42"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 10_000, "x" * 200),
    ],
)
def test_the_first_line_of_the_file_is_the_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "PAUSE").write_bytes(content)
    assert pause_file(tmp_path) == reason


@pytest.mark.parametrize("kind", ["folder", "link", "fifo", "unreadable"])
def test_whatever_has_that_name_pauses(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "PAUSE"
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(path)
        case "unreadable":
            path.touch(0o000)
    assert pause_file(tmp_path) == ""


def test_a_file_that_can_not_be_looked_for_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share that hangs or a directory without rights must not let a paused run go on."""

    def fail(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "lstat", fail)
    assert pause_file(tmp_path) == ""


def test_looking_for_the_file_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PAUSE").write_text("incident 42")
    closed: list[int] = []
    close = os.close
    monkeypatch.setattr(os, "close", lambda file: (closed.append(file), close(file)))
    assert pause_file(tmp_path) == "incident 42"
    assert len(closed) == 1


def test_who_is_a_user_on_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pwd.getpwuid", lambda user: SimpleNamespace(pw_name="ann"))
    monkeypatch.setattr("socket.gethostname", lambda: "ops1")
    assert who() == "ann@ops1"


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert who().startswith(f"uid {os.getuid()}@")


def test_before_the_first_control_none_is_in_force() -> None:
    assert control_after([]).last_id == 0
