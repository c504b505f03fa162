"""The statement that is signed: what it says, and which texts are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from approval_job import approval_job, plan_of
from hypothesis import given
from hypothesis import strategies as st
from local_time import local_time

from bulkcert.approval.statement import Statement, Subject, parse
from bulkcert.jobfile import load_job
from bulkcert.plan_hash import PlanHash

AT_S = 1795692600.4


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    job = load_job(approval_job(tmp_path, "approvers", deadline="2026-11-28T09:00:00Z"))
    return Subject(job=job, plan=plan_of(1203))


def statement(subject: Subject) -> Statement:
    return Statement.about(subject, AT_S, 24 * 3600)


def test_it_says_what_is_approved_in_lines_that_people_can_read(subject: Subject) -> None:
    assert str(statement(subject)) == (
        "Bulkcert approval: 1\n"
        f"Plan: {subject.plan.grouped}\n"
        "Run: 1\n"
        "Job: job.toml\n"
        "Action: revoke, which can't be undone\n"
        "Reason: KEY_COMPROMISE (1)\n"
        "Provider: enos\n"
        "Endpoint: https://apim.example.com\n"
        "Account: org_id o1\n"
        "Operations: 1,203\n"
        "Deadline: 2026-11-28T09:00:00Z\n"
        "Approved: 2026-11-26T11:30:00Z\n"
        "Expires: 2026-11-27T11:30:00Z\n"
        f'Section targets: {{"operations": 1203, "sha256": "{"aa" * 32}"}}\n'
        'Section limits: {"in_flight": 1000}\n'
    )


def test_times_are_those_of_utc_wherever_the_machine_is(subject: Subject) -> None:
    here = str(statement(subject))
    with local_time("Asia/Shanghai"):
        assert str(statement(subject)) == here
        assert parse(here) == statement(subject)


def test_a_reason_and_an_account_of_each_row_are_named_as_such(subject: Subject) -> None:
    job = subject.job
    connection = dataclasses.replace(job.connection, options={})
    job = dataclasses.replace(job, parameters={}, connection=connection)
    text = str(statement(dataclasses.replace(subject, job=job)))
    assert "\nReason: none, unless a row has its own\n" in text
    assert "\nAccount: org_id of each row\n" in text


def test_the_content_of_a_section_is_in_a_fixed_order(subject: Subject) -> None:
    plan = PlanHash({**subject.plan.contents, "limits": {"z": 1, "a": 2}})
    text = str(statement(dataclasses.replace(subject, plan=plan)))
    assert '\nSection limits: {"a": 2, "z": 1}\n' in text


def test_an_override_names_the_abort(subject: Subject) -> None:
    text = str(statement(dataclasses.replace(subject, abort="3f9a")))
    assert "Run: 1\nOverrides abort: 3f9a\nJob: " in text


JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize(
    ("job", "lines"),
    [
        (
            "renew.toml",
            ["Action: renew, which can't be undone", "Parameters: validDay = 365"],
        ),
        (
            "revoke-compromised-key.toml",
            [
                "Reason: KEY_COMPROMISE (1)",
                "Selection: certificates that are valid, and have the public key with the SHA-256 ",
                "Operations: 1,203, each of which may be several certificates",
            ],
        ),
        (
            "apsaramq-inactivate.toml",
            [
                "Action: inactivate, which can be undone with activate",
                "Account: instance_id post-cn-7mz2d000001",
                "Deadline: none",
            ],
        ),
    ],
)
def test_it_says_what_each_kind_of_job_does(job: str, lines: list[str]) -> None:
    subject = Subject(job=load_job(JOBS / job), plan=plan_of(1203))
    text = str(statement(subject))
    assert [line for line in lines if f"\n{line}" not in text] == []
    assert parse(text) == statement(subject)


def test_it_is_read_as_it_was_written(subject: Subject) -> None:
    written = statement(dataclasses.replace(subject, abort="3f9a"))
    assert parse(str(written)) == written


def test_a_deadline_and_a_name_may_change_and_nothing_else(subject: Subject) -> None:
    job = subject.job
    renamed = dataclasses.replace(job, deadline_s=0.0, file=job.folder / "renamed.toml")
    elsewhere = dataclasses.replace(
        job, connection=dataclasses.replace(job.connection, endpoint="https://x.example.com")
    )
    stated = statement(subject)

    def differences(**changes: object) -> list[str]:
        return stated.differences(statement(dataclasses.replace(subject, **changes)))

    assert differences(job=renamed) == []
    assert differences(job=elsewhere) == ["Endpoint"]
    assert differences(run=2, abort="1") == ["Run", "Overrides abort"]
    assert differences(plan=plan_of(7)) == ["Plan", "Operations"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Run: 1\n", "Run: 1\nRun: 2\n", "has 'Run' twice"),
        ("Run: 1\n", "Run: 1\nHidden: x\n", "has an unknown line 4: 'Hidden: x'"),
        ("Run: 1\n", "Run: 1\n\n", "has an unknown line 4: ''"),
        ("Run: 1\n", "Run:1\n", "has an unknown line 3"),
        ("Run: 1\nJob: job.toml\n", "Job: job.toml\nRun: 1\n", "not exactly what bulkcert writes"),
        ("Bulkcert approval: 1", "Bulkcert approval: 2", "not a statement of this version"),
        ("Bulkcert approval: 1\n", "", "not a statement of this version"),
        ("Expires: 2026-11-27T11:30:00Z\n", "", "no time for 'Expires'"),
        ("Expires: 2026-11-27T11:30:00Z", "Expires: tomorrow", "no time for 'Expires'"),
        (
            "Expires: 2026-11-27T11:30:00Z",
            "Expires: 2026-11-27T11:30:0Z",
            "not exactly what bulkcert writes",
        ),
        ("Run: 1\n", "Run: 1\r\n", "characters in line 3 that can't be shown"),
        ("Job: job.toml", "Job: \x1b[2K", "characters in line 4 that can't be shown"),
        ("\nSection targets", "\n\nSection targets", "unknown line"),
        ('{"in_flight": 1000}', '{"in_flight": 2000}', "the hash of other sections"),
        ('{"in_flight": 1000}', '{"in_flight":1000}', "not exactly what bulkcert writes"),
        ('{"in_flight": 1000}', "[" * 30_000, "something else than a JSON object"),
        ('{"in_flight": 1000}', "1000", "something else than a JSON object"),
    ],
)
def test_a_text_that_is_not_as_it_is_written_is_refused(
    subject: Subject, old: str, new: str, reason: str
) -> None:
    text = str(statement(subject))
    assert old in text
    with pytest.raises(ValueError, match=reason):
        parse(text.replace(old, new))


@pytest.mark.parametrize("text", ["", "\n", "x", "Plan: 1", "-----BEGIN SSH SIGNATURE-----\n"])
def test_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(has|is) "):
        parse(text)


@given(data=st.data())
def test_any_damage_is_a_value_error_or_another_statement(data: st.DataObject) -> None:
    subject = Subject(job=load_job(JOBS / "renew.toml"), plan=plan_of(3))
    lines = str(statement(subject)).splitlines(keepends=True)
    position = data.draw(st.integers(0, len(lines)))
    dropped = data.draw(st.integers(0, 2))
    added = data.draw(st.lists(st.sampled_from(lines) | st.text(max_size=20), max_size=2))
    text = "".join([*lines[:position], *added, *lines[position + dropped :]])
    try:
        stated = parse(text)
    except ValueError:
        return
    assert str(stated) == text
