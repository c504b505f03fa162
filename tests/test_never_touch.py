"""Never-touch lists: how they are read, and what they keep a run from."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_folder import toml

import bulkcert
from bulkcert.errors import PluginError, ProtectionError, TargetsError, TargetsProtectedError
from bulkcert.never_touch import never_touch
from bulkcert.plan import Plan
from bulkcert.preparation import prepare
from bulkcert.rules.protect import Entry
from bulkcert.rundir import RunDirectory
from bulkcert.testing import FakeTransport

FLEET = "assetId,certSn\nA1,1\nA2,2\nA3,3\n"


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., bulkcert.Job]:
    """A function that writes a job with a never-touch list, and loads it."""

    def load(
        never: str | bytes | None = None, name: str = "never.csv", **sections: Any
    ) -> bulkcert.Job:
        document: dict[str, Any] = {
            "provider": "enos",
            "action": "revoke",
            "targets": "fleet.csv",
            "connection": {"endpoint": "https://example.com", "org_id": "o1"},
        }
        if never is not None:
            content = never.encode() if isinstance(never, str) else never
            (tmp_path / name).write_bytes(content)
            document["protect"] = {"never": name}
        if not (tmp_path / "fleet.csv").exists():
            (tmp_path / "fleet.csv").write_text(FLEET)
        (tmp_path / "job.toml").write_text(toml(document | sections))
        return bulkcert.load_job(tmp_path / "job.toml")

    return load


Load = Callable[..., bulkcert.Job]


def entries(job: bulkcert.Job, **environment: str) -> list[Entry]:
    lists = never_touch(job, environment)
    assert lists is not None
    return lists.entries


def plan(job: bulkcert.Job, **how: Any) -> Plan:
    assert job.file is not None
    with RunDirectory(job.file.parent / "run") as directory:
        planned = prepare(job, directory, **how)
    assert planned is not None
    return planned


# ---- reading


@pytest.mark.parametrize(
    ("content", "name", "sections"),
    [
        ("assetId,Owner,NOTE\nA1,me,why\n", "never.csv", {}),
        ("\ufeffassetId,Owner,NOTE\r\nA1,me,why\r\n", "never.csv", {}),
        ('{"assetId": "A1", "owner": "me", "note": "why"}\n', "never.jsonl", {}),
        (gzip.compress(b"assetId,owner,note\nA1,me,why\n"), "never.csv.gz", {}),
        # like the target file of the job, or with the names of the provider
        ("Asset,owner,note\nA1,me,why\n", "never.csv", {"columns": {"assetId": "Asset"}}),
        ("assetId,owner,note\nA1,me,why\n", "never.csv", {"columns": {"assetId": "Asset"}}),
        ("assetId;owner;note\nA1;me;why\n", "never.csv", {"format": {"delimiter": ";"}}),
        ("assetId,owner,note\nA1,me,why\n", "never.csv", {"format": {"delimiter": ";"}}),
        ('{"Asset": "A1", "owner": "me", "note": "why"}\n', "never.jsonl",
         {"columns": {"assetId": "Asset"}, "format": {"delimiter": ";"}}),
    ],
)  # fmt: skip
def test_a_list_is_read_like_a_target_file(
    job: Load, content: str | bytes, name: str, sections: dict[str, Any]
) -> None:
    [entry] = entries(job(content, name, **sections))
    assert (entry.fields, entry.owner, entry.note) == ({"assetId": "A1"}, "me", "why")
    assert Path(entry.source).name == name


def test_an_owner_in_another_encoding_is_read_as_the_job_says(job: Load) -> None:
    content = "assetId,owner\nA1,医院\n".encode("gb18030")
    [entry] = entries(job(content, format={"encoding": "gb18030"}))
    assert entry.owner == "医院"  # these bytes are UTF-8, too
    in_utf_8 = "assetId,owner\nA1,Ärztehaus\n"
    [entry] = entries(job("\ufeff" + in_utf_8, format={"encoding": "cp1252"}))
    assert entry.owner == "Ärztehaus"


def test_a_list_that_names_different_things_in_two_encodings_is_refused(job: Load) -> None:
    with pytest.raises(ProtectionError, match="can be read as UTF-8 and as"):
        entries(job("assetId\nKöln-1\n", format={"encoding": "cp1252"}))


def test_values_are_parsed_as_the_provider_compares_them(job: Load) -> None:
    found = entries(job("certSn,assetId\n00052,\n7*, A1 \n*,*\n"))
    assert [entry.fields for entry in found] == [
        {"certSn": "52"},
        {"assetId": "A1", "certSn": "7*"},
        {"assetId": "*", "certSn": "*"},
    ]


def test_serial_numbers_that_are_text_keep_zeros_and_case(job: Load) -> None:
    aliyun = job(
        "DeviceSn,CaSn\n00aB,\n,0*\n",
        provider="apsaramq",
        action="inactivate",
        connection={"region": "cn-hangzhou", "instance_id": "i"},
    )
    assert [entry.fields for entry in entries(aliyun)] == [{"DeviceSn": "00aB"}, {"CaSn": "0*"}]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "empty or has only a header"),
        ("assetId,owner\n", "empty or has only a header"),
        ("owner\nme\n", "no column names the device"),
        ("AssetID\nA1\n", "looks like assetId"),
        ("assetId,owner\nA1,me\n,me\n", "line 3: does not name the device"),
        ("assetId,certSn\nA1,x\n", "line 2: certSn must be a whole number"),
        ("assetId,certSn\nA1,05*\n", "line 2: certSn can never match"),
        ("certSn\nx*\n", "line 2: certSn must be a whole number"),
        ("assetId\nA****7\n", "line 2: assetId is masked"),
        ("assetId\nA**7\n", "line 2: assetId is masked"),
        ("assetId\n1.2E+17\n", "line 2: assetId is in scientific notation"),
        (b"assetId\nA\xff\n", "line 2: is not valid UTF-8"),
        ("assetId\n" + "=A\n" * 25, "and 5 more errors"),
        ("assetId\n" + "=A\n" * 21, "and 1 more error"),
        ("DeviceSn\nA1\n", "no column names the device"),
    ],
)
def test_a_list_that_can_not_be_used_is_refused_with_line_and_reason(
    job: Load, content: str | bytes, problem: str
) -> None:
    with pytest.raises(ProtectionError, match=problem) as refused:
        plan(job(content))
    assert "never.csv" in refused.value.problem
    assert refused.value.next_step
    assert refused.value.exit_code == 2


def test_as_many_faults_and_useless_entries_as_fit_are_shown_and_no_more_announced(
    job: Load,
) -> None:
    devices = "".join(f"D{number}\n" for number in range(20))
    for content in ("assetId\n" + "=A\n" * 20, "deviceKey\n" + devices):
        with pytest.raises(ProtectionError) as refused:
            plan(job(content))
        assert "line 21: " in refused.value.problem
        assert "... and" not in refused.value.problem


def test_a_list_that_is_not_there_is_refused(job: Load, tmp_path: Path) -> None:
    with_list = job("assetId\nA1\n")
    (tmp_path / "never.csv").unlink()
    with pytest.raises(ProtectionError, match="can't be read: No such file"):
        plan(with_list)


def test_results_with_devices_without_certificates_are_no_list(job: Load) -> None:
    rows = "line,assetId,outcome,finished_at,certSn\n2,A1,succeeded,x,5\n3,A2,succeeded,x,\n"
    with pytest.raises(ProtectionError, match="without a certificate"):
        plan(job(rows))


# ---- the global list


def test_the_global_list_only_adds(job: Load, tmp_path: Path) -> None:
    everywhere = tmp_path / "global.jsonl"
    everywhere.write_text('{"assetId": "A2"}\n')
    given = {"BULKCERT_NEVER": str(everywhere)}
    assert [entry.fields for entry in entries(job(), **given)] == [{"assetId": "A2"}]
    both = entries(job("assetId\nA1\n"), **given)
    assert [entry.fields for entry in both] == [{"assetId": "A1"}, {"assetId": "A2"}]


def test_the_global_list_may_name_things_of_other_providers(job: Load, tmp_path: Path) -> None:
    everywhere = tmp_path / "global.csv"
    everywhere.write_text("assetId,DeviceSn,owner\nA1,,me\n,00aB,you\n")
    [entry] = entries(job(), BULKCERT_NEVER=str(everywhere))
    assert (entry.line, entry.fields) == (2, {"assetId": "A1"})
    everywhere.write_text("DeviceSn\n00aB\n")
    assert entries(job(), BULKCERT_NEVER=str(everywhere)) == []


def test_a_package_that_can_not_be_used_keeps_no_job_of_another_provider_from_its_list(
    job: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise PluginError("it can't be imported")

    monkeypatch.setattr("bulkcert.never_touch.installed", broken)
    (tmp_path / "global.csv").write_text("assetId,DeviceSn\nA1,\n,00aB\n")
    [entry] = entries(job(), BULKCERT_NEVER=str(tmp_path / "global.csv"))
    assert entry.fields == {"assetId": "A1"}


@pytest.mark.parametrize(
    ("content", "problem"), [("", "empty or has"), ("assetId,x\n,1\n", "line 2"), (None, "read")]
)
def test_a_global_list_that_can_not_be_used_is_refused(
    job: Load, tmp_path: Path, content: str | None, problem: str
) -> None:
    everywhere = tmp_path / "global.csv"
    if content is not None:
        everywhere.write_text(content)
    with pytest.raises(ProtectionError, match=problem):
        entries(job(), BULKCERT_NEVER=str(everywhere))
    with pytest.raises(ProtectionError, match="set, but empty"):
        entries(job(), BULKCERT_NEVER="")


def test_what_only_reads_is_not_kept_from_anything(job: Load) -> None:
    assert never_touch(job(action="list"), {"BULKCERT_NEVER": "nowhere.csv"}) is None


# ---- planning


def test_a_hit_refuses_the_plan_with_both_lines_owner_and_note(job: Load, tmp_path: Path) -> None:
    never = "assetId,certSn,owner,note\nZ,,,\nA*,3,Ward 4,ventilator\nA1,,,\n"
    with pytest.raises(TargetsProtectedError) as refused:
        plan(job(never))
    assert refused.value.exit_code == 2
    assert refused.value.total == 2
    first, second = (rejection.as_object() for rejection in refused.value.first)
    assert first["line"] == 2
    assert first["reason"].startswith("assetId 'A1' must not be touched: line 4 of ")
    assert second["line"] == 4
    assert second["reason"].startswith("assetId 'A3' and certSn '3' must not be touched: line 3")
    assert second["reason"].endswith("owner Ward 4, note ventilator")
    listed = (tmp_path / "run" / "protected.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in listed] == ["protected_line", "2", "4"]
    assert listed[2].endswith(",A3,3")
    assert not (tmp_path / "run" / "checkpoint.sqlite3").exists()


def test_what_must_not_be_touched_can_be_left_out(job: Load, tmp_path: Path) -> None:
    planned = plan(job("assetId\nA1\nA3\n"), skip_protected=True)
    assert (planned.operations, planned.protected, planned.left_out) == (1, 2, 0)
    assert (planned.sample.line, planned.never_touch) == (3, 2)
    manifest = RunDirectory(tmp_path / "run").manifest()
    assert (manifest.left_out, manifest.protected) == (2, 2)
    summary = RunDirectory(tmp_path / "run").write_reports()
    assert (summary.left_out, summary.protected) == (2, 2)


def test_protected_rows_are_no_target_file(job: Load, tmp_path: Path) -> None:
    plan(job("assetId\nA1\n"), skip_protected=True)
    protected = tmp_path / "run" / "protected.csv"
    with pytest.raises(TargetsError, match="it is not a target file"):
        plan(job(targets="run/protected.csv"), rehearsal=True)
    protected.rename(tmp_path / "others.csv")
    with pytest.raises(TargetsError, match="these rows must not be touched"):
        plan(job(targets="others.csv"), rehearsal=True)


def test_nothing_is_left_if_no_target_may_be_touched(job: Load) -> None:
    with pytest.raises(TargetsError, match="No target may be touched"):
        plan(job("assetId\n*\n"), skip_protected=True)


def test_an_entry_that_can_be_compared_with_no_target_is_refused(job: Load) -> None:
    with pytest.raises(ProtectionError) as refused:
        plan(job("assetId,deviceKey,productKey\nA9,,\n,D1,P1\n"))
    assert "line 3: deviceKey and productKey can't be compared" in refused.value.problem
    assert "targets have assetId and certSn" in refused.value.next_step


def test_of_many_useless_entries_the_first_are_shown(job: Load) -> None:
    never = "deviceKey\n" + "".join(f"D{number}\n" for number in range(30))
    with pytest.raises(ProtectionError, match=r"line 21: .*\n\.\.\. and 10 more entries"):
        plan(job(never))


def test_a_list_of_hits_that_can_not_be_written_is_said(job: Load, tmp_path: Path) -> None:
    (tmp_path / "run" / "protected.csv").mkdir(parents=True)
    with pytest.raises(TargetsProtectedError, match=r"protected.csv can't be written: "):
        plan(job("assetId\nA1\n"))


def test_what_a_selection_will_find_can_be_compared(job: Load, tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text("assetId\nA1\n")
    selecting = job("certSn\n5\n", select={"issued_before": "2026-01-01"})
    assert plan(selecting).operations == 1


def test_a_near_miss_is_a_warning(job: Load) -> None:
    planned = plan(job("assetId,certSn\nA1,77\na2,\n"))
    [warning] = planned.warnings
    assert warning.startswith("2 targets resemble what must not be touched, such as line 2: line 2")
    assert "assetId 'A1' and certSn '77'" in warning


def test_a_plan_with_too_many_operations_is_refused(job: Load) -> None:
    assert plan(job(protect={"max_operations": 3})).operations == 3
    for most in (2, 0):
        with pytest.raises(ProtectionError, match=f"3 operations, and .* allows {most};"):
            plan(job(protect={"max_operations": most}), rehearsal=True)


# ---- at the claim


async def carried_out(job: bulkcert.Job, run: Path, fake: FakeTransport) -> list[dict[str, Any]]:
    with bulkcert.Run(job, run, transport=fake) as entered:
        await entered.execute()
    lines = (run / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


async def test_a_certificate_that_a_selection_found_fails_and_the_run_goes_on(
    job: Load, tmp_path: Path
) -> None:
    (tmp_path / "fleet.csv").write_text("assetId\nA1\nA2\nA3\n")
    (tmp_path / "fleet.jsonl").write_text(
        "".join(
            json.dumps({"assetId": f"A{device}", "certSn": 10 * device + each}) + "\n"
            for device in (1, 2, 3)
            for each in (1, 2)
        )
    )
    fake = FakeTransport(fleet=str(tmp_path / "fleet.jsonl"))
    selecting = job("certSn,owner\n21,Ward 4\n32,Ward 5\n", select={"issued_before": "2026-01-01"})
    results = await carried_out(selecting, tmp_path / "run", fake)
    outcomes = {r["target"]["certSn"]: (r["outcome"], r["code"]) for r in results}
    failed = ("failed", "PROTECTED")
    assert outcomes.keys() == {11, 12, 21, 22, 31, 32}
    assert {serial for serial, outcome in outcomes.items() if outcome == failed} == {21, 32}
    assert all(o == failed or o[0] == "succeeded" for o in outcomes.values())
    revoked = {request.json["certSn"] for request in fake.requests if request.action == "revoke"}
    assert revoked == {11, 12, 22, 31}
    [message] = [r["message"] for r in results if r["target"]["certSn"] == 21]
    assert "certSn '21' must not be touched: line 2 of" in message
    assert "owner Ward 4" in message


async def test_a_list_that_has_grown_since_is_in_force_and_one_that_is_broken_stops(
    job: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere = tmp_path / "global.csv"
    everywhere.write_text("assetId\nZ\n")
    monkeypatch.setenv("BULKCERT_NEVER", str(everywhere))
    run, fake = tmp_path / "run", FakeTransport()
    with bulkcert.Run(job(), run, transport=fake):
        pass  # planned, and nothing was sent
    for content in ("", "deviceKey\nD1\n"):
        everywhere.write_text(content)
        with pytest.raises(ProtectionError):
            await carried_out(job(), run, fake)
    everywhere.write_text("assetId\nA2\n")
    with pytest.raises(TargetsProtectedError):
        await carried_out(job(), run, fake)  # nothing had been sent, so it is planned anew
    assert fake.requests == []
    everywhere.write_text("assetId\nZ\n")
    with bulkcert.Run(job(), run, transport=fake) as entered:
        everywhere.write_text("assetId\nA2\n")
        await entered.execute()
    results = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert [r["outcome"] for r in results] == ["succeeded", "failed", "succeeded"]
    assert results[1]["attempts"] == 0
    assert {r.target["assetId"] for r in fake.requests if r.action == "revoke"} == {"A1", "A3"}
