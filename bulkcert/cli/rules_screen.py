"""What the plan page says about the rules of a campaign.

In: a job, its plan, and an `Outlook`. Out: lines. Pure. A job without rules and without a deadline
has as good as none.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from zoneinfo import ZoneInfo

from bulkcert.cli.format import cut, entry, width
from bulkcert.cli.outlook import Outlook
from bulkcert.forecast import Forecast
from bulkcert.job import Job
from bulkcert.model import Target
from bulkcert.plan import Plan
from bulkcert.quantities import count, duration, moment
from bulkcert.rules.abort import Limit
from bulkcert.rules.ordering import Kind
from bulkcert.rules.rollout import CANARY, OrderKey, Rollout
from bulkcert.store.sqlite import Breakdown
from bulkcert.values import printable

MOST_VALUES = 5
"""Of a column, the page shows this many values. JSON has all that the plan has."""

_TO = " to "
_FEWEST_CELLS = 10
_VALUE_CELLS = 30
"""Of a value, this much is shown."""


# ---- what is done, in which order


def breakdown_lines(plan: Plan) -> Iterator[str]:
    """The targets by the values of the columns that rules use."""
    for number, each in enumerate(plan.breakdown):
        yield entry("" if number else "targets by", f"{each.column}: {_values(each)}")


def _values(breakdown: Breakdown) -> str:
    shown = breakdown.values[:MOST_VALUES]
    parts = [f"{cut(value, _VALUE_CELLS)} ({targets:,})" for value, targets in shown]
    hidden = breakdown.values[MOST_VALUES:]
    if not breakdown.values and breakdown.lowest:
        parts = [f"{breakdown.lowest} to {breakdown.highest}"]
    elif others := breakdown.other_values + len(hidden):
        targets = breakdown.other_targets + sum(targets for _, targets in hidden)
        parts.append(f"{count(others, 'other')} ({targets:,})")
    if breakdown.empty:
        parts.append(f"empty ({breakdown.empty:,})")
    return ", ".join(parts)


def rollout_lines(job: Job, plan: Plan, columns: int | None = None) -> Iterator[str]:
    """The order and the waves of a run, and what must happen between two of them.

    Args:
        job: the job.
        plan: its plan.
        columns: the width of the terminal, if it is one; names of targets are cut to fit.
    """
    rollout = job.rules.rollout
    if rollout is None:
        return
    if rollout.order:
        yield entry("order", f"by {', then '.join(_ordered(key, plan) for key in rollout.order)}")
    name_cells = max(width(wave.name) for wave in plan.waves)
    count_cells = max(width(f"{wave.targets:,}") for wave in plan.waves)
    for number, wave in enumerate(plan.waves):
        row = f"{wave.name:{name_cells}} {wave.targets:>{count_cells},}: "
        line = entry("" if number else "waves", row)
        ends = [wave.first, wave.last][: wave.targets]
        left = columns and max(_FEWEST_CELLS, (columns - width(line) - len(_TO)) // 2)
        yield line + _TO.join(_named(job, target, left) for target in ends)
    if len(plan.waves) > 1:
        yield entry("after a wave", _between(job, rollout, plan))


def _ordered(key: OrderKey, plan: Plan) -> str:
    """A column of the order, and what comes first: text is ordered by its characters."""
    [column] = [each for each in plan.breakdown if each.column == key.column]
    what = str(column.kind)
    if column.kind is Kind.TEXT and len(column.values) <= MOST_VALUES and not column.other_values:
        ordered = sorted((value for value, _ in column.values), reverse=key.descending)
        what = ", ".join(cut(value, _VALUE_CELLS) for value in ordered)
    return f"{key.column}{' descending' * key.descending} ({what})"


def _between(job: Job, rollout: Rollout, plan: Plan) -> str:
    names = [wave.name for wave in plan.waves]
    steps = []
    if rollout.between_s:
        steps.append(f"it waits for {duration(rollout.between_s)}")
    if job.rules.check:
        steps.append("it checks")
    confirmed = [name for name in names[:-1] if rollout.confirms(name, names)]
    if confirmed:
        after = "" if len(confirmed) == len(names) - 1 else f" (after {' and '.join(confirmed)})"
        steps.append(f"somebody must say go{after}")
    return ", then ".join(steps) or "the next one begins at once"


def _named(job: Job, target: Target, cells: int | None) -> str:
    """The values that name the device of a target, cut to a width."""
    fields = {**job.common, **target.fields}
    ways = ([field.name for field in way] for way in job.action.identifiers)
    way = next(way for way in ways if fields.keys() >= set(way))
    name = printable("/".join(str(fields[field]) for field in way))
    return name if cells is None else cut(name, cells)


# ---- what stops it


def stop_lines(job: Job, plan: Plan) -> Iterator[str]:
    """What would stop the run, and how much may be under way then."""
    rules = job.rules
    stops = [_tolerated(rule, limit) for rule, limit in rules.abort.items()]
    if check := rules.check:
        patience = duration(check.patience_s)
        stops.append(f"the check says so, or holds the run, alone, for {patience}")
    if rules.protect and rules.protect.max_operations is not None:
        stops.append(f"it would claim more than {count(rules.protect.max_operations, 'operation')}")
    for number, stop in enumerate(stops):
        yield entry("" if number else "stops itself", stop)
    if stops:
        under_way = count(min(job.limits.in_flight, plan.operations), "request")
        yield entry("", f"at most {under_way} may be under way then")
    if check:
        every, timeout = duration(check.every_s), duration(check.timeout_s)
        yield entry("check", f"{shlex.join(check.command)}, every {every}, killed after {timeout}")
    if plan.never_touch:
        entries = count(plan.never_touch, "entry", "entries")
        yield entry("never touched", f"{entries}; checked again before each operation")


def _tolerated(rule: str, limit: Limit) -> str:
    """What trips a rule of `[abort]`, in words."""
    kinds = {"failed": "failed", "unknown": "unknown", CANARY: "failed or unknown in the canary"}
    among = f" of the last {limit.among:,} settled ({limit.written})" if limit.among else ""
    many = f"more than {limit.most:,}" if limit.most else "any"
    return f"{many} {kinds.get(rule, f'with the code {rule}')}{among}"


def notify_lines(job: Job) -> Iterator[str]:
    """The command that gets the events."""
    if notify := job.notify:
        killed = f"killed after {duration(notify.timeout_s)}"
        yield entry("notify", f"{shlex.join(notify.command)}, {killed}")


# ---- when


def window_lines(job: Job, outlook: Outlook) -> Iterator[str]:
    """The change window, and whether it is open."""
    window = job.rules.window
    if window is None:
        return
    hours = ", ".join(map(str, window.openings))
    closed = ", ".join(day.isoformat() for day in sorted(window.closed))
    yield entry("window", f"{hours}{f'; not on {closed}' if closed else ''}; {window.zone.key}")
    if outlook.rehearsal:
        return
    change_s = window.next_change(outlook.now_s)
    if window.is_open(outlook.now_s):
        until = f" until {moment(change_s, window.zone)}" if change_s else ""
        yield entry("", f"open now{until}")
    else:
        opens = f"opens {moment(change_s, window.zone)}" if change_s else "does not open"
        yield entry("", f"closed now, {opens}")


def time_lines(job: Job, outlook: Outlook, requests: int) -> Iterator[str]:
    """How long the run takes, and when it must begin to meet the deadline.

    Args:
        job: the job.
        outlook: the outlook of its plan.
        requests: the fewest requests that the run takes.
    """
    forecast, for_requests = outlook.forecast, f"for {count(requests, 'request')}"
    if forecast is None:
        never = "the window does not open for long enough within a year"
        yield entry("duration", f"{for_requests}: {never}")
        return
    parts = [f"{duration(forecast.sending_s)} of sending"]
    if round(forecast.waiting_s):
        parts.append(f"{duration(forecast.waiting_s)} between waves")
    if round(forecast.closed_s):
        parts.append(f"{duration(forecast.closed_s)} with the window closed")
    text = f"at least {duration(forecast.duration_s)}, {for_requests}"
    if len(parts) > 1:
        text += f": {', '.join(parts)}"
    if forecast.goes:
        times = "once" if forecast.goes == 1 else f"{forecast.goes} times"
        text += f"; and until somebody says go, {times}"
    yield entry("duration", text)
    if len(parts) > 1 or outlook.deadline_s is not None:
        over = moment(forecast.end_s, _zone(job))
        yield entry("over", f"{over} at the earliest, if it begins now")
    yield from _deadline(job, outlook, forecast)


def _deadline(job: Job, outlook: Outlook, forecast: Forecast) -> Iterator[str]:
    if outlook.deadline_s is None:
        return
    slack_s = forecast.slack_s(outlook.deadline_s)
    slack = f"{duration(slack_s)} to spare" if slack_s >= 0 else f"{duration(-slack_s)} TOO LATE"
    yield entry("deadline", f"{moment(outlook.deadline_s, _zone(job))}: {slack}")
    if outlook.latest is None:
        yield entry("latest start", "none: the window is not open for long enough")
        return
    what, costs_s = outlook.latest.costs_most
    latest = moment(outlook.latest.start_s, _zone(job))
    yield entry("latest start", f"{latest}; most of the time goes into {what}, {duration(costs_s)}")


def _zone(job: Job) -> ZoneInfo | None:
    """Whose wall clock times are shown by; None for that of this machine."""
    return job.rules.window.zone if job.rules.window else None


def time_warnings(outlook: Outlook) -> Iterator[str]:
    """Warn if the deadline can't be met; a deadline stops nothing."""
    if outlook.deadline_s is None:
        return
    missed = "The deadline can't be met"
    if outlook.forecast is not None:
        slack_s = outlook.forecast.slack_s(outlook.deadline_s)
        if slack_s >= 0:
            return
        missed = f"The deadline will be missed by at least {duration(-slack_s)}"
    yield (
        f"{missed}, even if the run begins now. It goes on nevertheless: a deadline raises no rate"
        " and skips no rule."
    )


def rehearsal_lines(job: Job, outlook: Outlook) -> Iterator[str]:
    """What a rehearsal leaves out of the rules."""
    if outlook.rehearsal and (job.rules or job.notify):
        left_out = (
            "without window, check, notify and approvals; waits last a second, and nobody says go"
        )
        yield entry("rehearsal", left_out)


# ---- who has approved it


def approval_lines(job: Job, outlook: Outlook) -> Iterator[str]:
    """Who has approved the plan, and who still may."""
    verdict = outlook.approvals
    if verdict is None:
        return
    text = f"{verdict.required} needed, {len(verdict.approved) or 'none'} so far"
    if verdict.missing and verdict.waiting_for:
        text += f"; {', '.join(verdict.waiting_for[:MOST_VALUES])} may still approve"
    yield entry("approvals", text)
    for approved in verdict.approved:
        until = moment(approved.expires_s, _zone(job))
        yield entry("", f"{approved.signer.name}, {approved.signer.fingerprint}, until {until}")
    for refused in verdict.refused:
        yield entry("", f"not counted: {refused.file}: {refused.why}")
