"""What the page about a run says: nothing is missing, and it adds up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pages import html_of, page, parsed
from runs import Size, large_run, small_run
from stores import Disk, MemoryReader

from bulkcert.job import Connection
from bulkcert.model import Outcome, State
from bulkcert.plan_hash import PlanHash, grouped
from bulkcert.report.page.headline import _share
from bulkcert.report.page.plots import duration_of
from bulkcert.report.summary import summarize
from bulkcert.store.base import Abort, Session


def test_the_figures_are_those_of_the_summary() -> None:
    disk = large_run()
    summary = summarize(MemoryReader(disk))
    found = page(disk)
    assert [tile.many for tile in found.tiles] == [f"{n:,}" for n in summary.outcomes.values()]
    assert sum(tile.width for tile in found.tiles) == pytest.approx(100)
    tables = {
        table.caption: table
        for section in found.sections
        for table in (*section.tables, *([section.figure.table] if section.figure else []))
    }
    over_time = tables["Operations over time, by the outcome that they have now"]
    for column, outcome in enumerate(list(Outcome)[:4], 1):
        assert _sum(over_time.rows, column) == summary.outcomes[outcome]
    assert over_time.rows[-1][-1] == f"{summary.pending:,}"
    errors = tables["Failed and unknown operations by code"]
    assert _sum(errors.rows, 0) == summary.failed + summary.unknown
    waves = tables["Operations of each wave by outcome"]
    for column, outcome in enumerate(Outcome, 1):
        assert _sum(waves.rows, column) == summary.outcomes[outcome]
    assert _sum(waves.rows, 6) == summary.total
    assert _sum(tables["The processes that worked on the run"].rows, 3) == summary.requests


def _sum(rows: Sequence[Sequence[str]], column: int) -> int:
    return sum(int(row[column].replace(",", "")) for row in rows)


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ([State.SUCCEEDED, State.ALREADY_DONE], "Over: every operation succeeded or was already"),
        ([State.SUCCEEDED, State.FAILED], "Over, but 1 operation failed"),
        (
            [State.UNKNOWN, State.FAILED, State.FAILED],
            "Over, but 2 operations failed and 1 is unknown",
        ),
        ([State.SUCCEEDED, State.PLANNED], "Not over: it was stopped early"),
    ],
)
def test_the_verdict_is_in_words(states: list[State], verdict: str) -> None:
    assert page(small_run(states)).verdict.startswith(verdict)


def test_a_run_that_works_or_has_not_begun_says_so() -> None:
    disk = small_run([State.SUCCEEDED, State.IN_FLIGHT, State.PLANNED])
    found = page(disk, running=True)
    assert found.verdict == "Running"
    assert "1 operation is in flight, and counted as pending." in found.summary
    assert [tile.many for tile in found.tiles] == ["1", "0", "0", "0", "2"]
    disk.sessions.clear()
    found = page(disk)
    assert found.verdict == "Not begun"
    assert not any(section.figure for section in found.sections)
    parsed(html_of(disk))


def test_a_run_whose_process_was_killed_says_so() -> None:
    disk = small_run([State.SUCCEEDED, State.IN_FLIGHT, State.PLANNED])
    disk.sessions[0].exit_code = None
    killed = "the process was killed, or lost its store"
    assert page(disk).verdict == f"Not over: {killed}; it can be continued"
    assert facts_of(disk)["Exit code"] == f"none: {killed}"
    [table] = next(s.tables for s in page(disk).sections if s.id == "processes")
    assert table.rows[0][-2:] == ["none", killed]


def test_an_abort_that_nobody_has_overridden_is_the_verdict() -> None:
    disk = small_run()
    disk.aborts["7c01be"] = Abort("7c01be", 1_780_056_003.0, "failed", "11 of the last 500 failed")
    found = page(disk)
    assert (found.tone, found.verdict) == ("stopped", "Stopped by its own rules")
    assert "It has stopped itself: 11 of the last 500 failed (abort 7c01be)." in found.summary


@pytest.mark.parametrize("operations", [0, 1, 2])
def test_a_tiny_run_has_a_page(operations: int) -> None:
    found = parsed(html_of(small_run([State.SUCCEEDED] * operations)))
    assert f"{operations:,} of {operations:,} operation" in found.text


def test_a_run_that_sent_nothing_has_no_latency() -> None:
    disk = small_run()
    disk.history.clear()
    disk.rows.clear()
    disk.sessions[0] = Session(1_780_056_000.0, 1_780_056_000.0)
    figures = [section.figure.id for section in page(disk).sections if section.figure]
    assert figures == ["rate", "outcomes"]


def test_people_and_what_they_did_are_on_the_page() -> None:
    text = parsed(html_of(large_run(Size(text="flooded")))).text
    for expected in (
        *("alice", "SHA256:bobbob", "ann@ops1", "rate 3/s", "flooded", "go on after abort 000001"),
        *("The plan needs 2 approvals.", "12 operations put back to work", "check says hold"),
        "180 operations agree with what the provider says now, 2 differ, and 1 could not be read."
        " The run has gone on since then.",
    ):
        assert expected in text


def test_the_plan_can_be_compared_by_people_and_by_programs() -> None:
    disk = small_run()
    html = html_of(disk)
    assert f'<meta name="bulkcert-plan" content="{disk.manifest.plan.hash}">' in html
    assert f'<meta name="bulkcert-run" content="{disk.manifest.run_id}">' in html
    assert grouped(disk.manifest.plan.hash) in html
    assert disk.events[-1].hash in html


def test_times_are_those_of_the_change_window() -> None:
    assert "2026-05-29 12:00:00" in html_of(small_run())
    assert "2026-05-29 14:00:00" in html_of(large_run())


def facts_of(disk: Disk) -> dict[str, str]:
    return {fact.name: fact.value for fact in page(disk).facts}


def test_what_the_run_is_about_is_in_words() -> None:
    facts = facts_of(small_run(number=2, deadline_s=1_780_056_600.0))
    assert facts["Action"] == "revoke, with enos"
    assert facts["Parameters"] == "reason = KEY_COMPROMISE (1)"
    assert facts["Account"] == "org_id o1"
    assert facts["Run"] == "number 2 of this job"
    assert facts["Deadline"] == "2026-05-29 12:10:00"
    plain = facts_of(small_run(parameters={}, connection=Connection(endpoint="https://a.example")))
    assert plain.keys() & {"Parameters", "Account", "Run", "Deadline"} == set()


def test_a_provider_that_is_not_installed_prevents_no_page() -> None:
    facts = facts_of(small_run(provider="gone", action="burn", parameters={"why": "because"}))
    assert (facts["Action"], facts["Parameters"]) == ("burn, with gone", "why = because")


def test_a_time_zone_that_is_not_installed_prevents_no_page() -> None:
    contents = small_run().manifest.plan.contents
    disk = small_run(plan=PlanHash({**contents, "window": {"zone": "Mars/Olympus"}}))
    assert facts_of(disk)["Times"] == "UTC"


def test_the_values_of_the_plan_are_in_words() -> None:
    contents = {
        **small_run().manifest.plan.contents,
        "rollout": {"between_s": 600, "sizes": ["canary", "10%"], "strict": True},
        "limits": {"requests_per_second": 1500},
        "window": {"openings": [[[0, 1], 0, 60]]},
    }
    [table] = next(
        s.tables for s in page(small_run(plan=PlanHash(contents))).sections if s.id == "plan"
    )
    rows = dict(table.rows)  # type: ignore[call-overload]
    assert rows["rollout.between"] == "10 min 00 s"
    assert rows["rollout.sizes"] == "canary, 10%"
    assert rows["rollout.strict"] == "true"
    assert rows["limits.requests_per_second"] == "1,500"
    assert rows["window.openings"] == "[[[0, 1], 0, 60]]"


def test_what_the_provider_turned_away_is_drawn() -> None:
    disk = small_run()
    disk.history[3] = disk.history[3]._replace(result="throttled")
    figure = next(section.figure for section in page(disk).sections if section.figure)
    assert ("refused", "throttled requests") in figure.legend
    assert "refused" in [shape.kind for shape in figure.panels[0].shapes]
    assert not any(kind == "peak" for kind, _ in figure.legend)  # a bucket is a second


@pytest.mark.parametrize(
    ("bucket_s", "words"),
    [
        (1, "second"),
        (15, "15 s"),
        (60, "minute"),
        (300, "5 min"),
        (3600, "hour"),
        (172_800, "2 days"),
    ],
)
def test_the_length_of_a_bucket_is_in_words(bucket_s: int, words: str) -> None:
    assert duration_of(bucket_s) == words


@pytest.mark.parametrize(
    ("part", "whole", "share"),
    [
        *((0, 9, "0%"), (0, 0, "0%"), (9, 9, "100%"), (1, 3, "33.3%"), (1, 10_000, "under 0.1%")),
        (9_999, 10_000, "over 99.9%"),
    ],
)
def test_a_share_is_all_or_nothing_only_if_it_is(part: int, whole: int, share: str) -> None:
    assert _share(part, whole) == share
