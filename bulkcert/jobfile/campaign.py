"""The rules of a campaign, from the values of their sections; and what these must satisfy together.

In: the parsed values by section. Out: `Rules`, and who is notified. Paths are relative to the
folder of the job file; the files are not opened here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bulkcert.job import Notify
from bulkcert.jobfile.faults import Faults
from bulkcert.jobfile.names import suggestion
from bulkcert.jobfile.sections import REQUIRED
from bulkcert.providers.base import Action
from bulkcert.rules import Approval, Check, Protect, Rules
from bulkcert.rules.abort import Limit
from bulkcert.rules.rollout import ALL, CANARY, Rollout, Size, fault
from bulkcert.rules.window import Window

SECTIONS = ("approval", "protect", "rollout", "abort", "check", "window")

_Values = Mapping[str, Any]


def campaign_rules(
    document: _Values, values: Mapping[str, _Values], action: Action, folder: Path, faults: Faults
) -> Rules:
    """Return the rules of a job.

    Args:
        document: the job file, to know which sections it has.
        values: the parsed values of each section.
        action: what the job does.
        folder: what paths are relative to.
        faults: gets what is wrong.
    """
    given = {name for name in SECTIONS if isinstance(document.get(name), dict)}
    for place in ("check.command", "window.open", "window.zone"):
        _require(place, document, faults)
    if not action.changes and (few := given.intersection({"approval", "protect"})):
        faults.add(min(few), f"does not apply to the action {action.name}, which only reads")
    rollout = _rollout(values["rollout"], faults) if "rollout" in given else None
    if "canary" in values["abort"] and not (rollout and rollout.canary):
        faults.add("abort.canary", "needs rollout.canary: without it there is no canary")
    if faults:
        return Rules()  # what is missing can't be built; the faults say what
    return Rules(
        approval=_approval(values["approval"], folder, faults) if "approval" in given else None,
        protect=_protect(values["protect"], folder) if "protect" in given else None,
        rollout=rollout,
        abort={name: _limit(value) for name, value in values["abort"].items()},
        check=_check(values["check"]) if "check" in given else None,
        window=_window(values["window"]) if "window" in given else None,
    )


def notifications(document: _Values, values: _Values, faults: Faults) -> Notify | None:
    """Return the command that gets the events; None if there is none.

    Args:
        document: the job file, to know whether it has the section.
        values: the parsed values of the section.
        faults: gets what is wrong.
    """
    _require("notify.command", document, faults)
    if "command" not in values:
        return None
    return Notify(command=values["command"], **_seconds(values, "timeout"))


def _require(place: str, document: _Values, faults: Faults) -> None:
    """Require a key if the job file has its section."""
    section, _, key = place.partition(".")
    given = document.get(section)
    if isinstance(given, dict) and key not in given:
        faults.add(place, REQUIRED[place])


def _approval(values: _Values, folder: Path, faults: Faults) -> Approval:
    required = values.get("required", 0)
    if required and "signers" not in values:
        faults.add("approval.signers", "is missing; it names the people who may approve")
    return Approval(
        required=required,
        signers=folder / values["signers"] if "signers" in values else None,
        revoked=folder / values["revoked"] if "revoked" in values else None,
        **{"valid_s": values["valid"]} if "valid" in values else {},
    )


def _protect(values: _Values, folder: Path) -> Protect:
    return Protect(
        never=folder / values["never"] if "never" in values else None,
        max_operations=values.get("max_operations"),
    )


def _rollout(values: _Values, faults: Faults) -> Rollout:
    canary = values.get("canary", 0)
    sizes = (Size(CANARY, targets=canary),) if canary else ()
    sizes += values.get("waves", ())
    if problem := fault(sizes):
        faults.add("rollout.waves", problem)
    if "spread_by" in values and not canary:
        faults.add("rollout.spread_by", "needs rollout.canary: it says how the canary is chosen")
    known = [size.name for size in sizes]
    for name in values.get("confirm", ()):
        if name not in (*known, ALL):
            faults.add(
                "rollout.confirm",
                f'has "{name}", which is not a wave; ' + suggestion(name, (*known, ALL)),
            )
    return Rollout(
        order=values.get("order", ()),
        canary=canary,
        spread_by=values.get("spread_by", ""),
        sizes=sizes,
        between_s=values.get("between", 0.0),
        confirm=frozenset(values.get("confirm", ())),
    )


def _limit(value: Limit | int) -> Limit:
    return value if isinstance(value, Limit) else Limit(value, None, str(value))


def _check(values: _Values) -> Check:
    return Check(command=values["command"], **_seconds(values, "every", "timeout", "patience"))


def _seconds(values: _Values, *names: str) -> dict[str, float]:
    """The durations that are given, by the names of their attributes."""
    return {f"{name}_s": values[name] for name in names if name in values}


def _window(values: _Values) -> Window:
    return Window(values["open"], values["zone"], frozenset(values.get("closed", ())))
