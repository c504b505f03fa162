"""Hosts that watch each other, with clocks and a store of the tests' own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from bulkcert.errors import StoreError
from bulkcert.hosts import watcher
from bulkcert.hosts.watcher import Observations, Watcher
from bulkcert.model import State
from bulkcert.store.base import Seen
from bulkcert.timings import HostTimings

TIMES = HostTimings()
LIMIT_S = TIMES.ttl_s + TIMES.grace_s
OURS = UUID(int=99)


def host(number: int, beats: int) -> Seen:
    return Seen(UUID(int=number), f"ops{number}", number, beats)


class Looks:
    """Looks at others, each `TIMES.watch_every_s` after the one before."""

    def __init__(self) -> None:
        self.observations = Observations(TIMES)
        self.now_s = 0.0

    def see(self, *seen: Seen, after_s: float = 1.0, took_s: float = 0.0) -> dict[UUID, float]:
        asked_s = self.now_s + after_s
        self.now_s = asked_s + took_s
        return self.observations.see(asked_s, self.now_s, seen)


def test_a_host_is_fenced_that_was_silent_for_longer_than_its_lease_and_the_grace() -> None:
    looks = Looks()
    for _ in range(round(LIMIT_S) + 1):
        assert looks.see(host(1, 7)) == {}
    assert looks.see(host(1, 7)) == {UUID(int=1): LIMIT_S + 1}


def test_silence_begins_with_the_answer_in_which_the_beat_was_seen() -> None:
    looks = Looks()
    looks.see(host(1, 7), took_s=0.5)
    for _ in range(round(LIMIT_S)):
        assert looks.see(host(1, 7)) == {}
    assert looks.see(host(1, 7), after_s=0.25) == {UUID(int=1): LIMIT_S + 0.25}


def test_a_beat_is_a_new_beginning_for_that_host_alone() -> None:
    looks = Looks()
    for number in range(round(LIMIT_S)):
        assert looks.see(host(1, 7), host(2, number // 5)) == {}
    looks.see(host(1, 7), host(2, 9))
    assert set(looks.see(host(1, 7), host(2, 9))) == {UUID(int=1)}


@pytest.mark.parametrize("trouble", [{"after_s": 2.5}, {"took_s": 1.5}])
def test_a_slow_look_says_nothing_about_the_others(trouble: dict[str, float]) -> None:
    looks = Looks()
    for _ in range(round(LIMIT_S)):
        looks.see(host(1, 7))
    looks.see(host(1, 7), **trouble)
    for _ in range(round(LIMIT_S)):
        assert looks.see(host(1, 7)) == {}
    assert looks.see(host(1, 7), after_s=1.25)


def test_a_look_that_has_failed_says_nothing_about_the_others() -> None:
    looks = Looks()
    for _ in range(round(LIMIT_S)):
        looks.see(host(1, 7))
    looks.observations.forget()
    for _ in range(round(LIMIT_S)):
        assert looks.see(host(1, 7)) == {}


def test_beats_that_went_back_are_noticed_also_after_a_failed_look() -> None:
    observations = Observations(TIMES)
    assert not observations.went_back([host(1, 7)])
    observations.see(1.0, 1.0, [host(1, 7)])
    observations.forget()  # the server was restarted, from a file of yesterday
    assert observations.went_back([host(1, 6)])


# ---- the thread


@dataclass
class Store:
    """What a watcher sees, and what it does."""

    seen: Sequence[Seen] = ()
    fenced: list[tuple[Seen, str, float]] = field(default_factory=list)
    lost: int = 0
    locked: bool = False
    counted: int = 0
    error: Exception | None = None
    count_error: Exception | None = None

    def others(self) -> Sequence[Seen]:
        if self.error is not None:
            raise self.error
        return self.seen

    def fence(self, seen: Seen, by: str, silent_s: float) -> int | None:
        self.fenced.append((seen, by, silent_s))
        return 3

    def keeps_hosts_waiting(self) -> bool:
        return self.locked

    def lost_commits(self) -> None:
        self.lost += 1

    def counts(self) -> Mapping[State, int]:
        self.counted += 1
        if self.count_error is not None:
            raise self.count_error
        return {State.PLANNED: self.counted}

    def close(self) -> None:
        pass


class Clock:
    """The monotonic clock of the module."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watcher, "time", clock)
    return clock


def test_a_watcher_fences_with_the_beats_that_it_has_seen_all_the_time(clock: Clock) -> None:
    store = Store([host(1, 7)])
    watching = Watcher(lambda: store, OURS, "ops9", TIMES)
    for _ in range(round(LIMIT_S) + 1):
        watching.look()
        assert store.fenced == []
        clock.now_s += 1.0
        store.seen = [host(1, 7), host(2, round(clock.now_s))]
    watching.look()
    assert store.fenced == [(host(1, 7), "ops9", LIMIT_S + 1)]
    assert watching.live == 2


def test_a_host_that_can_not_write_is_not_fenced_by_itself(clock: Clock) -> None:
    ours = host(1, 7)._replace(id=OURS)
    store = Store([ours])
    watching = Watcher(lambda: store, OURS, "ops9", TIMES)
    for _ in range(2 * round(LIMIT_S)):
        watching.look()
        clock.now_s += 1.0
    assert (store.fenced, watching.live) == ([], 1)


def test_nobody_is_fenced_who_waits_for_a_change_of_the_whole_run(clock: Clock) -> None:
    store = Store([host(1, 7)], locked=True)
    watching = Watcher(lambda: store, OURS, "ops9", TIMES)
    for second in range(3 * round(LIMIT_S)):
        watching.look()
        clock.now_s += 1.0
        store.locked = second < 2 * LIMIT_S
    assert store.fenced == []
    for _ in range(3):
        watching.look()
        clock.now_s += 1.0
    assert store.fenced


def test_a_watcher_says_that_commits_are_lost_and_fences_nobody(clock: Clock) -> None:
    store = Store([host(1, 7)])
    watching = Watcher(lambda: store, OURS, "ops9", TIMES)
    watching.look()
    store.seen = [host(1, 6)]
    watching.look()
    assert (store.lost, store.fenced) == (1, [])


def test_counting_that_fails_is_not_tried_with_each_look(clock: Clock) -> None:
    store = Store(count_error=StoreError("the database has not answered for 3 s", ""))

    def count() -> Mapping[State, int]:
        clock.now_s += 3.0
        return Store.counts(store)

    store.counts = count  # type: ignore[method-assign]
    watching = Watcher(lambda: store, OURS, "ops9", TIMES)
    with pytest.raises(StoreError):
        watching.look()
    clock.now_s += 1.0
    watching.look()
    assert store.counted == 1
    clock.now_s += 60.0
    with pytest.raises(StoreError):
        watching.look()
