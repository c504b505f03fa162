"""The sections of a job file that are rules of a campaign."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from bulkcert.errors import JobError
from bulkcert.job import Job, Notify
from bulkcert.jobfile import load_job
from bulkcert.rules.abort import Limit
from bulkcert.rules.rollout import OrderKey

JOB = """
provider = "enos"
action = "revoke"
targets = "fleet.csv"
{top}
[connection]
endpoint = "https://apim.example.com"
org_id = "o1"
{rules}
"""

ALL_RULES = """
[approval]
required = 2
signers = "approvers"
valid = "8h"
[protect]
never = "never.csv"
max_operations = 60_000
[rollout]
order = ["-risk", "expires"]
canary = 20
spread_by = "productKey"
waves = ["1%", "10%"]
between = "10m"
confirm = ["canary", "10%"]
[abort]
canary = 2
failed = "2% of 500"
unknown = 3
99403 = 3
[check]
command = ["./fleet-ok.sh", "-v"]
every = "45s"
[window]
open = ["Mon-Fri 22:00-05:00"]
closed = [2026-12-24]
zone = "Europe/Berlin"
[notify]
command = ["./to-chat.sh", "#ops"]
timeout = "20s"
"""


def load(folder: Path, rules: str = "", top: str = "") -> Job:
    file = folder / "job.toml"
    file.write_text(JOB.format(rules=rules, top=top))
    return load_job(file)


def test_a_job_without_rules_has_none(tmp_path: Path) -> None:
    job = load(tmp_path)
    assert not job.rules
    assert job.notify is None
    assert job.deadline_s is None


def test_every_section_is_read(tmp_path: Path) -> None:
    job = load(tmp_path, ALL_RULES, "deadline = 1970-01-01T01:00:10+01:00")
    rules = job.rules
    assert job.deadline_s == 10
    assert rules.approval
    assert rules.approval.signers == tmp_path / "approvers"
    assert (rules.approval.required, rules.approval.valid_s) == (2, 8 * 3600)
    assert rules.protect
    assert rules.protect.max_operations == 60_000
    assert rules.rollout
    assert rules.rollout.order == (OrderKey("risk", True), OrderKey("expires", False))
    assert [size.name for size in rules.rollout.sizes] == ["canary", "1%", "10%"]
    assert rules.rollout.between_s == 600
    assert rules.rollout.confirms("canary", ["canary", "1%", "10%"])
    assert not rules.rollout.confirms("1%", ["canary", "1%", "10%"])
    assert rules.abort["failed"] == Limit(10, 500, "2% of 500")
    assert rules.abort["99403"] == rules.abort["unknown"] == Limit(3, None, "3")
    assert rules.check
    assert (rules.check.command, rules.check.every_s) == (("./fleet-ok.sh", "-v"), 45)
    assert rules.window
    assert rules.window.closed == {date(2026, 12, 24)}
    assert job.notify == Notify(command=("./to-chat.sh", "#ops"), timeout_s=20)


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ("[approval]\nrequired = 1", "approval.signers is missing"),
        ("[approval]\nvalid = 5", 'approval.valid must be a duration such as "90s"'),
        ("[rollout]\nwaves = ['10%', '1%']", "rollout.waves must grow, but 1% follows 10%"),
        ("[rollout]\nwaves = []", "rollout.waves is empty"),
        ("[rollout]\nspread_by = 'model'", "rollout.spread_by needs rollout.canary"),
        ("[rollout]\ncanary = 2\nconfirm = ['canry']", "the nearest is canary"),
        ("[rollout]\norder = ['-']", "rollout.order must name columns"),
        ("[abort]\ncanary = 2", "abort.canary needs rollout.canary"),
        ("[abort]\nfaild = 2", "abort.faild is not known; the nearest is failed"),
        ("[abort]\nfailed = '2%'", 'abort.failed must be a share such as "2% of 500"'),
        ("[abort]\nfailed = true", "abort.failed must be a share"),
        ("[check]\nevery = '5s'", "check.command is missing"),
        ("[check]\ncommand = './ok.sh'", "check.command must be a list of texts"),
        ("[notify]\ntimeout = '5s'", "notify.command is missing"),
        ("[notify]\ncommand = []", "notify.command must name a program"),
        ("[notify]\ncommand = ['a']\nevery = '5s'", "notify.every does not belong here"),
        ("[notify]\ncommand = ['a']\ntimeout = '2h'", "notify.timeout must be"),
        ("[window]\nopen = ['Mon 01:00-02:00']", "window.zone is missing"),
        ("[window]\nzone = 'UTC'", "window.open is missing"),
        (
            "[window]\nopen = ['Mon 01:00-02:00']\nzone = 'Berlin'",
            'window.zone must be the name of a time zone such as "Europe/Berlin"',
        ),
        (
            "[window]\nopen = ['Mon 01:00-02:00']\nzone = 'Europe'",
            'window.zone must be the name of a time zone such as "Europe/Berlin"',
        ),
        (
            "[window]\nopen = ['Mon 01:00-02:00']\nzone = '../../etc/passwd'",
            'window.zone must be the name of a time zone such as "Europe/Berlin"',
        ),
        ("[window]\nopen = ['Mon 1-2']\nzone = 'UTC'", "window.open must be days and hours"),
        (
            "[window]\nopen = ['Mon 01:00-02:00']\nzone = 'UTC'\nclosed = ['2026-12-24']",
            "window.closed must list days",
        ),
    ],
)
def test_bad_rules_are_refused_with_their_place(tmp_path: Path, rules: str, fault: str) -> None:
    with pytest.raises(JobError) as caught:
        load(tmp_path, rules)
    assert fault in caught.value.problem


def test_a_deadline_needs_its_offset(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="deadline must say its offset from UTC"):
        load(tmp_path, top="deadline = 2026-11-28T09:00:00")


def test_rules_about_changes_do_not_apply_to_reading(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    text = JOB.format(rules="[protect]\nmax_operations = 1", top="")
    file.write_text(text.replace('"revoke"', '"list"'))
    with pytest.raises(JobError, match="protect does not apply to the action list"):
        load_job(file)
