"""One sentence about each event of the log, for people. Pure."""

from __future__ import annotations

from typing import assert_never

from bulkcert.control import ControlEntry, Verb
from bulkcert.event_log import EventType, RunEvent
from bulkcert.plan_hash import grouped
from bulkcert.quantities import count, duration, number


def in_words(event: RunEvent) -> str:
    """Say what has happened, without a full stop; in a shared store, also in which process."""
    if event.type in _ABOUT_A_PROCESS or "process" not in event.data:
        return _what(event)
    return f"{_process(event)}: {_what(event)}"


_ABOUT_A_PROCESS = (EventType.STARTED, EventType.ENDED, EventType.FENCED)


def _process(event: RunEvent) -> str:
    """Which process an event is about, or has logged it."""
    process = event.data.get("process")  # earlier versions did not name it in each event
    return f"{process['host']}, process {process['pid']}" if process else "the process"


def _what(event: RunEvent) -> str:
    data = event.data
    match event.type:
        case EventType.STARTED:
            process = data["process"]
            doing = "".join(f", {option}" for option in data["options"])
            return (
                f"{process['user']}@{process['host']} started process {process['pid']}:"
                f" {data['settled']:,} of {data['total']:,} settled before{doing}"
            )
        case EventType.ENDED:
            code = data["exit_code"]
            if code is None:
                why = str(data["why"]).removeprefix("the process ")
                return f"{_process(event)}, {why}; last seen at {data['last_seen']}"
            return f"{_process(event)}, ended with exit code {code}" + _because(data["why"])
        case EventType.FENCED:
            left = count(data["operations"], "operation")
            return (
                f"{_process(event)}, is fenced by {data['by']}: silent for"
                f" {duration(data['silent_s'])}, {left} to be taken over"
            )
        case EventType.STATE:
            return " · ".join(data["reasons"]) or "running"
        case EventType.WAVE:
            if data["change"] == "begun":
                return f"wave {data['wave']} has begun, {count(data['targets'], 'target')}"
            outcomes = ", ".join(
                f"{many:,} {name.replace('_', ' ')}" for name, many in data["outcomes"].items()
            )
            return f"wave {data['wave']} is over: {outcomes or 'nothing to do'}"
        case EventType.CONTROL:
            asked = "asked for: " if data["change"] == "asked" else ""
            return f"{asked}{control_of(event)}"
        case EventType.CHECK:
            return f"the check says {data['verdict']}" + _because(data["reason"])
        case EventType.THROTTLE:
            if data["change"] == "over":
                return "the provider no longer slows the run down"
            return f"the provider slows the run down: {data['detail']}"
        case EventType.BREAKER:
            change = f"circuit breaker: {data['before']}, now {data['now']}"
            return change + _because(data["reason"])
        case EventType.APPROVAL:
            what = f"going on after abort {data['abort']}" if data["abort"] else "the plan"
            return f"{what} approved by {data['who']}, {data['key']}"
        case EventType.ABORT:
            return f"the run has stopped itself, abort {data['abort']}: {data['text']}"
        case EventType.OVERRIDE:
            return f"abort {data['abort']} overridden by {data['who']}" + _because(data["why"])
        case EventType.AMENDMENT:
            before = grouped(data["before"][:16])
            return f"plan {before} … amended by {data['who']}: {'; '.join(data['changes'])}"
        case EventType.RETRY:
            return f"{count(data['operations'], 'operation')} to be retried"
        case EventType.RECHECK:
            looked_up = f"{count(data['operations'], 'operation')} to be looked up first"
            lost = f"the store has lost commits; {looked_up}, by {data['who']}"
            return lost + _because(data["why"])
        case EventType.VERIFICATION:
            figures = ", ".join(
                f"{number(data[name])} {name.replace('_', ' ')}"
                for name in ("agrees", "differs", "not_read")
                if data[name]
            )
            return f"verified: {figures or 'nothing'}"
        case _:
            assert_never(event.type)


def control_of(event: RunEvent) -> ControlEntry:
    """The control that an event is about."""
    data = event.data
    return ControlEntry(
        data["number"], event.at, data["who"], data["why"], Verb(data["verb"]), data["value"]
    )


def _because(why: str) -> str:
    return f": {why}" if why else ""
