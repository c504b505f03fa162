"""The hosts of a run as a store knows them: who works on it, who did, and what all of them sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from shared_run import SharedRun

from bulkcert import event_log
from bulkcert.cli.next_steps import next_steps
from bulkcert.event_log import Happened, RunEvent, following
from bulkcert.found_runs import RunState
from bulkcert.hosts.watcher import Watcher
from bulkcert.json_lines import utc
from bulkcert.model import HistoryEntry, HistoryEvent
from bulkcert.observer import Observer
from bulkcert.report.page import report_page
from bulkcert.report.summary import summarize
from bulkcert.rundir import RunDirectory, write_reports
from bulkcert.store.base import Host, HostState, Session, any_overlap
from bulkcert.store.lives import lives_of
from bulkcert.store.place import SharedPlace
from bulkcert.store.postgresql import PostgresStore
from bulkcert.timings import HostTimings

# ---- by the log of a run that is not shared


def log(*happened: Happened) -> list[RunEvent]:
    events: list[RunEvent] = []
    for each in happened:
        events.append(following(events[-1] if events else None, "job", "c" * 64, each))
    return events


def started(at: float, host: str) -> Happened:
    process = {"host": host, "pid": 7, "user": "ann", "version": "1.0"}
    return event_log.started(
        at, process=process, total=6, settled=0, ceiling=500.0, rehearsal=False, options=[]
    )


def ended(at: float, code: int, why: str) -> Happened:
    return event_log.ended(at, code, why, {}, process={}, requests=1, throttled=0, busiest_second=1)


def test_the_processes_of_a_run_are_its_hosts_and_the_last_one_may_be_live() -> None:
    events = log(
        started(100.0, "a"),
        ended(200.0, 3, "Stopped by a signal."),
        started(300.0, "b"),
        event_log.lost(400.0, {}, 350.0),
        started(400.0, "c"),
        started(500.0, "d"),
    )
    sessions = [
        Session(100.0, 199.0, requests=5, rate=9.0),
        Session(400.5, 440.0, requests=6, rate=9.0),
        Session(500.5, 510.0, requests=7, rate=9.0, open_requests=3, control=2),
    ]
    hosts = lives_of(events, sessions, now_s=512.0)
    assert [(host.name, host.state, host.ending, host.requests) for host in hosts] == [
        ("a", HostState.LEFT, "exit code 3: Stopped by a signal", 5),
        ("b", HostState.LEFT, "ended without a word", 0),
        ("c", HostState.LEFT, "ended without a word", 6),
        ("d", HostState.LIVE, "", 7),
    ]
    assert [host.ended_at for host in hosts] == [200.0, 400.0, 440.0, None]
    assert [(host.rate, host.open_requests) for host in hosts] == [(0, 0)] * 3 + [(9.0, 3)]
    assert (hosts[-1].silent_s, hosts[-1].control) == (2.0, 2)


def test_a_process_that_has_noted_nothing_has_no_figures_of_another_one() -> None:
    events = log(started(100.0, "a"), started(300.0, "b"))
    [_, live] = lives_of(events, [Session(100.0, 250.0, rate=9.0)], now_s=301.0)
    assert (live.session, live.rate, live.silent_s) == (None, 0.0, 1.0)


@pytest.mark.parametrize(
    ("spans", "overlap"),
    [
        ([], False),
        ([(0, 10)], False),
        ([(0, 10), (10, 20)], False),
        ([(10, 20), (0, 10)], False),
        ([(0, 100), (20, 30)], True),
        ([(50, 60), (0, 100), (120, 130)], True),
    ],
)
def test_processes_overlap_if_two_worked_at_the_same_time(
    spans: Sequence[tuple[float, float]], overlap: bool
) -> None:
    assert any_overlap([Session(*span) for span in spans]) is overlap


# ---- in a shared store


@pytest.fixture
def run(tmp_path: Path, shared_store: str) -> SharedRun:
    return SharedRun(tmp_path, shared_store, 10)


@pytest.mark.system
def test_each_life_in_a_shared_store_is_a_host(run: SharedRun) -> None:
    figures = Session(1.0, 2.0, requests=50, rate=9.5, open_requests=3, reasons=("paused",))
    run.host("a", 11, beat_s=4.0, operations=[1, 2, 3], session=figures, address="10.0.0.1")
    run.host("a", 12, state="left", ended_at=5.0, session=Session(1.0, 2.0, exit_code=3))
    run.host("b", 13, state="fenced", ended_at=6.0, ended_by="a", egress="dc1")
    with run.reader() as reader:
        live, left, fenced = reader.hosts()
    assert (live.name, live.pid, live.address, live.operations) == ("a", 11, "10.0.0.1", 3)
    assert (live.state, live.rate, live.open_requests) == (HostState.LIVE, 9.5, 3)
    assert live.silent_s == pytest.approx(4.0, abs=3.0)
    assert live.session is not None
    assert live.session.reasons == ("paused",)
    # by the clock of the store, whatever that of the host says
    assert live.session.started_at == live.began_at
    assert (left.state, left.ending, left.ended_at) == (HostState.LEFT, "exit code 3", 5.0)
    assert (fenced.state, fenced.ending, fenced.egress) == (HostState.FENCED, "fenced by a", "dc1")
    assert fenced.session is None


def sent(operation: int, at: float) -> HistoryEntry:
    return HistoryEntry(
        operation, HistoryEvent.ATTEMPT, 1, at, at + 0.1, "", "succeeded", 0, "OK", None
    )


@pytest.mark.system
@pytest.mark.parametrize(("begun_s", "most"), [((100.0, 100.0), 6), ((100.0, 40.0), 5)])
def test_the_busiest_second_is_that_of_all_hosts_together(
    run: SharedRun, begun_s: tuple[float, float], most: int
) -> None:
    """Not the sum of theirs, which were at other times. One after the other: the most of them."""
    for began, own in zip(begun_s, (5, 3), strict=True):
        session = Session(0.0, 0.0, busiest_second=own)
        run.host(begun_s=began, beat_s=began - 50.0, state="left", session=session)
    times = [10.0, 10.1, 10.9, 11.5, 20.0, 20.2, 20.4, 20.6, 20.8, 20.99]
    with closing(PostgresStore(run.dsn, run.name)) as store, store.transaction():
        store.add_history([sent(number, at) for number, at in enumerate(times, 1)])
    with run.reader() as reader:
        assert reader.busiest_second() == most


@pytest.fixture
def directory(run: SharedRun, tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "scratch", place=SharedPlace(run.dsn, run.name))


@pytest.mark.system
def test_a_shared_run_is_running_until_its_last_host_has_been_silent_for_too_long(
    run: SharedRun, directory: RunDirectory
) -> None:
    assert (Observer(directory).look().state, Observer(directory).look().hosts) == (
        RunState.NOT_BEGUN,
        [],
    )
    figures = Session(1.0, 2.0, requests=50, rate=9.5, reasons=("paused",), control=1)
    run.host("a", 11, beat_s=60.0, session=figures, operations=[5], control=3)
    run.host("b", 12, state="left", ended_at=5.0, session=Session(1.0, 2.0, exit_code=3))
    view = Observer(directory).look()
    assert (view.state, view.hosts) == (RunState.INTERRUPTED, [])
    assert [host.name for host in view.gone] == ["a", "b"]
    [step] = next_steps(view)
    assert step.commands[0].startswith(f"bulkcert work {run.name} --store ")
    run.host("c", 13, session=figures, operations=[1, 2], control=2)
    view = Observer(directory).look()
    # the others will soon fence a
    assert (view.state, [host.name for host in view.hosts]) == (RunState.RUNNING, ["a", "c"])
    assert (view.rate, view.reasons, view.in_flight) == (9.5, ("paused",), 3)
    assert view.campaign.in_force == 2
    assert view.all_silent_s is None


@pytest.mark.system
def test_the_figures_of_lives_that_overlap_add_up_and_their_time_counts_once(
    run: SharedRun,
) -> None:
    def life(began_s: float, ended_s: float, requests: int, busiest_second: int) -> None:
        session = Session(0.0, 0.0, requests=requests, throttled=1, busiest_second=busiest_second)
        run.host(begun_s=began_s, beat_s=ended_s, state="left", session=session)

    life(100.0, 60.0, 400, 7)
    life(90.0, 70.0, 200, 9)
    life(50.0, 40.0, 50, 2)
    with run.reader() as reader:
        summary = summarize(reader)
        [first, *_, last] = reader.sessions()
    assert (summary.requests, summary.throttled, summary.busiest_second) == (650, 3, 9)
    assert summary.elapsed_seconds == pytest.approx(50.0, abs=5.0)
    assert summary.requests_per_second == pytest.approx(13.0, abs=2.0)
    assert (summary.started_at, summary.finished_at) == (
        utc(first.started_at),
        utc(last.updated_at),
    )


@pytest.mark.system
def test_what_a_host_logs_names_its_lease_and_what_people_do_does_not(run: SharedRun) -> None:
    with closing(PostgresStore(run.dsn, run.name)) as store:
        lease = store.register(Host("a", 11, "", "", "1.0", True, True))
        store.commit(lambda: store.add_event(event_log.retried(1.0, 3)))
    with closing(PostgresStore(run.dsn, run.name)) as desk:
        desk.commit(lambda: desk.add_event(event_log.amended(1.0, "ann", [], "0" * 64)))
        first, second = desk.events()
    assert first.data["process"] == {"host": "a", "pid": 11, "lease": str(lease)}
    assert "process" not in second.data


@pytest.mark.system
def test_what_another_host_is_working_on_is_pending_in_the_reports_of_one_that_has_left(
    run: SharedRun, tmp_path: Path
) -> None:
    run.host("a", operations=[1, 2, 3])
    run.host("b", operations=[4], state="left")  # it has left that in doubt
    with run.reader() as reader:
        summary = write_reports(reader, tmp_path)
    outcomes = Counter(
        orjson.loads(line)["outcome"]
        for line in (tmp_path / "results.jsonl").read_bytes().splitlines()
    )
    assert (summary.pending, summary.unknown) == (9, 1)
    assert outcomes == {"pending": 9, "unknown": 1}


@pytest.mark.system
def test_a_watcher_counts_the_host_that_it_belongs_to(run: SharedRun) -> None:
    with (
        closing(PostgresStore(run.dsn, run.name)) as store,
        closing(PostgresStore(run.dsn, run.name)) as seen,
    ):
        watcher = Watcher(lambda: seen, store.owner, "a", HostTimings())
        store.register(Host("a", 11, "", "", "1.0", True, True))
        watcher.look()
        assert watcher.live == 1
        run.host("b", 12)
        watcher.look()
        assert watcher.live == 2


@pytest.mark.system
def test_the_page_of_a_run_lists_its_hosts(run: SharedRun) -> None:
    session = Session(0.0, 0.0, requests=40, exit_code=3)
    run.host("a", 11, address="10.0.0.1", egress="dc1", state="left", session=session)
    lease = run.host("b", 12, state="fenced", ended_by="a", session=Session(0.0, 0.0, requests=7))
    process = {"host": "b", "pid": 12, "lease": lease}
    with closing(PostgresStore(run.dsn, run.name)) as store, store.transaction():
        store.add_event(
            started(1e9, "b")._replace(
                data=started(1e9, "b").data
                | {"process": {**process, "user": "ann", "version": "1.0"}}
            )
        )
        store.add_event(event_log.fenced(2e9, process, by="a", silent_s=8.1, operations=3))
    with run.reader() as reader, reader.snapshot():
        page = report_page(reader).decode()
    assert "2 hosts, 2 lives, 1 fenced" in page
    assert "10.0.0.1 (dc1)" in page
    assert lease[:8] in page
    assert page.count("fenced by a: silent for 8.1 s; 3 operations were taken over") == 2
    assert "b fenced" in page
