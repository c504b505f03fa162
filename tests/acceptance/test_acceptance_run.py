"""`bulkcert run`: from the job file to the certificates, and back to the run directory."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import pty
import stat
import subprocess
import sys
import termios
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from processes import BULKCERT, Ended, Scene, SimulatorProcess, without_credentials

SceneMaker = Any


def device_state(simulator: SimulatorProcess, device: str) -> list[dict[str, Any]]:
    """The certificates of a device, as the simulator has them."""
    with urllib.request.urlopen(f"{simulator.endpoint}/_simulator/device?{device}") as answer:
        return list(json.load(answer))


def test_a_good_run_does_everything_once_and_exits_with_0(scene: Scene) -> None:
    ended = scene.run()
    assert ended.code == 0, ended
    assert scene.violations() == []
    assert [entry["action"] for entry in scene.entries()].count("revoke") == 60
    summary = scene.summary()
    assert (summary["total"], summary["succeeded"], summary["exit_code"]) == (60, 60, 0)


def test_a_run_says_at_its_end_what_happened_how_fast_and_what_is_next(scene: Scene) -> None:
    ended = scene.run()
    assert ended.out == ""  # standard output is for data
    assert "Over: 60 operations" in ended.err
    assert "succeeded            60" in ended.err
    assert "of 3000 allowed" in ended.err
    assert "results.jsonl" in ended.err
    assert "Nothing is left to do." in ended.err


def test_the_run_directory_is_for_its_owner_and_holds_what_is_documented(scene: Scene) -> None:
    scene.run()
    assert stat.S_IMODE(scene.run_dir.stat().st_mode) == 0o700
    names = {path.name for path in scene.run_dir.iterdir()}
    database = {"checkpoint.sqlite3", "checkpoint.sqlite3-wal", "checkpoint.sqlite3-shm"}
    assert names - database == {"results.jsonl", "summary.json"}
    assert "checkpoint.sqlite3" in names


def test_results_have_the_documented_fields_in_target_order(scene: Scene) -> None:
    scene.run()
    results = scene.results()
    assert [result["line"] for result in results] == list(range(2, 62))
    assert results[3].keys() == {
        *("line", "target", "outcome", "code", "message", "request_id", "attempts"),
        *("finished_at", "result"),
    }
    assert results[3]["target"]["certSn"] == 1003
    assert (results[3]["outcome"], results[3]["code"], results[3]["message"]) == (
        "succeeded",
        0,
        "OK",
    )
    assert results[3]["attempts"] == 1
    assert results[3]["finished_at"].endswith("Z")


def test_the_summary_has_the_documented_fields_and_adds_up(scene: Scene) -> None:
    scene.run()
    summary = scene.summary()
    outcomes = ("succeeded", "already_done", "failed", "unknown", "pending")
    assert summary["total"] == sum(summary[name] for name in outcomes) == 60
    assert summary["requests"] == len(scene.entries()) == 61  # one for the token
    assert summary["attempts"] == 60
    assert summary["throttled"] == 0
    assert summary["started_at"] < summary["finished_at"]
    assert 0 < summary["busiest_second"] <= 61
    assert summary["elapsed_seconds"] > 0
    assert summary["requests_per_second"] > 0


def test_parameters_hold_for_every_target_but_its_own_column_wins(scene: Scene) -> None:
    scene.write(parameters={"reason": "CESSATION_OF_OPERATION"})
    scene.write_rows(
        [("P1", 1, ""), ("P2", 2, "9"), ("P3", 3, "SUPERSEDED")], "assetId,certSn,reason"
    )
    assert scene.run().code == 0
    reasons = [device_state(scene.simulator, f"assetId=P{n}")[0]["reason"] for n in (1, 2, 3)]
    assert reasons == [5, 9, 4]


def test_devices_are_named_by_product_and_device_key_too(scene: Scene) -> None:
    scene.write_rows([("p 1", "d/ä+&1", 7)], "productKey,deviceKey,certSn")
    assert scene.run().code == 0
    assert scene.violations() == []


def test_operations_that_fail_make_exit_code_1(scene: Scene) -> None:
    scene.write_rows([("F1", 1), ("F1", 2), ("F2", 3)])  # a device of the simulator has one
    ended = scene.run()
    assert ended.code == 1
    assert scene.violations() == []
    assert sorted(result["outcome"] for result in scene.results()) == [
        "failed",
        "succeeded",
        "succeeded",
    ]
    assert "--retry-failed" in ended.err
    assert "99400" in ended.err


def test_certificates_that_were_revoked_before_are_already_done(scene: Scene) -> None:
    assert scene.run().code == 0
    ended = scene.run("--run-dir", "again")
    assert ended.code == 0
    scene.run_dir, scene.earlier = scene.folder / "again", 61 + scene.earlier
    assert scene.violations() == []
    assert {result["outcome"] for result in scene.results()} == {"already_done"}


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
    with process:
        shown = b""
        asked = False
        while chunk := _read(ours):
            shown += chunk
            if not asked and b"[y/N]" in shown:
                asked = True
                os.write(ours, answer.encode())
    os.close(ours)
    return Ended(process.returncode, "", shown.decode())


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
    ended = on_a_terminal(scene, "y\n")
    assert ended.code == 0, ended.err
    assert "100%" in ended.err
    assert scene.violations() == []


def test_a_declined_run_can_be_taken_up(scene: Scene) -> None:
    on_a_terminal(scene, "n\n")
    assert scene.run().code == 0
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


# ---- targets from elsewhere


def test_targets_can_be_another_file(scene: Scene) -> None:
    other = scene.folder / "other.csv"
    other.write_text("assetId,certSn\nOTHER1,1\n")
    assert scene.run("--targets", "other.csv").code == 0
    assert [result["target"]["assetId"] for result in scene.results()] == ["OTHER1"]


CSV = "assetId,certSn\r\nT1,1\r\nT2,2\r\n"
JSONL = '{"assetId": "T1", "certSn": 1}\n{"assetId": "T2", "certSn": "2"}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("crlf.csv", CSV.encode()),
        ("bom.csv", CSV.encode("utf-8-sig")),
        ("zipped.csv.gz", gzip.compress(CSV.encode())),
        ("lines.jsonl", JSONL.encode()),
        ("zipped.jsonl.gz", gzip.compress(JSONL.encode("utf-8-sig"))),
    ],
)
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_targets_come_in_every_format(name: str, content: bytes, source: str, scene: Scene) -> None:
    (scene.folder / name).write_bytes(content)
    if source == "file":
        scene.write(targets=name)
        ended = scene.bulkcert("plan", scene.job_file)
    else:
        scene.write(targets="-")
        ended = scene.bulkcert("plan", scene.job_file, stdin=content)
    assert ended.code == 0, ended
    assert "operations     2 from 2 rows" in ended.out


def test_a_run_takes_its_targets_from_standard_input_and_is_resumed_with_the_same(
    scene: Scene,
) -> None:
    content = scene.target_file.read_bytes()
    assert scene.run("--targets", "-", stdin=content).code == 0
    assert scene.violations() == []
    sent = len(scene.entries())
    assert scene.run("--targets", "-", stdin=content).code == 0
    ended = scene.run("--targets", "-", stdin=content + b"X,1\n")
    assert ended.code == 2
    assert "target file has changed" in ended.err
    assert len(scene.entries()) == sent


def test_foreign_headers_are_mapped(scene: Scene) -> None:
    scene.write(columns={"assetId": "Asset ID", "certSn": "Serial"})
    scene.write_rows([("Nice", "C1", 5)], "Comment,Asset ID,Serial")
    assert scene.run().code == 0
    assert scene.violations() == []
    assert scene.results()[0]["target"] == {"assetId": "C1", "certSn": 5}


def test_a_repeated_row_is_reported_and_done_once(scene: Scene) -> None:
    scene.write_rows([("D1", 1), ("D2", 2), ("D1", 1)])
    ended = scene.run()
    assert ended.code == 0
    assert "line 4: the same operation as line 2" in ended.err
    assert scene.violations() == []
    assert [entry["action"] for entry in scene.entries()].count("revoke") == 2
    assert (scene.run_dir / "rejected.csv").read_text().splitlines()[1].startswith("4,")


# ---- the run directory


def test_a_run_that_is_over_sends_nothing_when_it_is_run_again(scene: Scene) -> None:
    scene.write_rows([("R1", 1), ("R1", 2)])
    assert scene.run().code == 1
    sent = len(scene.entries())
    assert scene.run().code == 1
    assert len(scene.entries()) == sent
    assert scene.violations() == []


def test_failed_operations_are_taken_up_again_on_demand(scene: Scene) -> None:
    scene.write_rows([("Q1", 1), ("Q1", 2), ("Q2", 3)])
    scene.run()
    before = len(scene.entries())
    assert scene.run("--retry-failed").code == 1
    again = scene.entries()[before:]
    failed = next(r["target"]["certSn"] for r in scene.results() if r["outcome"] == "failed")
    assert [e["certSn"] for e in again if e["action"] == "revoke"] == [failed]
    assert scene.violations(retried=True) == []


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"parameters": {"reason": 1}}, "parameters.reason was 'not set' and is now 1"),
        ({"connection": {"org_id": "o2"}}, "connection.org_id was 'o1' and is now 'o2'"),
        ({"connection": {"endpoint": "http://127.0.0.1:9"}}, "connection.endpoint was"),
        ({"columns": {"assetId": "assetId"}}, "columns.assetId was"),
    ],
    ids=["parameters", "option", "endpoint", "columns"],
)
def test_a_run_directory_of_a_changed_job_is_refused(
    section: dict[str, Any], told: str, scene: Scene
) -> None:
    assert scene.run().code == 0
    sent = len(scene.entries())
    scene.write(**section)
    ended = scene.run()
    assert ended.code == 2
    assert told in ended.err
    assert "--run-dir" in ended.err  # how to go on
    assert len(scene.entries()) == sent


def test_a_run_directory_of_changed_targets_is_refused(scene: Scene) -> None:
    assert scene.run().code == 0
    scene.target_file.write_text(scene.target_file.read_text() + "NEW,1\n")
    ended = scene.run()
    assert ended.code == 2
    assert "the content of the target file has changed" in ended.err


def test_how_fast_a_run_goes_may_change_between_its_processes(scene: Scene) -> None:
    assert scene.run().code == 0
    scene.write(limits={"requests_per_second": 10, "in_flight": 1}, retry={"max_attempts": 1})
    assert scene.run().code == 0


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
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    (folder / "letter.txt").write_text("Dear")
    ended = scene.run("--run-dir", folder)
    assert ended.code == 2
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]
    assert scene.entries() == []


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
    check = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "history.py", scene.job_file, scene.run_dir],
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stdout
    assert scene.summary()["succeeded"] == 60
    assert scene.entries() == []


def test_a_rehearsal_that_is_over_begins_anew(scene: Scene) -> None:
    content = scene.target_file.read_bytes()
    for _ in range(2):
        ended = scene.start("--rehearse", "--targets", "-", stdin=content, environment={}).wait()
        assert ended.code == 0, ended
        assert "60 from 60 rows" in ended.err


def test_a_real_run_never_goes_on_from_a_rehearsal(scene: Scene) -> None:
    assert scene.start("--rehearse", "--run-dir", "here", environment={}).wait().code == 0
    ended = scene.run("--run-dir", "here")
    assert ended.code == 2
    assert "rehearsal" in ended.err
    assert scene.entries() == []


# ---- refusal of everything, limits


def test_what_is_not_permitted_is_asked_for_once(make_scene: SceneMaker, tmp_path: Path) -> None:
    with SimulatorProcess(tmp_path / "ledger.jsonl", refuse_all="99403") as refusing:
        scene = make_scene(beside=refusing)
        ended = scene.run()
        assert ended.code == 1
        assert {(r["outcome"], r["code"]) for r in scene.results()} == {("failed", 99403)}
        assert len(scene.entries()) == 61
        assert scene.violations() == []
        assert "60 x 99403" in ended.err


def test_a_throttled_run_gives_way_and_loses_nothing(
    make_scene: SceneMaker, tmp_path: Path
) -> None:
    """A limit at half the ceiling, answers that are turned away at random, tokens that expire."""
    with SimulatorProcess(
        tmp_path / "ledger.jsonl",
        limit=60,
        limit_headers="retry-after",
        retry_after=0,
        throttle_retry_after=0.05,
        token_expired=0.05,
        token_life=2,
        seed=7,
    ) as strict:
        scene = make_scene(120, beside=strict)
        scene.write(limits={"requests_per_second": 120})
        ended = scene.run()
        assert ended.code == 0, ended
        assert scene.violations() == []
        throttled = [entry for entry in scene.entries() if entry["code"] == 429]
        assert scene.summary()["throttled"] == len(throttled) > 10
        assert {entry["code"] for entry in scene.entries()} >= {0, 429, 1203}
        assert {result["attempts"] for result in scene.results()} == {1}


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(scene: Scene) -> None:
    scene.write(limits={"requests_per_second": 80})
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
