"""What is in a pack: from which moment, in which bytes, and what is never in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from approval_job import People
from click.testing import CliRunner, Result
from enos_vendor import ENOS, devices
from evidence_pack import AT_S, PACKER, Pack, checked, finished_run, packed, signers_file
from harness import in_this_process

from bulkcert.cli import main
from bulkcert.errors import EvidenceError
from bulkcert.evidence.archive import FOLDER
from bulkcert.evidence.manifest import MANIFEST, SIGNATURE, SUMS
from bulkcert.evidence.pack import pack
from bulkcert.job import Connection
from bulkcert.model import Change, State
from bulkcert.store.sqlite import SqliteStore

pytestmark = pytest.mark.system


def test_the_results_and_the_summary_are_those_of_the_run_directory(
    tmp_path: Path, people: People
) -> None:
    run = finished_run(tmp_path / "run", people)
    made = Pack(packed(run, people, tmp_path / "pack.tar.gz"))
    run.write_reports()
    assert made.files["results.jsonl"] == run.results.read_bytes()
    assert made.files["summary.json"] == run.summary.read_bytes()
    assert made.files["verify.jsonl"] == run.verification.read_bytes()
    history = made.lines("history.jsonl")
    assert [b'"line":%d,"operation":%d,' % (n + 1, n) in history[n - 1] for n in range(1, 7)]
    [first, second] = made.json("approvals.json")
    assert (first["who"], second["who"]) == ("alice", "bob")


def test_the_same_store_gives_the_same_bytes_but_for_the_signature(
    tmp_path: Path, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path / "run", people)
    first = Pack(packed(run, people, tmp_path / "first.tar.gz"))
    copy = tmp_path / "elsewhere"
    shutil.copytree(run.path, copy)
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    monkeypatch.setattr("time.time", lambda: AT_S + 1e7)
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    with closing(type(run)(copy).reader()) as reader:
        pack(
            reader,
            type(run)(copy),
            tmp_path / "second.tar.gz",
            lambda sums: people.sign("mallory", sums, "evidence@bulkcert"),
        )
    second = Pack(tmp_path / "second.tar.gz")
    assert first.files.pop(SIGNATURE) != second.files.pop(SIGNATURE)
    assert first.files == second.files
    with tarfile.open(tmp_path / "second.tar.gz") as archive:
        members = archive.getmembers()
    assert {(m.mode, m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {
        (0o644, 0, 0, "", "", 315_532_800)
    }


async def test_the_pack_of_a_run_that_people_have_approved_agrees_with_itself(
    tmp_path: Path, people: People
) -> None:
    (tmp_path / "approvers").write_text(f"{people.line('alice')}\n{people.line('bob')}\n")
    approval = {"required": 2, "signers": "approvers"}
    rollout = {"canary": 3, "order": ["-certSn"]}
    async with in_this_process(
        tmp_path, ENOS, "revoke", devices(8), approval=approval, rollout=rollout
    ) as job:
        for name in ("alice", "bob"):
            command("approve", job.job_file, "--key", people.key(name))
        await job.run()
        assert job.outcomes() == ["succeeded"] * 8
    command("evidence", job.run_dir, "-o", tmp_path / "pack.tar.gz", "--key", people.key(PACKER))
    found = checked(tmp_path / "pack.tar.gz", people)
    assert found.faults == ()
    assert found.manifest is not None
    assert (found.manifest.approvals, found.manifest.history) == (2, 8)
    assert "targets.jsonl" in found.manifest.files


def test_a_run_that_is_not_finished_says_so(tmp_path: Path, people: People) -> None:
    run = finished_run(tmp_path / "run", people, unfinished=True)
    path = packed(run, people, tmp_path / "pack.tar.gz")
    found = checked(path, people)
    assert found.faults == ()
    assert found.manifest is not None
    assert not found.manifest.finished
    assert found.manifest.outcomes["pending"] == 1
    assert b"NOT FINISHED" in Pack(path).files["README.txt"]


def test_a_pack_is_of_one_moment_although_the_run_goes_on(
    tmp_path: Path, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path / "run", people, unfinished=True)
    with closing(run.reader()) as reader, closing(SqliteStore(run.checkpoint)) as store:
        records = reader.records

        def while_it_works(*arguments: Any) -> Any:
            with store.transaction():
                store.claim(1)
                done = Change(6, State.IN_FLIGHT, State.SUCCEEDED, 1, finished_at=AT_S)
                store.record([done])
            return records(*arguments)

        monkeypatch.setattr(reader, "records", while_it_works)
        pack(
            reader,
            run,
            tmp_path / "pack.tar.gz",
            lambda sums: people.sign(PACKER, sums, "evidence@bulkcert"),
        )
    found = checked(tmp_path / "pack.tar.gz", people)
    assert found.faults == ()
    assert found.manifest is not None
    assert found.manifest.outcomes["pending"] == 1


@pytest.mark.parametrize("what", ["changed", "removed"])
def test_a_verification_that_is_not_the_recorded_one_is_left_out(
    tmp_path: Path, people: People, what: str
) -> None:
    run = finished_run(tmp_path / "run", people)
    if what == "changed":
        with run.verification.open("ab") as file:
            file.write(b'{"line":8,"verdict":"agrees"}\n')
    else:
        run.verification.unlink()
    found = checked(packed(run, people, tmp_path / "pack.tar.gz"), people)
    assert found.faults == ()
    assert found.manifest is not None
    assert "verify.jsonl" in found.manifest.left_out
    assert "verify.jsonl" not in found.manifest.files


def test_an_existing_file_is_never_replaced(tmp_path: Path, people: People) -> None:
    run = finished_run(tmp_path / "run", people)
    path = tmp_path / "pack.tar.gz"
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(EvidenceError, match="exists already, and evidence is never replaced"):
        packed(run, people, path)
    assert path.is_symlink()


def test_a_pack_that_can_t_be_signed_or_written_leaves_nothing(
    tmp_path: Path, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path / "run", people)
    path = tmp_path / "out" / "pack.tar.gz"
    with pytest.raises(EvidenceError, match="can't be written"):
        packed(run, people, path)  # no such folder
    path.parent.mkdir()

    def full(*files: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(EvidenceError, match="No space left on device"):
        packed(run, people, path)

    assert list(path.parent.iterdir()) == []


# ---- without bulkcert


def test_the_commands_in_the_readme_check_a_pack(tmp_path: Path, people: People) -> None:
    path = packed(finished_run(tmp_path / "run", people), people, tmp_path / "pack.tar.gz")
    subprocess.run(["tar", "xzf", path], cwd=tmp_path, check=True)
    folder = tmp_path / FOLDER
    text = (folder / "README.txt").read_text()
    [sums] = re.findall("^sha256sum .*$", text, re.MULTILINE)
    [verify] = re.findall("^ssh-keygen .*$", text, re.MULTILINE)
    [chain] = re.findall("^python3 -c '$.*?^'$", text, re.MULTILINE | re.DOTALL)
    assert chain.count("\n") <= 12
    number = sum(1 for each in folder.rglob("*") if each.is_file())
    assert f"There are {number} files in this folder" in text
    environment = os.environ | {"SIGNERS": str(signers_file(people, PACKER)), "NAME": PACKER}

    def ends(command: str) -> str:
        ended = subprocess.run(
            ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
        )
        return ended.stdout if ended.returncode == 0 else ""

    assert ends(sums).count(": OK\n") == number - 2  # but for the sums and their signature
    assert ends(verify).startswith(f'Good "evidence@bulkcert" signature for {PACKER} ')
    assert ends(chain) == "events: OK, 5\n"

    events = (folder / "events.jsonl").read_bytes()
    for changed in (events[: events[:-1].rindex(b"\n") + 1], events.replace(b"ann", b"bob")):
        (folder / "events.jsonl").write_bytes(changed)
        assert ends(chain) == ends(sums) == ""
    with (folder / SUMS).open("ab") as file:
        file.write(b"\n")
    assert ends(verify) == ""


def test_the_hash_of_the_plan_can_be_computed_as_the_document_says(
    tmp_path: Path, people: People
) -> None:
    def digest(value: Any) -> str:
        written = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(written.encode()).hexdigest()

    pack = Pack(packed(finished_run(tmp_path / "run", people), people, tmp_path / "pack.tar.gz"))
    plan = pack.json("plan.json")
    sections = {name: digest(content) for name, content in plan["contents"].items()}
    assert digest(["bulkcert plan 1", sections]) == plan["hash"] == pack.manifest.plan
    targets = hashlib.sha256(pack.files["targets.jsonl"]).hexdigest()
    assert targets == plan["contents"]["targets"]["sha256"]


# ---- secrets


async def test_no_secret_of_a_run_is_in_its_pack(tmp_path: Path, people: People) -> None:
    async with in_this_process(
        tmp_path,
        ENOS,
        "renew",
        devices(4),
        keys={"generate": "ecdsa-p256"},
        certificates={"pkcs12_password_env": "P12_PASSWORD"},
        credentials=ENOS.credentials | {"P12_PASSWORD": "p12-s3cret"},
    ) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 4
    path = tmp_path / "pack.tar.gz"
    run = job.run_dir
    assert list((run / "keys").iterdir())
    command("evidence", run, "-o", path, "--key", people.key(PACKER))
    made = Pack(path)
    content = b"\n".join([*map(str.encode, made.files), *made.files.values()])
    assert b"A1" in content or b"assetId" in content
    secrets = [*job.credentials.values(), "PRIVATE KEY"]
    for key in (run / "keys").iterdir():
        secrets += [line for line in key.read_text(errors="replace").split("\n") if len(line) > 40]
    assert [secret for secret in secrets if secret and secret.encode() in content] == []
    assert not [name for name in made.files if "keys" in name]


def test_the_password_of_a_proxy_is_not_in_a_pack(tmp_path: Path, people: People) -> None:
    connection = Connection(
        endpoint="https://example.com",
        proxy="http://somebody:pr0xy-s3cret@proxy.example.com:3128",
        options={"org_id": "o1"},
    )
    run = finished_run(tmp_path / "run", people, connection=connection)
    made = Pack(packed(run, people, tmp_path / "pack.tar.gz"))
    assert not [name for name, content in made.files.items() if b"pr0xy-s3cret" in content]


# ---- the command


def command(*words: object, code: int = 0) -> Result:
    ended = CliRunner().invoke(main, list(map(str, words)))
    assert ended.exit_code == code, ended.output
    return ended


def test_the_command_packs_and_checks(tmp_path: Path, people: People) -> None:
    run = finished_run(tmp_path / "run", people)
    path, signers = tmp_path / "pack.tar.gz", signers_file(people, PACKER)
    made = command("evidence", run.path, "-o", path, "--key", people.key(PACKER))
    assert "The evidence of fleet is packed in" in made.stderr
    found = command("evidence", "--check", path, "--signers", signers)
    assert f"signed by      {PACKER} with SHA256:" in found.stdout
    assert "run            fleet, revoke at enos" in found.stdout
    assert "5 succeeded, 1 failed" in found.stdout
    assert ": 6 agree, 0 differ, 0 could not be read" in found.stdout
    assert found.stderr == f"{path} is intact.\n"
    command("evidence", run.path, "-o", path, "--key", people.key(PACKER), code=2)

    changed = Pack(path)
    changed.cut("results.jsonl")
    changed.write(path)
    found = command("evidence", "--check", path, "--signers", signers, code=1)
    assert (
        "FAULT          results.jsonl was cut: it has 5 lines, and 6 were signed." in found.stdout
    )
    assert "is not intact: 4 faults." in found.stderr
    figures = command("evidence", "--check", path, "--signers", signers, "--json", code=1)
    assert '"intact": false' in figures.stdout


def test_whoever_packs_a_changed_event_log_is_warned(tmp_path: Path, people: People) -> None:
    run = finished_run(tmp_path / "run", people)
    with closing(sqlite3.connect(run.checkpoint)) as db, db:
        db.execute("UPDATE events SET line = replace(line, 'alice', 'mallory')")
    made = command(
        "evidence", run.path, "-o", tmp_path / "pack.tar.gz", "--key", people.key(PACKER)
    )
    assert "the chain of events is broken: line " in made.stderr


def test_a_rehearsal_is_marked_as_one_wherever_it_is_looked_at(
    tmp_path: Path, people: People
) -> None:
    run = finished_run(tmp_path / "run", people, rehearsal=True)
    path = tmp_path / "pack.tar.gz"
    made = command("evidence", run.path, "-o", path, "--key", people.key(PACKER))
    assert "REHEARSAL" in made.stderr
    files = Pack(path).files
    assert b'"rehearsal": true' in files[MANIFEST]
    assert b"\nREHEARSAL. Nothing of this was sent to a provider" in files["README.txt"]
    found = CliRunner().invoke(
        main, ["evidence", "--check", str(path), "--signers", str(signers_file(people, PACKER))]
    )
    assert found.stdout.startswith("REHEARSAL: nothing of this was sent to a provider.\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([".", "-o", "-", "--key", "K"], "A pack is a new file"),
        (["--check", "F"], "--check needs --signers FILE"),
        (["--check", "F", "--signers", "S", "-o", "O"], "--check takes neither RUN nor"),
        (["--signers", "S"], "go with --check"),
        (["-o", "F"], "Name a run, --output FILE and --key FILE"),
        (["--check", "F", "--signers", "nowhere"], "Correct the file that --signers names"),
    ],
)
def test_wrong_usage_says_what_is_right(words: list[str], said: str) -> None:
    assert said in command("evidence", *words, code=2).stderr
