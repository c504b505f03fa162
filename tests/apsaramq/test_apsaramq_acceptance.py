"""The installed command with the sample jobs for ApsaraMQ, and with a job of its own, as a user."""

from __future__ import annotations

import csv
import io
import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import history
import pytest
from history import Circumstances
from processes import Command, SimulatorProcess, bulkcert, toml

pytestmark = pytest.mark.system

JOBS = Path(__file__).parents[2] / "jobs"
CHANGES = ["inactivate", "activate", "delete"]
CA = "007269004887000001"


def rehearsed(tmp_path: Path, job: Path) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """Rehearse a job; what was said, the results, and the simulator's ledger."""
    run_dir = tmp_path / "rehearsal"
    ended = bulkcert("run", job, "--rehearse", "--run-dir", run_dir, folder=tmp_path)
    assert ended.code == 0, ended
    assert ended.out == ""
    results = (run_dir / "results.jsonl").read_text().splitlines()
    ledger = (run_dir / "ledger.jsonl").read_text().splitlines()
    return ended.err, [json.loads(r) for r in results], [json.loads(e) for e in ledger]


@pytest.mark.parametrize("action", [*CHANGES, "get"])
def test_the_sample_jobs_are_rehearsed(tmp_path: Path, action: str) -> None:
    said, results, ledger = rehearsed(tmp_path, JOBS / f"apsaramq-{action}.toml")
    with (JOBS / "devices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [result["target"] for result in results] == rows
    assert {result["outcome"] for result in results} == {"succeeded"}
    assert "300 requests in any second" in said
    assert "1 source address at 300; apsaramq blocks an address that sends more" in said
    assert ("delete is not a revocation" in said) == (action == "delete")
    if action in ("inactivate", "delete"):
        executed = Counter(entry["certSn"] for entry in ledger if entry["executed"])
        assert executed == {row["DeviceSn"]: 1 for row in rows}
    if action == "get":
        assert all(len(result["result"]["certificates"]) == 1 for result in results)


def test_the_sample_inventory_is_rehearsed(tmp_path: Path) -> None:
    _, results, _ = rehearsed(tmp_path, JOBS / "apsaramq-list.toml")
    assert [(r["line"], r["target"].get("PageNo", 1)) for r in results] == [
        *((2, 1), (2, 2), (3, 1), (3, 2)),
    ]
    assert [len(r["result"]["certificates"]) for r in results] == [100, 50, 100, 50]
    run_dir = tmp_path / "rehearsal"
    ended = bulkcert("results", run_dir, "--format", "csv", folder=tmp_path)
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert len({(row["CaSn"], row["DeviceSn"]) for row in rows}) == len(rows) == 300


def test_the_plan_shows_a_request_without_secrets(tmp_path: Path) -> None:
    ended = bulkcert("plan", JOBS / "apsaramq-inactivate.toml", folder=tmp_path)
    assert ended.code == 0
    assert "https://onsmqtt.cn-hangzhou.aliyuncs.com/?CaSn=" in ended.out
    assert "x-acs-action: InactivateDeviceCertificate" in ended.out
    assert "Authorization: ACS3-HMAC-SHA256 ********" in ended.out


class Scene:
    """A job with some devices, beside a simulator."""

    def __init__(
        self, folder: Path, simulator: SimulatorProcess, *, count: int = 300, **connection: Any
    ) -> None:
        self.folder, self.simulator = folder, simulator
        self.job = folder / "job.toml"
        self.run_dir = folder / "run"
        lines = ["DeviceSn,CaSn", *(f"00{n:05},{CA}" for n in range(count))]
        (folder / "devices.csv").write_text("\n".join(lines) + "\n")
        document = {
            "provider": "apsaramq",
            "action": "inactivate",
            "targets": "devices.csv",
            "connection": {"endpoint": simulator.endpoint, "instance_id": "i"} | connection,
            "limits": {"requests_per_second": 500, "requests_per_second_per_source_ip": 300},
        }
        self.job.write_text(toml(document))

    def start(self, *options: str) -> Command:
        """Start the job."""
        words = ("run", self.job, "--yes", "--run-dir", self.run_dir, *options)
        return Command(words, self.folder, self.simulator.credentials)

    def violations(self, **circumstances: Any) -> list[str]:
        """What should not have happened so far."""
        snapshot = self.folder / "snapshot.jsonl"
        snapshot.write_text("".join(json.dumps(e) + "\n" for e in self.simulator.entries()))
        found = history.read(self.job, self.run_dir, snapshot)
        return history.check(found, Circumstances(**circumstances))


def test_killed_and_continued_and_verified(tmp_path: Path) -> None:
    faults = {"latency": 0.05, "error_after": 0.1, "cut_after": 0.05, "seed": 1}
    with SimulatorProcess(tmp_path / "ledger.jsonl", mq_source_limit=0, **faults) as simulator:
        scene = Scene(tmp_path, simulator)
        for requests in (60, 150):
            with scene.start() as run:
                while simulator.requests < requests and run.process.poll() is None:
                    time.sleep(0.01)
                run.send(signal.SIGKILL)
        ended = scene.start().wait()
        assert ended.code == 0, ended
        assert "resuming in" in ended.err
        assert "set by 1 source address at 300" in ended.err
        assert scene.violations(died=True, jitter=30) == []
        executed = Counter(e["certSn"] for e in simulator.entries() if e["executed"])
        verified = Command(("verify", scene.run_dir), tmp_path, simulator.credentials).wait()
        assert verified.code == 0, verified
        assert executed == {f"00{n:05}": 1 for n in range(300)}


def test_verify_tells_what_has_changed_since(tmp_path: Path) -> None:
    with SimulatorProcess(tmp_path / "ledger.jsonl", mq_source_limit=0) as simulator:
        scene = Scene(tmp_path, simulator, count=5)
        assert scene.start().wait().code == 0
        # somebody activates one again
        other = tmp_path / "other"
        other.mkdir()
        back = Scene(other, simulator, count=1)
        back.job.write_text(back.job.read_text().replace('"inactivate"', '"activate"'))
        assert back.start().wait().code == 0
        verified = Command(("verify", scene.run_dir), tmp_path, simulator.credentials).wait()
        assert verified.code == 1
        [difference] = [json.loads(line) for line in verified.out.splitlines()]
        assert difference["line"] == 2
        assert difference["difference"] == "the certificate is active, and should be inactive"


def test_a_deletion_is_verified_by_what_is_not_there(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.jsonl"
    fleet.write_text(json.dumps({"CaSn": CA, "DeviceSn": "0000000"}) + "\n")
    ledger = tmp_path / "ledger.jsonl"
    with SimulatorProcess(ledger, files={"fleet": fleet}, mq_source_limit=0) as simulator:
        scene = Scene(tmp_path, simulator, count=2)
        scene.job.write_text(scene.job.read_text().replace('"inactivate"', '"delete"'))
        assert scene.start().wait().code == 0
        verified = Command(("verify", scene.run_dir), tmp_path, simulator.credentials).wait()
        assert (verified.code, verified.out) == (0, "")


def test_credentials_are_missing(tmp_path: Path) -> None:
    ended = bulkcert("run", JOBS / "apsaramq-get.toml", folder=tmp_path)
    assert ended.code == 2
    assert "ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET" in ended.err
