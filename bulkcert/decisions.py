"""Records what people have decided about a run, in its store and in its event log together.

In: the store, in a transaction, and the decision. Out: rows and events that say who, when and why.
Nothing here checks whether the decision may be made.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Protocol

from bulkcert import event_log
from bulkcert.amendment import Amendment
from bulkcert.approval.verdict import Verdict
from bulkcert.control import ControlEntry, Verb, who
from bulkcert.errors import RunDirectoryError
from bulkcert.event_log import Happened, RunEvent
from bulkcert.store.base import Abort, Store, StoredApproval
from bulkcert.store.manifest import Amended, RunManifest


def record_control(
    store: Store, verb: Verb, value: str, why: str, *, at: float, asked_by: str
) -> ControlEntry:
    """Record what somebody asks of the run.

    Args:
        store: the store, in a transaction.
        verb, value: what.
        why: the reason that was given.
        at: when, as Unix time in seconds.
        asked_by: the user and the host.
    """
    number = store.add_control(at, asked_by, why, verb, value)
    entry = ControlEntry(number, at, asked_by, why, verb, value)
    store.add_event(event_log.control(at, entry, in_force=False))
    return entry


def record_override(store: Store, abort_id: str, why: str, *, forget: bool = True) -> None:
    """Record that the run goes on after an abort.

    Args:
        store: the store, in a transaction.
        abort_id: which abort.
        why: the reason that was given.
        forget: what was settled before does not count any more.
    """
    at, by = time.time(), who()
    store.override_abort(abort_id, at, by, why, forget=forget)
    store.add_event(event_log.overridden(at, abort_id, by, why))


def record_amendment(
    store: Store, manifest: RunManifest, amendment: Amendment, pending: Abort | None
) -> None:
    """Record that the limits or rules of the run change, which may lift the abort that stops it.

    Args:
        store: the store, in a transaction.
        manifest: what the run was about until now.
        amendment: the change.
        pending: the abort; None if nothing stops the run.

    Raises:
        RunDirectoryError: hosts work on the run, by the rules as they were.
    """
    # first of all, because others wait for the event log while they have what this waits for
    if host := store.keep_hosts_away():
        raise RunDirectoryError(
            f"{host} works on the run by the rules as they were.",
            "Stop all hosts, with `bulkcert control stop`, then run the same command again.",
        )
    at, by, before = time.time(), who(), manifest.plan.hash
    changes = tuple(map(str, amendment.differences))
    entry = Amended(at=at, who=by, before=before, changes=changes)
    store.update_manifest(
        dataclasses.replace(manifest, plan=amendment.plan, amendments=(*manifest.amendments, entry))
    )
    store.count_begun()
    store.add_event(event_log.amended(at, by, changes, before))
    if pending is not None and amendment.lifts(pending.rule):
        record_override(store, pending.id, "; ".join(changes), forget=False)


class Recheckable(Protocol):
    """A store that can lose commits: a shared one."""

    def recheck(self, *, force: bool) -> int:
        """Put everything that is not settled in doubt; return how much."""

    def now(self) -> float:
        """The clock of the store."""

    def add_event(self, happened: Happened) -> RunEvent:
        """Append to the event log."""


def record_recheck(store: Recheckable, why: str, *, force: bool = False) -> int:
    """Record that a run goes on after its store has lost commits.

    Args:
        store: the store, in a transaction.
        why: the reason that was given.
        force: also if nobody has noticed that something is lost.

    Returns:
        How many operations are looked up first.

    Raises:
        ControlError: nothing is lost, or hosts still work on the run.
    """
    operations = store.recheck(force=force)
    store.add_event(event_log.rechecked(store.now(), who(), why, operations))
    return operations


def record_approvals(store: Store, verdict: Verdict) -> None:
    """Record the approvals with which the run begins, or goes on.

    Args:
        store: the store, in a transaction.
        verdict: who has approved what.
    """
    at = time.time()
    for approved in verdict.approved:
        approval = StoredApproval(
            at=at,
            abort=verdict.abort,
            who=approved.signer.name,
            key=approved.signer.fingerprint,
            expires_at=approved.expires_s,
            statement=approved.file.statement,
            signature=approved.file.signature,
            signers=verdict.signers,
        )
        store.add_approval(approval)
        store.add_event(
            event_log.approved(
                at,
                who=approval.who,
                key=approval.key,
                expires_at=approval.expires_at,
                statement=approval.statement,
                abort=approval.abort,
            )
        )
