"""What one job writes is the target file of the next: whole chains, as a user would type them.

The first target file has other headers than the fields, and columns of its own. One of them has the
name of a column of a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from job_folder import read_json_lines, toml
from processes import SimulatorProcess, bulkcert

pytestmark = pytest.mark.system

OTHER = {"columns": {"assetId": "Asset ID", "certSn": "Serial"}, "format": {"delimiter": ";"}}
KEYS = {"keys": {"generate": "ecdsa-p256"}}
SITES = {"A1": "Köln", "A2": "=1+1", "A3": "a, b"}


class Chain:
    """Jobs in one folder, all of them against one simulator.

    Args:
        folder: the folder.
        simulator: the simulator.
        form: of the results: `csv`, as `results` writes it, or `jsonl`, as in the run directory.
    """

    def __init__(self, folder: Path, simulator: SimulatorProcess, form: str) -> None:
        self.folder, self.simulator, self.form = folder, simulator, form

    def run(
        self,
        name: str,
        action: str,
        targets: str,
        sections: Mapping[str, Any] | None = None,
        code: int = 0,
    ) -> str:
        """Run a job; return what it said."""
        mqtt = action in ("inactivate", "get") or name.startswith("mq")
        job = {"provider": "apsaramq" if mqtt else "enos", "action": action, "targets": targets}
        option = {"instance_id": "post-1"} if mqtt else {"org_id": "o1"}
        connection = {"endpoint": self.simulator.endpoint, **option}
        path = self.folder / f"{name}.toml"
        path.write_text(toml(job | {"connection": connection} | dict(sections or {})))
        ended = self.call("run", path, "--yes")
        assert ended.code == code, ended.err
        return str(ended.err)

    def results(self, name: str, *options: str) -> str:
        """Return the file with the results of a job."""
        if self.form == "jsonl" and not options:
            return str(self.folder / f"runs/{name}/results.jsonl")
        file = self.folder / f"{name}.{self.form}"
        job = self.folder / f"{name}.toml"
        assert self.call("results", job, "--format", self.form, "-o", file, *options).code == 0
        return file.name

    def call(self, *words: object) -> Any:
        return bulkcert(*words, folder=self.folder, environment=self.simulator.credentials)

    def targets(self, name: str) -> list[dict[str, Any]]:
        return [
            record["target"]
            for record in read_json_lines(self.folder / f"runs/{name}/results.jsonl")
        ]

    def statuses(self, device: str) -> list[str]:
        found = self.simulator.certificates(f"assetId={device}")
        return [certificate.status for certificate in found]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_list_renew_revoke_list(tmp_path: Path, form: str) -> None:
    rows = [f'{device};"{site}";mine' for device, site in SITES.items()]
    (tmp_path / "fleet.csv").write_text("\n".join(["Asset ID;Site;status", *rows]) + "\n")
    listing = {"columns": {"assetId": "Asset ID"}, "format": {"delimiter": ";"}}
    with SimulatorProcess(tmp_path / "ledger.jsonl") as simulator:
        chain = Chain(tmp_path, simulator, form)
        chain.run("list", "list", "fleet.csv", listing)
        chain.run("renew", "renew", chain.results("list"), OTHER | KEYS)
        refused = chain.run("revoke", "revoke", chain.results("renew"), code=2)
        assert "which one should `revoke` act on?" in refused
        new, old = ({"columns": {"certSn": name}} for name in ("certSn", "replaces"))
        chain.run("old", "revoke", chain.results("renew"), old)
        manifest = tmp_path / "runs/renew/certificates/manifest.csv"
        chain.run("new", "revoke", str(manifest), new)
        assert [chain.statuses(device) for device in SITES] == [["revoked"] * 2] * 3
        chain.run("again", "list", chain.results("new"), listing)
        header = (tmp_path / chain.results("again")).read_text().partition("\n")[0]
    for name in ("list", "renew", "old", "new", "again"):
        found = [(target["assetId"], target["status"]) for target in chain.targets(name)]
        assert found == [(device, "mine") for device in SITES]
        sites = [target["Site"].lstrip("'") for target in chain.targets(name)]
        assert sites == list(SITES.values())
    assert form == "jsonl" or "Site,target.status,outcome" in header


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_list_inactivate_get(tmp_path: Path, form: str) -> None:
    fleet = tmp_path / "mqtt.csv"
    serials = [*(f"{n:04}" for n in range(100)), "00e5"]  # the second page is not full
    fleet.write_text("CaSn,DeviceSn\n" + "".join(f"0c,{serial}\n" for serial in serials))
    (tmp_path / "cas.csv").write_text("CA,Site,Status\n0c,Köln,mine\n0d,none,mine\n")
    with SimulatorProcess(tmp_path / "ledger.jsonl", files={"fleet": fleet}) as simulator:
        chain = Chain(tmp_path, simulator, form)
        chain.run("mq-list", "list", "cas.csv", {"columns": {"CaSn": "CA"}})
        other = {"columns": {"CaSn": "CA", "DeviceSn": "Serial"}}
        said = chain.run("lock", "inactivate", chain.results("mq-list"), other)
        assert "1 device without certificates left out" in said
        chain.run("read", "get", chain.results("lock"), other)
    targets = chain.targets("read")
    assert [target["DeviceSn"] for target in targets] == serials
    assert {(target["Site"], target["Status"]) for target in targets} == {("Köln", "mine")}
    found = read_json_lines(tmp_path / "runs/read/results.jsonl")
    statuses = {record["result"]["certificates"][0]["Status"] for record in found}
    assert statuses == {"inactive"}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_what_failed_is_the_target_file_of_a_new_job(tmp_path: Path, form: str) -> None:
    fleet = tmp_path / "known.csv"
    fleet.write_text("assetId,certSn\nA1,1\nA2,2\n")
    (tmp_path / "fleet.csv").write_text("Asset ID,Serial,Site\nA1,1,x\nB2,2,y\n")
    with SimulatorProcess(tmp_path / "ledger.jsonl", files={"fleet": fleet}) as simulator:
        chain = Chain(tmp_path, simulator, form)
        columns = {"columns": OTHER["columns"]}
        chain.run("first", "revoke", "fleet.csv", columns, code=1)
        failed = tmp_path / chain.results("first", "--outcome", "failed")
        failed.write_text(failed.read_text().replace("B2", "A2"))
        chain.run("second", "revoke", failed.name, columns)
    assert chain.targets("second") == [
        {"assetId": "A2", "certSn": 2, "Site": "y"} | ({"orgId": "o1"} if form == "csv" else {})
    ]
