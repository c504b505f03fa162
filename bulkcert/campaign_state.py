"""Where a campaign stands, as its store has it: waves, controls, aborts, and what holds it up.

In: the store of a run, in one snapshot, and its directory. Out: one value for those who look at the
run or steer it. Reads only; decides nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bulkcert.control import Control, control_after, pause_file
from bulkcert.model import State
from bulkcert.quantities import percent
from bulkcert.rules import NO_RULES
from bulkcert.rules.gate import Situation, Standing, judge
from bulkcert.rules.rollout import Rollout, Size
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Abort, StoreReader, WaveOfRun, pending_abort
from bulkcert.store.manifest import Amended, RunManifest

_NOT_SETTLED = (State.PLANNED, State.IN_FLIGHT)


class WaveState(StrEnum):
    """Where a wave stands."""

    DONE = "done"
    OVER = "over"
    UNDER_WAY = "under_way"
    TO_COME = "to_come"


@dataclass(frozen=True, slots=True)
class WaveCounts:
    """One wave, and how far it is.

    Attributes:
        wave: the wave.
        state: done; over, and the next one has not begun; under way; or to come.
        counts: number of operations by state.
    """

    wave: WaveOfRun
    state: WaveState
    counts: Mapping[State, int]

    @property
    def total(self) -> int:
        """Number of operations."""
        return sum(self.counts.values())

    @property
    def settled(self) -> int:
        """Number of settled operations."""
        return self.total - sum(self.counts.get(state, 0) for state in _NOT_SETTLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignState:
    """Where a campaign stands.

    Attributes:
        control: what people have asked for; processes may not have read it yet.
        pause_file: the reason in the file `PAUSE`; None if there is no such file.
        abort: what has stopped the run, and nobody has overridden; None if nothing has.
        waves: the waves, in order; none if the run has no rollout.
        in_force: number of the last control that is in force in the last process, or in all hosts;
            0 for none.
        deadline_s: when the run must be over, as Unix time; None for no deadline.
        amendments: how its limits and rules were changed since it was planned.
        overridden: what has stopped the run before, and somebody has overridden.
        confirm: the names of the waves after which the run waits for a `go`.
    """

    control: Control
    pause_file: str | None
    abort: Abort | None
    waves: Sequence[WaveCounts]
    in_force: int
    deadline_s: float | None
    amendments: Sequence[Amended] = ()
    overridden: Sequence[Abort] = ()
    confirm: Collection[str] = ()

    @property
    def pauses(self) -> list[str]:
        """What pauses the run as soon as a process works on it."""
        situation = Situation(0.0, self.control, self.pause_file)
        return list(map(str, judge(NO_RULES, (), Standing(), situation)[1].reasons))

    @property
    def current(self) -> WaveCounts | None:
        """The wave that is under way, or was the last one to be."""
        entered = [each for each in self.waves if each.state is not WaveState.TO_COME]
        return entered[-1] if entered else None

    @property
    def waits_for_go(self) -> str:
        """The wave that is over and must not be left without a `go`; empty if there is none."""
        current = self.current
        if current is None or current.state is not WaveState.OVER or current is self.waves[-1]:
            return ""
        name = current.wave.name
        return name if name in self.confirm and name not in self.control.goes else ""

    @property
    def place(self) -> str:
        """Where it stands, as a sentence without a full stop; empty without waves."""
        if (current := self.current) is None:
            return ""
        name, done = current.wave.name, current.settled
        if current.state is WaveState.UNDER_WAY:
            share = percent(done, current.total)
            return f"wave {name} is under way, {done:,} of {current.total:,} settled ({share})"
        following = self.waves[current.wave.number + 1 :]
        if not following:
            return f"the last wave, {name}, is over"
        return f"wave {name} is over, and {following[0].wave.name} has not begun"


def campaign_state(
    directory: RunDirectory, reader: StoreReader, waves: Sequence[WaveCounts] | None = None
) -> CampaignState:
    """Read where a campaign stands.

    Args:
        directory: the run directory.
        reader: its store, in one snapshot.
        waves: its waves as they were counted before; None to count them now, which takes long.
    """
    waves = _waves(reader) if waves is None else waves
    manifest, aborts = reader.manifest(), reader.aborts()
    return CampaignState(
        control=control_after(reader.controls()),
        pause_file=pause_file(directory.path),
        abort=pending_abort(aborts),
        waves=waves,
        in_force=_in_force(reader),
        deadline_s=manifest.deadline_s,
        amendments=manifest.amendments,
        overridden=[abort for abort in aborts if abort.overridden_at is not None],
        confirm=_to_confirm(manifest, [each.wave.name for each in waves]),
    )


def _in_force(reader: StoreReader) -> int:
    """The number of the last control that is in force wherever somebody works on the run."""
    live = [host.control for host in reader.hosts() if host.lease and host.is_live]
    if live:
        return min(live)
    sessions = reader.sessions()
    return sessions[-1].control if sessions else 0


def _waves(reader: StoreReader) -> list[WaveCounts]:
    waves, standing = reader.waves(), reader.standing()
    counts = reader.counts_by_wave() if waves else {}
    return [_counted(wave, standing, counts.get(wave.number, {})) for wave in waves]


def look(directory: RunDirectory) -> CampaignState:
    """Read where the campaign in a run directory stands now.

    Raises:
        RunDirectoryError: it can't be read.
    """
    with contextlib.closing(directory.reader()) as reader, reader.snapshot():
        return campaign_state(directory, reader)


def _to_confirm(manifest: RunManifest, waves: Collection[str]) -> frozenset[str]:
    """The waves after which the run waits for a `go`; a rehearsal waits for nobody."""
    written = manifest.plan.contents.get("rollout", {})
    rollout = Rollout(
        sizes=tuple(Size(name) for name in written.get("sizes", ())),
        confirm=frozenset(written.get("confirm", ())),
    )
    if manifest.rehearsal:
        return frozenset()
    return frozenset(wave for wave in waves if rollout.confirms(wave, waves))


def _counted(wave: WaveOfRun, standing: Standing, counts: Mapping[State, int]) -> WaveCounts:
    if wave.number != standing.wave:
        state = WaveState.DONE if wave.number < standing.wave else WaveState.TO_COME
        return WaveCounts(wave, state, counts)
    # a process notes the end of a wave when it wants to go on, which it does not while paused
    is_settled = not any(counts.get(state) for state in _NOT_SETTLED)
    return WaveCounts(wave, WaveState.OVER if is_settled else WaveState.UNDER_WAY, counts)
