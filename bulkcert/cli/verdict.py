"""Does a run go on, and if not, why not: in plain words, for people who look at it.

In: a run as somebody sees it now. Out: sentences without a full stop. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum

from bulkcert.cli.hosts_screen import short_names
from bulkcert.found_runs import RunState
from bulkcert.model import Outcome
from bulkcert.observer import RunView
from bulkcert.quantities import count, duration, moment, rate
from bulkcert.rules.gate import ReasonKind

_MOST_REASONS = 3
"""How many reasons are said that not all hosts have."""


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
    said = [*map(_plain, view.reasons), *_of_hosts(view)]
    if not view.hosts:
        return Tone.WAITS, ["a process has taken it up, and has sent nothing yet"]
    control, began_at = view.campaign.control, max(host.began_at for host in view.hosts)
    if view.all_silent_s is not None:
        return Tone.BAD, [f"no sign of life: {_silent(view)}", *said]
    if view.campaign.abort is not None:
        return Tone.BAD, [f"stopping itself: {view.campaign.abort.text}", *said]
    if control.stop and control.stop.at >= began_at:
        waiting = count(view.open_requests, "request is", "requests are")
        return Tone.WAITS, [f"stopping; {waiting} open", str(control.stop), *said]
    if any(reason.startswith(ReasonKind.HALF_OPEN) for reason in view.reasons):
        return Tone.BAD, said
    if not all(map(_only_slows, view.reasons)):
        return Tone.WAITS, said
    if not view.noted:
        return Tone.GOOD, ["running, no figures yet"]
    left = "" if view.ends_at is None else f", about {duration(view.ends_at - view.at)} left"
    on = f" on {count(len(view.hosts), 'host')}" if view.is_shared else ""
    return Tone.GOOD, [f"running{on}, {rate(view.rate)}{left}", *said]


def _of_hosts(view: RunView) -> Iterator[str]:
    """What holds only some of the hosts up: at most so many of them that the rest has room."""
    names = short_names(view.hosts)
    differing = [
        (names[id(host)], _plain(reason)) for host in view.hosts for reason in view.reasons_of(host)
    ]
    silent = [names[id(host)] for host in view.hosts if view.silent_s(host) is not None]
    if view.is_shared and silent and view.all_silent_s is None:
        yield f"silent: {_listed(silent)}"
    kinds = Counter(reason for _, reason in differing)
    for reason, many in kinds.most_common(_MOST_REASONS):
        where = next(name for name, each in differing if each == reason)
        if many > 1:
            where = f"{many} of {len(view.hosts)} hosts"
        yield f"{reason} (on {where})"


def _silent(view: RunView) -> str:
    """Which processes have noted nothing, and for how long."""
    assert view.all_silent_s is not None
    for_s = duration(view.all_silent_s)
    if len(view.hosts) > 1:
        return f"none of {len(view.hosts)} hosts has noted anything for {for_s}"
    [host] = view.hosts
    return f"process {host.pid} on {host.name} has noted nothing for {for_s}"


def _only_slows(reason: str) -> bool:
    """Whether requests leave nevertheless."""
    return reason.startswith(f"{ReasonKind.THROTTLED} (slowed")


def _of_interrupted(view: RunView) -> tuple[Tone, list[str]]:
    pauses = list(map(_plain, view.reasons))
    if view.last_end is not None and view.last_end.data.get("exit_code") is not None:
        why = view.last_end.data["why"].removesuffix(".")
        return Tone.WAITS, [f"interrupted: {why}" if why else "interrupted", *pauses]
    silent = [host for host in view.gone if host.is_live]  # nobody was left to fence them
    if len(silent) > 1:
        hosts = f"its hosts {_listed(list(short_names(silent).values()))}"
        return Tone.BAD, [f"interrupted: {hosts} ended without a word, as if killed", *pauses]
    which = ""
    if view.last_start is not None:
        process = view.last_start.data["process"]
        which = f" {process['pid']} on {process['host']}"
    gone = f"its process{which} ended without a word, as if killed"
    return Tone.BAD, [f"interrupted: {gone}", *pauses]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_REASONS
    return ", ".join(names[:_MOST_REASONS]) + (f" and {more} more" if more > 0 else "")


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
