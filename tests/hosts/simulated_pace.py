"""The pace of accounts in memory, as the functions of migration 3 keep it in PostgreSQL.

`test_pace_table.py` compares the two: any sequence of calls must have the same answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from bulkcert.store.pace import PaceAnswer, PaceMember
from bulkcert.timings import HostTimings

LIVE_S = 10.0
FORGOTTEN_S = 86400.0


@dataclass
class Account:
    """A row of `pace`, with its lanes and hosts."""

    server: str = ""
    epoch: int = 0
    lanes: int = 1
    quarantine_until: float = 0.0
    not_before: float = 0.0
    pause_s: float = 0.0
    share: float = 1.0
    cut_at: float = 0.0
    lane: list[Lane] = field(default_factory=list)


@dataclass
class Lane:
    next_slot: float = 0.0
    reach_s: float = 0.0
    egress: str | None = None
    not_before: float = 0.0


@dataclass
class Member:
    run: int
    ceiling: float
    egress: str
    late: int
    heard_at: float


@dataclass
class OfRun:
    """A row of `pace_run`."""

    held: bool = False
    version: int = 0
    rate: float | None = None
    next_slot: float = 0.0
    reach_s: float = 0.0


@dataclass
class SimulatedStore:
    """All of a store's pace.

    Attributes:
        clock: of the store.
        server: which one answers.
    """

    clock: Callable[[], float]
    timings: HostTimings = HostTimings()
    server: str = "server/1"
    accounts: dict[str, Account] = field(default_factory=dict)
    hosts: dict[str, dict[UUID, Member]] = field(default_factory=dict)
    runs: dict[int, OfRun] = field(default_factory=dict)

    def connect(self, member: PaceMember) -> SimulatedPace:
        return SimulatedPace(self, member, self.server)

    def live(self, scope: str) -> dict[UUID, Member]:
        now = self.clock()
        hosts = self.hosts.get(scope, {})
        return {key: host for key, host in hosts.items() if abs(now - host.heard_at) < LIVE_S}


@dataclass
class SimulatedPace:
    """Implements `PaceTable`."""

    store: SimulatedStore
    member: PaceMember
    server: str

    def close(self) -> None:
        pass

    def now_s(self) -> float:
        return self.store.clock()

    def state(self) -> str:
        accounts = [self.store.accounts.get(scope) for scope in self.member.scopes]
        return repr((accounts, self.store.runs.get(self.member.run)))

    def join(self, late: int, hold_s: float) -> int:
        store, member, now = self.store, self.member, self.store.clock()
        for scope in member.scopes:
            hosts = store.hosts.setdefault(scope, {})
            for key, host in list(hosts.items()):
                if abs(now - host.heard_at) > FORGOTTEN_S:
                    del hosts[key]
            hosts[member.id] = Member(member.run, member.ceiling, member.egress or "", late, now)
        if member.egress is None:
            return 0
        account = store.accounts.get(member.scopes[0], Account())
        live = {host.egress for host in store.live(member.scopes[0]).values()}
        for lane in account.lane:
            if lane.egress not in live:
                lane.egress = None
        own = [lane for lane in account.lane if lane.egress == member.egress]
        fair = min(member.most_lanes, math.ceil(len(account.lane) / len(live)))
        for lane in own[fair:]:
            lane.egress = None
        free = [lane for lane in account.lane if lane.egress is None]
        for lane in free[: max(0, fair - len(own))]:
            lane.egress, lane.not_before = member.egress, now + hold_s
        return sum(lane.egress == member.egress for lane in account.lane)

    def reserve(
        self, wanted: int, *, version: int, late: int, share: float, lead_s: float
    ) -> PaceAnswer:
        store, member, timings = self.store, self.member, self.store.timings
        now, of_run = store.clock(), store.runs.get(member.run, OfRun())
        accounts = [store.accounts[s] for s in member.scopes if s in store.accounts]
        number = self._lane()
        lanes = [a.lane[number] for a in accounts if number is not None and number < len(a.lane)]
        rates, hosts, others = [], 0, False
        for scope in member.scopes:
            if (host := store.hosts.get(scope, {}).get(member.id)) is not None:
                host.late = late
            live = store.live(scope)
            if member.id in live and accounts:
                hosts = max(hosts, len(live))
                others = others or any(h.run != member.run for h in live.values())
                full = member.utilization * min(h.ceiling for h in live.values())
                full -= sum(h.late for h in live.values())
                rates.append(full * share / min(a.lanes for a in accounts))
        answer = PaceAnswer(
            now_s=now,
            refusal="",
            wait_s=0.0,
            granted=0,
            first_slot=0.0,
            spacing_s=0.0,
            epoch=sum(a.epoch for a in accounts),
            hosts=hosts,
            not_before=max((a.not_before for a in accounts), default=0.0),
            pause_s=max((a.pause_s for a in accounts), default=0.0),
            share=min((a.share for a in accounts), default=1.0),
            cut_at=max((a.cut_at for a in accounts), default=0.0),
            reach_s=max([lane.reach_s for lane in lanes] + [of_run.reach_s]),
            state="",
        )

        def refuse(refusal: str, wait_s: float = 0.0) -> PaceAnswer:
            return answer._replace(refusal=refusal, wait_s=wait_s, state=self.state())

        if len(accounts) < len(member.scopes) or any(a.server != self.server for a in accounts):
            return refuse("server")
        if min(a.lanes for a in accounts) < member.lanes:
            return refuse("server")
        if number is None:
            return refuse("lane", 0.1)
        if len(lanes) < len(member.scopes):
            return refuse("server")
        if len(rates) < len(member.scopes):
            return refuse("host")
        if of_run.held:
            return refuse("held", 0.1)
        if of_run.version > version:
            return refuse("version", 0.02)
        quarantine = max(a.quarantine_until for a in accounts)
        if now < quarantine:
            return refuse("quarantine", quarantine - now)
        if now < answer.not_before:
            return refuse("pause", answer.not_before - now)
        if min(rates) <= 0:
            return refuse("late", 0.01)
        account_slot = max(max(lane.next_slot, lane.not_before) for lane in lanes)
        slot = account_slot
        if of_run.rate is not None and of_run.next_slot > max(slot, now + lead_s):
            slot = of_run.next_slot
        if slot > now + timings.horizon_s:
            return refuse("ahead", slot - now - timings.horizon_s)
        if slot > account_slot and others:
            return refuse("ahead", slot - max(account_slot, now + lead_s))

        rate = min(rates)
        few, many = timings.batch_share, timings.horizon_s / 2 / hosts
        granted = math.floor((few if others else max(few, many)) * rate)
        if of_run.rate is not None:
            granted = min(granted, math.floor(timings.batch_share * of_run.rate))
        granted = min(wanted, max(1, granted))
        if granted < 1:
            return answer._replace(spacing_s=1 / rate)
        first = max(slot, now + lead_s)
        last = first + (granted - 1) / rate
        for lane, own_rate in zip(lanes, rates, strict=True):
            lane.next_slot = last + 1 / own_rate
            lane.reach_s = (granted - 1) / rate + 1 / own_rate
        if of_run.rate is not None:
            of_run.reach_s = granted / (member.utilization * of_run.rate)
            of_run.next_slot = first + of_run.reach_s
        return answer._replace(granted=granted, first_slot=first, spacing_s=1 / rate)

    def _lane(self) -> int | None:
        """The lane that is least advanced."""
        account = self.store.accounts.get(self.member.scopes[0], Account())
        own = [
            (max(lane.next_slot, lane.not_before), number)
            for number, lane in enumerate(account.lane)
            if self.member.egress in (None, lane.egress)
        ]
        return min(own)[1] if own else None

    def begin_epoch(
        self, span_s: float, known_epoch: int, expected_s: float | None, state: str | None = None
    ) -> int | None:
        store, member, timings = self.store, self.member, self.store.timings
        accounts = [store.accounts.setdefault(scope, Account()) for scope in member.scopes]
        lanes = max([member.lanes] + [a.lanes for a in accounts])
        for account in accounts:
            account.lane += [Lane() for _ in range(lanes - len(account.lane))]
        if state is not None and state != self.state():
            return None
        now = store.clock()
        reach_s = max(lane.reach_s for account in accounts for lane in account.lane)
        until = now + max(span_s, timings.horizon_s + timings.slot_s + reach_s)
        epochs = sum(account.epoch for account in accounts)
        for account in accounts:
            account.server = self.server
            account.epoch += 1
            account.lanes = max(account.lanes, lanes)
            account.quarantine_until = until
            if epochs == known_epoch and expected_s is not None:
                left_s = account.not_before - expected_s
                account.not_before = now + min(account.pause_s, left_s)
                account.cut_at += now - expected_s
            else:
                account.not_before = min(account.not_before, now + account.pause_s)
            account.cut_at = min(account.cut_at, until)
            for lane in account.lane:
                lane.next_slot, lane.reach_s, lane.not_before = until, 0.0, 0.0
        if (of_run := store.runs.get(member.run)) is not None:
            of_run.next_slot, of_run.reach_s = until, 0.0
        return epochs + len(accounts)

    def slow_down(self, departed_s: float, pause_s: float, share: float) -> None:
        now = self.store.clock()
        for scope in self.member.scopes:
            if (account := self.store.accounts.get(scope)) is None:
                continue
            if departed_s > account.cut_at:
                account.share = share
                account.cut_at = max([now] + [lane.next_slot for lane in account.lane])
            else:
                account.share = min(account.share, share)
            if now + pause_s > account.not_before:
                account.pause_s, account.not_before = pause_s, now + pause_s

    def leave(self) -> None:
        for scope in self.member.scopes:
            host = self.store.hosts.get(scope, {}).get(self.member.id)
            if host is not None and host.late == 0:
                del self.store.hosts[scope][self.member.id]
