"""The operator's key in the job file: where it comes from, and when it is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from operator_key import OperatorKey

from bulkcert.cli import main
from bulkcert.errors import JobError
from bulkcert.job import Job
from bulkcert.jobfile import load_job
from bulkcert.plan_hash import NO_TARGETS, PlanHash, differences
from bulkcert.preparation import prepare
from bulkcert.providers.base import SharedMaterial
from bulkcert.rundir import RunDirectory
from bulkcert.shared_material import require_operator, shared_material
from bulkcert.store.place import SharedPlace

JOB = """
provider = "enos"
action = "renew"
targets = "fleet.csv"
[connection]
endpoint = "https://apim.example.com"
org_id = "o1"
"""
KEYS = "[keys]\ngenerate = 'ecdsa-p256'\n"


def load(folder: Path, more: str = "") -> Job:
    (folder / "renew.toml").write_text(JOB + more)
    return load_job(folder / "renew.toml")


def test_the_key_may_be_in_a_file_beside_the_job_or_in_the_job(tmp_path: Path) -> None:
    key = OperatorKey()
    (tmp_path / "ops.pem").write_text(f"for the fleet\n{key.public}\r\n")
    named = load(tmp_path, KEYS + "operator = 'ops.pem'")
    written = load(tmp_path, f"{KEYS}operator = '''{key.public}'''")
    for job in (named, written):
        assert shared_material(job, "r1") == SharedMaterial(run="r1", operator=key.public)
    assert PlanHash.of(named, NO_TARGETS).hash == PlanHash.of(written, NO_TARGETS).hash


def test_another_key_is_another_plan(tmp_path: Path) -> None:
    plans = [PlanHash.of(load(tmp_path, KEYS), NO_TARGETS)]
    for _ in range(2):
        (tmp_path / "ops.pem").write_text(OperatorKey().public)
        plans.append(PlanHash.of(load(tmp_path, KEYS + "operator = 'ops.pem'"), NO_TARGETS))
    without, one, other = plans
    assert [str(each) for each in differences(one, other)] == [
        "the content of keys.operator has changed"
    ]
    assert [str(each) for each in differences(without, one)] == [
        "keys.operator was 'not set' and is now a file"
    ]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("missing.pem", "or the key itself in PEM; 'missing.pem' can't be read"),
        ("private.pem", "names 'private.pem', which contains a private key, which must stay with"),
        ("fleet.csv", "names 'fleet.csv', which is not a public key in PEM; to make one: `openssl"),
        ("-----BEGIN PUBLIC KEY-----", "is not a public key in PEM; to make one"),
        ("", "is empty"),
    ],
)
def test_what_is_not_a_public_key_is_refused(tmp_path: Path, value: str, reason: str) -> None:
    (tmp_path / "private.pem").write_bytes(OperatorKey().private)
    (tmp_path / "fleet.csv").write_text("assetId,certSn\n")
    with pytest.raises(JobError, match=r"renew\.toml:10: keys\.operator ") as raised:
        load(tmp_path, f"{KEYS}operator = '{value}'")
    assert reason in raised.value.problem


def test_a_job_that_makes_keys_needs_it_with_a_shared_store(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"renew\.toml:8: keys\.operator is missing") as raised:
        require_operator(load(tmp_path, KEYS))
    assert raised.value.exit_code == 2
    assert "openssl genpkey -algorithm X25519" in raised.value.next_step
    assert shared_material(load(tmp_path), "r1") == SharedMaterial(run="r1", operator="")


def test_nothing_is_planned_for_a_shared_store_without_it(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text("assetId,certSn\nA1,1\n")
    directory = RunDirectory(tmp_path / "run", place=SharedPlace("postgresql:///", "renew"))
    with pytest.raises(JobError, match=r"keys\.operator is missing"):
        prepare(load(tmp_path, KEYS), directory)
    assert not (tmp_path / "run").exists()


def test_a_plan_for_a_shared_store_needs_it_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "fleet.csv").write_text("assetId,certSn\nA1,1\n")
    load(tmp_path, KEYS)
    words = ["plan", str(tmp_path / "renew.toml")]
    assert CliRunner().invoke(main, words).exit_code == 0
    ended = CliRunner().invoke(main, [*words, "--store", "postgresql:///bulkcert"])
    assert (ended.exit_code, "keys.operator is missing" in ended.stderr) == (2, True)
