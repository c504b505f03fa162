"""One ceiling over many hosts, on a virtual clock: whatever happens, no rolling second above it.

Each protection is removed in turn, and then the ceiling does not hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkcert.hosts.clockmap import Bounds, ClockMap, Reading, Seen
from bulkcert.hosts.pace import StorePace, divide
from bulkcert.hosts.reservation import Reserver
from hosts.simulated_pace import OfRun, SimulatedPace
from hosts.simulation import TIMINGS, World

Scene = Callable[[World], None]
Removal = Callable[[pytest.MonkeyPatch], None]

SPAN_S = TIMINGS.span_s(95)


@contextmanager
def world(seed: int = 1, **options: Any) -> Iterator[World]:
    with closing(World(seed, **options)) as made:
        yield made


# ---- what happens


def all_is_well(world: World) -> None:
    for _ in range(3):
        world.join()
    world.run(3)


def the_clock_steps_by(seconds: float) -> Scene:
    def scene(world: World) -> None:
        for _ in range(3):
            world.join()
        world.run(2)
        world.step(seconds)
        world.run(2)
        world.step(-seconds)
        world.run(2)

    return scene


def a_host_joins_while_the_clock_steps(world: World) -> None:
    """Whoever was there dies at once, with its slots still to come somewhere."""
    for _ in range(3):
        world.join()
    world.run(2)
    world.step(0.3)
    for host in world.hosts:
        # they reserve nothing any more, and go on sending
        host._tasks[0].over = True
    for _ in range(2):
        world.join()
    world.run(2)


def hosts_are_cut_off_while_the_clock_steps_by(seconds: float) -> Scene:
    def scene(world: World) -> None:
        for _ in range(3):
            world.join(ready=30)
        world.run(2)
        for host in world.hosts[1:]:
            # it does not hear of anything, and goes on sending
            host._tasks[0].stopped_until = world.simulation.now + 0.8
        world.step(seconds)
        world.run(3)

    return scene


def an_epoch_fails_at_first(world: World) -> None:
    world.failing_epochs = 1
    hosts_are_cut_off_while_the_clock_steps_by(0.3)(world)


def most_of_many_hosts_are_cut_off(world: World) -> None:
    for _ in range(10):
        world.join()
    world.run(3)
    for host in world.hosts[2:]:
        host._tasks[0].stopped_until = world.simulation.now + 3
    world.step(0.3)
    world.run(3)


def the_store_loses_commits(world: World) -> None:
    for _ in range(3):
        world.join()
    world.run(2)
    world.lose_commits(0.5)
    world.run(2)


def the_rows_are_removed(world: World) -> None:
    for _ in range(3):
        world.join()
    world.run(2)
    world.forget()
    world.run(2)


def hosts_are_stopped(world: World) -> None:
    for _ in range(3):
        world.join()
    for wait_s in (2.0, 0.1, 0.05):
        world.run(wait_s)
        for host in world.hosts:
            host.stop(0.3 - wait_s / 10)
    world.run(2)


def answers_are_slow(world: World) -> None:
    for _ in range(3):
        world.join()
    world.run(6)


def the_clock_is_slewed(rate: float) -> Scene:
    def scene(world: World) -> None:
        for _ in range(2):
            world.join()
        world.run(2)
        world.slew(rate)
        world.run(5)
        world.slew(0.0)
        world.run(2)

    return scene


SCENES: dict[str, tuple[Scene, dict[str, Any]]] = {
    "all is well": (all_is_well, {}),
    "+0.3 s": (the_clock_steps_by(0.3), {}),
    "-0.3 s": (the_clock_steps_by(-0.3), {}),
    "+30 ms": (the_clock_steps_by(0.03), {"slow_s": 0.005}),
    "+1 h": (the_clock_steps_by(3600), {}),
    "-1 h": (the_clock_steps_by(-3600), {}),
    "a newcomer at a step": (a_host_joins_while_the_clock_steps, {}),
    "+0.3 s, and hosts are cut off": (hosts_are_cut_off_while_the_clock_steps_by(0.3), {}),
    "-0.3 s, and hosts are cut off": (hosts_are_cut_off_while_the_clock_steps_by(-0.3), {}),
    "an epoch fails": (an_epoch_fails_at_first, {}),
    "many hosts": (most_of_many_hosts_are_cut_off, {}),
    "lost commits": (the_store_loses_commits, {}),
    "removed rows": (the_rows_are_removed, {}),
    "stopped hosts": (hosts_are_stopped, {}),
    "slow answers": (answers_are_slow, {"slow_s": 0.6}),
    "slewed by 500 ppm": (the_clock_is_slewed(0.0005), {}),
    "slewed by a tenth": (the_clock_is_slewed(0.1), {}),
    "slewed back by a tenth": (the_clock_is_slewed(-0.1), {}),
}


@pytest.mark.parametrize("name", SCENES)
def test_no_rolling_second_is_above_the_ceiling(name: str) -> None:
    scene, options = SCENES[name]
    with world(**options) as made:
        scene(made)
        assert made.busiest <= made.ceiling
        assert made.left_since(1) > 0


# ---- each protection is needed


def steps_are_not_noticed(patch: pytest.MonkeyPatch) -> None:
    add = ClockMap.add

    def without(self: ClockMap, reading: Reading) -> Seen:
        seen = add(self, reading)
        return Seen.SAME if seen is Seen.STEP else seen

    patch.setattr(ClockMap, "add", without)


def an_epoch_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    begin = Reserver._begin_epoch

    def without(self: Reserver, table: Any) -> None:
        if self._owed is not None and self._owed.offset_s is not None:
            self._owed = None
        else:
            begin(self, table)

    patch.setattr(Reserver, "_begin_epoch", without)


def an_epoch_that_failed_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    begin = Reserver._begin_epoch

    def without(self: Reserver, table: Any) -> None:
        try:
            begin(self, table)
        finally:
            self._owed = None

    patch.setattr(Reserver, "_begin_epoch", without)


def newcomers_do_not_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reserver, "_hold", lambda self, until: None)


def late_slots_are_used(patch: pytest.MonkeyPatch) -> None:
    take, now = StorePace._take, Bounds.now

    def without(self: StorePace, at: float) -> float:
        with pytest.MonkeyPatch.context() as inner:
            # no slot is ever over
            inner.setattr(Bounds, "now", lambda self, local: (now(self, local)[0], 0.0))
            return take(self, at)

    patch.setattr(StorePace, "_take", without)


def slots_are_reserved_far_ahead(patch: pytest.MonkeyPatch) -> None:
    reserve = SimulatedPace.reserve

    def without(self: SimulatedPace, *args: Any, **options: Any) -> Any:
        usual = self.store.timings
        self.store.timings = replace(usual, horizon_s=5.0)
        try:
            return reserve(self, *args, **options)
        finally:
            self.store.timings = usual

    patch.setattr(SimulatedPace, "reserve", without)


def another_server_is_trusted(patch: pytest.MonkeyPatch) -> None:
    lose = World.lose_commits
    patch.setattr(World, "lose_commits", lambda self, s: lose(self, s, same_server=True))


@pytest.mark.parametrize(
    ("remove", "scene"),
    [
        (steps_are_not_noticed, hosts_are_cut_off_while_the_clock_steps_by(0.3)),
        (an_epoch_does_not_wait, hosts_are_cut_off_while_the_clock_steps_by(0.3)),
        (an_epoch_that_failed_is_forgotten, an_epoch_fails_at_first),
        (newcomers_do_not_wait, a_host_joins_while_the_clock_steps),
        (late_slots_are_used, hosts_are_stopped),
        (slots_are_reserved_far_ahead, most_of_many_hosts_are_cut_off),
        (another_server_is_trusted, the_store_loses_commits),
    ],
)
def test_without_a_protection_the_ceiling_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, remove: Removal, scene: Scene
) -> None:
    remove(monkeypatch)
    busiest = 0
    for seed in range(3):
        if busiest <= 100:
            with world(seed) as made:
                scene(made)
                busiest = made.busiest
    assert busiest > 100


# ---- anything, in any order


EVENTS = st.one_of(
    st.tuples(st.just("step"), st.sampled_from([-3600, -1, -0.3, -0.03, 0.03, 0.2, 0.6, 3600])),
    st.tuples(st.just("slew"), st.sampled_from([0.0, 0.0005, -0.0005, 0.05, -0.05, 0.1])),
    st.tuples(st.just("join"), st.integers(1, 30)),
    st.tuples(st.just("kill"), st.integers(0, 5)),
    st.tuples(st.just("stop"), st.sampled_from([0.05, 0.3, 1.5])),
    st.tuples(st.just("cut off"), st.sampled_from([0.1, 0.5, 1.5])),
    st.tuples(st.just("lose commits"), st.sampled_from([0.1, 0.5, 2.0])),
    st.tuples(st.just("forget"), st.none()),
    st.tuples(st.just("break"), st.none()),
    st.tuples(st.just("epoch fails"), st.none()),
    st.tuples(st.just("throttle"), st.sampled_from([0.2, 1.0])),
)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    hosts=st.integers(1, 4),
    slow_s=st.sampled_from([0.001, 0.03, 0.3]),
    events=st.lists(st.tuples(st.sampled_from([0.01, 0.1, 0.3, 1.0]), EVENTS), max_size=12),
)
def test_whatever_happens_the_ceiling_holds(
    seed: int, hosts: int, slow_s: float, events: list[Any]
) -> None:
    with world(seed, slow_s=slow_s) as made:
        for _ in range(hosts):
            made.join()
        made.run(1.5)
        for wait_s, (what, value) in events:
            host = made.rng.choice(made.hosts)
            match what:
                case "step":
                    made.step(value)
                case "slew":
                    made.slew(value)
                case "join":
                    made.join(ready=value)
                case "kill":
                    host.kill()
                case "stop":
                    host.stop(value)
                case "cut off":
                    host._tasks[0].stopped_until = made.simulation.now + value
                case "lose commits":
                    made.lose_commits(min(value, made.simulation.now - 5000))
                case "forget":
                    made.forget()
                case "break":
                    made.connections += 1
                case "epoch fails":
                    made.failing_epochs += 1
                case "throttle":
                    host.throttle(value)
            made.run(wait_s)
        made.run(1.5)
        assert made.busiest <= made.ceiling


# ---- nothing starves


def test_a_row_that_is_far_ahead_is_reset_by_those_who_come_later() -> None:
    with world() as made:
        host = made.join()
        made.run(2)
        host.kill()
        made.run(1)
        made.step(-3600)
        made.join()
        made.run(3)
        assert made.left_since(1) >= 90


def test_a_reset_does_not_shorten_a_pause() -> None:
    with world() as made:
        host = made.join()
        made.run(2)
        host.throttle(5.0)
        host.share = 1.0
        made.run(0.2)
        made.times.clear()
        host.kill()
        made.step(-3600)
        made.join()
        made.run(4.5)
        assert made.times == []
        made.run(5)
        assert made.left_since(1) >= 90


@pytest.mark.parametrize("seconds", [3600, -3600, 0.3, -0.3, 0.03, -0.03])
def test_a_step_of_the_clock_costs_little_time(seconds: float) -> None:
    with world(slow_s=0.005) as made:
        for _ in range(3):
            made.join()
        made.run(2)
        made.step(seconds)
        made.run(2)
        assert made.left_since(2) >= 190 - 95 * 2 * SPAN_S


@pytest.mark.parametrize("rate", [0.0005, -0.0005])
def test_a_clock_that_is_slewed_slowly_costs_nothing(rate: float) -> None:
    with world() as made:
        made.join()
        made.run(2)
        made.slew(rate)
        made.run(5)
        assert made.left_since(5) >= 0.97 * 95 * 5


@pytest.mark.parametrize("rate", [0.1, -0.1])
def test_a_clock_that_is_slewed_as_fast_as_can_be_costs_a_fifth(rate: float) -> None:
    with world(slow_s=0.005) as made:
        made.join()
        made.run(2)
        made.slew(rate)
        made.run(5)
        assert made.left_since(2) >= 0.75 * 95 * 2


def test_a_host_with_a_sick_clock_stops_nobody_else() -> None:
    with world() as made:
        well = [made.join() for _ in range(2)]
        sick = made.join()
        sick.jumps_s = 0.3
        made.run(20)
        assert sum(time > made.simulation.now - 10 for host in well for time in host.times) >= 850
        assert any("clock" in note for note in sick.notes)
        assert made.busiest <= made.ceiling


def test_a_death_costs_what_was_reserved() -> None:
    with world() as made:
        hosts = [made.join() for _ in range(3)]
        made.run(3)
        hosts[0].kill()
        made.run(1)
        assert made.left_since(1) >= 95 - 20


# ---- what people are told


def test_a_store_that_is_too_far_away_is_named_with_both_figures() -> None:
    with world() as made:
        made.latency_s = 0.015
        host = made.join()
        made.run(8)
        assert made.times == []
        assert len(host.notes) == 1
        assert "30 ms, and a slot is 20 ms long" in host.notes[0]


def test_a_store_that_answers_too_late_is_named_with_both_figures() -> None:
    with world() as made:
        made.slow_calls = {"reserve": 0.5}
        host = made.join()
        made.run(8)
        assert len(host.notes) == 1
        assert re.search(
            r"a reservation took 5\d\d ms, and slots are at most 300 ms", host.notes[0]
        )


def test_a_slow_commit_alone_starves_nobody() -> None:
    with world() as made:
        made.slow_calls = {"reserve": 0.12}
        made.join(ready=60)
        made.run(6)
        assert made.left_since(2) >= 0.8 * 95 * 2


def test_a_store_that_is_away_is_named() -> None:
    with world() as made:
        host = made.join()
        made.run(2)
        made.down = True
        made.run(7)
        assert host.notes == ["No slot of the ceiling for 5 s: the store is away."]
        made.down = False
        made.run(2)
        assert made.left_since(1) >= 90
        assert made.busiest <= made.ceiling


def test_a_host_that_is_too_busy_for_its_slots_is_named_once() -> None:
    with world() as made:
        well, busy = made.join(), made.join()
        busy.busy_s = 0.08
        made.run(35)
        (note,) = busy.notes
        assert note.startswith("This machine is too busy: of ")
        assert "more than 20 ms late" in note
        assert well.notes == []


def test_nothing_is_said_while_all_is_well_or_nothing_is_ready() -> None:
    with world() as made:
        host = made.join()
        made.run(12)
        for _ in range(3):
            host.ready = 0
            made.run(3)
            host.ready = 15
            made.run(3)
        assert host.notes == []
        assert made.left_since(1) >= 90


# ---- what people ask of a run


def test_when_a_run_is_held_nothing_leaves_after_a_while() -> None:
    with world() as made:
        for _ in range(3):
            made.join()
        made.run(2)
        made.store.runs[1] = OfRun(held=True)
        made.hosts[2]._tasks[0].stopped_until = made.simulation.now + 2  # it does not hear of it
        made.run(SPAN_S)
        before = len(made.times)
        made.run(2)
        assert len(made.times) == before
        assert made.hosts[0].notes == []
        made.store.runs[1] = OfRun()
        made.run(1)
        assert made.left_since(0.5) > 40


def test_a_host_that_has_not_heard_of_a_decision_sends_nothing() -> None:
    with world() as made:
        knows, does_not = made.join(), made.join()
        made.run(2)
        made.store.runs[1] = OfRun(version=3)
        knows.pace.follow(3)
        made.run(SPAN_S)
        before = len(does_not.times)
        made.run(2)
        assert len(does_not.times) == before
        assert sum(time > made.simulation.now - 1 for time in knows.times) >= 90


@pytest.mark.parametrize("others", [0, 1])
def test_a_run_has_a_rate_of_its_own(others: int) -> None:
    with world() as made:
        hosts = [made.join() for _ in range(2)]
        for _ in range(others):
            made.join(run=2)
        made.store.runs[1] = OfRun(rate=50.0)
        made.run(6)
        times = sorted(time for host in hosts for time in host.times)
        assert most(times) <= 50
        assert sum(time > made.simulation.now - 4 for time in times) >= 0.7 * 47 * 4
        if others:
            assert made.left_since(4) >= 0.9 * 95 * 4


def test_the_lowest_ceiling_of_the_runs_of_an_account_is_in_force() -> None:
    with world() as made:
        made.join()
        made.join(run=2, ceiling=40)
        made.run(5)
        assert most([time for time in made.times if time > made.times[0] + 2]) <= 40


def test_two_accounts_do_not_disturb_each_other() -> None:
    with world() as made:
        hosts = [made.join(), made.join(scopes=["another"])]
        made.run(4)
        for host in hosts:
            assert sum(time > made.simulation.now - 2 for time in host.times) >= 185


# ---- addresses


def test_the_limit_of_an_address_holds_whoever_dies() -> None:
    with world(ceiling=200) as made:
        a, b = (made.join(per_address=110, egress=name, ready=30) for name in "ab")
        made.run(4)
        assert made.left_since(2) >= 0.95 * 190 * 2
        b.kill()
        c = made.join(per_address=110, egress="c", ready=30)
        made.run(15)
        for host in (a, b, c):
            assert most(host.times) <= 110
        assert most(made.times) <= 200
        assert made.left_since(2) >= 0.9 * 190 * 2  # c has the lanes of b


def test_hosts_behind_one_address_share_its_limit() -> None:
    with world(ceiling=200) as made:
        for _ in range(3):
            made.join(per_address=110)
        made.run(4)
        assert most(made.times) <= 110
        assert made.left_since(2) >= 0.8 * 95 * 2


@pytest.mark.parametrize("ceiling", [1, 2, 3, 10, 30, 100, 500, 777, 2000])
@pytest.mark.parametrize("per_address", [1, 2, 50, 300])
def test_lanes_are_so_many_that_both_limits_hold(ceiling: int, per_address: int) -> None:
    lanes, each = divide(ceiling, per_address, TIMINGS)
    rate = TIMINGS.utilization * ceiling / lanes
    in_a_second = math.ceil((1 + TIMINGS.slot_s) * rate - 1e-9)
    assert lanes * in_a_second <= ceiling
    assert each * in_a_second <= per_address
    assert each >= 1


def test_the_usual_limits_make_eight_lanes_of_which_an_address_carries_four() -> None:
    assert divide(500, 300, TIMINGS) == (8, 4)
    assert divide(500, None, TIMINGS) == (1, 1)


def most(times: list[float]) -> int:
    counted = World.__new__(World)
    counted.times = sorted(times)
    return counted.busiest
