"""What the page of a plan says besides the plan itself.

In: a job, its plan and the time. Out: an `Outlook`: when the run would be over, and what people and
earlier runs have to do with it. Reads the approvals beside the job, and what this user's earlier
runs have left; writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bulkcert.forecast import Forecast, Work
from bulkcert.job import Job
from bulkcert.plan import Plan
from bulkcert.rules.rehearsal import rehearsed

if TYPE_CHECKING:
    from bulkcert.approval.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is known about a run that would begin now.

    Attributes:
        now_s: the time, as Unix time in seconds.
        rehearsal: the run is a rehearsal: windows, waits, people and the deadline do not count.
        deadline_s: when it must be over; None for no deadline.
        forecast: when it would be over; None if the window is not open for long enough.
        latest: the same for the last start with which it meets the deadline; None if there is no
            deadline, or no time would do.
        approvals: who has approved the plan; None if nobody has to.
    """

    now_s: float
    rehearsal: bool = False
    deadline_s: float | None = None
    forecast: Forecast | None = None
    latest: Forecast | None = None
    approvals: Verdict | None = None


def outlook(
    job: Job, plan: Plan, now_s: float, *, rehearsal: bool = False, abort: str = ""
) -> Outlook:
    """Return what is known about the run of a plan.

    Args:
        job: the job.
        plan: its plan.
        now_s: the time.
        rehearsal: the run is a rehearsal.
        abort: the id of an abort, if approvals of going on after that are wanted.

    Raises:
        ApprovalError: the job needs approvals, and they can't be judged.
    """
    work = Work.of(
        rehearsed(job.rules) if rehearsal else job.rules,
        [(wave.name, wave.targets) for wave in plan.waves] or [("", plan.operations)],
        s_per_operation=job.requests_per_operation / job.ceiling,
    )
    deadline_s, approvals = None if rehearsal else job.deadline_s, None
    latest_s = None if deadline_s is None else work.latest_start(deadline_s)
    if job.rules.needed_approval and not rehearsal:
        # few jobs need approvals
        from bulkcert.approval.statement import Subject
        from bulkcert.approval.verdict import judge

        approvals = judge(Subject(job=job, plan=plan.hash, run=plan.number, abort=abort), now_s)
    return Outlook(
        now_s=now_s,
        rehearsal=rehearsal,
        deadline_s=deadline_s,
        forecast=work.forecast(now_s),
        latest=None if latest_s is None else work.forecast(latest_s),
        approvals=approvals,
    )
