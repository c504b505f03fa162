"""Everything in examples/ does what it says, run as its reader would run it.

The example of a provider has tests of its own, see `test_example_provider`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from code_blocks import run_block
from job_folder import devices, toml, write_csv
from processes import BULKCERT, Command, SimulatorProcess, until

from bulkcert.event_log import EventType, Happened, following
from bulkcert.job_commands import unusable
from bulkcert.outside_command import OutsideCommand

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[1] / "examples"
DEVICES = 30


class Folder:
    """A folder with a job, its targets, and a simulator to call."""

    def __init__(self, path: Path, simulator: SimulatorProcess) -> None:
        self.path = path
        self.simulator = simulator
        self.environment = os.environ | simulator.credentials | {"RETRY_AFTER_S": "0"}
        self.write()

    def write(self, **limits: int) -> None:
        """Write the job, which revokes."""
        connection = {"endpoint": self.simulator.endpoint, "org_id": "o1"}
        job = {"provider": "enos", "action": "revoke", "targets": "targets.csv"}
        (self.path / "job.toml").write_text(
            toml(job | {"connection": connection, "limits": limits})
        )

    def program(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return subprocess.run(
            list(map(str, words)),
            cwd=self.path,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """All targets but the last exist at the simulator."""
    write_csv(tmp_path / "targets.csv", devices(DEVICES))
    fleet = write_csv(tmp_path / "fleet.csv", devices(DEVICES - 1))
    with SimulatorProcess(
        tmp_path / "ledger.jsonl", files={"fleet": fleet}, error_after=0.05
    ) as simulator:
        yield Folder(tmp_path, simulator)


def test_the_list_of_examples_is_complete() -> None:
    listed = re.findall(r"^\| \[`([^`]+?)/?`\]", (EXAMPLES / "README.md").read_text(), re.M)
    files = {path.name for path in EXAMPLES.iterdir() if not path.name.startswith(("_", "README"))}
    assert set(listed) == files


def test_the_campaign_ends_with_a_list_of_what_failed(folder: Folder) -> None:
    """A run that stops early is continued; here, a shim stops the first one."""
    shim = folder.path / "bin/bulkcert"
    shim.parent.mkdir()
    shim.write_text(
        "#!/bin/sh\n"
        'echo "$*" >> calls\n'
        'case "$*" in *--yes*) [ -e stopped ] || { touch stopped; exit 3; };; esac\n'
        f'exec {BULKCERT} "$@"\n'
    )
    shim.chmod(0o755)
    path = f"{shim.parent}:{os.environ['PATH']}"
    ended = folder.program(EXAMPLES / "campaign.sh", "job.toml", "--yes", PATH=path)
    assert ended.returncode == 1, ended.stderr
    calls = [line.split()[0] for line in (folder.path / "calls").read_text().splitlines()]
    assert calls == ["plan", "status", "run", "run", "run", "results", "verify"]
    header, *rows = (folder.path / "job-to-do.csv").read_text().splitlines()
    assert "outcome" in header
    assert len(rows) == 1
    assert "failed" in rows[0]
    executed = [entry for entry in folder.simulator.entries() if entry["executed"]]
    assert len(executed) == DEVICES - 1


def test_a_messy_spreadsheet_ends_with_a_fleet_that_is_done(tmp_path: Path) -> None:
    path = f"{BULKCERT.parent}:{os.environ['PATH']}"
    ended = subprocess.run(
        [EXAMPLES / "messy_spreadsheet.sh", tmp_path],
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert '[format]\ndelimiter = ";"\nencoding = "cp1252"\n' in ended.stderr
    done = ended.stdout.partition("Everything that was done")[2].splitlines()[1:]
    assert sorted(line for line in done if not line.startswith("assetId")) == [
        f"pump-{n},{1000 + n},{site},succeeded"
        for n, site in enumerate(["Köln", "Köln", "Zürich", "Zürich", "Zürich", "Genève"], 1)
    ]


def test_a_steered_campaign_stops_itself_goes_on_and_ends_with_a_proof(tmp_path: Path) -> None:
    """The script waits for each state, and ends at the first step that ends otherwise."""
    path = f"{BULKCERT.parent}:{os.environ['PATH']}"
    ended = subprocess.run(
        [EXAMPLES / "steered_campaign.sh", tmp_path],
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout
    said = [
        "3 targets must not be touched; nothing was sent",
        "needs the approval of 2 people; 1 of them has approved it",
        "bob must approve it: `bulkcert approve pumps.toml --skip-protected --key FILE`",
        "waiting (go canary)",
        "rate 50/s, of 400/s that the plan allows",
        "paused (by ",
        "abort.99403 tolerates 3",
        "needs the approval of 2 people; 0 of them have approved it",
        "approve it: `bulkcert approve pumps.toml --skip-protected --override ",
        "2 needed, none so far; alice, bob may still approve",
        "then run the same command without --override and --why, with --retry-failed",
        "Compared 2,000 operations: 2,000 agree, 0 differ.",
        "overridden by ",
        "1994 pumps revoked, 0 of them twice; 0 requests about those that must not be touched",
    ]
    at = 0
    for text in said:
        at = ended.stdout.find(text, at)
        assert at >= 0, text
    entries = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    sent = [entry["device"] for entry in entries if entry["action"] == "revoke"]
    assert set(sent) == {f"assetId=pump-{n:04}" for n in range(1, 2001)}
    assert not any("ward-" in entry["device"] for entry in entries)


def test_a_drill_yields_a_report_and_evidence_that_are_marked(tmp_path: Path) -> None:
    path = f"{BULKCERT.parent}:{os.environ['PATH']}"
    ended = subprocess.run(
        [EXAMPLES / "drill.sh", tmp_path],
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    run = tmp_path / "runs/revoke-rehearsal"
    # the commands for the record are what the rehearsal itself has named
    assert f"bulkcert report {run} -o revoke-rehearsal.html" in ended.stderr
    assert f"bulkcert evidence {run} -o revoke-rehearsal.tar.gz --key FILE" in ended.stderr
    assert "REHEARSAL" in (tmp_path / "drill.html").read_text()
    packed = {}
    with tarfile.open(tmp_path / "drill.tar.gz") as pack:
        for name in ("events.jsonl", "report.html", "summary.json"):
            file = pack.extractfile(f"evidence/{name}")
            assert file is not None
            packed[name] = file.read().decode()
    started = json.loads(packed["events.jsonl"].splitlines()[0])
    assert (started["type"], started["rehearsal"]) == ("started", True)
    assert json.loads(packed["summary.json"])["rehearsal"] is True
    assert "REHEARSAL" in packed["report.html"]
    assert not (run / "runs").exists()
    assert not (tmp_path / "revoke.approvals").exists()


def test_the_campaign_ends_at_once_if_the_job_is_bad(folder: Folder) -> None:
    path = f"{BULKCERT.parent}:{os.environ['PATH']}"
    (folder.path / "job.toml").write_text("nonsense = 1")
    ended = folder.program(EXAMPLES / "campaign.sh", "job.toml", "--yes", PATH=path)
    assert ended.returncode == 2
    assert "nonsense is not known" in ended.stderr
    assert folder.simulator.requests == 0


def test_cron_continues_a_killed_run_from_another_folder_and_does_nothing_twice(
    tmp_path: Path,
) -> None:
    """Renewals, because a campaign that began anew would issue a second certificate for each."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    fleet = write_csv(jobs / "targets.csv", devices(DEVICES))
    with SimulatorProcess(tmp_path / "ledger.jsonl", files={"fleet": fleet}) as simulator:
        connection = {"endpoint": simulator.endpoint, "org_id": "o1"}
        job = {"provider": "enos", "action": "renew", "targets": "targets.csv"}
        limits = {"requests_per_second": 20}
        retry = {"settling_seconds": 1}
        sections = {"connection": connection, "limits": limits, "retry": retry}
        (jobs / "job.toml").write_text(toml(job | sections))
        with Command(
            ("run", "job.toml", "--yes"), jobs, simulator.credentials, measured=False
        ) as killed:
            until(lambda: simulator.requests >= DEVICES // 2)
            killed.kill()
        (tmp_path / "credentials").write_text(
            "".join(f"{name}={value}\n" for name, value in simulator.credentials.items())
        )
        cron = {"PATH": "/usr/bin:/bin", "BULKCERT": str(BULKCERT), "HOME": str(tmp_path)}
        call = [EXAMPLES / "from_cron.sh", jobs / "job.toml", tmp_path / "credentials"]
        first, second = (
            subprocess.run(call, cwd="/", env=cron, capture_output=True, text=True)
            for _ in range(2)
        )
        entries = simulator.entries()
        next_round = subprocess.run(
            [*call, "--new"], cwd="/", env=cron, capture_output=True, text=True
        )
    assert first.returncode == 0, first.stderr
    assert f"{DEVICES} operations" in first.stderr
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert next_round.returncode == 0, next_round.stderr
    renewed = [
        entry["device"] for entry in entries if entry["executed"] and entry["action"] == "renew"
    ]
    assert len(renewed) == len(set(renewed)) == DEVICES
    assert {path.name for path in (jobs / "runs").iterdir()} == {"job", "job-2"}


def test_what_expires_is_renewed_installed_and_checked(tmp_path: Path) -> None:
    """And only once: the next round finds that nothing expires any more."""
    fleet = write_csv(tmp_path / "devices.csv", devices(3))
    expiring = {"certificate_age": 720, "certificate_life": 730, "list_authority": True}
    with SimulatorProcess(
        tmp_path / "ledger.jsonl", files={"fleet": fleet}, **expiring
    ) as simulator:
        ca = tmp_path / "ca.pem"
        with urllib.request.urlopen(f"{simulator.endpoint}/enos/CA/cacert/ECC") as response:
            ca.write_bytes(response.read())
        connection = {"endpoint": simulator.endpoint, "org_id": "o1"}
        job = {"provider": "enos", "targets": "devices.csv", "connection": connection}
        (tmp_path / "list.toml").write_text(toml(job | {"action": "list"}))
        keys = {"generate": "ecdsa-p256"}
        (tmp_path / "renew.toml").write_text(toml(job | {"action": "renew", "keys": keys}))
        environment = os.environ | simulator.credentials
        environment["PATH"] = f"{BULKCERT.parent}:{environment['PATH']}"
        command = [sys.executable, EXAMPLES / "renew_expiring.py", "list.toml", "renew.toml", ca]
        first, again, next_round = (
            subprocess.run(
                [*command, folder], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            for folder in ("november", "november", "december")
        )
        entries = simulator.entries()
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout
    assert [line.partition(":")[0] for line in first.stdout.splitlines()] == [
        "A0000",
        "A0001",
        "A0002",
    ]
    assert (next_round.returncode, next_round.stdout) == (
        0,
        "Nothing expires within 30 days.\n",
    ), next_round.stderr
    assert sum(entry["action"] == "renew" for entry in entries) == 3


def test_an_inventory_is_sorted_by_who_has_a_key(folder: Folder) -> None:
    """What can't be compared, and a device that can't be listed, are not forgotten."""
    mine, other = "1" * 64, "2" * 64

    def listed(device: str, *certificates: tuple[int, str, str | None]) -> dict[str, object]:
        found = [
            {"certSN": str(sn), "status": status, "public_key_sha256": key, "expireDate": "2027"}
            for sn, status, key in certificates
        ]
        target = {"assetId": device, "Site": "Köln"}
        return {"target": target, "outcome": "succeeded", "result": {"certificates": found}}

    records = [
        listed("A1", (1, "valid", mine), (2, "valid", other), (3, "revoked", mine)),
        listed("A2", (4, "valid", None), (5, "expired", None)),
        {"target": {"assetId": "A3"}, "outcome": "failed", "code": 11404, "message": "gone"},
        listed("A4", (6, "valid", mine)),
    ]
    empty = dict.fromkeys(("code", "message", "request_id", "finished_at", "result"))
    lines = (json.dumps({"line": 2, "attempts": 1, **empty, **each}) for each in records)
    (folder.path / "results.jsonl").write_text("\n".join(lines))
    ended = folder.program(sys.executable, EXAMPLES / "affected.py", "results.jsonl", mine)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout.startswith("2 valid certificates have this key: affected.csv\n2 could not")
    assert (folder.path / "affected.csv").read_text().splitlines() == [
        *("assetId,Site,certSn,expires", "A1,Köln,1,2027", "A4,Köln,6,2027"),
    ]
    assert (folder.path / "not-compared.csv").read_text().splitlines() == [
        "assetId,Site,certSn,reason",
        "A2,Köln,4,listed without its key",
        "A3,,,failed: 11404 gone",
    ]


def test_own_progress_is_one_json_object_per_line(folder: Folder) -> None:
    ended = folder.program(sys.executable, EXAMPLES / "own_progress.py", "job.toml", "runs/mine")
    assert (ended.returncode, ended.stderr) == (1, "")
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    logged = [event["type"] for event in events if event["event"] == "log"]
    assert logged == ["started", "ended"]
    events = [event for event in events if event["event"] != "log"]
    assert events[0] == {"event": "started", "operations": DEVICES, "already_settled": 0}
    assert events[-1]["event"] == "ended"
    assert (events[-1]["succeeded"], events[-1]["failed"]) == (DEVICES - 1, 1)
    assert [event["event"] for event in events].count("failed") == 1
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[-1]["settled"] == DEVICES


def test_own_progress_stops_on_ctrl_c_and_continues(folder: Folder) -> None:
    folder.write(requests_per_second=5, in_flight=1)
    command = [sys.executable, EXAMPLES / "own_progress.py", "job.toml", "runs/mine"]
    with subprocess.Popen(
        command,
        cwd=folder.path,
        env=folder.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: folder.simulator.requests >= 3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (3, "")
    assert json.loads(out.splitlines()[-1])["pending"] > 0
    ended = folder.program(*command)
    assert ended.returncode == 1
    assert json.loads(ended.stdout.splitlines()[-1])["succeeded"] == DEVICES - 1


def test_own_progress_says_what_is_wrong_with_a_job(folder: Folder) -> None:
    (folder.path / "job.toml").write_text("nonsense = 1")
    ended = folder.program(sys.executable, EXAMPLES / "own_progress.py", "job.toml", "runs/mine")
    assert ended.returncode == 2
    assert "nonsense is not known" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_notebook_runs_cell_by_cell_on_a_running_loop(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.path)
    for name, value in folder.simulator.credentials.items():
        monkeypatch.setenv(name, value)
    cells = re.split(r"^# %% .*$", (EXAMPLES / "notebook.py").read_text(), flags=re.M)
    assert len(cells) > 4

    names: dict[str, object] = {}
    for cell in cells:
        run_block(cell, names)
    out = capsys.readouterr().out
    assert f"/runs/job: {DEVICES} pending>" in out
    assert f"{DEVICES} of {DEVICES}" in out
    assert f"1 of {DEVICES} failed" in out


class _Chat(BaseHTTPRequestHandler):
    """Takes a post if the server says so, and keeps it."""

    def do_POST(self) -> None:
        posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posts.append(posted)  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 22)])
async def test_an_event_is_posted_to_a_chat_with_its_number_and_hash(
    tmp_path: Path, status: int, exit_code: int
) -> None:
    words = [str(EXAMPLES / "to_chat.sh")]
    assert unusable(words, tmp_path) == ""
    happened = Happened(1.8e9, EventType.ABORT, {"abort": "2aa1bd", "rule": "99403", "text": "too"})
    event = following(None, "pumps", "46d4", happened)
    with HTTPServer(("127.0.0.1", 0), _Chat) as chat:
        chat.posts, chat.status = [], status  # type: ignore[attr-defined]
        threading.Thread(target=chat.serve_forever, daemon=True).start()
        environment = os.environ | {"CHAT_URL": f"http://127.0.0.1:{chat.server_port}/hook"}
        command = OutsideCommand(words, tmp_path, environment)
        ended = await command.run({**event.as_object(), "hash": event.hash}, 60)
        chat.shutdown()
    text = f"pumps: event 1, abort: abort 2aa1bd, rule 99403, text too [{event.hash}]"
    assert chat.posts == [{"text": text}]  # type: ignore[attr-defined]
    assert ended.exit_code == exit_code, ended


async def test_without_an_address_nothing_is_posted_and_that_is_said(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CHAT_URL"}
    command = OutsideCommand([str(EXAMPLES / "to_chat.sh")], tmp_path, environment)
    ended = await command.run({"run": "pumps", "type": "ended", "recorded": False}, 60)
    assert ended.exit_code
    assert "CHAT_URL: is not set" in ended.line


@pytest.mark.parametrize(
    ("online", "exit_code", "reason"),
    [
        ("9800", 0, "9800 devices online that the campaign does not touch"),
        ("9500", 0, "9500 devices online that the campaign does not touch"),
        ("9499", 1, "9499 devices online that the campaign does not touch"),
        ("9000", 10, "9000 devices online that the campaign does not touch"),
        ("<html>", 1, "not a number of devices: <html>"),
        ("", 1, "not a number of devices:"),
        (None, 1, "can't read the number of devices online: curl: (37) "),
    ],
)
async def test_a_check_goes_on_holds_or_ends_the_run(
    tmp_path: Path, online: str | None, exit_code: int, reason: str
) -> None:
    if online is not None:
        (tmp_path / "online").write_text(online)
    url = (tmp_path / "online").as_uri()
    words = [str(EXAMPLES / "fleet_ok.sh"), url, "9500", "9000"]
    assert unusable(words, tmp_path) == ""
    ended = await OutsideCommand(words, tmp_path, os.environ).run({"wave": "canary"}, 60)
    assert ended.exit_code == exit_code
    assert ended.line.startswith(reason)
