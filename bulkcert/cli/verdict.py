"""Does a run go on, and if not, why not: in plain words, for people who look at it.

In: a run as somebody sees it now. Out: sentences without a full stop. Pure.
"""

from __future__ import annotations

from enum import Enum

from bulkcert.found_runs import RunState
from bulkcert.model import Outcome
from bulkcert.observer import RunView
from bulkcert.quantities import count, duration, moment, rate
from bulkcert.rules.gate import ReasonKind


class Tone(Enum):
    """Whether somebody has to do something."""

    GOOD = "it goes on, or is over as it should be"
    WAITS = "it waits for somebody or something"
    BAD = "somebody should look at it now"


def verdict(view: RunView) -> tuple[Tone, list[str]]:
    """Return whether it is well with a run, and the sentences, the most important first."""
    match view.state:
        case RunState.RUNNING:
            return _of_running(view)
        case RunState.NOT_BEGUN:
            return Tone.WAITS, ["not begun", *map(_plain, view.reasons)]
        case RunState.INTERRUPTED:
            return _of_interrupted(view)
        case RunState.ABORTED:
            abort = view.campaign.abort
            assert abort is not None
            at = moment(abort.at)
            return Tone.BAD, [f"stopped itself: {abort.text}", f"abort {abort.id}, {at}"]
        case _:
            return _of_over(view)


def _of_running(view: RunView) -> tuple[Tone, list[str]]:
    said = list(map(_plain, view.reasons))
    if not view.processes:
        return Tone.WAITS, ["a process has taken it up, and has sent nothing yet"]
    process, session, control = view.processes[-1], view.session, view.campaign.control
    if view.silent_s is not None:
        silent = f"process {process.pid} on {process.host} has noted nothing"
        return Tone.BAD, [f"no sign of life: {silent} for {duration(view.silent_s)}", *said]
    if view.campaign.abort is not None:
        return Tone.BAD, [f"stopping itself: {view.campaign.abort.text}", *said]
    if control.stop and view.last_start and control.stop.at >= view.last_start.at:
        waiting = count(session.open_requests if session else 0, "request is", "requests are")
        return Tone.WAITS, [f"stopping; {waiting} open", str(control.stop), *said]
    if any(reason.startswith(ReasonKind.HALF_OPEN) for reason in view.reasons):
        return Tone.BAD, said
    if not all(map(_only_slows, view.reasons)):
        return Tone.WAITS, said
    if session is None:
        return Tone.GOOD, ["running, no figures yet"]
    left = "" if view.ends_at is None else f", about {duration(view.ends_at - view.at)} left"
    return Tone.GOOD, [f"running, {rate(session.rate)}{left}", *said]


def _only_slows(reason: str) -> bool:
    """Whether requests leave nevertheless."""
    return reason.startswith(f"{ReasonKind.THROTTLED} (slowed")


def _of_interrupted(view: RunView) -> tuple[Tone, list[str]]:
    pauses = list(map(_plain, view.reasons))
    if view.last_end is not None and view.last_end.data["exit_code"] is not None:
        why = view.last_end.data["why"].removesuffix(".")
        return Tone.WAITS, [f"interrupted: {why}" if why else "interrupted", *pauses]
    which = ""
    if view.last_start is not None:
        process = view.last_start.data["process"]
        which = f" {process['pid']} on {process['host']}"
    gone = f"its process{which} ended without a word, as if killed"
    return Tone.BAD, [f"interrupted: {gone}", *pauses]


def _of_over(view: RunView) -> tuple[Tone, list[str]]:
    summary = view.summary
    bad = [
        f"{many:,} {outcome}"
        for outcome, many in summary.outcomes.items()
        if outcome in (Outcome.FAILED, Outcome.UNKNOWN) and many
    ]
    if summary.left_out:
        bad.append(f"{count(summary.left_out, 'row')} left out")
    done = count(summary.total, "operation")
    if bad:
        return Tone.BAD, [f"over: {' and '.join(bad)} of {done}"]
    return Tone.GOOD, [f"over: {done}, all of them done"]


def _plain(reason: str) -> str:
    """A reason why nothing is sent, in a sentence."""
    kind, _, detail = reason.removesuffix(")").partition(" (")
    match kind:
        case ReasonKind.CLOSED:
            return f"outside its {detail}"
        case ReasonKind.HELD:
            return f"held by its {detail}"
        case ReasonKind.WAITING if detail.startswith("go "):
            return f"wave {detail.removeprefix('go ')} is over: somebody has to say go"
        case ReasonKind.HALF_OPEN:
            return f"the {detail.replace('failing', 'has been failing', 1)}"
        case ReasonKind.THROTTLED:
            return f"slowed down by the provider: {detail}"
        case _:
            return f"{kind} {detail}".strip()
