"""The parts of the commands that need no process: help, errors, and what is shown to people."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from test_event_log import LOG

from bulkcert import errors
from bulkcert.cli import console, main
from bulkcert.cli.format import cut, width, wrapped
from bulkcert.cli.help import ENVIRONMENT, EXIT_CODES, VARIABLES
from bulkcert.cli.progress_display import ProgressDisplay, as_fields, bar, line
from bulkcert.cli.summary_screen import closing_summary, headline
from bulkcert.events import Notice, Progress, Settled, Started
from bulkcert.model import Outcome, State
from bulkcert.quantities import count, duration, moment, number, percent, rate
from bulkcert.report.summary import ErrorKind, Remark, Summary
from bulkcert.rules.gate import Reason, ReasonKind

COMMANDS = tuple(main.list_commands(click.Context(main)))


def test_help_lists_each_command_with_what_it_does() -> None:
    text = CliRunner().invoke(main, ["-h"]).stdout
    assert "Example" in text
    for command in COMMANDS:
        assert re.search(rf"^  {command} +[A-Z].+\.$", text, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_explains_each_option_and_shows_an_example(command: str) -> None:
    text = CliRunner().invoke(main, [command, "-h"], terminal_width=100).stdout
    assert f"bulkcert {command} " in text.split("Example", 1)[1]
    parameters = getattr(importlib.import_module(f"bulkcert.cli.{command}"), command).params
    options = [option for option in parameters if isinstance(option, click.Option)]
    assert [option.name for option in options if not (option.help or option.hidden)] == []


@pytest.mark.parametrize(
    ("typed", "meant"), [("rn", "run"), ("result", "results"), ("Status", "status")]
)
def test_a_misspelt_command_is_answered_with_the_nearest_one(typed: str, meant: str) -> None:
    ended = CliRunner().invoke(main, [typed, "job.toml"])
    assert ended.exit_code == 2
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in ended.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("--ye", "--yes"), ("--rehears", "--rehearse"), ("--rehearsal", "--rehearse")],
)
def test_a_misspelt_option_does_not_count_as_the_nearest_one(
    typed: str, meant: str, tmp_path: Path
) -> None:
    """A shortened --yes would confirm, and a shortened --rehearse would not be one."""
    job = tmp_path / "job.toml"  # that it does not exist is never noticed
    ended = CliRunner().invoke(main, ["run", str(job), typed])
    assert ended.exit_code == 2
    assert f"No such option '{typed}'" in ended.stderr
    assert f"'{meant}'" in ended.stderr


@pytest.mark.parametrize("others", [[], ["--yes"], ["--rehearse"]])
def test_a_dry_run_is_an_error_that_names_what_there_is(others: list[str]) -> None:
    for words in (["--dry-run", *others], [*others, "--dry-run"]):
        ended = CliRunner().invoke(main, ["run", "job.toml", *words])
        assert ended.exit_code == 2
        assert "bulkcert plan" in ended.stderr
        assert "--rehearse" in ended.stderr
    assert "--dry-run" not in CliRunner().invoke(main, ["run", "-h"]).stdout


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_has_an_example_exit_codes_and_variables(command: str) -> None:
    words = [command, "-h"] if command else ["-h"]
    for _ in range(2):  # the second time it must not be there twice
        text = CliRunner().invoke(main, words, terminal_width=80).stdout
        assert text.count("\n  Exit codes:\n    0  ") == 1
        assert text.count("\n  Environment variables:\n    ") == 1
        assert re.search(r"^  Examples?:", text, re.M)
    assert set(ENVIRONMENT[command]) <= set(VARIABLES)
    changes = command in ("run", "work", "verify", "")
    assert ("ENOS_APP_KEY" in ENVIRONMENT[command]) == changes


def test_the_help_of_bulkcert_and_of_run_have_the_exit_codes_of_runs() -> None:
    for command in ("", "run"):
        assert set(EXIT_CODES[command]) == {0, 1, 2, 3, 4}


def test_a_command_that_is_like_no_other_is_refused() -> None:
    ended = CliRunner().invoke(main, ["xyzzy"])
    assert ended.exit_code == 2
    assert "No such command 'xyzzy'" in ended.stderr
    assert "Did you mean" not in ended.stderr


# ---- errors


def _tree(error: type[Exception], prefix: str = "") -> list[str]:
    """Draw an error and all that derive from it, without their explanations."""
    children = error.__subclasses__()
    lines = []
    for child in children:
        last = child is children[-1]
        lines.append(f"{prefix}{'└' if last else '├'}── {child.__name__}")
        lines += _tree(child, prefix + ("    " if last else "│   "))
    return lines


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawing = (errors.__doc__ or "").split("    BulkcertError", 1)[1].split("\n\n", 1)[0]
    drawn = [re.sub(r"(Error)\s.*", r"\1", line[4:]) for line in drawing.splitlines()[1:]]
    assert drawn == _tree(errors.BulkcertError)


def test_errors_have_the_exit_codes_in_the_drawing() -> None:
    three = {errors.ProviderUnusableError, errors.StoreError, errors.InterruptionError}
    three |= {errors.LeaseLostError, errors.CommitsLostError, errors.StoreVersionError}
    codes = dict.fromkeys(three, 3) | {errors.StoppedByRulesError: 4}
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, errors.BulkcertError):
            assert error.exit_code == codes.get(error, 2), name


# ---- numbers and words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.25, "4.2 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (725, "12 min 05 s"),
        (3599.6, "1 h 00 min"),
        (11_220, "3 h 07 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_moments_are_shown_by_the_wall_clock() -> None:
    summer, winter = 1_792_888_200.0, 1_792_891_800.0  # an hour that daylight saving time repeats
    shown = [moment(at_s, ZoneInfo("Europe/Berlin")) for at_s in (summer, winter)]
    assert shown == ["Sun 2026-10-25 02:30 CEST", "Sun 2026-10-25 02:30 CET"]


def test_counts_agree_with_their_nouns_and_verbs() -> None:
    assert count(0, "operation") == "0 operations"
    assert count(1, "operation") == "1 operation"
    assert count(2_000, "operation") == "2,000 operations"
    assert count(1, "agrees", "agree") == "1 agrees"
    assert count(3, "agrees", "agree") == "3 agree"


@pytest.mark.parametrize(
    ("value", "text"), [(3000.0, "3,000"), (0.5, "0.5"), (1_500_000, "1,500,000"), (98.1, "98.1")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


# ---- the end of a run


def _closing(
    *reasons: tuple[int, int | str | None, str],
    run_dir: Path = Path("runs/job"),
    targets: Path | None = None,
    **figures: Any,
) -> list[str]:
    """Return the lines of the closing summary of a run with these figures."""
    outcomes = dict.fromkeys(Outcome, 0) | {name: figures.pop(name, 0) for name in Outcome}
    summary = Summary(
        name="job",
        total=sum(outcomes.values()),
        **{str(name): number for name, number in outcomes.items()},
        **{
            "provider": "enos",
            "action": "revoke",
            "endpoint": "https://apim.example.com",
            "rehearsal": False,
            "plan": "0" * 64,
            "left_out": 0,
            "protected": 0,
            "ceiling": 500.0,
            "attempts": 0,
            "requests": 1201,
            "throttled": 0,
            "started_at": None,
            "finished_at": None,
            "elapsed_seconds": 2.5,
            "requests_per_second": 480.4,
            "busiest_second": 490,
            "retried": {},
            "errors": [
                ErrorKind(
                    count=count, code=code, message=message, advice="Do this." * (code == "E")
                )
                for count, code, message in reasons
            ],
            "error_kinds": len(reasons),
            "remarks": [],
            "exit_code": 0,
        }
        | figures,
    )
    text = closing_summary(summary, Path("job.toml"), run_dir, targets=targets)
    return [headline(summary), *text.splitlines()]


def test_a_run_that_went_well_says_that_nothing_is_left_to_do() -> None:
    assert _closing(succeeded=1199, already_done=1) == [
        "Finished: 1,200 operations in 2.5 s.",
        "  succeeded         1,199",
        "  already done          1",
        "  1,201 requests, 480/s on average, 0 throttled",
        "  busiest second: 490 of 500 allowed",
        "  Results: runs/job/results.jsonl",
        "Nothing is left to do.",
    ]


def test_the_closing_summary_says_where_certificates_and_keys_are(tmp_path: Path) -> None:
    certificates, keys = tmp_path / "certificates", tmp_path / "keys"
    lines: dict[Path, str] = {
        certificates: f"  Certificates: {certificates} (manifest.csv lists them)",
        keys: f"  Keys: {keys}",
    }
    for folder, shown in lines.items():
        folder.mkdir()
        (folder / "manifest.csv").touch()
        assert shown not in _closing(run_dir=tmp_path)
        (folder / "A1+1.2.pem").touch()
        assert shown in _closing(run_dir=tmp_path)
    for_all = f"  From all hosts: bulkcert material {tmp_path} -o DIR --identity KEY"
    assert for_all not in _closing(run_dir=tmp_path)
    (tmp_path / "shared-store.json").touch()
    assert for_all in _closing(run_dir=tmp_path)


def test_a_ceiling_that_was_lowered_during_the_run_is_not_called_exceeded() -> None:
    lines = _closing(succeeded=1, ceiling=200.0)
    assert "  busiest second: 490, when more was allowed than now, 200" in lines


def test_singular_and_plural_are_right_in_the_closing_summary() -> None:
    one = _closing(unknown=1, requests=1, exit_code=1)
    assert one[0] == "Finished: 1 operation in 2.5 s."
    assert "  1 request, 480/s on average, 0 throttled" in one
    assert "Next: 1 operation may have happened." in one
    two = _closing(unknown=2, exit_code=1)
    assert two[0] == "Finished: 2 operations in 2.5 s."
    assert "Next: 2 operations may have happened." in two


def test_failures_are_followed_by_their_reasons_and_the_next_step() -> None:
    lines = _closing(
        *[
            (3, 99400, "bad serial"),
            (1, None, "no response"),
            (1, 0, "not in the list"),
            *[(1, "E", "rare")] * 5,
        ],
        succeeded=1,
        failed=10,
        exit_code=1,
    )
    assert "  3 x 99400 bad serial" in lines
    assert "  1 x no response" in lines
    assert "  1 x not in the list" in lines
    assert lines.count("  1 x E rare") == 2  # five reasons at most
    assert lines.count("      Do this.") == 1  # advice is given once
    assert "  and 3 more kinds of errors" in lines
    assert lines[-2:] == [
        "Next: list and fix the failures, then run the same command with --retry-failed:",
        "  bulkcert results runs/job --outcome failed",
    ]


def test_what_was_sent_again_and_what_is_worth_knowing_is_said_though_all_succeeded() -> None:
    remark = Remark(count=12, name="no_ca", meaning="not checked")
    lines = _closing(succeeded=1199, retried={"99500": 252, "429": 3}, remarks=[remark])
    assert "  sent again after: 252 x 99500, 3 x 429" in lines
    assert "  12 x note: not checked" in lines
    many = _closing(retried={str(code): 1 for code in range(7)})
    assert "  sent again after: 1 x 0, 1 x 1, 1 x 2, 1 x 3, 1 x 4, and 2 more codes" in many


def test_messages_of_the_provider_cannot_act_on_the_terminal() -> None:
    odd = "\x1b]0;title\x07\x9b2J\u202e\nNothing is left to do."
    lines = _closing((1, "X\x1b[1m", odd), failed=1, exit_code=1)
    shown = "  1 x X\\x1b[1m \\x1b]0;title\\x07\\x9b2J\\u202e\\nNothing is left to do."
    assert [line for line in lines if "title" in line] == [shown]


def test_a_run_that_stopped_early_says_how_to_continue() -> None:
    lines = _closing(succeeded=5, failed=1, pending=4, exit_code=3)
    assert lines[0] == "Stopped early after 2.5 s: 6 of 10 operations done."
    assert lines[-1] == "Next: run the same command again to continue from here."


def test_a_rehearsal_says_so_and_names_the_command_of_the_real_run() -> None:
    """It can be copied from a log into a shell in any folder."""
    here = shlex.quote(str(Path.cwd()))
    assert _closing(succeeded=1, rehearsal=True)[-6:] == [
        "This was a rehearsal against the simulator; no certificate was touched.",
        "To keep it as the record of a drill:",
        "  bulkcert report runs/job -o job.html",
        "  bulkcert evidence runs/job -o job.tar.gz --key FILE",
        "To do it for real:",
        f"  bulkcert run {here}/job.toml",
    ]
    other = _closing(succeeded=1, rehearsal=True, left_out=1, targets=Path("my fleet.csv"))
    expected = ["bulkcert", "run", str(Path("job.toml").absolute()), "--targets"]
    assert shlex.split(other[-1]) == [
        *expected,
        str(Path("my fleet.csv").absolute()),
        "--skip-rejected",
    ]
    assert shlex.split(_closing(rehearsal=True, targets=Path("-"))[-1]) == [*expected, "-"]


# ---- progress


FINAL = (State.SUCCEEDED, State.ALREADY_DONE, State.FAILED, State.UNKNOWN)


def _progress(
    settled: int, *, failed: int = 0, note: str = "", left_s: float | None = 90, **others: Any
) -> Progress:
    states = dict.fromkeys(FINAL, 0) | {State.SUCCEEDED: settled - failed, State.FAILED: failed}
    return Progress(2000, states, settled, 479.6, note, left_s, **others)


def test_progress_is_a_line_every_five_seconds_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 100.0
    with ProgressDisplay(500.0, True, lambda: now) as display:
        for event in (
            Started(2000, 0),
            Settled(1, {"assetId": "A1"}, Outcome.SUCCEEDED, 0, "OK", None, 1, None, None),
            _progress(480),
            _progress(700),
        ):
            display.show(event)
        now = 104.9
        display.show(_progress(900))
        now = 105.0
        display.show(_progress(1234, failed=2, note="throttled", left_s=None))
    assert capsys.readouterr().err.splitlines() == [
        "480 of 2,000 (24%), 480/s of 500, 1 min 30 s left",
        "1,234 of 2,000 (61%), 480/s of 500, 2 failed, throttled",
    ]


def test_a_run_that_is_held_writes_a_line_a_minute_until_something_happens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def held(settled: int, *kinds: ReasonKind) -> Progress:
        reasons = tuple(Reason(kind) for kind in kinds)
        return _progress(settled, note=" · ".join(map(str, reasons)), reasons=reasons, left_s=None)

    now = 0.0
    with ProgressDisplay(500.0, True, lambda: now) as display:
        for event in (
            *[held(20, ReasonKind.WAITING)] * 25,
            *[held(20, ReasonKind.WAITING, ReasonKind.PAUSED)] * 2,
            *[_progress(21, left_s=None)] * 2,
        ):
            display.show(event)
            now += 5.0
    shown = [text.rpartition(", ")[2] for text in capsys.readouterr().err.splitlines()]
    assert shown == [*["waiting"] * 3, "waiting · paused", "480/s of 500", "480/s of 500"]


def test_notices_are_shown_without_progress_too(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(500.0, False) as display:
        for event in (Started(2000, 0), _progress(480), Notice("Look out.")):
            display.show(event)
    assert capsys.readouterr().err == "Warning: Look out.\n"


def test_every_event_of_the_log_can_be_a_message(tmp_path: Path) -> None:
    log = tmp_path / "log"
    console.configure(as_json=True, log_file=log, quiet=True, verbose=False)
    try:
        with ProgressDisplay(500.0, False) as display:
            for event in LOG:
                display.show(event)
    finally:
        console.reset()
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["event"] for entry in entries] == [str(event.type) for event in LOG]
    assert [entry["seq"] for entry in entries] == [event.seq for event in LOG]
    assert all(entry["text"].endswith(".") for entry in entries)
    assert {entry["event"] for entry in entries if entry["level"] == "warning"} == {"abort"}


FULL = _progress(480, failed=2, note="throttled (pausing for 3 s)")


def test_a_bar_has_everything_where_there_is_room() -> None:
    assert bar(_progress(480, failed=2), 500.0, 100) == (
        " 24%  [=========                             ]  480/2,000  480/s of 500  2 failed"
        "  1 min 30 s left",
        98,
    )


def test_the_bar_and_the_line_show_a_limit_that_somebody_has_set_and_a_missed_deadline() -> None:
    progress = _progress(480, rate_limit=50.0, slack_s=-7200.0)
    shown = "480/s of 50", "1 min 30 s left", "2 h 00 min late"
    assert line(progress, 500.0) == ", ".join(["480 of 2,000 (24%)", *shown])
    assert bar(progress, 500.0, 79)[0].endswith("  ".join(shown))
    assert line(_progress(480, slack_s=7200.0), 500.0).endswith("1 min 30 s left")


@pytest.mark.parametrize(
    ("kind", "detail", "known"),
    [
        (ReasonKind.PAUSED, "by ann@ops1", False),
        (ReasonKind.HELD, "check: disk full", False),
        (ReasonKind.WAITING, "go canary", False),
        (ReasonKind.WAITING, "between waves until 12:00:00", True),
        (ReasonKind.CLOSED, "window until 22:00", True),
        (ReasonKind.THROTTLED, "", True),
    ],
)
def test_nobody_is_promised_an_end_that_people_decide(
    kind: ReasonKind, detail: str, known: bool
) -> None:
    progress = _progress(480, reasons=(Reason(kind, detail),))
    assert ("left" in line(progress, 500.0)) is known
    assert ("left" in bar(progress, 500.0, 99)[0]) is known


def test_a_program_reads_every_reason_of_the_progress() -> None:
    reasons = (Reason(ReasonKind.WAITING, "go canary"), Reason(ReasonKind.THROTTLED))
    fields = as_fields(_progress(480, reasons=reasons, slack_s=-0.04), 500.0)
    assert fields["reasons"] == ["waiting (go canary)", "throttled"]
    assert (fields["slack_s"], fields["rate_limit"], fields["ceiling"]) == (0.0, None, 500.0)


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        (
            92,
            " 24%  480/2,000  480/s of 500  2 failed  1 min 30 s left  throttled (pausing for 3 s)",
        ),
        (79, " 24%  480/2,000  480/s  2 failed  1 min 30 s left  throttled (pausing for 3 s)"),
        (70, "480/2,000  2 failed  1 min 30 s left  throttled (pausing for 3 s)"),
        (63, "24%  2 failed  1 min 30 s left  throttled (pausing for 3 s)"),
        (43, "24%  2 failed  throttled (pausing for 3 s)"),
        (30, "24%  2 failed  throttled (pau…"),
        (1, "…"),
        (0, ""),
    ],
)
def test_what_matters_most_stays_in_a_narrow_bar(cells: int, text: str) -> None:
    assert bar(FULL, 500.0, cells) == (text, len(text))


@given(
    st.integers(0, 200),
    st.integers(0, 10**7),
    st.floats(0, 10**5),
    st.text(max_size=60),
    st.none() | st.floats(0, 10**7),
)
def test_a_bar_is_never_wider_than_the_terminal(
    cells: int, settled: int, speed: float, note: str, left_s: float | None
) -> None:
    states = dict.fromkeys(FINAL, settled)
    progress = Progress(4 * settled + 7, states, settled, speed, note, left_s)
    text, measured = bar(progress, 500.0, cells)
    assert width(text) == measured <= cells


def test_failures_and_what_holds_the_run_up_are_coloured_without_changing_the_width() -> None:
    plain, cells = bar(FULL, 500.0, 92)
    coloured, same = bar(FULL, 500.0, 92, coloured=True)
    assert "\x1b[31m2 failed\x1b[0m" in coloured
    assert "\x1b[33mthrottled (pausing for 3 s)\x1b[0m" in coloured
    assert (re.sub(r"\x1b\[\d+m", "", coloured), same) == (plain, cells)


# ---- lines


def test_long_lines_go_on_below_their_beginning() -> None:
    line = "  WARNING        a list that is old, and a connection that is open"
    assert wrapped(line, 40).splitlines() == [
        "  WARNING        a list that is old, and",
        "                 a connection that is",
        "                 open",
    ]
    assert wrapped("      Do this or that.", 14).splitlines() == [
        "      Do this",
        "        or",
        "        that.",
    ]
    assert wrapped(line, 70) == line
    assert (
        wrapped("  bulkcert results a/very/long/path", 20) == "  bulkcert results a/very/long/path"
    )
    assert wrapped("", 20) == ""


@given(st.text(), st.integers(1, 100))
def test_wrapping_loses_nothing(line: str, columns: int) -> None:
    assert wrapped(line, columns).split() == line.split()


@pytest.mark.parametrize(
    ("text", "cells"), [("pump", 4), ("泵站", 4), ("é", 1), ("e\u0301", 1), ("", 0)]
)
def test_the_width_of_a_text_is_that_on_a_terminal(text: str, cells: int) -> None:
    assert width(text) == cells


def test_a_cut_text_ends_before_a_character_that_does_not_fit() -> None:
    assert [cut("泵站 1", cells) for cells in (6, 5, 4, 3, 1)] == [
        "泵站 1",
        "泵站…",
        "泵…",
        "泵…",
        "…",
    ]


def test_a_share_is_whole_only_when_nothing_is_missing() -> None:
    assert [percent(part, 1000) for part in (0, 9, 999, 1000)] == ["0%", "0%", "99%", "100%"]
    assert percent(0, 0) == "100%"


def test_a_rate_has_decimals_only_where_it_is_low() -> None:
    assert [rate(value) for value in (0, 0.72, 9.94, 9.96, 1234.5)] == [
        *("0.0/s", "0.7/s", "9.9/s", "10/s", "1,234/s")
    ]


@pytest.mark.parametrize(("count", "words"), [(1, "1 row has"), (3, "3 rows have")])
def test_renewals_that_keep_a_compromised_key_are_warned_of(
    tmp_path: Path, count: int, words: str
) -> None:
    job = tmp_path / "key-compromise.toml"
    job.write_text(
        'provider = "enos"\naction = "renew"\ntargets = "fleet.csv"\n'
        '[connection]\nendpoint = "https://apim.example.com"\norg_id = "o1"\n'
    )
    rows = [f"A{number},{number}" for number in range(count)]
    (tmp_path / "fleet.csv").write_text("\n".join(["assetId,certSn", *rows]))
    ended = CliRunner().invoke(main, ["plan", str(job), "--run-dir", str(tmp_path / "run")])
    assert ended.exit_code == 0
    assert f"{words} no signing request" in ended.output
