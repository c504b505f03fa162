"""A small model of a campaign and of everybody who can do something to it, explored in every state.

A few operations in a few waves live in a world in which everything happens at every moment: an
operation is claimed, and settled well or badly; a check begins and says go on, hold or abort; time
passes; somebody pauses, resumes and says go; the process dies and another one continues; somebody
overrides an abort. `explore` visits every reachable state and checks in each that nothing was
claimed that the rules forbid.

The model keeps its own record of what happened, `Truth`, and never asks the code under test whether
a rule holds.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from stores import Disk, MemoryStore

from bulkcert.control import Verb
from bulkcert.model import Change, State, Target
from bulkcert.rules import Check, Protect, Rules
from bulkcert.rules.abort import limit
from bulkcert.rules.gate import CheckResult, Verdict
from bulkcert.rules.rollout import Rollout, size, waves
from bulkcert.store import claims as real_claims

OPEN = (State.PLANNED, State.IN_FLIGHT)
GOOD, BAD = State.SUCCEEDED, State.FAILED

SIZES = (size(1), size(3))
TOTAL = 4
NAMES = ("1", "3", "rest")

FAILED_MOST, FAILED_AMONG = 1, 3
ABORT = {"failed": limit("34% of 3")}
ALWAYS = Check(command=("true",), patience_s=1e9)


def rollout(between_s: float = 0.0, confirm: Sequence[str] = ()) -> Rollout:
    return Rollout(sizes=SIZES, between_s=between_s, confirm=frozenset(confirm))


CAMPAIGNS: dict[str, dict[str, Any]] = {
    "cap": {
        "rules": Rules(rollout=rollout(), protect=Protect(max_operations=2)),
        "pauses": True,
    },
    "cap at the end of a wave": {
        "rules": Rules(rollout=rollout(), protect=Protect(max_operations=3)),
    },
    "cap that is just enough": {
        "rules": Rules(rollout=rollout(), protect=Protect(max_operations=TOTAL)),
    },
    "abort, go": {
        "rules": Rules(rollout=rollout(0.0, ["3"]), abort=ABORT),
    },
    "go, pause": {
        "rules": Rules(rollout=rollout(0.0, ["1", "3"])),
        "pauses": True,
    },
    "between, go, check": {
        "rules": Rules(rollout=rollout(2.0, ["1"]), check=ALWAYS),
    },
    "abort, check": {
        "rules": Rules(rollout=rollout(), abort=ABORT, check=ALWAYS),
        "total": 3,
    },
}
"""What is explored: the rules that act on each other, together."""


class ViolationError(AssertionError):
    """A rule was broken; the message says which, and what led there."""


@dataclass(frozen=True)
class Truth:
    """What really happened.

    Attributes:
        settled: whether each operation that was settled since the last override was bad, in order.
        ended: when the last operation of each wave was settled.
        aborted: the run must stand still until somebody overrides.
        paused, goes: what people have asked for.
        begun: the operations that were ever claimed.
    """

    settled: tuple[bool, ...] = ()
    ended: tuple[tuple[int, float], ...] = ()
    aborted: bool = False
    paused: bool = False
    goes: frozenset[str] = frozenset()
    begun: frozenset[int] = frozenset()


@dataclass
class World:
    """One moment.

    Attributes:
        disk: what is durable.
        truth: what really happened.
        now_s: the time.
        claims: the memory of the process.
        store: its store.
        open: what it has claimed, and not settled.
        check: what the last check said.
        begun_s: when the process began.
        no_more: the process was told that there is nothing more to claim.
    """

    disk: Disk
    truth: Truth = field(default_factory=Truth)
    now_s: float = 100.0
    claims: Any = None
    store: Any = None
    open: frozenset[int] = frozenset()
    check: CheckResult | None = None
    begun_s: float = 0.0
    no_more: bool = False

    def copied(self) -> World:
        """A copy that can be changed without changing this one."""
        disk = copy.copy(self.disk)
        for name in ("rows", "settled", "aborts", "controls", "waves", "history"):
            setattr(disk, name, copy.copy(getattr(self.disk, name)))
        world = replace(self, disk=disk)
        if self.claims is not None:
            world.store = copy.copy(self.store)
            world.store.disk, world.store._rows = disk, {}
            world.claims = copy.copy(self.claims)
            world.claims._check = lambda store: world.check
            world.claims._now = lambda: world.now_s
            world.claims._failures = copy.deepcopy(self.claims._failures)
        return world


class Exploration:
    """All that can happen to a small campaign.

    Args:
        rules: its rules.
        module: `bulkcert.store.claims`; a mutated one must be caught.
        pauses: people may pause and resume.
        total: number of operations.
    """

    def __init__(
        self,
        rules: Rules,
        module: ModuleType = real_claims,
        *,
        pauses: bool = False,
        total: int = TOTAL,
    ) -> None:
        self.rules = rules
        self.total = total
        self.pauses = pauses
        self.between_s = rules.rollout.between_s if rules.rollout else 0.0
        self._module = module
        self.cap = rules.protect.max_operations if rules.protect else None
        self.transitions = 0

    def explore(self) -> int:
        """Visit every reachable state; return how many there are.

        Raises:
            ViolationError: a rule is broken somewhere, or the campaign can't end.
        """
        targets = [Target(line, {"name": line}) for line in range(1, self.total + 1)]
        divided, _ = waves(self.total, SIZES)
        begin = World(Disk.planned(targets, divided))
        self._start(begin)
        seen: dict[Any, tuple[Any, str]] = {self._key(begin): (None, "begin")}
        leads_to: dict[Any, set[Any]] = {}
        final: set[Any] = set()
        queue = deque([begin])
        while queue:
            world = queue.popleft()
            here = self._key(world)
            if self._is_over(world):
                final.add(here)
            what = ""
            try:
                for what, successor in self._successors(world):
                    self.transitions += 1
                    there = self._key(successor)
                    leads_to.setdefault(there, set()).add(here)
                    if there not in seen:
                        seen[there] = here, what
                        queue.append(successor)
            except Exception as error:
                raise ViolationError(f"{error!r} after {what}\n{_path(seen, here)}") from error
        self._check_that_all_can_end(seen, leads_to, final)
        return len(seen)

    def _check_that_all_can_end(
        self, seen: dict[Any, Any], leads_to: dict[Any, set[Any]], final: set[Any]
    ) -> None:
        can_end, queue = set(final), deque(final)
        while queue:
            for before in leads_to.get(queue.popleft(), ()):
                if before not in can_end:
                    can_end.add(before)
                    queue.append(before)
        for stuck in seen.keys() - can_end:
            raise ViolationError(f"can never end\n{_path(seen, stuck)}")

    def _is_over(self, world: World) -> bool:
        """All is settled, or all that may ever be claimed."""
        if self.cap is not None and len(world.truth.begun) == self.cap:
            return not any(row.begun and row.state in OPEN for row in world.disk.rows.values())
        return all(row.state not in OPEN for row in world.disk.rows.values())

    def _start(self, world: World) -> None:
        """Another process continues."""
        world.store = MemoryStore(world.disk, lambda: world.now_s)
        world.claims = self._module.Claims(
            self.rules, check=lambda store: world.check, now=lambda: world.now_s
        )
        world.open, world.check, world.begun_s = frozenset(), None, world.now_s
        world.no_more = False

    # ---- what can happen

    def _successors(self, world: World) -> Iterator[tuple[str, World]]:
        truth = world.truth
        yield "claim", self._claim(world.copied())
        yield "look", self._look(world.copied())
        for number in world.open:
            for state in (GOOD, BAD):
                yield f"{number} {state}", self._settle(world.copied(), number, state)
        died = world.copied()
        self._start(died)
        yield "die", died
        if self.rules.check is not None:
            yield from self._checked(world)
        if not truth.paused and self.pauses:
            yield "pause", self._control(world, Verb.PAUSE, replace(truth, paused=True))
        elif truth.paused:
            yield "resume", self._control(world, Verb.RESUME, replace(truth, paused=False))
        confirm = self.rules.rollout.confirm if self.rules.rollout else frozenset()
        for name in confirm - truth.goes:
            said = replace(truth, goes=truth.goes | {name})
            yield f"go {name}", self._control(world, Verb.GO, said, name)
        waits = world.disk.standing.over_at
        if waits is not None and world.now_s < waits + self.between_s:
            later = world.copied()
            later.now_s += 1.0
            yield "wait", later
        if truth.aborted and world.disk.aborts:
            yield "override", self._override(world.copied())

    def _checked(self, world: World) -> Iterator[tuple[str, World]]:
        """A check ends that began just now, or before the last operation was settled."""
        yield "check says go on", self._after(world, Verdict.GO, 0)
        yield "check says hold", self._after(world, Verdict.HOLD, 0)
        earliest_s = world.begun_s if world.check is None else world.check.began_s
        if earliest_s < world.now_s:  # one after another
            yield "check that began before says go on", self._after(world, Verdict.GO, 0.5)
        if self.rules.abort:
            yield "check says abort", self._after(world, Verdict.ABORT, 0)

    def _after(self, world: World, verdict: Verdict, early_s: float) -> World:
        checked = world.copied()
        checked.check = CheckResult(world.now_s - early_s, world.now_s, verdict, "")
        return checked

    def _control(self, world: World, verb: Verb, truth: Truth, value: str = "") -> World:
        """Another process writes it into the store."""
        after = world.copied()
        after.store.add_control(after.now_s, "ann", "", verb, value)
        after.truth = truth
        return after

    def _override(self, world: World) -> World:
        [pending] = [a for a in world.disk.aborts.values() if a.overridden_at is None]
        world.store.override_abort(pending.id, world.now_s, "ann", "")
        world.truth = replace(world.truth, aborted=False, settled=())
        self._start(world)
        return world

    def _look(self, world: World) -> World:
        with world.store.transaction():
            world.claims.begin(world.store)
            world.claims.judge(world.store, ())
            world.truth = self._after_check(world)
        self._check_end(world)
        return world

    def _after_check(self, world: World) -> Truth:
        aborts = world.check is not None and world.check.verdict is Verdict.ABORT
        return replace(world.truth, aborted=world.truth.aborted or aborts)

    def _settle(self, world: World, number: int, state: State) -> World:
        world.now_s += 1.0
        row = world.disk.rows[number]
        change = Change(
            number, State.IN_FLIGHT, state, row.attempts, code=99403, finished_at=world.now_s
        )
        with world.store.transaction():
            world.store.record([change])
            world.claims.begin(world.store)
            world.claims.judge(world.store, [change])
        truth = world.truth
        bad = (*truth.settled, state is BAD)[-FAILED_AMONG:]
        ended = dict(truth.ended) | {row.wave: world.now_s}
        world.truth = replace(
            truth,
            settled=bad,
            ended=tuple(sorted(ended.items())),
            aborted=truth.aborted or (bool(self.rules.abort) and sum(bad) > FAILED_MOST),
        )
        world.truth = self._after_check(world)
        world.open -= {number}
        self._check_end(world)
        return world

    def _claim(self, world: World) -> World:
        before = {number for number, row in world.disk.rows.items() if row.state in OPEN}
        with world.store.transaction():
            world.claims.begin(world.store)
            world.claims.judge(world.store, ())
            world.truth = self._after_check(world)
            claimed, more = world.claims.claim(world.store, 1, ())
        world.no_more = not more
        for operation in claimed:
            assert operation.id in before, "a settled operation was claimed"
            self._check_claim(world, world.disk.rows[operation.id].wave)
            world.open |= {operation.id}
            world.truth = replace(world.truth, begun=world.truth.begun | {operation.id})
            allowed = self.total if self.cap is None else self.cap
            assert len(world.truth.begun) <= allowed, "claimed more than permitted"
        self._check_end(world)
        return world

    # ---- what must hold

    def _check_claim(self, world: World, wave: int) -> None:
        truth, rows = world.truth, world.disk.rows.values()
        assert not truth.paused, "claimed while paused"
        assert not truth.aborted, "claimed after an abort"
        open_before = [row for row in rows if row.wave < wave and row.state in OPEN]
        assert not open_before, "claimed from a wave before the earlier one was settled"
        fresh = not any(world.disk.rows[number].wave == wave for number in truth.begun)
        ended_at = dict(truth.ended).get(wave - 1)
        if self.rules.check is not None:
            assert world.check is not None, "claimed before the first check"
            assert world.check.verdict is Verdict.GO, "claimed though the check holds"
            if fresh and ended_at is not None:
                assert world.check.began_s >= ended_at, "claimed after a check from the last wave"
        if wave and fresh:
            assert ended_at is not None, "a wave was skipped"
            assert world.now_s >= ended_at + self.between_s, "claimed too early after the wave"
            needs_go = (
                self.rules.rollout is not None and NAMES[wave - 1] in self.rules.rollout.confirm
            )
            assert not needs_go or NAMES[wave - 1] in truth.goes, "claimed without go"

    def _check_end(self, world: World) -> None:
        pending = [a for a in world.disk.aborts.values() if a.overridden_at is None]
        assert bool(pending) == world.truth.aborted, (
            "the run aborted without reason" if pending else "a rule tripped, and nothing happened"
        )
        assert len(pending) < 2, "a second abort while the first is pending"
        done = all(row.state not in OPEN for row in world.disk.rows.values())
        capped = world.claims.capped
        assert not (done and capped), "capped, though everything is settled"
        assert done or capped or world.open or not world.no_more, "it ends before all is settled"

    # ---- what tells two worlds apart

    def _key(self, world: World) -> Any:
        disk, claims = world.disk, world.claims
        gate = claims.gate
        failures = claims._failures
        windows = [
            [
                failures._seen - number
                for number, _ in window.last
                if failures._seen - number < FAILED_AMONG
            ]
            for window in (failures._windows.values() if failures else ())
        ]
        standing = claims._standing
        control = claims._control
        return (
            tuple((row.state, row.attempts > 0) for row in disk.rows.values()),
            (disk.standing.wave, disk.standing.over_at, disk.standing.begun),
            replace(world.truth, begun=frozenset()),
            world.now_s,
            world.open,
            world.check and (world.check.began_s, world.check.verdict),
            self.rules.check and world.check is None and world.begun_s,
            world.no_more,
            standing and (standing.wave, standing.over_at),
            tuple(map(str, windows)),
            (control.paused is not None, frozenset(control.goes)),
            (gate.wave, tuple(r.kind for r in gate.reasons), bool(gate.abort)),
            (
                claims.pending is not None,
                claims.capped,
                world.store._claimed_up_to,
                world.store._wave,
            ),
        )


def _path(seen: dict[Any, tuple[Any, str]], key: Any) -> str:
    steps = []
    while key is not None:
        key, what = seen[key]
        steps.append(what)
    return " -> ".join(reversed(steps))
