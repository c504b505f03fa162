"""The files of a job, as another host gets them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bulkcert import load_job
from bulkcert.errors import JobError
from bulkcert.job_files import JOB, files_of, unpacked
from bulkcert.plan_hash import NO_TARGETS, PlanHash

TEXT = """
# who may say no
provider = "enos"
action = "revoke"
targets = "fleet.csv"

[connection]
endpoint = "https://example.com"
org_id = "o1"
proxy = "{proxy}"

[approval]
required = 1
signers = '{signers}'

[protect]
never = "lists/never.csv"

[check]
command = ["./ok.sh", "/bin/sh", "quietly"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "jobs"
    (folder / "lists").mkdir(parents=True)
    (folder / "lists" / "never.csv").write_text("assetId\nA1\n")
    (folder / "ok.sh").write_text("#!/bin/sh\n")
    (folder / "fleet.csv").write_text("assetId,certSn\nA1,1\n")
    (tmp_path / "approvers").write_text("ann ssh-ed25519 AAAA\n")
    return folder


def write(folder: Path, signers: str = "../approvers", proxy: str = "http://proxy:3128") -> Path:
    path = folder / "campaign.toml"
    path.write_text(TEXT.format(signers=signers, proxy=proxy))
    return path


@pytest.mark.parametrize("elsewhere", ["../approvers", "{}/approvers"])
def test_another_host_has_the_same_job(folder: Path, tmp_path: Path, elsewhere: str) -> None:
    job = load_job(write(folder, signers=elsewhere.format(tmp_path)))
    files = files_of(job)
    assert set(files) == {JOB, "elsewhere/0-approvers", "lists/never.csv", "./ok.sh"}
    there = unpacked(files, tmp_path / "there", job.name)
    assert PlanHash.of(there, NO_TARGETS) == PlanHash.of(job, NO_TARGETS)
    assert (there.name, there.connection.endpoint) == ("campaign", "https://example.com")
    assert (there.rules.protect, there.rules.approval) != (None, None)
    assert stat.S_IMODE((tmp_path / "there" / "ok.sh").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "there" / JOB).stat().st_mode) == 0o600
    assert b"# who may say no" in files[JOB]


def test_a_password_for_a_proxy_stays_here(folder: Path, tmp_path: Path) -> None:
    files = files_of(load_job(write(folder, proxy="http://ann:hunter2@proxy:3128")))
    assert b"hunter2" not in b"".join(files.values())
    there = unpacked(files, tmp_path / "there", "campaign")
    assert there.connection.proxy == "http://proxy:3128"


LEAKED = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_key_that_has_leaked_is_given_away_as_a_digest(
    encoding: Encoding, folder: Path, tmp_path: Path
) -> None:
    key = LEAKED.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())
    (folder / "leaked.key").write_bytes(key)
    path = write(folder)
    path.write_text(f"{path.read_text()}[select]\npublic_key = 'leaked.key'\n")
    job = load_job(path)
    files = files_of(job)
    assert key not in b"".join(files.values())
    there = unpacked(files, tmp_path / "there", job.name)
    assert there.select == job.select
    assert PlanHash.of(there, NO_TARGETS) == PlanHash.of(job, NO_TARGETS)


def test_a_job_whose_check_contains_a_private_key_is_not_given_away(folder: Path) -> None:
    key = LEAKED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    job = load_job(write(folder))
    assert files_of(job)
    (folder / "ok.sh").write_text(f"#!/bin/sh\nKEY='{key}'\n")
    assert files_of(job) == {}


def test_a_job_that_is_written_in_an_unusual_way_is_not_given_away(folder: Path) -> None:
    path = write(folder)
    path.write_text(path.read_text().replace("'../approvers'", r'"..\u002fapprovers"'))
    assert files_of(load_job(path)) == {}


def test_a_file_outside_the_folder_is_not_written(tmp_path: Path) -> None:
    for name in ("../evil", "/etc/evil", "a/../../evil"):
        with pytest.raises(JobError, match="outside its folder"):
            unpacked({name: b""}, tmp_path / "there", "job")
    assert not list(tmp_path.rglob("evil"))
