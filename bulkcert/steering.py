"""Steers a run from outside: records a control in its store, and waits until it is in force.

In: a run directory, and what somebody asks of the run. Out: what has become of that. There is no
connection to the processes of the run: they read the store, and note in it which control is in
force in them. With several hosts it is in force when each of them has noted it, or is fenced. Must
change nothing else in the store, and must not need the run's lock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from bulkcert.campaign_state import CampaignState, WaveState, campaign_state
from bulkcert.control import FULL_RATE, ControlEntry, Verb, who
from bulkcert.decisions import record_control
from bulkcert.errors import ControlError, RunDirectoryError, StoreError
from bulkcert.found_runs import RunState, state_of
from bulkcert.quantities import number
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import HostNow, HostState, Session
from bulkcert.store.manifest import RunManifest
from bulkcert.timings import ControlTimings, HostTimings

_WHERE_TO_STEER = "Steer the run as its owner, on a machine on which its directory can be written."

LOWEST_RATE = 0.1
"""Requests per second. Connections would not survive longer waits between two requests."""


class Force(Enum):
    """What has become of a control."""

    IN_FORCE = "in force"
    NO_PROCESS = "no process works on the run"
    PENDING = "not in force yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNow:
    """A run as it is when somebody looks at it.

    Attributes:
        state: whether a process works on it, or what is left to do.
        campaign: where its campaign stands.
        session: the figures of the last process, or of all hosts together that are meant; None if
            there was none.
    """

    state: RunState
    campaign: CampaignState
    session: Session | None

    @property
    def running(self) -> bool:
        """Whether a process works on it."""
        return self.state is RunState.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """What has become of a control.

    Attributes:
        entry: the control as it was recorded; None if there was nothing to record.
        force: whether it is in force: on every host that works on the run.
        now: the run as it was last seen.
        fenced: the hosts that did not answer, and were fenced: they can't send anything any more.
        missing: those that have not read it yet.
    """

    entry: ControlEntry | None
    force: Force
    now: RunNow
    fenced: Sequence[HostNow] = ()
    missing: Sequence[HostNow] = ()


class ControlRequest:
    """One control: first `record` it, then `wait` until it is in force.

    Args:
        directory: the run directory.
        verb: what is asked for.
        value: of `rate`, requests per second or `FULL_RATE`; of `go`, the name of a wave.
        why: the reason, for those who look at the run later.
        timings: how long to wait.
        times: what the hosts of a shared store agree on.

    Attributes:
        manifest: what the run is about.
        before: the run before anything was recorded.
        entry: the control as it was recorded; None if it was not.

    Raises:
        RunDirectoryError: the run can't be read.
    """

    def __init__(
        self,
        directory: RunDirectory,
        verb: Verb,
        value: str = "",
        why: str = "",
        *,
        timings: ControlTimings = ControlTimings(),
        times: HostTimings = HostTimings(),
    ) -> None:
        self._directory, self._verb, self._value, self._why = directory, verb, value, why
        self._timings, self._times = timings, times
        with contextlib.closing(directory.reader()) as reader:
            self.manifest: RunManifest = reader.manifest()
        self._meant: set[str] = set()  # the leases of the hosts that it must reach
        self._fenced: list[HostNow] = []
        self._missing: list[HostNow] = []
        self.before = self._look()
        self.entry: ControlEntry | None = None

    def record(self) -> None:
        """Record the control, durably. A stop that reaches no process is not recorded.

        Raises:
            ControlError: the run is over, or what is asked makes no sense now.
            RunDirectoryError: the store can't be written.
        """
        if self.before.state is RunState.OVER:
            raise ControlError(f"The run {self._directory.which} is over.")
        value = self._checked_value()
        if self._verb is Verb.STOP and not self.before.running:
            return
        at, asked_by = time.time(), who()
        try:
            self.entry = self._directory.commit(
                lambda store: record_control(
                    store, self._verb, value, self._why, at=at, asked_by=asked_by
                )
            )
        except (StoreError, RunDirectoryError) as error:
            self.entry = None
            raise RunDirectoryError(
                f"The control can't be recorded. {error.problem}",
                error.next_step if self._directory.place.is_shared else _WHERE_TO_STEER,
            ) from error

    def wait(self) -> Steered:
        """Wait until the control is in force, or there is no process, or for too long.

        After a pause or a stop, also wait for the requests that are open.
        """
        if self.entry is None:
            return Steered(entry=None, force=Force.NO_PROCESS, now=self.before)
        shared = self._directory.place.is_shared
        force = self._wait_for_hosts(self.entry) if shared else self._wait_for(self.entry)
        return Steered(
            entry=self.entry,
            force=force,
            now=self._look(),
            fenced=self._fenced,
            missing=self._missing,
        )

    def _wait_for(self, entry: ControlEntry) -> Force:
        give_up_at = time.monotonic() + self._timings.patience_s
        with contextlib.closing(self._directory.reader()) as reader:
            while True:
                # in this order, so that what a process notes at its end is seen
                running = self._directory.is_worked_on()
                session = next(reversed(reader.sessions()), None)
                if session is not None and session.control >= entry.id:
                    force = Force.IN_FORCE
                else:
                    force = Force.PENDING if running else Force.NO_PROCESS
                ends = self._verb is Verb.STOP or (
                    self._verb is Verb.PAUSE and session is not None and session.open_requests > 0
                )
                is_final = not running or (force is Force.IN_FORCE and not ends)
                if is_final or time.monotonic() >= give_up_at:
                    return force
                time.sleep(self._timings.look_every_s)

    def _wait_for_hosts(self, entry: ControlEntry) -> Force:
        """Wait for every host that works on the run, until it obeys or is fenced."""
        give_up_at = time.monotonic() + self._timings.patience_s
        with contextlib.closing(self._directory.reader()) as reader:
            while True:
                hosts = reader.hosts()
                live = [host for host in hosts if self._works(host)]
                self._meant.update(host.lease for host in live)
                meant = [host for host in hosts if host.lease in self._meant]
                self._fenced = [host for host in meant if host.state is HostState.FENCED]
                self._missing = [host for host in live if host.control < entry.id]
                if any(host.control >= entry.id for host in meant) and not self._missing:
                    force = Force.IN_FORCE
                else:
                    force = Force.PENDING if live else Force.NO_PROCESS
                ends = self._verb is Verb.STOP or (
                    self._verb is Verb.PAUSE and any(host.open_requests for host in live)
                )
                is_final = not live or (force is Force.IN_FORCE and not ends)
                if is_final or time.monotonic() >= give_up_at:
                    return force
                time.sleep(self._timings.look_every_s)

    def _works(self, host: HostNow) -> bool:
        return host.works(self._times.fence_after_s)

    def _look(self) -> RunNow:
        with contextlib.closing(self._directory.reader()) as reader, reader.snapshot():
            sessions = reader.sessions()
            last = sessions[-1] if sessions else None
            if self._directory.place.is_shared:
                hosts = reader.hosts()
                self._meant.update(host.lease for host in hosts if self._works(host))
                last = _together([host for host in hosts if host.lease in self._meant])
            return RunNow(
                state=state_of(self._directory, reader),
                campaign=campaign_state(self._directory, reader),
                session=last,
            )

    def _checked_value(self) -> str:
        match self._verb:
            case Verb.RATE:
                return checked_rate(self._value, self.manifest.ceiling)
            case Verb.GO:
                return checked_wave(self._value, self.before.campaign)
            case _:
                return ""


def _together(hosts: Sequence[HostNow]) -> Session | None:
    """The figures of several hosts in one, as far as a control is concerned."""
    noted = [(host, host.session) for host in hosts if host.session is not None]
    if not noted:
        return None
    return Session(
        min(session.started_at for _, session in noted),
        max(session.updated_at for _, session in noted),
        control=min(session.control for _, session in noted),
        under_way=sum(session.under_way for _, session in noted),
        open_requests=sum(host.open_requests for host, _ in noted),
        reasons=tuple(dict.fromkeys(why for _, session in noted for why in session.reasons)),
    )


def checked_rate(value: str, ceiling: float) -> str:
    """Return a rate as it is recorded.

    Raises:
        ControlError: it is not one, or above the plan's ceiling.
    """
    if value == FULL_RATE:
        return FULL_RATE
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    if not LOWEST_RATE <= rate < float("inf"):
        raise ControlError(
            f"The rate must be a number of requests per second, at least {LOWEST_RATE:g}, or"
            f" {FULL_RATE}; it is {value!r}.",
            "`bulkcert control pause` sends nothing at all.",
        )
    if rate > ceiling:
        raise ControlError(
            f"{number(rate)}/s is more than the plan allows: {number(ceiling)}/s.",
            f"`{FULL_RATE}` stands for all that it allows. A higher limit in the job file needs"
            " `bulkcert run --amend`.",
        )
    return f"{rate:.10g}"


def checked_wave(name: str, campaign: CampaignState) -> str:
    """Return the name of a wave that the run waits to leave, or has been allowed to leave before.

    Raises:
        ControlError: there is no such wave, or the run is not waiting for it.
    """
    waves = {each.wave.name: each for each in campaign.waves}
    if not waves:
        raise ControlError("The run has no waves, so it never waits for a go.")
    if name not in waves:
        raise ControlError(
            f"The run has no wave {name!r}: its waves are {', '.join(waves)}.",
            f"Now {campaign.place}.",
        )
    if name in campaign.control.goes:
        return name  # repeating it is harmless
    if campaign.abort is not None:
        problem = f"The run has been stopped: {campaign.abort.text}."
        raise ControlError(problem, "Its end says how to go on; `bulkcert status` repeats it.")
    wave, is_last = waves[name], waves[name] is campaign.waves[-1]
    if wave.state is not WaveState.OVER or is_last or name not in campaign.confirm:
        raise ControlError(
            f"The run is not waiting for a go after {name}: {campaign.place}.",
            "" if name in campaign.confirm else "After that one it goes on by itself.",
        )
    return name
