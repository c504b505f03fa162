"""The event log: each event is chained to the one before, and its copy in a file is caught up."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import Disk, MemoryStore

from bulkcert import event_log
from bulkcert.control import ControlEntry, Verb
from bulkcert.event_file import catch_up
from bulkcert.event_log import FIRST, EventType, Happened, RunEvent, chain_fault, following
from bulkcert.event_words import in_words
from bulkcert.events import Notice
from bulkcert.model import Outcome
from bulkcert.rules.check import CheckResult, Verdict
from bulkcert.rules.gate import Reason, ReasonKind
from bulkcert.wiring import _mirror

PAUSE = ControlEntry(1, 5.0, "ann@ops1", "help desk is flooded", Verb.PAUSE)
PROCESS = {"host": "ops1", "pid": 7, "user": "ann", "version": "1"}
OUTCOMES = {Outcome.SUCCEEDED: 3, Outcome.ALREADY_DONE: 1}

ONE_OF_EACH = [
    event_log.started(
        1.0,
        process=PROCESS,
        total=4,
        settled=1,
        ceiling=490.0,
        rehearsal=False,
        options=["no-wait"],
    ),
    event_log.approved(1.5, who="ann", key="SHA256:x", expires_at=99.0, statement=b"yes", abort=""),
    event_log.wave_begun(2.0, "canary", 0, 4),
    event_log.state(3.0, [Reason(ReasonKind.HELD, "check: no")]),
    event_log.checked(CheckResult(3.0, 4.0, Verdict.HOLD, "no")),
    event_log.control(5.0, PAUSE, in_force=False),
    event_log.control(5.5, PAUSE, in_force=True),
    event_log.throttled(6.0, "pausing for 3 s"),
    event_log.throttled(7.0, "", over=True),
    event_log.breaker(8.0, "closed", "half-open", "99500"),
    event_log.wave_over(9.0, "canary", 0, 4, OUTCOMES),
    event_log.aborted(10.0, "7c01be", "failed", "2 of 4 failed"),
    event_log.ended(
        11.0,
        4,
        "It has stopped itself.",
        OUTCOMES,
        process=PROCESS,
        requests=9,
        throttled=1,
        busiest_second=5,
    ),
    event_log.overridden(12.0, "7c01be", "bob@ops2", "known fault"),
    event_log.amended(13.0, "bob@ops2", ["limits changed"], "f" * 64),
    event_log.retried(14.0, 2),
    event_log.rechecked(14.5, "ann@ops1", "restored from the backup", 3),
    event_log.lost(15.0, PROCESS, 14.5),
    event_log.fenced(15.5, PROCESS, by="ops2", silent_s=8.13, operations=12),
    event_log.verified(16.0, 4, 0, 0, "a" * 64),
    event_log.state(17.0, []),
]


def chained(happened: Sequence[Happened]) -> list[RunEvent]:
    events: list[RunEvent] = []
    for each in happened:
        events.append(following(events[-1] if events else None, "job", "c" * 64, each))
    return events


LOG = chained(ONE_OF_EACH)


def lines(events: Sequence[RunEvent]) -> list[bytes]:
    return [event.line + b"\n" for event in events]


def test_there_is_one_of_each_type() -> None:
    assert {event.type for event in LOG} == set(EventType)


def test_what_happened_is_in_the_fields_of_the_event() -> None:
    reasons = [Reason(ReasonKind.CLOSED), Reason(ReasonKind.PAUSED, "by ann@ops1")]
    closed = event_log.state(1.0, reasons).data
    assert closed == {"state": "closed", "reasons": ["closed", "paused (by ann@ops1)"]}
    assert event_log.state(1.0, []).data == {"state": "running", "reasons": []}
    assert event_log.control(1.0, PAUSE, in_force=False).data["change"] == "asked"
    assert event_log.control(1.0, PAUSE, in_force=True).data["change"] == "in_force"
    assert event_log.throttled(1.0, "slowed").data == {"change": "begun", "detail": "slowed"}
    assert event_log.throttled(1.0, "", over=True).data["change"] == "over"


def test_the_end_of_a_process_has_every_outcome_and_that_of_a_wave_what_there_was() -> None:
    outcomes = {Outcome.SUCCEEDED: 3, Outcome.FAILED: 0}
    figures = {"requests": 9, "throttled": 1, "busiest_second": 5}
    ended = event_log.ended(1.0, 0, "", outcomes, process=PROCESS, **figures)
    assert ended.data["outcomes"] == {
        **dict.fromkeys(map(str, Outcome), 0),
        "succeeded": 3,
    }
    assert event_log.wave_over(1.0, "canary", 0, 3, outcomes).data["outcomes"] == {"succeeded": 3}


def test_what_a_process_logs_names_it_but_what_is_about_a_process_names_that_one() -> None:
    other = PROCESS | {"host": "ops2", "lease": "5f0c"}
    assert event_log.retried(1.0, 2).by(other).data == {"process": other, "operations": 2}
    fenced = event_log.fenced(1.0, PROCESS, by="ops2", silent_s=8.0, operations=0)
    assert fenced.by(other) == fenced


def test_what_could_not_be_recorded_says_so() -> None:
    found = event_log.unrecorded("revoke", "46d4", event_log.retried(0.0, 2))
    assert found == {
        "at": "1970-01-01T00:00:00.000Z",
        "run": "revoke",
        "plan": "46d4",
        "type": "retry",
        "operations": 2,
        "recorded": False,
    }


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ([], "is not a JSON object"),
        ({"seq": "1"}, "has a field of another type"),
        ({"seq": True}, "has a field of another type"),
        ({"seq": 1.0}, "has a field of another type"),
        ({"at": 5}, "has a field of another type"),
        ({"run": None}, "has a field of another type"),
        ({"previous": 0}, "has a field of another type"),
    ],
)
def test_a_line_that_is_not_an_event_is_refused(change: object, fault: str) -> None:
    event = following(None, "revoke", "46d4", event_log.retried(0.0, 2)).as_object()
    line = json.dumps({**event, **change} if isinstance(change, dict) else change).encode()
    assert chain_fault([line]) == f"line 1 is not an event: {fault}"


@pytest.mark.parametrize("event", LOG, ids=lambda event: f"{event.seq}-{event.type}")
def test_an_event_is_one_line_of_json_that_comes_back(event: RunEvent) -> None:
    assert b"\n" not in event.line
    names = list(json.loads(event.line))
    assert names[:5] == ["seq", "at", "run", "plan", "type"]
    assert names[-1] == "previous"
    assert len(set(names)) == len(names) == len(event.data) + 6
    assert RunEvent.parse(event.line).line == event.line
    text = in_words(event)
    assert text
    assert text.isprintable()


def test_in_a_shared_store_the_words_say_which_process_it_was() -> None:
    fenced = event_log.fenced(1.0, PROCESS, by="ops2", silent_s=8.13, operations=12)
    ended = event_log.lost(1.0, PROCESS, 0.0)
    paused = event_log.state(1.0, [Reason(ReasonKind.PAUSED)])
    assert [in_words(event) for event in chained([fenced, ended, paused, paused.by(PROCESS)])] == [
        "ops1, process 7, is fenced by ops2: silent for 8.1 s, 12 operations to be taken over",
        "ops1, process 7, was killed, or could not write its store any more; last seen at"
        " 1970-01-01T00:00:00.000Z",
        "paused",
        "ops1, process 7: paused",
    ]


def test_each_event_has_the_digest_of_the_line_before() -> None:
    previous = FIRST
    for line in lines(LOG):
        assert json.loads(line)["previous"] == previous
        previous = hashlib.sha256(line.rstrip(b"\n")).hexdigest()
    assert LOG[-1].hash == previous


def test_a_name_can_not_act_on_a_terminal() -> None:
    happened = event_log.aborted(1.0, "7c01be", "check", "\x1b[2J\u202e\x9b")
    (event,) = chained([happened])
    assert event.line.decode().isprintable()
    assert RunEvent.parse(event.line).data["text"] == "\x1b[2J\u202e\x9b"


def test_a_sound_chain_has_no_fault() -> None:
    assert chain_fault(lines(LOG)) == ""
    assert chain_fault([]) == ""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda log: log.pop(3), "line 4 has the number 5, not 4"),
        (lambda log: log.pop(0), "line 1 has the number 2, not 1"),
        (lambda log: log.insert(3, log[3]), "line 5 has the number 4, not 5"),
        (lambda log: log.__setitem__(3, b"{}\n"), "line 4 is not an event: has no field 'seq'"),
        (lambda log: log.__setitem__(3, log[3][:20] + b"\n"), "line 4 is not an event"),
        (
            lambda log: log.__setitem__(3, log[3].replace(b"held", b"free")),
            "line 5 does not follow from the line before it",
        ),
    ],
)
def test_a_change_is_found(change: object, fault: str) -> None:
    log = lines(LOG)
    assert callable(change)
    change(log)
    assert chain_fault(log).startswith(fault)


@given(st.data())
def test_any_changed_byte_is_found_unless_it_is_in_the_last_line(data: st.DataObject) -> None:
    log = lines(LOG)
    number = data.draw(st.integers(0, len(log) - 2))
    line = bytearray(log[number])
    at = data.draw(st.integers(0, len(line) - 2))
    line[at] ^= data.draw(st.integers(1, 127))
    log[number] = bytes(line)
    assert chain_fault(log)


# ---- the file


class Store:
    """A log of which more and more is there."""

    def __init__(self, log: Sequence[RunEvent]) -> None:
        self.log = list(log)

    def events(self, after: int) -> list[RunEvent]:
        assert 0 <= after < 2**63  # as SQLite needs it
        return self.log[after:]


def content(events: Sequence[RunEvent]) -> bytes:
    return b"".join(lines(events))


@given(st.lists(st.integers(0, len(LOG)), min_size=1, max_size=4), st.data())
def test_a_file_that_was_torn_anywhere_is_caught_up(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    for length in sorted(lengths):
        catch_up(path, Store(LOG[:length]).events)
        assert path.read_bytes() == content(LOG[:length])
        os.truncate(path, data.draw(st.integers(0, path.stat().st_size)))  # as by a power loss
    catch_up(path, Store(LOG).events)
    assert path.read_bytes() == content(LOG)


@pytest.mark.parametrize(
    "before",
    [
        b"rubbish\n",
        b"rubbish",
        b"\n\n",
        content(LOG[:3]).replace(b"no-wait", b"NO-WAIT") + b"{}\n",
        content(chained([event_log.retried(1.0, 9)])),  # of another run
        *(content([LOG[0]._replace(seq=seq)]) for seq in (-1, 0, 2**63 - 1, 2**63, 2**64 - 1)),
        content(LOG) + content(LOG[-1:]).replace(b"running", b"RUNNING"),
    ],
)
def test_a_file_that_ends_with_something_else_is_written_again(
    tmp_path: Path, before: bytes
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(before)
    catch_up(path, Store(LOG).events)
    assert path.read_bytes() == content(LOG)


def test_a_file_that_is_complete_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    catch_up(path, Store(LOG).events)
    os.utime(path, (1, 1))
    catch_up(path, Store(LOG).events)
    assert path.stat().st_mtime == 1
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "events.jsonl").symlink_to(other)
    with pytest.raises(OSError, match="symbolic link"):
        catch_up(tmp_path / "events.jsonl", Store(LOG).events)
    assert other.read_text() == "mine"


def test_a_file_that_somebody_has_locked_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    catch_up(path, Store(LOG[:2]).events)
    with path.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process has locked it"):
            catch_up(path, Store(LOG).events, patience_s=0.0)
        assert path.read_bytes() == content(LOG[:2])
    catch_up(path, Store(LOG).events)
    assert path.read_bytes() == content(LOG)


def test_a_pipe_in_its_place_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events.jsonl")
    with pytest.raises(OSError, match="not seekable"):
        catch_up(tmp_path / "events.jsonl", Store(LOG).events)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("not seekable"), "not seekable"),
        (sqlite3.OperationalError("disk I/O error"), "disk I/O error"),
    ],
)
async def test_a_copy_that_fails_stops_nothing_and_is_said_once(
    tmp_path: Path, fault: Exception, reason: str
) -> None:
    class Faulty(MemoryStore):
        def events(self, after: int = 0, most: int | None = None) -> list[RunEvent]:
            raise fault

    said: list[object] = []
    copy = _mirror(tmp_path / "events.jsonl", said.append)
    for _ in range(2):
        copy(Faulty(Disk()))
    await asyncio.sleep(0)
    text = f"events.jsonl can't be written: {reason}."
    assert said == [Notice(f"{text} The events are in the checkpoint nevertheless.")]
