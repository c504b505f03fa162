"""The figures of a run: what is counted, and the series that they become."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metric_samples import Labels, samples
from test_testing import DEVICES, about, make_job

import bulkcert
from bulkcert.errors import StoppedByRulesError
from bulkcert.event_log import EventType, RunEvent
from bulkcert.events import Progress
from bulkcert.metrics.exposition import text
from bulkcert.metrics.figures import Figures, Recorder
from bulkcert.metrics.series import SERIES
from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    LookupKind,
    LookupResult,
    Outcome,
    State,
)
from bulkcert.rules.gate import Reason, ReasonKind, Standing
from bulkcert.store.base import Session, WaveOfRun
from bulkcert.store.claims import Position
from bulkcert.testing import FakeTransport, Request, Response

NOW_S = 1_800_000_000.0


def recorder(deadline_s: float | None = None, *, rehearsal: bool = False) -> Recorder:
    """One of a job that may send 500 requests per second."""
    job: Any = SimpleNamespace(
        provider=SimpleNamespace(name="enos"),
        action=SimpleNamespace(name="revoke"),
        ceiling=500.0,
        limits=SimpleNamespace(in_flight=1000),
        deadline_s=deadline_s,
    )
    return Recorder(job, "revoke", rehearsal=rehearsal, now=lambda: NOW_S)


def value(figures: Figures, name: str, **labels: str) -> float:
    """The value of the only sample with this name and these labels besides the run's."""
    wanted = frozenset({"run": figures.run, **labels}.items())
    [found] = [v for n, at, v in samples(text(figures)) if (n, at) == (name, wanted)]
    return found


def tick(under_test: Recorder, **changes: Any) -> Figures:
    """A tick in the middle of a run."""
    progress = Progress(
        total=100,
        settled={State.SUCCEEDED: 40, State.ALREADY_DONE: 3, State.FAILED: 2, State.UNKNOWN: 1},
        requests=61,
        rate=480.5,
        note="",
        left_s=12.5,
        reasons=(Reason(ReasonKind.THROTTLED, "slowed"), Reason(ReasonKind.PAUSED, "by eve: A17")),
    )
    session = Session(NOW_S - 60, NOW_S, requests=61, throttled=4, busiest_second=490)
    session.open_requests = 17
    waves = [WaveOfRun(number, name, 1) for number, name in enumerate(("canary", "10%", "rest"))]
    position = Position(waves=waves, standing=Standing(wave=1))
    under_test.tick(replace(progress, **changes), session, position)
    return under_test.latest


def test_every_series_is_there_before_anything_has_happened() -> None:
    under_test = recorder()
    first = list(samples(under_test_text := text(under_test.latest)))
    assert {name: v for name, _, v in first if v} == {
        "bulkcert_run_info": 1.0,
        "bulkcert_request_rate_ceiling": 500.0,
        "bulkcert_request_rate_limit": 500.0,
        "bulkcert_open_requests_limit": 1000.0,
    }
    assert {series.name for series in SERIES} <= {name for name, _, _ in first}
    assert under_test_text.endswith(b"\n")  # without which Prometheus refuses it


def test_no_label_appears_later() -> None:
    under_test = recorder()
    first = {(name, labels) for name, labels, _ in samples(text(under_test.latest))}
    under_test.stands({State.FLAWED: 3, State.IN_FLIGHT: 2}, [Session(1.0, 2.0)])
    under_test.begin({State.PLANNED: 100})
    for kind in AttemptKind:
        under_test.ended(AttemptResult(kind, 11404, "no device A17"), time.monotonic())
    for look in LookupKind:
        under_test.ended(LookupResult(look, 99403, "not of A17"), None)
    for number, type_ in enumerate(EventType, 1):
        event = RunEvent(number, NOW_S, "revoke", "0" * 64, type_, {"reason": "A17"}, "0" * 64)
        under_test.logged([event])
    tick(under_test)
    under_test.end(4)
    last = text(under_test.latest)
    assert {(name, labels) for name, labels, _ in samples(last)} == first
    assert b"A17" not in last


def test_the_outcomes_add_up_to_all_operations() -> None:
    under_test = recorder()
    figures = tick(under_test)
    found = {
        str(outcome): value(figures, "bulkcert_operations", outcome=str(outcome))
        for outcome in Outcome
    }
    assert found == {
        "succeeded": 40, "already_done": 3, "failed": 2, "unknown": 1, "pending": 54
    }  # fmt: skip


def test_a_tick_says_how_the_run_stands() -> None:
    under_test = recorder(NOW_S + 3600)
    under_test.begin({State.PLANNED: 100})
    figures = tick(under_test)
    expected = {
        "bulkcert_requests_total": 61,
        "bulkcert_throttled_responses_total": 4,
        "bulkcert_request_rate": 480.5,
        "bulkcert_request_rate_limit": 500,
        "bulkcert_busiest_second_requests": 490,
        "bulkcert_open_requests": 17,
        "bulkcert_wave": 2,
        "bulkcert_waves": 3,
        "bulkcert_deadline_timestamp_seconds": NOW_S + 3600,
        "bulkcert_estimated_end_timestamp_seconds": NOW_S + 12.5,
        "bulkcert_last_outcome_timestamp_seconds": NOW_S,
        "bulkcert_updated_timestamp_seconds": NOW_S,
        "bulkcert_run_started_timestamp_seconds": NOW_S - 60,
        "bulkcert_process_started_timestamp_seconds": NOW_S,
        "bulkcert_hosts": 1,
    }
    assert {name: value(figures, name) for name in expected} == expected
    not_sending = {
        str(kind): value(figures, "bulkcert_not_sending", reason=str(kind)) for kind in ReasonKind
    }
    assert not_sending == {
        "paused": 1, "throttled": 1, "closed": 0, "held": 0, "waiting": 0, "half-open": 0
    }  # fmt: skip
    assert value(tick(under_test, rate_limit=20.0), "bulkcert_request_rate_limit") == 20
    no_estimate = tick(under_test, left_s=None)
    assert value(no_estimate, "bulkcert_estimated_end_timestamp_seconds") == 0


def test_the_time_of_the_last_outcome_stands_still_while_nothing_is_settled() -> None:
    under_test, at = recorder(), "bulkcert_last_outcome_timestamp_seconds"
    earlier = {State.PLANNED: 54, State.SUCCEEDED: 43, State.FLAWED: 2, State.UNKNOWN: 1}
    under_test.begin(earlier)
    assert value(tick(under_test), at) == 0  # what an earlier process has settled is no news
    under_test._now = lambda: NOW_S + 5
    assert value(tick(under_test, settled={State.SUCCEEDED: 47}), at) == NOW_S + 5
    under_test._now = lambda: NOW_S + 9
    figures = tick(under_test, settled={State.SUCCEEDED: 47})
    assert value(figures, at) == NOW_S + 5
    assert value(figures, "bulkcert_updated_timestamp_seconds") == NOW_S + 9


def test_results_count_by_kind_whether_or_not_something_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    under_test = recorder()
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    for departed_at_s in (100.0, 99.75, 99.0, None):
        under_test.ended(AttemptResult(AttemptKind.DONE), departed_at_s)
    under_test.ended(AttemptResult(AttemptKind.THROTTLED, 429), None)
    under_test.ended(LookupResult(LookupKind.THROTTLED, 429), 25.0)
    figures = tick(under_test)
    assert value(figures, "bulkcert_attempts_total", result="done") == 4
    assert value(figures, "bulkcert_attempts_total", result="throttled") == 1
    assert value(figures, "bulkcert_lookups_total", result="throttled") == 1
    name = "bulkcert_request_duration_seconds"
    at_most = {le: value(figures, f"{name}_bucket", le=le) for le in ("0.005", "0.25", "1.0")}
    assert at_most == {"0.005": 1, "0.25": 2, "1.0": 3}  # a bound belongs to its bucket
    assert value(figures, f"{name}_bucket", le="60.0") == 3
    assert value(figures, f"{name}_bucket", le="+Inf") == value(figures, f"{name}_count") == 4
    assert value(figures, f"{name}_sum") == 76.25


def test_a_snapshot_does_not_change() -> None:
    under_test = recorder()
    before = tick(under_test)
    content = text(before)
    text.cache_clear()
    under_test.ended(AttemptResult(AttemptKind.DONE), time.monotonic())
    tick(under_test, total=200)
    assert text(before) == content


def test_the_end_has_the_exit_code_and_nothing_that_goes_on() -> None:
    under_test = recorder()
    under_test.begin({State.PLANNED: 100})
    tick(under_test)
    under_test.stands({State.SUCCEEDED: 99, State.IN_FLIGHT: 1}, [Session(1.0, 2.0)])
    under_test.end(3)
    figures = under_test.latest
    codes = {code: value(figures, "bulkcert_exited", code=code) for code in "01234"}
    assert codes == {"0": 0, "1": 0, "2": 0, "3": 1, "4": 0}
    assert value(figures, "bulkcert_operations", outcome="unknown") == 1
    assert value(figures, "bulkcert_process_ended_timestamp_seconds") == NOW_S
    assert value(figures, "bulkcert_requests_total") == 61
    gone = ("hosts", "request_rate", "open_requests", "estimated_end_timestamp_seconds")
    assert [value(figures, f"bulkcert_{name}") for name in gone] == [0, 0, 0, 0]
    assert value(figures, "bulkcert_not_sending", reason="paused") == 0


def test_the_hosts_are_counted_anew_with_each_snapshot() -> None:
    under_test = recorder()
    under_test.hosts = lambda: 3
    under_test.begin({State.PLANNED: 100})
    assert value(under_test.latest, "bulkcert_hosts") == 3
    under_test.hosts = lambda: 2
    tick(under_test)
    assert value(under_test.latest, "bulkcert_hosts") == 2


def test_the_next_process_counts_from_zero() -> None:
    under_test = recorder()
    under_test.begin({State.PLANNED: 100})
    under_test.ended(AttemptResult(AttemptKind.DONE), time.monotonic())
    tick(under_test)
    under_test.end(3)
    under_test.begin({State.PLANNED: 54, State.SUCCEEDED: 46})
    figures = under_test.latest
    assert value(figures, "bulkcert_attempts_total", result="done") == 0
    assert value(figures, "bulkcert_request_duration_seconds_count") == 0
    assert value(figures, "bulkcert_requests_total") == 0
    assert value(figures, "bulkcert_exited", code="3") == 0
    assert value(figures, "bulkcert_operations", outcome="succeeded") == 40


def test_a_rehearsal_says_so_and_has_no_deadline() -> None:
    figures = recorder(NOW_S, rehearsal=True).latest
    assert value(figures, "bulkcert_deadline_timestamp_seconds") == 0
    [about_it] = [dict(at) for name, at, _ in samples(text(figures)) if name == "bulkcert_run_info"]
    assert about_it["rehearsal"] == "true"


# ---- in a run


def written(run: bulkcert.Run) -> Mapping[tuple[str, Labels], float]:
    return {(name, labels): v for name, labels, v in samples(run.directory.metrics.read_bytes())}


async def test_a_run_leaves_its_final_figures_in_its_directory(tmp_path: Path) -> None:
    def respond(request: Request) -> Response | None:
        return Response(json={"code": 11404, "msg": "no A2"}) if about(request, "A2") else None

    fake = FakeTransport(respond)
    with bulkcert.Run(make_job(tmp_path), tmp_path / "run", transport=fake) as run:
        before = run.metrics()
        summary = await run.execute()
        after = run.metrics()
    assert run.directory.metrics == tmp_path / "run/metrics.prom"
    assert run.directory.metrics.read_bytes() == after
    assert b"A2" not in after
    labels = {(name, at) for name, at, _ in samples(before)}
    assert labels == {(name, at) for name, at, _ in samples(after)}
    figures = run._recorder.latest
    for outcome, many in summary.outcomes.items():
        assert value(figures, "bulkcert_operations", outcome=str(outcome)) == many
    assert value(figures, "bulkcert_requests_total") == summary.requests == len(fake.requests)
    assert value(figures, "bulkcert_attempts_total", result="done") == DEVICES - 1
    assert value(figures, "bulkcert_attempts_total", result="refused") == 1
    assert value(figures, "bulkcert_exited", code="1") == 1
    logged = run.directory.events.read_bytes().splitlines()
    assert value(figures, "bulkcert_event_log_length") == len(logged)
    assert value(figures, "bulkcert_events_total", type="started") == 1
    assert value(figures, "bulkcert_events_total", type="ended") == 1


async def test_a_run_that_stops_itself_says_so(tmp_path: Path) -> None:
    job = make_job(tmp_path, abort={"failed": 0})

    def refuse(request: Request) -> Response | None:
        refused = Response(json={"code": 11404, "msg": "no such device"})
        return refused if request.action == "revoke" else None

    fake = FakeTransport(refuse)
    with bulkcert.Run(job, tmp_path / "run", transport=fake) as run:
        with pytest.raises(StoppedByRulesError):
            await run.execute()
        assert value(run._recorder.latest, "bulkcert_exited", code="4") == 1
    with bulkcert.Run(job, tmp_path / "run", transport=fake) as run:
        with pytest.raises(StoppedByRulesError):
            await run.execute()
        assert b'bulkcert_exited{code="4",run="job-rehearsal"} 1.0' in run.metrics()


async def test_a_resumed_run_goes_on_with_the_outcomes_and_counts_its_own_requests(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, limits={"in_flight": 1})
    with bulkcert.Run(job, tmp_path / "run", transport=FakeTransport()) as run:
        await run.execute(on_event=lambda event: run.stop())
        first = run._recorder.latest
    assert value(first, "bulkcert_exited", code="3") == 1
    assert value(first, "bulkcert_operations", outcome="pending") > 0
    with bulkcert.Run(job, tmp_path / "run", transport=(fake := FakeTransport())) as run:
        assert run._recorder.latest.operations == first.operations
        await run.execute()
        last = run._recorder.latest
    assert value(last, "bulkcert_operations", outcome="succeeded") == DEVICES
    assert value(last, "bulkcert_requests_total") == len(fake.requests)
    assert value(last, "bulkcert_run_started_timestamp_seconds") > 0


async def test_a_file_that_can_t_be_written_is_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "run/metrics.prom").mkdir(parents=True)
    with bulkcert.Run(make_job(tmp_path), tmp_path / "run", transport=FakeTransport()) as run:
        assert (await run.execute()).exit_code == 0
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".bulkcert")]
