"""What lets a run go on, and the commands for it.

In: where a run stands. Out: the next steps, each with the commands to copy. Reads the job files
beside the run; writes nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import NamedTuple

from bulkcert.approval.verdict import approve_command
from bulkcert.campaign_state import CampaignState
from bulkcert.control import PAUSE_FILE
from bulkcert.found_runs import RunState
from bulkcert.model import Outcome
from bulkcert.observer import RunView
from bulkcert.quantities import count
from bulkcert.rejections import skip_options
from bulkcert.rules import MAX_OPERATIONS
from bulkcert.runs import job_file_of, run_command
from bulkcert.store.base import Abort
from bulkcert.store.place import SharedPlace


class NextStep(NamedTuple):
    """Something that a person can do about a run.

    Attributes:
        aim: what for, as a phrase that ends with a colon.
        commands: what does it, in order.
    """

    aim: str
    commands: tuple[str, ...]


def next_steps(view: RunView) -> Iterator[NextStep]:
    """What lets a run go on, the most urgent first; nothing where it goes on by itself."""
    run = shlex.quote(str(view.directory.path))
    if view.state in (RunState.RUNNING, RunState.INTERRUPTED, RunState.NOT_BEGUN):
        yield from _lifting_what_holds_it(view.campaign, run)
    match view.state:
        case RunState.NOT_BEGUN:
            yield NextStep("To begin it:", (_run_command(view),))
        case RunState.INTERRUPTED:
            yield NextStep("To continue from here:", (_joining(view) or _run_command(view),))
        case RunState.ABORTED if view.campaign.abort is not None:
            yield _after_abort(view.campaign.abort, view)
        case RunState.OVER:
            yield from _trying_again(view, run)


def _joining(view: RunView) -> str:
    """The command that continues a run in a shared store on any host; empty if it is elsewhere."""
    place = view.directory.place
    if not isinstance(place, SharedPlace) or view.manifest.rehearsal:
        return ""
    return f"bulkcert work {shlex.quote(place.run)} --store {shlex.quote(place.url)}"


def _run_command(view: RunView) -> str:
    return run_command(view.directory.path, view.manifest.name, view.manifest.rehearsal)


def _lifting_what_holds_it(campaign: CampaignState, run: str) -> Iterator[NextStep]:
    if campaign.control.paused:
        yield NextStep("To resume it:", (f"bulkcert control resume {run}",))
    if campaign.pause_file is not None:
        yield NextStep("To resume it:", (f"rm {run}/{PAUSE_FILE}",))
    if wave := campaign.waits_for_go:
        command = f"bulkcert control go {run} {shlex.quote(wave)}"
        yield NextStep("To let it go on to the next wave:", (command,))


def _after_abort(abort: Abort, view: RunView) -> NextStep:
    manifest, going_on = view.manifest, _run_command(view)
    if abort.rule == MAX_OPERATIONS:
        aim = "If the others are meant too, raise protect.max_operations in the job file, and run:"
        return NextStep(aim, (f"{going_on} --amend",))
    after, commands = "", [f"{going_on} --override {abort.id} --why TEXT"]
    if required := manifest.approvals_required:
        after = f", after {count(required, 'approval')}"
        job_file = job_file_of(view.directory.path, manifest.name, manifest.rehearsal)
        skipped = skip_options(manifest.left_out, manifest.protected)
        commands.insert(0, approve_command(job_file, skipped, abort.id))
    aim = f"Find out why before you go on. To go on nevertheless{after}:"
    return NextStep(aim, tuple(commands))


def _trying_again(view: RunView, run: str) -> Iterator[NextStep]:
    if view.summary.failed:
        outcome, aim = Outcome.FAILED, "To list what failed, and to retry it once that is fixed:"
    elif view.summary.unknown:
        outcome, aim = Outcome.UNKNOWN, "To list what is unknown, and to look it up again:"
    else:
        return
    listing = f"bulkcert results {run} --outcome {outcome}"
    yield NextStep(aim, (listing, f"{_run_command(view)} --retry-failed"))
