"""`bulkcert control`: what is recorded, what is in force when it returns, and what it says."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from campaign_run import TARGETS, WAVES, planned_run, process, settle, store_of, with_waves
from click.testing import CliRunner, Result

from bulkcert.campaign_state import WaveState, look
from bulkcert.cli import main
from bulkcert.control import Verb, who
from bulkcert.errors import ControlError, RunDirectoryError
from bulkcert.rules.gate import Standing
from bulkcert.rundir import RunDirectory
from bulkcert.steering import ControlRequest, Force
from bulkcert.store.base import Abort
from bulkcert.store.sqlite import SqliteStore
from bulkcert.timings import ControlTimings

QUICK = ControlTimings(patience_s=0.3, look_every_s=0.01)


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return planned_run(tmp_path)


def bulkcert(*words: object) -> Result:
    return CliRunner().invoke(main, ["control", *map(str, words)])


def steer(directory: RunDirectory, verb: Verb, value: str = "", why: str = "") -> Force:
    asked = ControlRequest(directory, verb, value, why, timings=QUICK)
    asked.record()
    return asked.wait().force


def recorded(directory: RunDirectory) -> list[tuple[str, str]]:
    with contextlib.closing(directory.reader()) as reader:
        return [(entry.verb, entry.value) for entry in reader.controls()]


# ---- a running process


@pytest.mark.parametrize(
    ("open_requests", "said"),
    [
        ([131, 131, 40, 0], "paused; 131 requests were under way, all answered"),
        ([1, 0], "paused; 1 request was under way, all answered"),
        ([0], "paused; no request was under way"),
    ],
)
def test_a_pause_returns_when_it_is_in_force_and_all_is_answered(
    directory: RunDirectory, open_requests: list[int], said: str
) -> None:
    with process(directory, open_requests=open_requests):
        ended = bulkcert("pause", directory.path, "--why", "help desk\n  is flooded")
    assert (ended.exit_code, ended.stdout) == (0, f"{said}\n")
    with contextlib.closing(directory.reader()) as reader:
        [entry] = reader.controls()
    assert (entry.who, entry.why) == (who(), "help desk is flooded")
    assert time.time() - entry.at < 3600


def test_a_pause_is_in_force_although_requests_stay_open(directory: RunDirectory) -> None:
    with process(directory, open_requests=[7, 3]):
        asked = ControlRequest(directory, Verb.PAUSE, timings=QUICK)
        asked.record()
        steered = asked.wait()
    assert steered.force is Force.IN_FORCE
    assert steered.now.session
    assert steered.now.session.open_requests == 3


def test_a_control_that_no_process_reads_in_time_is_not_in_force(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = ControlRequest.__init__.__kwdefaults__ | {"timings": QUICK}
    monkeypatch.setattr(ControlRequest.__init__, "__kwdefaults__", defaults)
    with process(directory, obeys=False):
        ended = bulkcert("pause", directory.path)
        shown = bulkcert("pause", directory.path, "--json")
    assert ended.exit_code == shown.exit_code == 1
    assert "Not in force" in ended.stderr
    assert "stays recorded" in ended.stderr
    figures = json.loads(shown.stdout)
    assert (figures["in_force"], figures["control"]["id"]) == (False, 2)
    assert figures["error"]["exit_code"] == 1
    assert recorded(directory) == [("pause", "")] * 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rate", "50"), "rate 50/s, of 500/s that the plan allows"),
        (("rate", "500"), "rate 500/s, of 500/s that the plan allows"),
        (("rate", "0.5"), "rate 0.5/s, of 500/s that the plan allows"),
        (("rate", "max"), "rate 500/s, all that the plan allows"),
        (("resume",), "resumed; no control paused it"),
    ],
)
def test_what_is_in_force_is_said(
    directory: RunDirectory, words: tuple[str, ...], said: str
) -> None:
    verb, *value = words
    with process(directory):
        ended = bulkcert(verb, directory.path, *value)
    assert (ended.exit_code, ended.stdout) == (0, f"{said}\n")


def test_repeating_a_control_is_harmless(directory: RunDirectory) -> None:
    with process(directory):
        first, again = (bulkcert("pause", directory.path) for _ in range(2))
    assert (first.exit_code, first.stdout) == (again.exit_code, again.stdout)
    assert recorded(directory) == [("pause", "")] * 2


def test_a_stop_returns_when_the_process_has_ended(directory: RunDirectory) -> None:
    with process(directory, open_requests=[12]):
        ended = bulkcert("stop", directory.path)
    job_file = directory.path.parent.parent / "job.toml"
    assert ended.exit_code == 0
    assert ended.stdout == (
        "stopped; 12 requests were under way, all answered\n"
        f"To go on, run:\n  bulkcert run {job_file}\n"
    )


def test_a_stop_is_in_force_while_the_process_waits_for_its_requests(
    directory: RunDirectory,
) -> None:
    with process(directory, open_requests=[12, 5], ends_on_stop=False):
        assert steer(directory, Verb.STOP) is Force.IN_FORCE


def test_a_resume_says_what_still_holds(directory: RunDirectory) -> None:
    (directory.path / "PAUSE").write_text("ask Ann\n")
    held = "paused (by the file PAUSE: ask Ann)"
    with process(directory, reasons=[held]):
        bulkcert("pause", directory.path)
        ended = bulkcert("resume", directory.path)
    assert ended.stdout == (
        f"resumed\n  still {held}\n"
        f"  {directory.path}/PAUSE pauses it for as long as that file is there\n"
    )


# ---- no process


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pause",), "paused; no process works on the run: in force when it goes on"),
        (
            ("rate", "5"),
            "rate 5/s, of 500/s that the plan allows; no process works on the run: in force when it"
            " goes on",
        ),
    ],
)
def test_without_a_process_a_control_is_recorded(
    directory: RunDirectory, words: tuple[str, ...], said: str
) -> None:
    verb, *value = words
    ended = bulkcert(verb, directory.path, *value)
    assert (ended.exit_code, ended.stdout) == (0, f"{said}\n")
    assert recorded(directory) == [(verb, "".join(value))]


def test_a_resume_without_a_process_prints_the_command_to_go_on(directory: RunDirectory) -> None:
    bulkcert("pause", directory.path)
    (directory.path / "PAUSE").touch()
    ended = bulkcert("resume", directory.path)
    job_file = directory.path.parent.parent / "job.toml"
    assert ended.exit_code == 0
    assert ended.stdout == (
        f"resumed\n  {directory.path}/PAUSE pauses it for as long as that file is there\n"
        f"To go on, run:\n  bulkcert run {job_file}\n"
    )


def test_a_stop_without_a_process_does_nothing(directory: RunDirectory) -> None:
    ended = bulkcert("stop", directory.path)
    assert ended.exit_code == 0
    assert ended.stdout.startswith("nothing to stop: no process works on the run\n")
    assert recorded(directory) == []


# ---- go


def test_a_go_is_in_force_for_the_wave_that_is_over(directory: RunDirectory) -> None:
    with_waves(directory, 0, over=True)
    with process(directory, reasons=["waiting (go canary)"]):
        ended = bulkcert("go", directory.path, "canary")
    assert ended.exit_code == 0
    assert ended.stdout.startswith("go after canary\n")
    assert recorded(directory) == [("go", "canary")]


def test_a_go_without_a_process_is_recorded_and_may_be_repeated(directory: RunDirectory) -> None:
    with_waves(directory, 0, over=True)
    assert steer(directory, Verb.GO, "canary") is Force.NO_PROCESS
    with store_of(directory) as store:
        store.set_standing(Standing(wave=1))
    assert steer(directory, Verb.GO, "canary") is Force.NO_PROCESS


@pytest.mark.parametrize(
    ("wave", "over", "named", "problem"),
    [
        (0, True, "5%", "no wave '5%': its waves are canary, 50%, rest"),
        (0, True, "50%", "not waiting for a go after 50%: wave canary is over, and 50% has not"),
        (0, False, "canary", "wave canary is under way, 0 of 2 settled (0%)"),
        (1, False, "canary", "wave 50% is under way, 0 of 2 settled (0%)"),
        (2, False, "rest", "wave rest is under way"),
    ],
)
def test_a_go_for_another_wave_is_refused_and_says_where_the_run_stands(
    directory: RunDirectory, wave: int, over: bool, named: str, problem: str
) -> None:
    with_waves(directory, wave, over=over)
    ended = bulkcert("go", directory.path, named)
    assert ended.exit_code == 2
    assert problem in ended.stderr
    assert recorded(directory) == []


@pytest.mark.parametrize(("wave", "rehearsal"), [(1, False), (0, True)])
def test_a_go_that_nobody_waits_for_is_refused(
    directory: RunDirectory, wave: int, rehearsal: bool
) -> None:
    with_waves(directory, wave, over=True)
    with store_of(directory) as store:
        store.update_manifest(replace(directory.manifest(), rehearsal=rehearsal))
    ended = bulkcert("go", directory.path, WAVES[wave])
    assert ended.exit_code == 2
    assert "After that one it goes on by itself." in ended.stderr
    assert recorded(directory) == []


def test_a_go_for_a_run_that_was_aborted_is_refused(directory: RunDirectory) -> None:
    with_waves(directory, 0, over=True)
    with store_of(directory) as store:
        store.add_abort(Abort("a1b2", 1e9, "failed", "11 of the last 500 failed"))
    ended = bulkcert("go", directory.path, "canary")
    assert ended.exit_code == 2
    assert "11 of the last 500 failed" in ended.stderr


def test_a_go_for_a_run_without_waves_is_refused(directory: RunDirectory) -> None:
    assert bulkcert("go", directory.path, "canary").exit_code == 2


# ---- what is refused


@pytest.mark.parametrize("verb", ["pause", "resume", "stop", "rate", "go"])
def test_a_run_that_is_over_can_not_be_steered(directory: RunDirectory, verb: str) -> None:
    settle(directory, 1, TARGETS)
    ended = bulkcert(verb, directory.path, *{"rate": ["5"], "go": ["canary"]}.get(verb, []))
    assert ended.exit_code == 2
    assert "is over" in ended.stderr
    assert recorded(directory) == []


@pytest.mark.parametrize(
    "rate", ["0", "-1", "nan", "inf", "1e999", "0.001", "fast", "", "500.01", "1_000_000"]
)
def test_a_rate_that_is_none_or_above_the_ceiling_is_refused(
    directory: RunDirectory, rate: str
) -> None:
    ended = bulkcert("rate", directory.path, "--", rate)
    assert ended.exit_code == 2
    assert recorded(directory) == []


@pytest.mark.parametrize(
    "words", [("rate",), ("go",), ("pause", "5"), ("hold",), ("stop", "canary")]
)
def test_a_missing_or_needless_value_is_a_usage_error(
    directory: RunDirectory, words: tuple[str, ...]
) -> None:
    verb, *value = words
    assert bulkcert(verb, directory.path, *value).exit_code == 2
    assert recorded(directory) == []


def test_a_store_that_can_not_be_written_is_an_error(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any) -> int:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    monkeypatch.setattr(SqliteStore, "add_control", read_only)
    with pytest.raises(RunDirectoryError, match="can't be recorded"):
        steer(directory, Verb.PAUSE)


def test_a_reason_that_is_not_unicode_is_recorded_as_far_as_it_can_be(
    directory: RunDirectory,
) -> None:
    assert bulkcert("pause", directory.path, "--why", "\udcff bad").exit_code == 0
    with contextlib.closing(directory.reader()) as reader:
        assert [entry.why for entry in reader.controls()] == ["? bad"]


def test_ctrl_c_while_waiting_says_that_the_control_stays(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: ControlRequest) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ControlRequest, "wait", interrupted)
    ended = bulkcert("pause", directory.path)
    assert ended.exit_code == 3
    assert "the pause stays recorded" in ended.stderr
    assert recorded(directory) == [("pause", "")]


def test_the_run_may_end_before_a_control_is_in_force(directory: RunDirectory) -> None:
    asked = ControlRequest(directory, Verb.PAUSE, timings=QUICK)
    asked.record()
    settle(directory, 1, TARGETS)
    assert asked.wait().force is Force.NO_PROCESS
    with pytest.raises(ControlError, match="is over"):
        steer(directory, Verb.PAUSE)


# ---- where it stands


def test_the_waves_of_a_run_are_done_over_under_way_or_to_come(directory: RunDirectory) -> None:
    with_waves(directory, 1, over=False)
    states = [each.state for each in look(directory).waves]
    assert states == [WaveState.DONE, WaveState.UNDER_WAY, WaveState.TO_COME]
    settle(directory, 3, 4)
    assert look(directory).waves[1].state is WaveState.OVER


def test_the_last_wave_may_be_over(directory: RunDirectory) -> None:
    with_waves(directory, 2, over=True)
    assert look(directory).place == "the last wave, rest, is over"
