"""What comes out of a scenario, and what the jobs of all scenarios share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scenarios import Scenario

CHECK_SCRIPT = """#!/bin/sh
read code reason < answer
echo "$reason"
exit "$code"
"""

CONNECTIONS: dict[str, dict[str, Any]] = {
    "enos": {"org_id": "o1"},
    "apsaramq": {"instance_id": "i"},
}


@dataclass
class Report:
    """The result of a scenario.

    Attributes:
        scenario: the scenario.
        violations: what should not have happened.
        ends: what was done to processes that were still running.
        codes: the exit codes of all processes.
        summary: the content of `summary.json` at the end.
        seconds: how long it took.
    """

    scenario: Scenario
    violations: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
