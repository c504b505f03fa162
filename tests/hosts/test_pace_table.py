"""The pace of an account in PostgreSQL and in memory: any sequence of calls, the same answers.

The store's clock is a number that the test sets, and so it is with both of them.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from bulkcert.hosts.pace import member
from bulkcert.store.pace import PaceAnswer, PaceMember
from bulkcert.store.postgresql.pace import PostgresPace, set_run_pace
from bulkcert.store.postgresql.schema import grant
from bulkcert.timings import HostTimings
from hosts.simulated_pace import OfRun, SimulatedPace, SimulatedStore

pytestmark = pytest.mark.system

TIMINGS = HostTimings()
BEGIN_S = 1e6
RUNS = (2001, 2002)
ACCOUNTS = (("account", "key 1"), ("account", "key 2"))


@dataclass
class Clock:
    now: float = BEGIN_S

    def __call__(self) -> float:
        return self.now


@dataclass(repr=False)
class Both:
    """A store in PostgreSQL and one in memory, in the same state."""

    dsn: str
    db: psycopg.Connection
    clock: Clock = field(default_factory=Clock)
    pairs: dict[PaceMember, tuple[PostgresPace, SimulatedPace]] = field(default_factory=dict)
    states: dict[PaceMember, list[str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "both"

    def __post_init__(self) -> None:
        self.simulated = SimulatedStore(self.clock, TIMINGS)
        self.restart()

    def restart(self) -> None:
        """Forget everything."""
        self.close()
        self.db.execute(
            "DELETE FROM bulkcert.pace_run; DELETE FROM bulkcert.pace_host;"
            " DELETE FROM bulkcert.pace"
        )
        self.simulated = SimulatedStore(self.clock, TIMINGS)
        self.at(BEGIN_S)

    def at(self, now: float) -> None:
        """Set the clock."""
        self.clock.now = now
        self.db.execute("UPDATE pace_clock SET now = %s", (now,))

    def call(self, who: PaceMember, name: str, *args: Any, **options: Any) -> Any:
        """Call both, and compare."""
        if who not in self.pairs:
            real, simulated = PostgresPace(self.dsn, who, TIMINGS), self.simulated.connect(who)
            simulated.server = real._server
            self.pairs[who] = real, simulated
        answers = [getattr(each, name)(*args, **options) for each in self.pairs[who]]
        if name == "reserve":
            self.states[who] = [answer.state for answer in answers]
        first, second = map(comparable, answers)
        same = first == second
        if isinstance(answers[0], PaceAnswer):
            same = first == pytest.approx(second, rel=0, abs=1e-6)
        assert same, (name, args, first, second)
        return answers[0]

    def reserve(self, who: PaceMember, wanted: int = 10, **options: Any) -> PaceAnswer:
        usual = {"version": 0, "late": 0, "share": 1.0, "lead_s": TIMINGS.lead_s}
        answer = self.call(who, "reserve", wanted, **(usual | options))
        assert isinstance(answer, PaceAnswer)
        return answer

    def reset(self, who: PaceMember) -> bool:
        """Begin an epoch if nothing has changed since this host was last refused."""
        states = self.states.get(who, ["", ""])
        epochs = [
            each.begin_epoch(0.5, 0, None, state)
            for each, state in zip(self.pairs[who], states, strict=True)
        ]
        assert epochs[0] == epochs[1]
        return epochs[0] is not None

    def begin(self, who: PaceMember) -> None:
        """Be a member whose quarantine is over."""
        self.reserve(who)
        self.call(who, "begin_epoch", 0.5, 0, None)
        self.call(who, "join", 0, 0.5)
        self.at(self.clock.now + 0.6)

    def steer(self, run: int, *, held: bool, rate: float | None, version: int) -> None:
        set_run_pace(self.db, run, held=held, rate=rate, version=version)
        of_run = self.simulated.runs.setdefault(run, OfRun())
        of_run.held, of_run.rate = held, rate
        of_run.version = max(version, of_run.version)

    def close(self) -> None:
        for real, _ in self.pairs.values():
            real.close()
        self.pairs.clear()


def comparable(answer: Any) -> Any:
    if not isinstance(answer, PaceAnswer):
        return answer
    values = answer._asdict()
    del values["state"]
    refusal = values.pop("refusal")
    values["refused"] = sum(map(ord, refusal))  # approx compares numbers only
    return values


@pytest.fixture
def both(own_store: str) -> Iterator[Both]:
    with closing(psycopg.connect(own_store, autocommit=True)) as db:
        both = Both(own_store, db)
        with closing(both):
            yield both


@pytest.fixture(scope="module")
def own_store(postgres: str) -> Iterator[str]:
    """A store with a clock that stands still."""
    from postgres import new_database

    with new_database(postgres) as url:
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("CREATE TABLE pace_clock AS SELECT 0::double precision AS now")
            db.execute("GRANT SELECT ON pace_clock TO public")
            db.execute(
                "CREATE OR REPLACE FUNCTION bulkcert.now_s() RETURNS double precision"
                " LANGUAGE sql VOLATILE AS 'SELECT now FROM public.pace_clock'"
            )
            for run in RUNS:
                db.execute(
                    "INSERT INTO bulkcert.run (id, name, manifest) OVERRIDING SYSTEM VALUE"
                    " VALUES (%s, %s, '{}')",
                    (run, str(run)),
                )
        yield url


def host(
    account: int = 0,
    run: int = 0,
    ceiling: float = 500,
    per_address: float | None = None,
    **more: Any,
) -> PaceMember:
    return member(
        id=uuid.uuid4(),
        run=RUNS[run],
        scopes=ACCOUNTS[account],
        ceiling=ceiling,
        timings=TIMINGS,
        per_address=per_address,
        **more,
    )


# ---- what is granted


def test_slots_are_consecutive_and_each_is_given_once(both: Both) -> None:
    a, b = host(), host()
    both.begin(a)
    both.call(b, "join", 0, 0.5)
    first = both.reserve(a, 3)
    assert first.granted == 3
    assert first.first_slot == pytest.approx(both.clock.now + TIMINGS.lead_s)
    assert first.spacing_s == pytest.approx(1 / 475)
    second = both.reserve(b, 2)
    assert second.first_slot == pytest.approx(first.first_slot + 3 / 475)


def test_few_are_reserved_at_once_and_not_far_ahead(both: Both) -> None:
    a, b = host(), host()
    both.begin(a)
    assert both.reserve(a, 1000).granted == 71  # half of the horizon
    both.call(b, "join", 0, 0.5)
    assert both.reserve(a, 1000).granted == 35
    granted = [both.reserve(a, 1000) for _ in range(10)]
    assert granted[-1].refusal == "ahead"
    assert granted[-1].wait_s > 0
    ends = [each.first_slot + each.granted * each.spacing_s for each in granted if each.granted]
    assert max(ends) < both.clock.now + TIMINGS.span_s(475) - TIMINGS.slot_s


def test_at_a_low_ceiling_one_slot_is_reserved_at_once(both: Both) -> None:
    a = host(ceiling=1)
    both.begin(a)
    assert both.reserve(a, 10).granted == 1
    assert both.reserve(a, 10).refusal == "ahead"


def test_two_accounts_have_a_pace_each_unless_they_have_a_name_in_common(both: Both) -> None:
    a, b, other = host(0), host(1), host(0, run=1)
    both.begin(a)
    both.begin(b)  # ACCOUNTS have the first name in common
    both.call(a, "join", 0, 0.5)
    both.call(other, "join", 0, 0.5)
    first = both.reserve(a, 1)
    assert both.reserve(b, 1).first_slot > first.first_slot
    assert both.reserve(other, 1).first_slot > first.first_slot + 1 / 475
    alone = member(id=uuid.uuid4(), run=RUNS[0], scopes=["else"], ceiling=500, timings=TIMINGS)
    both.begin(alone)
    both.reserve(a, 50)
    assert both.reserve(alone, 1).first_slot == pytest.approx(both.clock.now + TIMINGS.lead_s)


def test_the_lowest_ceiling_of_all_is_in_force(both: Both) -> None:
    a, b = host(), host(run=1, ceiling=100)
    both.begin(a)
    both.call(b, "join", 0, 0.5)
    assert both.reserve(a, 5).spacing_s == pytest.approx(1 / 95)
    both.at(both.clock.now + 11)
    both.call(a, "join", 0, 0.5)  # nobody has heard of the other for 11 s
    assert both.reserve(a, 5).spacing_s == pytest.approx(1 / 475)


def test_late_requests_of_one_take_slots_from_all(both: Both) -> None:
    a, b = host(), host()
    both.begin(a)
    both.call(b, "join", 0, 0.5)
    both.reserve(a, 1, late=75)
    assert both.reserve(b, 5).spacing_s == pytest.approx(1 / 400)
    assert both.reserve(a, 1, late=500).refusal == "late"
    assert both.reserve(b, 5).refusal == "late"
    assert both.reserve(a, 1, late=0).granted == 1


# ---- what is refused


def test_without_rows_or_on_another_server_nothing_is_given(both: Both) -> None:
    a = host()
    assert both.reserve(a).refusal == "server"
    both.call(a, "begin_epoch", 0.5, 0, None)
    assert both.reserve(a).refusal == "host"
    both.call(a, "join", 0, 0.5)
    assert both.reserve(a).refusal == "quarantine"
    both.at(both.clock.now + 0.5)
    assert both.reserve(a).granted
    for each in both.pairs[a]:
        if isinstance(each, PostgresPace):
            each._server = "another"
        else:
            each.server = "another"
    assert both.reserve(a).refusal == "server"


@pytest.mark.parametrize("names", [("another", "key 1"), ("key 1", "zero")])
def test_a_new_account_that_has_a_name_in_common_begins(both: Both, names: tuple[str, ...]) -> None:
    both.begin(host())
    new = member(id=uuid.uuid4(), run=RUNS[1], scopes=names, ceiling=500, timings=TIMINGS)
    assert both.reserve(new).refusal == "server"
    both.begin(new)
    assert both.reserve(new).granted


def test_a_host_that_nobody_has_heard_of_for_long_must_join_again(both: Both) -> None:
    a = host()
    both.begin(a)
    both.at(both.clock.now - 3600)  # the clock has been set
    assert both.reserve(a).refusal == "host"
    both.call(a, "join", 0, 0.5)
    assert both.reserve(a).refusal == "quarantine"


def test_a_run_that_is_held_gets_nothing_and_others_do(both: Both) -> None:
    a, b = host(), host(run=1)
    both.begin(a)
    both.call(b, "join", 0, 0.5)
    both.steer(RUNS[0], held=True, rate=None, version=0)
    assert both.reserve(a).refusal == "held"
    assert both.reserve(b).granted
    both.steer(RUNS[0], held=False, rate=None, version=7)
    assert both.reserve(a, version=6).refusal == "version"
    assert both.reserve(a, version=7).granted


def test_a_rate_of_a_run_is_its_own(both: Both) -> None:
    a, b = host(), host(run=1)
    both.begin(a)
    both.steer(RUNS[0], held=False, rate=100.0, version=0)
    first = both.reserve(a, 50)
    assert first.granted == 2
    second = both.reserve(a, 50)
    assert second.first_slot == pytest.approx(first.first_slot + 2 / 95)
    both.call(b, "join", 0, 0.5)
    refused = both.reserve(a, 50)  # what is before its next slot is for others
    assert refused.refusal == "ahead"
    assert both.reserve(b, 50).granted > 2
    both.at(both.clock.now + refused.wait_s)
    # others were faster, so it is behind them
    assert both.reserve(a, 50).granted == 2


def test_a_change_of_rate_begins_where_the_old_one_ends(both: Both) -> None:
    a = host()
    both.begin(a)
    both.steer(RUNS[0], held=False, rate=4.0, version=0)
    first = both.reserve(a, 5)
    both.steer(RUNS[0], held=False, rate=400.0, version=0)
    assert both.reserve(a, 5).refusal in ("", "ahead")
    both.at(both.clock.now + 0.2)
    assert both.reserve(a, 5).first_slot >= first.first_slot + 1 / (0.95 * 4) - 1e-6


@pytest.mark.parametrize(
    ("what", "refusal"),
    [
        ({"held": True, "rate": None, "version": 0}, "held"),
        ({"held": False, "rate": None, "version": 3}, "version"),
        ({"held": False, "rate": 1.0, "version": 0}, "version"),
    ],
    ids=["held", "version", "rate"],
)
def test_what_is_decided_while_a_reservation_waits_is_obeyed(
    both: Both, what: dict[str, Any], refusal: str
) -> None:
    """A sub-select would see what was committed before it waited."""
    a = host()
    both.begin(a)
    answers: list[PaceAnswer] = []
    table = both.pairs[a][0]

    def reserve() -> None:
        answers.append(table.reserve(5, version=0, late=0, share=1.0, lead_s=0.05))

    with psycopg.connect(both.dsn) as other:
        other.execute("SELECT FROM bulkcert.pace_lane FOR UPDATE")
        waiting = threading.Thread(target=reserve)
        waiting.start()
        while not both.db.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
            pass
        set_run_pace(both.db, RUNS[0], **what)
    waiting.join()
    assert answers[0].refusal == refusal


def test_a_worker_may_do_all_of_it(both: Both) -> None:
    role = f"worker_{uuid.uuid4().hex[:8]}"
    both.db.execute(f"CREATE ROLE {role} LOGIN".encode())
    grant(both.db, worker=role)
    a = host(per_address=300)
    try:
        with closing(PostgresPace(make_conninfo(both.dsn, user=role), a, TIMINGS)) as table:
            table.begin_epoch(0.5, 0, None)
            assert table.join(0, 0.5) == 4
            both.at(both.clock.now + 0.6)
            assert table.reserve(5, version=0, late=0, share=1.0, lead_s=0.05).granted
            table.slow_down(both.clock.now, 1.0, 0.5)
            table.leave()
            set_run_pace(table._db, RUNS[0], held=True, rate=None, version=1)
    finally:
        both.db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


# ---- 429


def test_a_pause_is_for_everybody_and_its_share_too(both: Both) -> None:
    a, b = host(), host()
    both.begin(a)
    both.call(b, "join", 0, 0.5)
    both.reserve(a, 10)
    both.call(a, "slow_down", both.clock.now, 2.0, 0.5)
    answer = both.reserve(b)
    assert (answer.refusal, answer.share, answer.pause_s) == ("pause", 0.5, 2.0)
    assert answer.not_before == pytest.approx(both.clock.now + 2)


def test_responses_to_what_left_before_a_cut_do_not_cut_again(both: Both) -> None:
    """Ten hosts are throttled at once, and then none of them goes at a thousandth."""
    a, b = host(), host()
    both.begin(a)
    reserved = both.reserve(a, 30)
    both.call(a, "slow_down", both.clock.now, 1.0, 0.5)
    cut_at = both.reserve(a).cut_at
    assert cut_at > reserved.first_slot + 29 / 475  # what is reserved belongs to it
    both.at(both.clock.now + 0.01)
    both.call(b, "slow_down", cut_at - 0.001, 0.7, 0.5)
    answer = both.reserve(a)
    assert (answer.share, answer.cut_at) == (0.5, pytest.approx(cut_at))
    both.call(b, "slow_down", cut_at - 0.001, 5.0, 0.4)
    answer = both.reserve(a)
    assert (answer.share, answer.cut_at) == (0.4, pytest.approx(cut_at))
    assert answer.not_before == pytest.approx(both.clock.now + 5)
    both.at(both.clock.now + 6)
    both.call(b, "slow_down", both.clock.now - 0.1, 1.0, 0.9)  # a new one
    assert both.reserve(a).share == 0.9


# ---- epochs


def test_an_epoch_waits_for_all_that_is_reserved(both: Both) -> None:
    a = host(ceiling=4)
    both.begin(a)
    both.reserve(a, 1)
    both.call(a, "begin_epoch", 0.1, 0, None)
    answer = both.reserve(a)
    assert answer.refusal == "quarantine"
    assert answer.wait_s >= TIMINGS.horizon_s + 1 / 3.8


@pytest.mark.parametrize("step_s", [-3600.0, -0.3, 0.3, 3600.0])
@pytest.mark.parametrize("knows", [True, False], ids=["knows", "does not know"])
def test_a_step_of_the_clock_does_not_shorten_a_pause(
    both: Both, step_s: float, *, knows: bool
) -> None:
    a = host()
    both.begin(a)
    both.call(a, "slow_down", both.clock.now, 30.0, 0.5)
    epoch = both.reserve(a).epoch
    both.at(both.clock.now + 10 + step_s)
    both.call(a, "begin_epoch", 0.5, epoch, both.clock.now - step_s if knows else None)
    both.call(a, "join", 0, 0.5)
    both.at(both.clock.now + 0.6)
    answer = both.reserve(a)
    if knows:
        assert answer.refusal == "pause"
        assert answer.wait_s == pytest.approx(19.4)
    else:
        assert answer.not_before <= both.clock.now + 30


def test_a_row_is_reset_only_if_nobody_has_moved_it(both: Both) -> None:
    a, b = host(), host()
    both.begin(a)
    both.reserve(a, 1)
    both.at(both.clock.now - 3600)
    both.call(a, "join", 0, 0.5)
    both.call(b, "join", 0, 0.5)
    assert both.reserve(a).refusal == "quarantine"
    both.reserve(b)
    assert both.reset(b)
    assert not both.reset(a)
    both.call(b, "join", 0, 0.5)
    both.at(both.clock.now + 0.6)
    assert both.reserve(b).granted


# ---- lanes


def test_ways_out_share_the_lanes(both: Both) -> None:
    a, b = (host(per_address=300, egress=name) for name in "ab")
    assert (a.lanes, a.most_lanes) == (8, 4)
    both.begin(a)
    assert both.call(a, "join", 0, 0.5) == 4
    assert both.call(b, "join", 0, 0.5) == 4
    assert both.reserve(b, 1).refusal == "ahead"  # its lanes have just changed hands
    both.at(both.clock.now + 0.6)
    assert both.reserve(b, 1).spacing_s == pytest.approx(8 / 475)
    c = host(per_address=300, egress="c")
    assert both.call(c, "join", 0, 0.5) == 0
    assert both.reserve(c).refusal == "lane"
    assert [both.call(each, "join", 0, 0.5) for each in (a, b, c)] == [3, 3, 2]


def test_two_hosts_behind_one_way_out_share_its_lanes(both: Both) -> None:
    a, b = (host(per_address=300) for _ in range(2))
    both.begin(a)
    assert [both.call(each, "join", 0, 0.5) for each in (a, b)] == [4, 4]


def test_the_lanes_of_a_way_out_that_is_gone_are_free_again(both: Both) -> None:
    a, b = (host(per_address=300, addresses=2, egress=name) for name in "ab")
    both.begin(a)
    assert [both.call(each, "join", 0, 0.5) for each in (a, b, a, b)] == [8, 0, 4, 4]
    both.at(both.clock.now + 11)
    assert both.call(b, "join", 0, 0.5) == 8


def test_an_account_gets_more_lanes_when_somebody_needs_them(both: Both) -> None:
    a, b = host(), host(per_address=300)
    both.begin(a)
    assert both.reserve(b).refusal == "server"
    both.call(b, "begin_epoch", 0.5, 0, None)
    both.at(both.clock.now + 0.6)
    both.call(a, "join", 0, 0.5)
    both.call(b, "join", 0, 0.5)
    assert both.reserve(a, 1).spacing_s == pytest.approx(8 / 475)  # any lane


# ---- any sequence


CALLS = st.one_of(
    st.tuples(st.just("reserve"), st.integers(0, 100), st.sampled_from([0, 0, 30, 600])),
    st.tuples(st.just("join"), st.sampled_from([0, 0, 30]), st.just(0.5)),
    st.tuples(
        st.just("begin_epoch"),
        st.integers(0, 4),
        st.sampled_from([None, BEGIN_S - 100, BEGIN_S + 1]),
    ),
    st.tuples(st.just("slow_down"), st.floats(BEGIN_S - 10, BEGIN_S + 10), st.floats(0, 5)),
    st.tuples(st.just("steer"), st.booleans(), st.sampled_from([None, None, 3.0, 100.0])),
    st.tuples(st.just("reset"), st.none(), st.none()),
    st.tuples(st.just("leave"), st.none(), st.none()),
)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 4),
        CALLS,
        st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.5, 2.0, 11.0, -0.5, -3600.0, 3600.0]),
    ),
    max_size=40,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(STEPS)
def test_in_memory_it_is_as_in_the_database(both: Both, steps: list[Any]) -> None:
    both.restart()
    hosts = [host(), host(ceiling=100), host(1), host(run=1, per_address=300, egress="x")]
    hosts.append(host(1, run=1, per_address=300, egress="y"))
    both.begin(hosts[0])
    for number, (name, first, second), wait_s in steps:
        who = hosts[number]
        match name:
            case "reserve":
                both.reserve(who, first, late=second)
            case "join":
                both.call(who, "join", first, second)
            case "begin_epoch":
                both.call(who, "begin_epoch", 0.5, first, second)
            case "slow_down":
                both.call(who, "slow_down", first, second, 0.5)
            case "steer":
                both.steer(who.run, held=first, rate=second, version=0)
            case "reset" if who in both.states:
                both.reset(who)
            case "leave":
                both.call(who, "leave")
        both.at(both.clock.now + wait_s)
