"""docs/events.md: its table is what the code writes; its code finds faults of a chain."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from code_blocks import python_blocks, run_block

from bulkcert import event_log
from bulkcert.control import ControlEntry, Verb
from bulkcert.event_log import EventType, Happened, RunEvent, chain_fault
from bulkcert.rules.check import CheckResult, Verdict

PAGE = Path(__file__).parents[1] / "docs/events.md"
AT = 1_795_684_026.5

HAPPENED = {
    "started": event_log.started(
        AT,
        process={"host": "ops1", "pid": 1, "user": "ann", "version": "0"},
        total=1,
        settled=0,
        ceiling=500,
        rehearsal=False,
        options=[],
    ),
    "ended": event_log.ended(AT, 0, "", {}, process={}, requests=1, throttled=0, busiest_second=1),
    "lost": event_log.lost(AT, {}, AT),
    "fenced": event_log.fenced(AT, {}, by="ops2", silent_s=8.1, operations=12),
    "state": event_log.state(AT, []),
    "wave_begun": event_log.wave_begun(AT, "canary", 0, 20),
    "wave_over": event_log.wave_over(AT, "canary", 0, 20, {}),
    "control": event_log.control(
        AT, ControlEntry(1, AT, "ann", "", Verb.GO, "canary"), in_force=False
    ),
    "checked": event_log.checked(CheckResult(Verdict.GO, "well", AT, AT)),
    "throttled": event_log.throttled(AT, "slowed to 120/s"),
    "breaker": event_log.breaker(AT, "closed", "open", ""),
    "approved": event_log.approved(
        AT, who="ann", key="SHA256:x", expires_at=AT, statement=b"", abort=""
    ),
    "aborted": event_log.aborted(AT, "2aa1bd", "failed", "too many"),
    "overridden": event_log.overridden(AT, "2aa1bd", "ann", "known"),
    "amended": event_log.amended(AT, "ann", ["limits"], "0" * 64),
    "retried": event_log.retried(AT, 3),
    "rechecked": event_log.rechecked(AT, "ann", "restored", 3),
    "verified": event_log.verified(AT, 1, 0, 0, "0" * 64),
}


def rows() -> list[tuple[str, frozenset[str]]]:
    """Type and fields of each row of the table."""
    table = PAGE.read_text().partition("## The types")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| `(\w+)` \|.*?\| (.*) \|$", table, re.M)
    return [
        (name, frozenset(re.findall(r"`(\w+)`", re.sub(r"\([^()]*\)", "", fields))))
        for name, fields in cells
    ]


def log(*happened: Happened) -> list[RunEvent]:
    """A log of these events."""
    events: list[RunEvent] = []
    for each in happened:
        before = events[-1] if events else None
        events.append(event_log.following(before, "revoke", "46d4", each))
    return events


def test_every_way_to_make_an_event_is_looked_at() -> None:
    makers = {
        name
        for name, function in inspect.getmembers(event_log, inspect.isfunction)
        if inspect.signature(function).return_annotation == "Happened"
    }
    assert makers == set(HAPPENED)
    assert {each.type for each in HAPPENED.values()} == set(EventType)


def test_the_table_has_each_type_with_its_fields() -> None:
    written = {(str(each.type), frozenset(each.data)) for each in HAPPENED.values()}
    assert set(rows()) == written


def test_the_first_table_has_the_fields_of_all() -> None:
    table = PAGE.read_text().partition("## What every event has")[2].partition("\n## ")[0]
    [event] = log(HAPPENED["retried"])
    assert set(re.findall(r"^\| `(\w+)`", table, re.M)) == set(event.as_object()) - {"operations"}


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ([], 0),
        ([(b"canary", b"others")], 3),
        ([(b'"seq":2', b'"seq":3')], 2),
        ([(b"2aa1bd", b"3bb2ce")], 0),
    ],
)
def test_its_code_finds_what_is_wrong_with_a_chain(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: list[tuple[bytes, bytes]],
    line: int,
) -> None:
    """It can't find another last event, whose digest it shows to whoever knows the right one."""
    events = log(HAPPENED["started"], HAPPENED["control"], HAPPENED["aborted"])
    lines = b"".join(event.line + b"\n" for event in events)
    for old, new in damage:
        assert old in lines
        lines = lines.replace(old, new)
    (tmp_path / "events.jsonl").write_bytes(lines)
    monkeypatch.chdir(tmp_path)
    code = python_blocks(PAGE)[0]
    assert len(code.strip().splitlines()) <= 10
    if line:
        with pytest.raises(SystemExit, match=f"line {line} does not follow"):
            run_block(code, {})
        assert f"line {line} " in chain_fault(lines.splitlines())
        return
    run_block(code, {})
    last = capsys.readouterr().out
    assert last.startswith("3 events, the last one is ")
    assert (events[-1].hash in last) is not bool(damage)


def test_its_listener_gets_events(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    run_block(python_blocks(PAGE)[1], names)
    for event in log(HAPPENED["retried"], HAPPENED["aborted"]):
        names["listen"](event)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("1 retry ")
    assert out[1] == "stopped itself: too many"


def test_its_sample_is_an_event() -> None:
    [sample] = re.findall(r"^```json\n(.*?)\n```", PAGE.read_text(), re.M | re.S)
    event = RunEvent.parse(sample.encode())
    assert set(event.data) == set(HAPPENED["control"].data)
