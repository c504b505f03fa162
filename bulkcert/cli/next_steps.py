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
from bulkcert.quantities import count
from bulkcert.rejections import skip_options
from bulkcert.rules import MAX_OPERATIONS
from bulkcert.rundir import RunDirectory
from bulkcert.runs import job_file_of, run_command
from bulkcert.store.base import Abort
from bulkcert.store.manifest import RunManifest


class NextStep(NamedTuple):
    """Something that a person can do about a run.

    Attributes:
        aim: what for, as a phrase that ends with a colon.
        commands: what does it, in order.
    """

    aim: str
    commands: tuple[str, ...]


def next_steps(
    state: RunState, campaign: CampaignState, manifest: RunManifest, directory: RunDirectory
) -> Iterator[NextStep]:
    """What lets a run go on, the most urgent first; nothing where it goes on by itself.

    Args:
        state: whether a process works on it, or what is left to do.
        campaign: where its campaign stands.
        manifest: what it is about.
        directory: the run directory.
    """
    run = shlex.quote(str(directory.path))
    going_on = run_command(directory.path, manifest.name, manifest.rehearsal)
    match state:
        case RunState.RUNNING:
            yield from _lifting_what_holds_it(campaign, run)
        case RunState.NOT_BEGUN:
            yield from _lifting_what_holds_it(campaign, run)
            yield NextStep("To begin it:", (going_on,))
        case RunState.INTERRUPTED:
            yield from _lifting_what_holds_it(campaign, run)
            yield NextStep("To continue from here:", (going_on,))
        case RunState.ABORTED if campaign.abort is not None:
            yield _after_abort(campaign.abort, manifest, directory, going_on)


def _lifting_what_holds_it(campaign: CampaignState, run: str) -> Iterator[NextStep]:
    if campaign.control.paused:
        yield NextStep("To resume it:", (f"bulkcert control resume {run}",))
    if campaign.pause_file is not None:
        yield NextStep("To resume it:", (f"rm {run}/{PAUSE_FILE}",))
    if wave := campaign.waits_for_go:
        command = f"bulkcert control go {run} {shlex.quote(wave)}"
        yield NextStep("To let it go on to the next wave:", (command,))


def _after_abort(
    abort: Abort, manifest: RunManifest, directory: RunDirectory, going_on: str
) -> NextStep:
    if abort.rule == MAX_OPERATIONS:
        aim = "If the others are meant too, raise protect.max_operations in the job file, and run:"
        return NextStep(aim, (f"{going_on} --amend",))
    after, commands = "", [f"{going_on} --override {abort.id} --why TEXT"]
    if required := manifest.approvals_required:
        after = f", after {count(required, 'approval')}"
        job_file = job_file_of(directory.path, manifest.name, manifest.rehearsal)
        skipped = skip_options(manifest.left_out, manifest.protected)
        commands.insert(0, approve_command(job_file, skipped, abort.id))
    aim = f"Find out why before you go on. To go on nevertheless{after}:"
    return NextStep(aim, tuple(commands))
