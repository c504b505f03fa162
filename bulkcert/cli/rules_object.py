"""What `plan --json` says about the rules of a campaign; docs/output.md describes it.

In: a job, its plan, and an `Outlook`. Out: JSON objects. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from bulkcert.cli.outlook import Outlook
from bulkcert.forecast import Forecast
from bulkcert.job import Job, Notify
from bulkcert.json_lines import utc
from bulkcert.model import Target
from bulkcert.plan import Plan
from bulkcert.rules import Check
from bulkcert.rules.window import Window
from bulkcert.store.sqlite import Breakdown

if TYPE_CHECKING:
    from bulkcert.approval.verdict import Approved, Verdict

_Value = TypeVar("_Value")


def rules_object(job: Job, plan: Plan, outlook: Outlook) -> dict[str, Any]:
    """The keys that the rules of a campaign add to the object of a plan."""
    rules, rollout, latest = job.rules, job.rules.rollout, outlook.latest
    names = [wave.name for wave in plan.waves]
    return {
        "order": [key._asdict() for key in (rollout.order if rollout else ())],
        "breakdown": [_breakdown(each) for each in plan.breakdown],
        "waves": [
            {
                "name": wave.name,
                "targets": wave.targets,
                "first": _target(wave.first),
                "last": _target(wave.last),
                "confirm": bool(rollout and rollout.confirms(wave.name, names)),
            }
            for wave in plan.waves
        ],
        "between_seconds": rollout.between_s if rollout else None,
        "abort": {rule: dataclasses.asdict(limit) for rule, limit in rules.abort.items()},
        "check": _optional(_check, rules.check),
        "notify": _optional(_notify, job.notify),
        "max_operations": rules.protect.max_operations if rules.protect else None,
        "window": rules.window and _window(rules.window, outlook.now_s),
        "approvals": _optional(_approvals, outlook.approvals),
        "deadline": _optional(utc, outlook.deadline_s),
        "latest_start": latest and utc(latest.start_s),
        "forecast": outlook.forecast and _forecast(outlook.forecast, outlook.deadline_s),
    }


def _optional(describe: Callable[[_Value], Any], value: _Value | None) -> Any:
    return None if value is None else describe(value)


def _target(target: Target) -> dict[str, Any]:
    return {"line": target.line, "target": target.fields}


def _breakdown(breakdown: Breakdown) -> dict[str, Any]:
    values = [{"value": value, "targets": targets} for value, targets in breakdown.values]
    return {**dataclasses.asdict(breakdown), "kind": str(breakdown.kind), "values": values}


def _check(check: Check) -> dict[str, Any]:
    return {
        "command": list(check.command),
        "every_seconds": check.every_s,
        "timeout_seconds": check.timeout_s,
        "patience_seconds": check.patience_s,
    }


def _notify(notify: Notify) -> dict[str, Any]:
    return {"command": list(notify.command), "timeout_seconds": notify.timeout_s}


def _window(window: Window, now_s: float) -> dict[str, Any]:
    return {
        "open": [str(opening) for opening in window.openings],
        "closed": [day.isoformat() for day in sorted(window.closed)],
        "zone": window.zone.key,
        "is_open": window.is_open(now_s),
        "changes_at": _optional(utc, window.next_change(now_s)),
    }


def _approvals(verdict: Verdict) -> dict[str, Any]:
    return {
        "required": verdict.required,
        "missing": verdict.missing,
        "approved": list(map(approved_object, verdict.approved)),
        "not_counted": [dataclasses.asdict(refused) for refused in verdict.refused],
        "waiting_for": list(verdict.waiting_for),
    }


def approved_object(approved: Approved) -> dict[str, Any]:
    """One approval that counts."""
    return {
        "name": approved.signer.name,
        "fingerprint": approved.signer.fingerprint,
        "expires_at": utc(approved.expires_s),
    }


def _forecast(forecast: Forecast, deadline_s: float | None) -> dict[str, Any]:
    slack_s = None if deadline_s is None else round(forecast.slack_s(deadline_s), 3)
    return {
        "seconds": round(forecast.duration_s, 3),
        "sending_seconds": round(forecast.sending_s, 3),
        "waiting_seconds": round(forecast.waiting_s, 3),
        "closed_seconds": round(forecast.closed_s, 3),
        "confirmations": forecast.goes,
        "over_at": utc(forecast.end_s),
        "slack_seconds": slack_s,
        "costs_most": forecast.costs_most[0],
    }
