"""What an outside command has said about a run. Pure.

In: how the command ended. Out: whether the run may go on. Only a plain "yes" is a yes: a command
that failed, was killed or came too late holds the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

GO_ON, STOP = 0, 10
"""The exit codes that say so; any other one holds the run."""


class Verdict(StrEnum):
    """What a check says."""

    GO = "go"
    HOLD = "hold"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    Attributes:
        began_s, ended_s: Unix times.
        verdict: what it says.
        reason: why, in one line that is safe to show; may be empty if the run may go on.
    """

    began_s: float
    ended_s: float
    verdict: Verdict
    reason: str


def judge(exit_code: int | None, line: str, problem: str = "") -> tuple[Verdict, str]:
    """Judge how a command ended; return the verdict and its reason.

    Args:
        exit_code: its exit code; None if it did not end by itself.
        line: the first line that it printed.
        problem: why it did not end by itself.
    """
    if exit_code is None:
        return Verdict.HOLD, f"{problem}: {line}" if line else problem
    if exit_code == GO_ON:
        return Verdict.GO, line
    verdict = Verdict.ABORT if exit_code == STOP else Verdict.HOLD
    return verdict, line or f"exit code {exit_code}"
