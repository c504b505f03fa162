"""What the page of a run is made from: the small things that its store has, read once.

In: the reader of a store, in one snapshot. Out: a `Record`. What there are many of, requests and
operations, is only counted, see `bulkcert.report.page.course`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bulkcert.control import ControlEntry
from bulkcert.model import State
from bulkcert.report.page.chronicle import Chronicle, chronicle
from bulkcert.report.page.tabulation import Clock
from bulkcert.report.summary import Summary, summarize
from bulkcert.store.base import Abort, HostNow, Session, StoredApproval, StoreReader, WaveOfRun
from bulkcert.store.manifest import RunManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a store has of a run.

    Attributes:
        running: a process works on it.
        in_flight: operations whose requests are open, while it runs; they count as pending then.
        unsettled: operations that no process has settled and none works on; they are unknown.
        summary, manifest, sessions, aborts, controls, approvals: as in the store.
        hosts: in a shared store, the host of each session; else none.
        waves: the waves, if the run has any; counts_by_wave: operations by wave and state.
        chronicle: what the event log says.
        clock: writes times by the clock of the change window, or in UTC; by that of no machine.
    """

    running: bool
    in_flight: int
    unsettled: int
    summary: Summary
    manifest: RunManifest
    sessions: Sequence[Session]
    hosts: Sequence[HostNow]
    aborts: Sequence[Abort]
    controls: Sequence[ControlEntry]
    approvals: Sequence[StoredApproval]
    waves: Sequence[WaveOfRun]
    counts_by_wave: Mapping[int, Mapping[State, int]]
    chronicle: Chronicle
    clock: Clock

    @property
    def last(self) -> Session | None:
        """The session that was seen last; None if there is none."""
        if self.hosts:
            return max(self.sessions, key=lambda session: session.updated_at)
        return self.sessions[-1] if self.sessions else None

    def works(self, place: int) -> bool:
        """Whether the process of a session works on the run."""
        if self.hosts:
            return self.running and self.hosts[place].is_live
        return self.running and place == len(self.sessions) - 1


def read_record(reader: StoreReader, *, running: bool) -> Record:
    """Read what a store has of a run.

    Args:
        reader: the store.
        running: a process works on the run.
    """
    summary, manifest, sessions = summarize(reader), reader.manifest(), reader.sessions()
    in_flight = reader.counts().get(State.IN_FLIGHT, 0)
    if running:  # nobody has lost sight of what is in flight
        summary = replace(
            summary,
            unknown=summary.unknown - in_flight,
            pending=summary.pending + in_flight,
        )
    controls, waves = reader.controls(), reader.waves()
    hosts = [host for host in reader.hosts() if host.lease and host.session]
    if hosts:
        sessions = [host.session for host in hosts if host.session]
    leases = [host.lease for host in hosts]
    return Record(
        running=running,
        in_flight=in_flight if running else 0,
        unsettled=0 if running else in_flight,
        summary=summary,
        manifest=manifest,
        sessions=sessions,
        hosts=hosts,
        aborts=reader.aborts(),
        controls=controls,
        approvals=reader.approvals(),
        waves=waves,
        counts_by_wave=reader.counts_by_wave() if waves else {},
        chronicle=chronicle(reader.events(), sessions, controls, manifest.ceiling, leases),
        clock=Clock(_zone_of(manifest)),
    )


def _zone_of(manifest: RunManifest) -> tzinfo:
    window = manifest.plan.contents.get("window", {})
    try:
        return ZoneInfo(str(window["zone"])) if "zone" in window else UTC
    except (ZoneInfoNotFoundError, ValueError):
        return UTC
