"""Where a run stands: as lines for people, and as the JSON of `status`.

In: a run as somebody sees it now. Out: lines and objects. Nothing in here writes to a stream or a
file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bulkcert.cli.campaign_screen import (
    abort_lines,
    amendment_lines,
    campaign_object,
    control_lines,
    override_lines,
    wave_lines,
)
from bulkcert.cli.format import count_line, outcome_lines
from bulkcert.cli.hosts_screen import host_lines, host_object
from bulkcert.cli.next_steps import next_steps
from bulkcert.cli.summary_screen import error_lines, how_far
from bulkcert.found_runs import RunState
from bulkcert.json_lines import utc
from bulkcert.model import Outcome
from bulkcert.observer import RunView
from bulkcert.quantities import count, duration, moment, number, rate
from bulkcert.rules.gate import open_ended
from bulkcert.store.manifest import called


def status_object(view: RunView) -> dict[str, Any]:
    """The object of `status --json`; docs/output.md describes it."""
    deadline_s = view.campaign.deadline_s
    figures = view.summary.as_object() | {
        "state": str(view.state),
        "in_flight": view.in_flight,
        "open_requests": view.open_requests,
        "reasons": list(view.reasons),
        "hosts": [host_object(host) for host in view.hosts],
        "note": _note(view),
        "seconds_left": None,
        "deadline": None if deadline_s is None else utc(deadline_s),
        "slack_seconds": None if view.slack_s is None else round(view.slack_s, 1),
        **campaign_object(view.campaign),
    }
    if view.noted:
        figures |= {
            "requests_per_second": round(view.rate, 1),
            "exit_code": None,
            "finished_at": None,
        }
        if view.ends_at is not None:
            figures["seconds_left"] = round(max(0.0, view.ends_at - view.at), 1)
    return figures


def status_lines(view: RunView) -> Iterator[str]:
    """Where a run stands, for people."""
    figures, campaign = status_object(view), view.campaign
    yield headline(view.state, figures)
    yield from (f"  {reason}" for reason in view.reasons)
    yield from figure_lines(view.state, figures)
    yield from error_lines(view.summary)
    if figures["seconds_left"] is not None:
        once = ", once it goes on" if open_ended(view.reasons) else ""
        yield f"  about {duration(figures['seconds_left'])} left{once}"
    if line := deadline_line(view):
        yield f"  {line}"
    if figures["note"]:
        yield f"  {figures['note']}"
    yield from (f"  {line}" for line in host_lines(view))
    in_force = campaign.in_force if view.is_running else None
    for lines in (
        wave_lines(campaign),
        control_lines(campaign, in_force),
        amendment_lines(campaign),
        override_lines(campaign),
        abort_lines(campaign),
    ):
        yield from (f"  {line}" for line in lines)
    for step in next_steps(view):
        yield f"  {step.aim}"
        yield from (f"    {command}" for command in step.commands)


def headline(state: RunState, figures: Mapping[str, Any]) -> str:
    """Where a run stands, in one sentence.

    Args:
        state: whether a process works on it, or what is left to do.
        figures: those of `status --json`.
    """
    elapsed = duration(figures["elapsed_seconds"])
    how = {
        RunState.NOT_BEGUN: "not begun",
        RunState.RUNNING: f"running for {elapsed}",
        RunState.INTERRUPTED: f"interrupted after {elapsed}",
        RunState.ABORTED: f"stopped by its own rules after {elapsed}",
        RunState.OVER: f"finished in {elapsed}",
    }[state]
    outcomes = {outcome: figures[outcome] for outcome in Outcome}
    outcomes[Outcome.PENDING] += figures["in_flight"]
    name = called(figures["name"], rehearsal=figures.get("rehearsal", False))
    return f"{name}: {how}, {how_far(outcomes)}"


def figure_lines(state: RunState, figures: Mapping[str, Any]) -> Iterator[str]:
    """The outcomes and the requests of a run.

    Args:
        state: whether a process works on it, or what is left to do.
        figures: those of `status --json`.
    """
    running = state is RunState.RUNNING
    yield from outcome_lines(figures, Outcome)
    if running:
        yield count_line("in flight", figures["in_flight"])
    allowed = f", {number(figures['ceiling'])}/s allowed" if "ceiling" in figures else ""
    yield (
        f"  {count(figures['requests'], 'request')}, {rate(figures['requests_per_second'])}"
        f" {'recently' if running else 'on average'}{allowed},"
        f" {figures['throttled']:,} throttled"
    )


def deadline_line(view: RunView) -> str:
    """The deadline, and whether it will be met; empty without one."""
    if (deadline_s := view.campaign.deadline_s) is None:
        return ""
    slack = ""
    if (slack_s := view.slack_s) is not None:
        late = f", which it will miss by about {duration(-slack_s)}"
        slack = f", with about {duration(slack_s)} to spare" if slack_s >= 0 else late
    return f"deadline {moment(deadline_s)}{slack}"


def _note(view: RunView) -> str:
    if view.all_silent_s is not None:
        who = (
            "no host has recorded anything"
            if len(view.hosts) > 1
            else "the process has recorded nothing"
        )
        return f"{who} for {duration(view.all_silent_s)}"
    return view.note
