"""Finding the records of one device, and showing what happened to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from stores import Disk, MemoryReader, Row

from bulkcert.cli.history import history
from bulkcert.cli.results import results
from bulkcert.cli.target_filter import TargetFilter
from bulkcert.model import HistoryEntry, HistoryEvent, State

ROWS = {
    1: Row(line=2, fields={"assetId": "A1", "certSn": 17}, extra={"Site": "Köln"}),
    2: Row(line=3, fields={"assetId": "A10", "certSn": 18}, extra={"Site": "Köln"}),
    3: Row(line=4, fields={"assetId": "A1", "certSn": 19}),
}


def found(*conditions: str) -> list[int]:
    wanted, reader = TargetFilter(conditions), MemoryReader(Disk(ROWS))
    wanted.refuse_unknown(reader)
    return [each.line for each in wanted.matching(reader.records(containing=wanted.containing))]


def test_a_value_matches_in_full_or_not_at_all() -> None:
    assert found("assetId=A1") == [2, 4]
    assert found("assetId=a1") == found("assetId=A") == []
    assert found("certSn=18") == [3]
    assert found("Site=Köln") == [2, 3]
    assert found() == [2, 3, 4]


def test_conditions_on_one_field_are_alternatives_and_those_on_several_are_not() -> None:
    assert found("certSn=17", "certSn=18") == [2, 3]
    assert found("assetId=A1", "Site=Köln") == [2]
    assert found("certSn=19", "Site=Köln") == []


@pytest.mark.parametrize("condition", ["A1", "=A1", "assetId=", ""])
def test_what_is_no_condition_is_refused(condition: str) -> None:
    with pytest.raises(click.UsageError, match="FIELD=VALUE"):
        found(condition)


def test_a_value_may_contain_an_equals_sign() -> None:
    assert found("assetId=A=1") == []


def test_a_field_that_no_target_has_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(click.UsageError, match="the nearest is certSn"):
        found("certsn=17")
    assert found("productKey=P") == []  # targets of this action may have it


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["assetId=a1"], "This run has no operation on a target with assetId=a1. "),
        (
            ["assetId=a1", "assetId=A2", "certSn=17"],
            "no operation on a target with assetId=A2 or a1, and certSn=17. ",
        ),
        (["assetId=A1", "--outcome", "failed"], "no operation with the outcome failed on a "),
        (["assetId=A1"], ""),
    ],
)
def test_results_say_that_no_target_matches(
    monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    reader = MemoryReader(Disk(ROWS))
    monkeypatch.setattr("bulkcert.rundir.RunDirectory.reader", lambda directory: reader)
    words = [word for each in options for word in (["--target"] if "=" in each else []) + [each]]
    ended = CliRunner().invoke(results, [".", *words])
    assert ended.exit_code == 0, ended.output
    assert said in ended.stderr
    assert bool(ended.stdout) is not bool(said)
    assert bool(ended.stderr) is bool(said)


# ---- history

T = 1_795_684_026.5


def shown(monkeypatch: pytest.MonkeyPatch, *entries: HistoryEntry, rows: Any = ROWS) -> str:
    disk = Disk(rows, history=list(entries))
    monkeypatch.setattr("bulkcert.rundir.RunDirectory.reader", lambda _: MemoryReader(disk))
    result = CliRunner().invoke(history, [".", "certSn=17"])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_history_of_a_device_is_told_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {1: Row(line=2, fields={"assetId": "A1", "certSn": 17}, state=State.SUCCEEDED)}
    attempt, look_up = HistoryEvent.ATTEMPT, HistoryEvent.LOOK_UP
    assert shown(
        monkeypatch,
        HistoryEntry(1, attempt, 1, None, T, message="no connection: refused", result="not_sent"),
        HistoryEntry(1, attempt, 1, T, T + 1.25, "10.0.0.5", "in_doubt", 99500, "Busy", "r1"),
        HistoryEntry(1, HistoryEvent.TAKEN_OVER, 2, T + 2, T + 60),
        HistoryEntry(1, look_up, 2, T + 60, T + 60.01, "10.0.0.5", "failed", None, "no response"),
        HistoryEntry(1, HistoryEvent.RETRIED, 8, None, T + 90),
        HistoryEntry(1, look_up, 1, T + 91, T + 91.1, "::1", "holds", 0, "it is revoked", "r2"),
        rows=row,
    ).splitlines() == [
        "assetId=A1 certSn=17 (line 2): succeeded",
        "  2026-11-26T09:07:06.500Z  attempt 1, not sent",
        "      no connection: refused: never reached the provider",
        "  2026-11-26T09:07:06.500Z  attempt 1 from 10.0.0.5, 1,250 ms",
        "      99500 Busy (request r1): may have been executed",
        "  2026-11-26T09:08:06.500Z  taken over in doubt from a process that ended: attempt 2,"
        " intended at about 2026-11-26T09:07:08.500Z",
        "  2026-11-26T09:08:06.500Z  look-up from 10.0.0.5, 10 ms",
        "      no response: the look-up itself failed",
        "  2026-11-26T09:08:36.500Z  put back to work by --retry-failed after 8 attempts",
        "  2026-11-26T09:08:37.500Z  look-up from ::1, 100 ms",
        "      0 it is revoked (request r2): the wanted state holds",
    ]


def test_a_device_to_which_nothing_happened_has_an_empty_history(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert shown(monkeypatch).splitlines() == [
        "assetId=A1 certSn=17 Site=Köln (line 2): pending",
        "  nothing was sent",
    ]


def test_a_run_without_that_device_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = MemoryReader(Disk(ROWS))
    monkeypatch.setattr("bulkcert.rundir.RunDirectory.reader", lambda _: reader)
    result = CliRunner().invoke(history, [".", "assetId=A"])
    assert result.exit_code == 1
    assert "No operation of this run has assetId=A" in str(result.exception)
