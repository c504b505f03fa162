"""Where a campaign stands: as lines for people, and as the JSON of `status`.

In: the state of a campaign. Out: lines and objects. Nothing in here writes to a stream or a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bulkcert.campaign_state import CampaignState, WaveCounts
from bulkcert.control import ControlEntry
from bulkcert.json_lines import utc
from bulkcert.model import Outcome, State
from bulkcert.quantities import moment, number
from bulkcert.report.summary import outcome_counts
from bulkcert.store.base import Abort


def wave_lines(campaign: CampaignState) -> Iterator[str]:
    """The waves of a run below a title."""
    if campaign.waves:
        yield "Waves:"
    yield from (f"  {row}" for row in wave_rows(campaign))


def wave_rows(campaign: CampaignState) -> Iterator[str]:
    """The waves in columns: which are done, how far the current one is, and what is to come."""
    rows = [
        (each.wave.name, f"{each.total:,}", each.state.replace("_", " "), _counts(each))
        for each in campaign.waves
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    for name, total, state, counts in rows:
        cells = (name.ljust(widths[0]), total.rjust(widths[1]), state.ljust(widths[2]), counts)
        yield "  ".join(cells).rstrip()


def control_lines(
    campaign: CampaignState, in_force: int | None, when: Callable[[float], str] = moment
) -> Iterator[str]:
    """The controls, each with who asked for it, when and why.

    Args:
        campaign: where the campaign stands.
        in_force: number of the last one that is in force in the running process; None if there is
            no process.
        when: says when that was.
    """
    control = campaign.control
    entries = []
    if control.paused:
        entries.append(("paused", control.paused))
    if control.rate:
        entries.append((f"rate {number(float(control.rate.value))}/s", control.rate))
    entries += [(f"go after {wave}", entry) for wave, entry in control.goes.items()]
    if entries:
        yield "Controls:"
    for what, entry in entries:
        late = in_force is not None and entry.id > in_force
        yield f"  {what}{' (not in force yet)' if late else ''} {_by(entry, when)}"


def amendment_lines(campaign: CampaignState) -> Iterator[str]:
    """What was changed since the run was planned, by whom and when."""
    for each in campaign.amendments:
        yield f"Amended at {moment(each.at)} by {each.who}: {'; '.join(each.changes)}"


def override_lines(campaign: CampaignState) -> Iterator[str]:
    """What has stopped the run before, and who has decided to go on."""
    for abort in campaign.overridden:
        yield f"Stopped itself at {moment(abort.at)}, abort {abort.id}: {abort.text}"
        if abort.overridden_at is not None:
            because = f": {abort.why}" if abort.why else ""
            yield f"  overridden by {abort.who} at {moment(abort.overridden_at)}{because}"


def abort_lines(campaign: CampaignState) -> Iterator[str]:
    """What has stopped the run."""
    if (abort := campaign.abort) is not None:
        yield f"It has stopped itself at {moment(abort.at)}, abort {abort.id}:"
        yield f"  {abort.text}"


def campaign_object(campaign: CampaignState) -> dict[str, Any]:
    """The campaign in the object of `status --json`; docs/output.md describes it."""
    control, abort = campaign.control, campaign.abort
    return {
        "waves": [
            {
                "name": each.wave.name,
                "state": str(each.state),
                "total": each.total,
                **{str(outcome): many for outcome, many in _outcomes(each).items()},
                "in_flight": each.counts.get(State.IN_FLIGHT, 0),
            }
            for each in campaign.waves
        ],
        "controls": {
            "paused": _entry(control.paused),
            "rate": _entry(control.rate),
            "go": {wave: _entry(entry) for wave, entry in control.goes.items()},
            "pause_file": campaign.pause_file,
        },
        "amendments": [
            {"at": utc(each.at), "who": each.who, "changes": list(each.changes)}
            for each in campaign.amendments
        ],
        "abort": None if abort is None else _abort(abort),
        "overridden": [
            _abort(each)
            | {"overridden_at": utc(each.overridden_at), "who": each.who, "why": each.why}
            for each in campaign.overridden
            if each.overridden_at is not None
        ],
    }


def _abort(abort: Abort) -> dict[str, Any]:
    return {"id": abort.id, "at": utc(abort.at), "rule": abort.rule, "text": abort.text}


def _counts(wave: WaveCounts) -> str:
    """The outcomes in a wave that has begun, without those that no operation has."""
    outcomes = _outcomes(wave)
    if outcomes[Outcome.PENDING] == wave.total:
        return ""
    shown = [(outcome.replace("_", " "), many) for outcome, many in outcomes.items()]
    shown.append(("in flight", wave.counts.get(State.IN_FLIGHT, 0)))
    return ", ".join(f"{many:,} {name}" for name, many in shown if many)


def _outcomes(wave: WaveCounts) -> dict[Outcome, int]:
    """Number of operations by outcome; what is in flight is not unknown."""
    outcomes = outcome_counts(wave.counts)
    outcomes[Outcome.UNKNOWN] -= wave.counts.get(State.IN_FLIGHT, 0)
    return outcomes


def _by(entry: ControlEntry, when: Callable[[float], str]) -> str:
    because = f": {entry.why}" if entry.why else ""
    return f"by {entry.who} at {when(entry.at)}{because}"


def _entry(entry: ControlEntry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {
        "id": entry.id,
        "at": utc(entry.at),
        "who": entry.who,
        "why": entry.why,
        "value": entry.value or None,
    }
