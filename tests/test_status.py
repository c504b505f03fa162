"""`bulkcert status` of a campaign: why nothing is sent, waves, controls, aborts and deadline."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from campaign_run import planned_run, process, settle, store_of, with_waves
from click.testing import CliRunner

from bulkcert.cli import main
from bulkcert.control import Verb
from bulkcert.json_lines import utc
from bulkcert.plan_hash import PlanHash
from bulkcert.rules import MAX_OPERATIONS
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Abort


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return planned_run(tmp_path)


def text_of(directory: RunDirectory, command: str = "status") -> list[str]:
    return CliRunner().invoke(main, [command, str(directory.path)]).stdout.splitlines()


def json_of(directory: RunDirectory) -> dict[str, Any]:
    ended = CliRunner().invoke(main, ["status", str(directory.path), "--json"])
    return dict(json.loads(ended.stdout))


def add_control(directory: RunDirectory, verb: Verb, value: str = "", why: str = "") -> None:
    with store_of(directory) as store:
        store.add_control(1e9, "ann@ops1", why, verb, value)


def test_every_reason_why_nothing_is_sent_is_listed_below_the_headline(
    directory: RunDirectory,
) -> None:
    reasons = ["paused (by ann@ops1: incident 42)", "waiting (go canary)", "throttled"]
    with process(directory, reasons=reasons, open_requests=[3]):
        assert (
            CliRunner().invoke(main, ["control", "rate", str(directory.path), "50"]).exit_code == 0
        )
        text, figures = text_of(directory), json_of(directory)
    assert text[0].startswith("job: running for ")
    assert text[1:4] == [f"  {reason}" for reason in reasons]
    assert (figures["state"], figures["reasons"]) == ("running", reasons)
    assert figures["open_requests"] == 3


def test_the_commonest_errors_come_with_what_to_do_about_them(directory: RunDirectory) -> None:
    with contextlib.closing(sqlite3.connect(directory.checkpoint)) as db, db:
        db.execute("UPDATE operations SET state = 'failed', code = 99403, message = 'no' || id")
    text = text_of(directory)
    place = text.index("  6 x 99403 …")
    assert text[place + 1].startswith("      Grant the application full access")


def test_a_run_that_waits_for_people_shows_the_commands(directory: RunDirectory) -> None:
    with_waves(directory, 0, over=True)
    settle(directory, 1, 2)
    add_control(directory, Verb.PAUSE)
    run = directory.path
    with process(directory, reasons=["paused (by ann@ops1)", "waiting (go canary)"], left_s=60.0):
        text = text_of(directory)
    assert "  about 1 min 00 s left, once it goes on" in text
    assert text[-4:] == [
        "  To resume it:",
        f"    bulkcert control resume {run}",
        "  To let it go on to the next wave:",
        f"    bulkcert control go {run} canary",
    ]
    with process(directory, reasons=["throttled"], left_s=60.0):
        assert "  about 1 min 00 s left" in text_of(directory)


def test_a_run_without_a_process_says_what_will_pause_it(directory: RunDirectory) -> None:
    add_control(directory, Verb.PAUSE, why="incident 42")
    (directory.path / "PAUSE").write_text("ask Bob\n")
    expected = ["paused (by ann@ops1: incident 42)", "paused (by the file PAUSE: ask Bob)"]
    assert json_of(directory)["reasons"] == expected
    assert text_of(directory)[1:3] == [f"  {reason}" for reason in expected]


def test_nothing_pauses_a_run_that_is_over(directory: RunDirectory) -> None:
    (directory.path / "PAUSE").touch()
    settle(directory, 1, 6)
    assert json_of(directory)["reasons"] == []
    assert "paused" not in text_of(directory, "runs")[1]


def test_the_waves_have_their_state_and_counts(directory: RunDirectory) -> None:
    with_waves(directory, 1, over=False)
    settle(directory, 3, 3)
    text = text_of(directory)
    begin = text.index("  Waves:")
    assert text[begin + 1 : begin + 4] == [
        "    canary  2  done       2 succeeded",
        "    50%     2  under way  1 succeeded, 1 pending",
        "    rest    2  to come",
    ]
    waves = json_of(directory)["waves"]
    assert [(wave["name"], wave["state"], wave["total"]) for wave in waves] == [
        ("canary", "done", 2),
        ("50%", "under_way", 2),
        ("rest", "to_come", 2),
    ]
    assert (waves[1]["succeeded"], waves[1]["pending"], waves[1]["in_flight"]) == (1, 1, 0)


def test_the_controls_come_with_who_when_and_why(directory: RunDirectory) -> None:
    add_control(directory, Verb.PAUSE, why="first")
    add_control(directory, Verb.RATE, "50", "help desk")
    add_control(directory, Verb.GO, "canary")
    text = "\n".join(text_of(directory))
    assert "  Controls:\n    paused by ann@ops1 at Sun 2001-09-09 " in text
    assert ": first\n    rate 50/s by ann@ops1 at " in text
    assert ": help desk\n    go after canary by ann@ops1 at " in text
    controls = json_of(directory)["controls"]
    assert controls["rate"] == {
        "id": 2,
        "at": "2001-09-09T01:46:40.000Z",
        "who": "ann@ops1",
        "why": "help desk",
        "value": "50",
    }
    assert (controls["paused"]["why"], list(controls["go"])) == ("first", ["canary"])
    assert controls["pause_file"] is None


def test_a_control_that_the_process_has_not_read_is_not_in_force_yet(
    directory: RunDirectory,
) -> None:
    with process(directory, obeys=False):
        add_control(directory, Verb.PAUSE)
        text = text_of(directory)
    assert any(line.startswith("    paused (not in force yet) by ann@ops1") for line in text)


def test_an_abort_comes_with_the_command_to_go_on(directory: RunDirectory) -> None:
    with store_of(directory) as store:
        store.add_abort(Abort("a1b2c3", 1e9, "failed", "11 of the last 500 settled failed"))
    text = text_of(directory)
    job_file = directory.path.parent.parent / "job.toml"
    assert text[0].startswith("job: stopped by its own rules after ")
    assert "    11 of the last 500 settled failed" in text
    assert text[-1] == f"    bulkcert run {job_file} --override a1b2c3 --why TEXT"
    figures = json_of(directory)
    assert (figures["state"], figures["abort"]["id"]) == ("aborted", "a1b2c3")
    assert text_of(directory, "runs")[1].split("  ")[1].strip() == "aborted"


def test_going_on_after_an_abort_needs_the_approvals_of_the_job(directory: RunDirectory) -> None:
    manifest = directory.manifest()
    plan = PlanHash({**manifest.plan.contents, "approval": {"required": 2}})
    with store_of(directory) as store:
        store.update_manifest(replace(manifest, plan=plan, left_out=1, protected=1))
        store.add_abort(Abort("a1b2c3", 1e9, "failed", "11 of the last 500 settled failed"))
    job_file = directory.path.parent.parent / "job.toml"
    assert text_of(directory)[-3:] == [
        "  Find out why before you go on. To go on nevertheless, after 2 approvals:",
        f"    bulkcert approve {job_file} --skip-protected --override a1b2c3 --key FILE",
        f"    bulkcert run {job_file} --override a1b2c3 --why TEXT",
    ]


def test_a_run_without_a_process_shows_everything_that_it_takes_to_go_on(
    directory: RunDirectory,
) -> None:
    job_file = directory.path.parent.parent / "job.toml"
    assert text_of(directory)[-2:] == ["  To begin it:", f"    bulkcert run {job_file}"]
    with_waves(directory, 0, over=True)
    (directory.path / "PAUSE").touch()
    assert text_of(directory)[-6:] == [
        "  To resume it:",
        f"    rm {directory.path}/PAUSE",
        "  To let it go on to the next wave:",
        f"    bulkcert control go {directory.path} canary",
        "  To continue from here:",
        f"    bulkcert run {job_file}",
    ]


def test_an_abort_that_somebody_has_overridden_stays_on_record(directory: RunDirectory) -> None:
    with store_of(directory) as store:
        store.add_abort(Abort("a1b2c3", 1e9, "failed", "11 of the last 500 settled failed"))
        store.override_abort("a1b2c3", 1e9 + 60, "ann@ops1", "they are on loan")
    text = "\n".join(text_of(directory))
    assert (
        ", abort a1b2c3: 11 of the last 500 settled failed\n    overridden by ann@ops1 at " in text
    )
    figures = json_of(directory)
    assert figures["abort"] is None
    [overridden] = figures["overridden"]
    assert (overridden["id"], overridden["why"]) == ("a1b2c3", "they are on loan")


def test_a_cap_can_only_be_raised(directory: RunDirectory) -> None:
    with store_of(directory) as store:
        store.add_abort(Abort("a1b2c3", 1e9, MAX_OPERATIONS, "no more operations may be begun"))
    assert text_of(directory)[-1].endswith("/job.toml --amend")


def test_runs_shows_which_are_paused(directory: RunDirectory) -> None:
    add_control(directory, Verb.PAUSE)
    assert text_of(directory, "runs")[1].split("  ")[1].strip() == "not begun, paused"


@pytest.mark.parametrize(
    ("hours", "said"), [(3, ", with about "), (-3, ", which it will miss by about 3 h ")]
)
def test_the_slack_to_the_deadline_is_shown(directory: RunDirectory, hours: int, said: str) -> None:
    deadline_s = time.time() + hours * 3600
    with store_of(directory) as store:
        store.update_manifest(replace(directory.manifest(), deadline_s=deadline_s))
    assert json_of(directory)["slack_seconds"] is None
    with process(directory, left_s=600.0):
        text, figures = text_of(directory), json_of(directory)
    [line] = [line for line in text if line.startswith("  deadline ")]
    assert said in line
    assert figures["slack_seconds"] == pytest.approx(hours * 3600 - 600, abs=3600)
    assert figures["deadline"] == utc(deadline_s)


def test_a_run_without_a_campaign_shows_nothing_of_one(directory: RunDirectory) -> None:
    text = "\n".join(text_of(directory))
    assert not any(word in text for word in ("Waves", "Controls", "deadline", "abort"))
    figures = json_of(directory)
    assert (figures["waves"], figures["abort"], figures["reasons"]) == ([], None, [])


def test_the_hosts_of_a_run_can_be_listed(directory: RunDirectory) -> None:
    with process(directory, left_s=600.0):
        shown = CliRunner().invoke(main, ["hosts", str(directory.path)]).stdout
        found = CliRunner().invoke(main, ["hosts", str(directory.path), "--json"]).stdout
    assert shown.startswith("job: 1 host, 0.0/s of 500/s, 0 open\n")
    listed = json.loads(found)
    assert [(each["name"], each["state"]) for each in listed["hosts"]] == [("ops1", "live")]
    assert (listed["state"], listed["ceiling"]) == ("running", 500)
