"""`bulkcert run`: from the job file to the certificates, and back to the run directory."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import stat
import subprocess
import sys
import termios
import threading
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from processes import BULKCERT, LIMIT_S, Ended, Scene, SimulatorProcess, until, without_credentials

Stage = Callable[..., AbstractContextManager[Scene]]


def device_state(simulator: SimulatorProcess, device: str) -> list[dict[str, Any]]:
    """The certificates of a device, as the simulator has them."""
    address = f"{simulator.endpoint}/_simulator/device?assetId={device}"
    with urllib.request.urlopen(address) as answer:
        return list(json.load(answer))


# ---- a run that goes well


def test_a_good_run_does_everything_once_and_exits_with_0(finished: Scene) -> None:
    assert finished.ended.code == 0, finished.ended
    assert finished.violations() == []
    assert finished.summary()["exit_code"] == 0
    assert finished.summary()["succeeded"] == 60


def test_a_run_says_at_its_end_what_happened_how_fast_and_what_is_next(finished: Scene) -> None:
    ended = finished.ended
    assert ended.out == ""  # standard output is for data
    assert "Finished: 60 operations" in ended.err
    assert "succeeded            60" in ended.err
    assert "of 3,000 allowed" in ended.err
    assert "results.jsonl" in ended.err
    assert "Nothing is left to do." in ended.err


def test_the_run_directory_is_for_its_owner_and_holds_what_is_documented(finished: Scene) -> None:
    assert stat.S_IMODE(finished.run_dir.stat().st_mode) == 0o700
    names = {path.name for path in finished.run_dir.iterdir()}
    database = {"checkpoint.sqlite3", "checkpoint.sqlite3-wal", "checkpoint.sqlite3-shm"}
    assert names - database == {"results.jsonl", "summary.json"}
    assert "checkpoint.sqlite3" in names


def test_results_have_the_documented_fields_in_target_order(finished: Scene) -> None:
    results = finished.results()
    assert [result["line"] for result in results] == list(range(2, 62))
    result = results[3]
    assert result.pop("request_id")
    assert result.pop("finished_at").endswith("Z")
    assert result == {
        "line": 5,
        "target": {"assetId": finished.device(3), "certSn": 1003},
        "outcome": "succeeded",
        "code": 0,
        "message": "OK",
        "attempts": 1,
        "result": None,
    }


def test_the_summary_has_the_documented_fields_and_adds_up(finished: Scene) -> None:
    summary = finished.summary()
    outcomes = ("succeeded", "already_done", "failed", "unknown", "pending")
    assert summary["total"] == sum(summary[name] for name in outcomes) == 60
    assert summary["requests"] == 61  # one for the token
    assert summary["attempts"] == 60
    assert summary["throttled"] == 0
    assert summary["started_at"] < summary["finished_at"]
    assert 0 < summary["busiest_second"] <= 61
    assert summary["elapsed_seconds"] > 0
    assert summary["requests_per_second"] > 0


def test_a_column_of_a_target_wins_over_the_parameters_of_the_job(scene: Scene) -> None:
    """Under foreign headers, and with a repeated row, which is reported and done once."""
    scene.write(
        parameters={"reason": "CESSATION_OF_OPERATION"},
        columns={"assetId": "Asset ID", "certSn": "Serial", "reason": "Why"},
    )
    rows = [("x", scene.device(n), 1000 + n, why) for n, why in enumerate(["", "9", "SUPERSEDED"])]
    scene.write_rows([*rows, rows[1]], "Comment,Asset ID,Serial,Why")
    assert scene.run().code == 0
    assert "line 5: the same operation as line 3" in scene.ended.err
    assert (scene.run_dir / "rejected.csv").read_text().splitlines()[1].startswith("5,")
    assert scene.violations() == []
    states = [device_state(scene.simulator, scene.device(n))[0] for n in range(3)]
    assert [state["reason"] for state in states] == [5, 9, 4]


def test_devices_are_named_by_product_and_device_key_too(stage: Stage, tmp_path: Path) -> None:
    with SimulatorProcess(tmp_path / "ledger.jsonl") as open_world:
        scene = Scene(tmp_path, open_world)
        scene.write_rows([("p 1", "d/ä+&1", 7)], "productKey,deviceKey,certSn")
        assert scene.run().code == 0
        assert scene.violations() == []


def test_operations_that_fail_make_exit_code_1(mixed: Scene) -> None:
    assert mixed.ended.code == 1
    assert mixed.violations() == []
    assert [r["outcome"] for r in mixed.results()] == ["succeeded", "failed", "succeeded"]
    assert "--retry-failed" in mixed.ended.err
    assert "99400" in mixed.ended.err


def test_certificates_that_were_revoked_before_are_already_done(finished: Scene) -> None:
    again = Scene(finished.folder, finished.simulator, targets=60, prefix=finished.prefix)
    again.run_dir = finished.folder / "again"
    assert again.run("--run-dir", again.run_dir).code == 0
    assert again.violations() == []
    assert {result["outcome"] for result in again.results()} == {"already_done"}


# ---- confirmation and credentials


def test_without_a_terminal_an_action_that_changes_certificates_needs_yes(scene: Scene) -> None:
    ended = scene.start().wait()
    assert ended.code == 2
    assert "--yes" in ended.err
    assert scene.entries() == []


def on_a_terminal(scene: Scene, answer: str) -> Ended:
    """Run on a pseudo terminal, and answer what it asks."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [BULKCERT, "run", scene.job_file],
        cwd=scene.folder,
        env=without_credentials() | scene.simulator.credentials | {"TERM": "dumb"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C arrives
    )
    os.close(theirs)
    too_long = threading.Timer(LIMIT_S, process.kill)
    too_long.start()
    with process:
        shown = b""
        asked = False
        while chunk := _read(ours):
            shown += chunk
            if not asked and b"[y/N]" in shown:
                asked = True
                until(lambda: _sleeps(process.pid))
                os.write(ours, answer.encode())
    too_long.cancel()
    os.close(ours)
    return Ended(process.returncode, "", shown.decode())


def _sleeps(pid: int) -> bool:
    """Tell whether a process waits for input: a Ctrl-C just before that would be lost on it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # nobody has the other end any more
        return b""


@pytest.mark.parametrize(
    "answer", ["n\n", "\n", "\x04", "\x03"], ids=["n", "enter", "eof", "ctrl-c"]
)
def test_who_does_not_confirm_sends_nothing(answer: str, scene: Scene) -> None:
    ended = on_a_terminal(scene, answer)
    assert ended.code == 2, ended.err  # exit code 1 would say that operations have failed
    assert "60 from 60 rows" in ended.err
    assert "can't be undone" in ended.err
    assert scene.entries() == []


def test_who_confirms_gets_a_run_with_a_bar(scene: Scene) -> None:
    on_a_terminal(scene, "n\n")  # which does not keep anybody from thinking better of it
    ended = on_a_terminal(scene, "y\n")
    assert ended.code == 0, ended.err
    assert "100%" in ended.err
    assert scene.violations() == []


def test_missing_credentials_are_named_and_nothing_is_sent(scene: Scene) -> None:
    ended = scene.run(environment={"ENOS_APP_KEY": "simulator-key"})
    assert ended.code == 2
    assert "ENOS_APP_SECRET" in ended.err
    assert scene.entries() == []


@pytest.mark.parametrize("wrong", ["ENOS_APP_KEY", "ENOS_APP_SECRET"])
def test_wrong_credentials_stop_the_run_before_anything_is_sent(wrong: str, scene: Scene) -> None:
    ended = scene.run(environment=scene.simulator.credentials | {wrong: "wrong-one"})
    assert ended.code == 2
    assert "does not accept the credentials" in ended.err
    assert "wrong-one" not in ended.err
    assert {entry["action"] for entry in scene.entries()} == {"token.get"}
    # and with the right ones it goes on from there
    assert scene.run().code == 0
    assert scene.violations() == []
    assert scene.summary()["requests"] == len(scene.entries())


# ---- the run directory


def test_a_run_that_is_over_sends_nothing_when_it_is_run_again(mixed: Scene) -> None:
    sent = mixed.simulator.requests
    assert mixed.start("--yes").wait().code == 1
    assert mixed.simulator.requests == sent
    assert mixed.violations() == []


def test_failed_operations_are_taken_up_again_on_demand(scene: Scene) -> None:
    scene.write_rows([(scene.device(0), 9999), (scene.device(1), 1001)])
    assert scene.run().code == 1
    before = len(scene.entries())
    assert scene.run("--retry-failed").code == 1
    again = scene.entries()[before:]
    assert [entry["certSn"] for entry in again if entry["action"] == "revoke"] == [9999]
    assert scene.violations(retried=True) == []


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"parameters": {"reason": 1}}, "parameters.reason was 'not set' and is now 1"),
        ({"connection": {"org_id": "o2"}}, "connection.org_id was 'o1' and is now 'o2'"),
        ({"connection": {"endpoint": "http://127.0.0.1:9"}}, "connection.endpoint was"),
        ({"columns": {"assetId": "assetId"}}, "columns.assetId was"),
        ({"targets": "fewer.csv"}, "the content of the target file has changed"),
    ],
    ids=["parameters", "option", "endpoint", "columns", "targets"],
)
def test_a_run_directory_of_a_changed_job_is_refused(
    section: dict[str, Any], told: str, finished: Scene, tmp_path: Path
) -> None:
    changed = Scene(tmp_path, finished.simulator, prefix=finished.prefix)
    (tmp_path / "fewer.csv").write_text("assetId,certSn\nA,1\n")
    changed.write(**section)
    ended = changed.run("--run-dir", finished.run_dir)
    assert ended.code == 2
    assert told in ended.err
    assert "--run-dir" in ended.err  # how to go on
    assert changed.entries() == []


def test_how_fast_a_run_goes_may_change_between_its_processes(finished: Scene) -> None:
    slower = Scene(finished.folder, finished.simulator, prefix=finished.prefix)
    slower.write(limits={"requests_per_second": 10, "in_flight": 1}, retry={"max_attempts": 1})
    assert slower.run().code == 0


def test_a_second_process_on_the_same_run_directory_is_refused(scene: Scene) -> None:
    scene.write(limits={"requests_per_second": 40})
    with scene.start("--yes") as first:
        assert scene.await_requests(5, first)
        second = scene.run()
        assert second.code == 2
        assert "in use by another process" in second.err
        assert first.wait().code == 0
    assert scene.violations() == []


def test_a_folder_with_something_else_in_it_is_no_run_directory(scene: Scene) -> None:
    """Its mode would be changed, and files of other people's would come to lie among ours."""
    folder = scene.folder / "mine"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "letter.txt").write_text("Dear")
    ended = scene.run("--run-dir", folder)
    assert ended.code == 2
    assert "letter.txt" in ended.err
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]
    assert scene.entries() == []


def test_targets_come_from_elsewhere_and_a_run_goes_on_with_the_same_ones(scene: Scene) -> None:
    content = scene.target_file.read_bytes()
    other = scene.folder / "other.csv"
    other.write_bytes(content)
    scene.write(targets="nowhere.csv")
    assert scene.run("--targets", "-", stdin=content).code == 0
    scene.write(targets="targets.csv")
    assert scene.violations() == []
    sent = len(scene.entries())
    assert scene.run("--targets", "other.csv").code == 0
    ended = scene.run("--targets", "-", stdin=content + b"X,1\n")
    assert ended.code == 2
    assert "target file has changed" in ended.err
    assert len(scene.entries()) == sent


# ---- rehearsal


def test_a_rehearsal_runs_the_whole_job_without_credentials_and_calls_nothing_else(
    scene: Scene,
) -> None:
    scene.write(
        connection={"endpoint": "https://apim.example.com"}, limits={"requests_per_second": 300}
    )
    ended = scene.start("--rehearse", environment={}).wait()
    assert ended.code == 0, ended
    assert "no certificate was touched" in ended.err
    scene.run_dir = scene.folder / "runs" / "job-rehearsal"
    checker = Path(__file__).parents[1] / "history.py"
    check = subprocess.run(
        [sys.executable, checker, scene.job_file, scene.run_dir], capture_output=True, check=False
    )
    assert check.returncode == 0, check.stdout
    assert scene.summary()["succeeded"] == 60
    assert scene.entries() == []


def test_a_rehearsal_that_is_over_begins_anew_and_no_real_run_goes_on_from_it(
    scene: Scene,
) -> None:
    content = scene.target_file.read_bytes()
    words = ("--rehearse", "--targets", "-", "--run-dir", "here")
    for _ in range(2):
        ended = scene.start(*words, stdin=content, environment={}).wait()
        assert ended.code == 0, ended
        assert "60 from 60 rows" in ended.err
    ended = scene.run("--run-dir", "here")
    assert ended.code == 2
    assert "rehearsal" in ended.err
    assert scene.entries() == []


# ---- refusal of everything, limits, and nobody who listens


def test_what_is_not_permitted_is_asked_for_once(stage: Stage) -> None:
    with stage(refuse_all="99403") as scene:
        ended = scene.run()
        assert ended.code == 1
        assert {(r["outcome"], r["code"]) for r in scene.results()} == {("failed", 99403)}
        assert len(scene.entries()) == 61
        assert scene.violations() == []
        assert "60 x 99403" in ended.err


def test_a_throttled_run_gives_way_and_loses_nothing(stage: Stage) -> None:
    """A limit at half the ceiling, answers that are turned away at random, tokens that expire."""
    with stage(
        targets=120,
        limit=60,
        limit_headers="retry-after",
        retry_after=0,
        throttle_retry_after=0.05,
        token_expired=0.05,
        token_life=2,
        seed=7,
    ) as scene:
        scene.write(limits={"requests_per_second": 120})
        ended = scene.run()
        assert ended.code == 0, ended
        assert scene.violations() == []
        throttled = [entry for entry in scene.entries() if entry["code"] == 429]
        assert scene.summary()["throttled"] == len(throttled) > 0
        assert {entry["code"] for entry in scene.entries()} >= {0, 429, 1203}
        assert {result["attempts"] for result in scene.results()} == {1}


def test_progress_is_a_line_now_and_then_unless_nobody_wants_it(scene: Scene) -> None:
    scene.write(limits={"requests_per_second": 60})
    assert "of 60," in scene.run().err
    assert "of 60," not in scene.run("--run-dir", "silent", "--no-progress").err


def test_a_run_that_nobody_listens_to_is_a_run_all_the_same(scene: Scene) -> None:
    """The log is on a full disk, or there is none; else exit code 1 would speak of failures."""
    scene.write(limits={"requests_per_second": 80})
    with Path("/dev/full").open("wb") as full:
        assert scene.run(stderr=full).code == 0
    assert scene.violations() == []
    assert scene.run("--run-dir", "closed", preexec_fn=lambda: os.close(2)).code == 0
    assert json.loads((scene.folder / "closed" / "summary.json").read_text())["exit_code"] == 0


def test_a_run_whose_reader_went_away_is_a_run_all_the_same(scene: Scene) -> None:
    scene.write(limits={"requests_per_second": 80})
    with scene.start("--yes") as command:
        assert scene.await_requests(10, command)
        assert command.process.stderr
        command.process.stderr.close()
        assert command.process.wait() == 0
    assert scene.violations() == []
