"""The page of a plan with the rules of a campaign: what an approver reads, and its JSON."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from job_folder import write_csv
from local_time import local_time

from bulkcert.approval.files import SignedFile
from bulkcert.approval.ssh_keygen import Signer
from bulkcert.approval.verdict import Approved, Refused, Verdict
from bulkcert.cli.outlook import Outlook, outlook
from bulkcert.cli.plan_screen import describe, plan_object
from bulkcert.cli.rules_screen import approval_lines
from bulkcert.job import Job
from bulkcert.jobfile import load_job
from bulkcert.plan import Plan, build
from bulkcert.rundir import RunDirectory
from bulkcert.targets import TargetFile

NOW_S = datetime(2026, 11, 26, 12, 0, tzinfo=UTC).timestamp()  # a Thursday
JOB = """
provider = "enos"
action = "revoke"
targets = "targets.csv"
{deadline}
[connection]
endpoint = "https://example.com"
org_id = "o1"
[limits]
requests_per_second = 10
in_flight = 50
"""
DEADLINE = "deadline = 2026-11-28T09:00:00Z"

WINDOW = """
[window]
open = ["Mon-Fri 22:00-05:00", "Sat-Sun 00:00-24:00"]
closed = [2026-12-24]
zone = "Europe/Berlin"
"""

CAMPAIGN = (
    """
[protect]
max_operations = 1_000
[rollout]
order = ["-risk", "expires"]
canary = 3
spread_by = "site"
waves = ["10%"]
between = "10m"
confirm = ["canary"]
[abort]
canary = 0
failed = "2% of 500"
unknown = 5
99403 = 3
[check]
command = ["./fleet-ok.sh", "two words"]
timeout = "5s"
[notify]
command = ["./to-chat.sh", "#ops"]
"""
    + WINDOW
)

PAGE = """\
job: revoke on enos, which can't be undone
  endpoint       https://example.com
  account        org_id o1
  kept in        runs/job
  operations     1,000 from 1,000 rows
  parameters     none besides the columns of the target file
  where left out reason: left to EnOS
  targets by     site: site 0 (200), site 1 (200), site 2 (200), site 3 (200),
                 empty (200)
                 risk: 0 (334), 1 (333), 2 (333)
                 expires: 2027-01-01 to 2027-01-28
  order          by risk descending (numbers), then expires (dates)
  waves          canary   3: meter-0056 to meter-0224
                 10%     97: meter-0308 to meter-0260
                 rest   900: meter-0344 to meter-0951
  after a wave   it waits for 10 min 00 s, then it checks, then somebody must
                 say go (after canary)
  stops itself   any failed or unknown in the canary
                 more than 10 failed of the last 500 settled (2% of 500)
                 more than 5 unknown
                 more than 3 with the code 99403
                 the check says so, or holds the run, alone, for 30 min 00 s
                 it would claim more than 1,000 operations
                 at most 50 requests may be under way then
  check          ./fleet-ok.sh 'two words', every 30 s, killed after 5.0 s
  notify         ./to-chat.sh '#ops', killed after 10 s
  window         Mon-Fri 22:00-05:00, Sat-Sun 00:00-24:00; not on 2026-12-24;
                 Europe/Berlin
                 closed now, opens Thu 2026-11-26 22:00 CET
  ceiling        10 requests in any second, 50 in flight
  set by         the account's limit
  duration       at least 9 h 21 min, for 1,000 requests: 1 min 40 s of sending,
                 20 min 00 s between waves, 9 h 00 min with the window closed;
                 and until somebody says go, once
  over           Thu 2026-11-26 22:21 CET at the earliest, if it begins now
  deadline       Sat 2026-11-28 10:00 CET: 35 h 38 min to spare
  latest start   Sat 2026-11-28 09:38 CET; most of the time goes into waits
                 between waves, 20 min 00 s
"""


class Planner:
    """Plans jobs with the same 1,000 targets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = (
            (f"meter-{n:04}", n, f"site {n % 5}" * (n % 5 < 4), n % 3, f"2027-01-{1 + n % 28:02}")
            for n in range(1_000)
        )
        write_csv(folder / "targets.csv", rows, "assetId,certSn,site,risk,expires")
        for program in (folder / "fleet-ok.sh", folder / "to-chat.sh"):
            program.write_text("#!/bin/sh\n")
            program.chmod(0o755)

    def planned(self, rules: str, deadline: str = "") -> tuple[Job, Plan]:
        """A job with these sections, and its plan."""
        (self.folder / "job.toml").write_text(JOB.format(deadline=deadline) + rules)
        job = load_job(self.folder / "job.toml")
        directory = RunDirectory(self.folder / "runs/job")
        return job, build(job, TargetFile.of(job), self.folder / "plan.sqlite3", directory)

    def page(self, rules: str = "", now_s: float = NOW_S, deadline: str = "") -> str:
        """The page on a terminal of 80 columns."""
        job, plan = self.planned(rules, deadline)
        return describe(job, plan, outlook(job, plan, now_s), Path("runs/job"), columns=80)

    def entry(self, label: str, rules: str = "", **how: Any) -> str:
        """What one entry says, in one line; empty if it is not there."""
        text, inside = [], False
        for line in self.page(rules, **how).splitlines():
            if line[2:16].strip():
                inside = line[2:16].strip() == label
            if inside:
                text.append(line[17:].strip())
        return " ".join(text)


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    return Planner(tmp_path)


def test_the_page_of_a_campaign(planner: Planner) -> None:
    page, _, rest = planner.page(CAMPAIGN, deadline=DEADLINE).partition("  plan ")
    assert page == PAGE
    assert "  WARNING        The canary is 3 targets, but site has 5 different values" in rest


def test_the_page_of_a_job_without_rules_says_nothing_of_them(planner: Planner) -> None:
    labels = [line[2:16].strip() for line in planner.page().splitlines() if line[2:16].strip()]
    assert labels[1:] == [
        *("endpoint", "account", "kept in", "operations", "parameters", "where left out"),
        *("ceiling", "set by", "duration", "other columns", "plan", "WARNING"),
    ]
    assert planner.entry("duration") == "at least 1 min 40 s, for 1,000 requests"


def test_the_hash_is_shown_in_two_halves_on_a_terminal_and_in_one_line_elsewhere(
    planner: Planner,
) -> None:
    job, plan = planner.planned("")
    seen = outlook(job, plan, NOW_S)
    narrow, wide = (
        describe(job, plan, seen, Path("runs/job"), columns=columns) for columns in (80, None)
    )
    first, second = plan.hash.grouped[:39], plan.hash.grouped[40:]
    assert f"\n  plan           {first}\n                 {second}\n" in narrow
    assert f"\n  plan           {first} {second}\n" in wide


def test_names_of_targets_are_cut_to_fit(planner: Planner) -> None:
    long = [("x" * 60 + str(n), n, "", 0, "") for n in range(20)]
    write_csv(planner.folder / "targets.csv", long, "assetId,certSn,site,risk,expires")
    rows = [line for line in planner.page("[rollout]\ncanary = 3\n").splitlines() if "xxx" in line]
    assert rows == [
        "  waves          canary  3: xxxxxxxxxxxxxxxxxxxxxxx… to xxxxxxxxxxxxxxxxxxxxxxx…",
        "                 rest   17: xxxxxxxxxxxxxxxxxxxxxxx… to xxxxxxxxxxxxxxxxxxxxxxx…",
    ]


def test_the_order_of_text_shows_what_comes_first(planner: Planner) -> None:
    risks = ["low", "high", "medium", ""]
    write_csv(
        planner.folder / "targets.csv",
        [(f"A{n}", n, risks[n % 4]) for n in range(20)],
        "assetId,certSn,risk",
    )
    shown = planner.entry("order", '[rollout]\norder = ["-risk"]\n')
    assert shown == "by risk descending (medium, low, high)"


def test_a_rehearsal_says_what_does_not_count_in_it(planner: Planner) -> None:
    job, plan = planner.planned(CAMPAIGN, DEADLINE)
    seen = outlook(job, plan, NOW_S, rehearsal=True)
    page = describe(job, plan, seen, Path("runs/job"))
    assert "a simulator on this machine" in page
    assert "  rehearsal      without window, check, notify and approvals" in page
    assert (
        "  duration       at least 1 min 42 s, for 1,000 requests: 1 min 40 s of sending, 2.0 s"
        " between waves\n" in page
    )
    for real in ("deadline ", "latest start", "closed now", "says go,"):
        assert real not in page
    assert plan_object(job, plan, seen)["rehearsal"] is True


@pytest.mark.parametrize(
    ("rollout", "after"),
    [
        ("canary = 3", "the next one begins at once"),
        ('canary = 3\nbetween = "90s"', "it waits for 1 min 30 s"),
        ('canary = 3\nconfirm = ["all"]', "somebody must say go"),
        ('waves = ["100%"]', ""),
        (
            'waves = [10, 20, 30]\nconfirm = ["10", "30"]',
            "somebody must say go (after 10 and 30)",
        ),
    ],
)
def test_what_comes_after_a_wave(planner: Planner, rollout: str, after: str) -> None:
    assert planner.entry("after a wave", f"[rollout]\n{rollout}\n") == after


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ("2026-11-26T21:30", "open now until Fri 2026-11-27 05:00 CET"),
        ("2026-11-27T12:00", "closed now, opens Fri 2026-11-27 22:00 CET"),
    ],
)
def test_whether_the_window_is_open(planner: Planner, now: str, says: str) -> None:
    now_s = datetime.fromisoformat(f"{now}+00:00").timestamp()
    assert planner.entry("window", WINDOW, now_s=now_s).endswith(says)


@pytest.mark.parametrize(
    ("rules", "now", "deadline", "latest"),
    [
        (
            "",
            "2026-11-28T08:58:00",
            "Sat 2026-11-28 10:00 CET: 20 s to spare",
            "Sat 2026-11-28 09:58 CET; most of the time goes into sending, 1 min 40 s",
        ),
        (
            "",
            "2026-11-28T08:59:00",
            "Sat 2026-11-28 10:00 CET: 40 s TOO LATE",
            "Sat 2026-11-28 09:58 CET; most of the time goes into sending, 1 min 40 s",
        ),
    ],
)
def test_the_deadline_and_the_latest_start(
    planner: Planner, rules: str, now: str, deadline: str, latest: str
) -> None:
    how = {
        "now_s": datetime.fromisoformat(f"{now}+00:00").timestamp(),
        "deadline": DEADLINE,
    }
    with local_time("Europe/Berlin"):
        assert planner.entry("deadline", rules, **how) == deadline
        assert planner.entry("latest start", rules, **how) == latest
        missed = "The deadline will be missed by at least 40 s" in planner.page(rules, **how)
        assert missed == ("LATE" in deadline)


def test_how_much_is_never_touched(planner: Planner) -> None:
    (planner.folder / "never.csv").write_text("assetId,owner\nother-*,ops\nmeter-9999,ops\n")
    never = planner.entry("never touched", '[protect]\nnever = "never.csv"\n')
    assert never == "2 entries; checked again before each operation"


def test_a_window_that_does_not_open_for_long_enough(planner: Planner) -> None:
    job, plan = planner.planned(WINDOW, DEADLINE)
    seen = dataclasses.replace(outlook(job, plan, NOW_S), forecast=None, latest=None)
    page = describe(job, plan, seen, Path("runs/job"))
    assert "for 1,000 requests: the window does not open for long enough within a year" in page
    assert "WARNING        The deadline can't be met, even if the run begins now." in page


APPROVED = Approved(
    Signer("alice", "SHA256:abc", frozenset({"alice"})), int(NOW_S), SignedFile("alice-1", 0.0)
)


@pytest.mark.parametrize(
    ("verdict", "lines"),
    [
        (
            Verdict(2, (), (), 0, ("alice", "bob")),
            ["  approvals      2 needed, none so far; alice, bob may still approve"],
        ),
        (
            Verdict(1, (APPROVED,), (Refused("bob-1", "expired"),), 0, ("bob",)),
            [
                "  approvals      1 needed, 1 so far",
                "                 alice, SHA256:abc, until Thu 2026-11-26 13:00 CET",
                "                 not counted: bob-1: expired",
            ],
        ),
    ],
)
def test_who_has_approved_the_plan(planner: Planner, verdict: Verdict, lines: list[str]) -> None:
    job, _ = planner.planned(WINDOW)
    seen = Outlook(now_s=NOW_S, forecast=None, approvals=verdict)
    assert list(approval_lines(job, seen)) == lines


def test_the_json_object_has_what_the_page_has(planner: Planner) -> None:
    job, plan = planner.planned(CAMPAIGN, DEADLINE)
    seen = dataclasses.replace(
        outlook(job, plan, NOW_S), approvals=Verdict(2, (APPROVED,), (), 0, ("bob",))
    )
    shown = plan_object(job, plan, seen)
    assert json.loads(orjson.dumps(shown)) == shown
    assert {name: shown[name] for name in CAMPAIGN_OBJECT} == CAMPAIGN_OBJECT
    assert [wave["name"] for wave in shown["waves"]] == ["canary", "10%", "rest"]
    assert shown["waves"][0] == {
        "name": "canary",
        "targets": 3,
        "first": {"line": 58, "target": {"assetId": "meter-0056", "certSn": 56}},
        "last": {"line": 226, "target": {"assetId": "meter-0224", "certSn": 224}},
        "confirm": True,
    }
    assert shown["breakdown"][1] == {
        "column": "risk",
        "kind": "numbers",
        "values": [
            {"value": "0", "targets": 334},
            {"value": "1", "targets": 333},
            {"value": "2", "targets": 333},
        ],
        "other_values": 0,
        "other_targets": 0,
        "empty": 0,
        "lowest": "0",
        "highest": "2",
    }


CAMPAIGN_OBJECT: dict[str, Any] = {
    "order": [
        {"column": "risk", "descending": True},
        {"column": "expires", "descending": False},
    ],
    "between_seconds": 600.0,
    "abort": {
        "canary": {"most": 0, "among": None, "written": "0"},
        "failed": {"most": 10, "among": 500, "written": "2% of 500"},
        "unknown": {"most": 5, "among": None, "written": "5"},
        "99403": {"most": 3, "among": None, "written": "3"},
    },
    "check": {
        "command": ["./fleet-ok.sh", "two words"],
        "every_seconds": 30.0,
        "timeout_seconds": 5.0,
        "patience_seconds": 1800.0,
    },
    "notify": {"command": ["./to-chat.sh", "#ops"], "timeout_seconds": 10.0},
    "max_operations": 1_000,
    "window": {
        "open": ["Mon-Fri 22:00-05:00", "Sat-Sun 00:00-24:00"],
        "closed": ["2026-12-24"],
        "zone": "Europe/Berlin",
        "is_open": False,
        "changes_at": "2026-11-26T21:00:00.000Z",
    },
    "approvals": {
        "required": 2,
        "missing": 1,
        "approved": [
            {
                "name": "alice",
                "fingerprint": "SHA256:abc",
                "expires_at": "2026-11-26T12:00:00.000Z",
            }
        ],
        "not_counted": [],
        "waiting_for": ["bob"],
    },
    "deadline": "2026-11-28T09:00:00.000Z",
    "latest_start": "2026-11-28T08:38:20.000Z",
    "forecast": {
        "seconds": 33700.0,
        "sending_seconds": 100.0,
        "waiting_seconds": 1200.0,
        "closed_seconds": 32400.0,
        "confirmations": 1,
        "over_at": "2026-11-26T21:21:40.000Z",
        "slack_seconds": 128300.0,
        "costs_most": "the closed window",
    },
}
