"""The hash of a plan: what it covers, what it does not, and how a mismatch is put in words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from job_folder import toml, write_csv

from bulkcert import load_job
from bulkcert.errors import JobError
from bulkcert.plan import build
from bulkcert.plan_hash import PlanHash, Targets, differences, grouped, ungrouped
from bulkcert.rundir import RunDirectory
from bulkcert.targets import TargetFile

ROWS: list[tuple[object, ...]] = [("A1", 1), ("A2", 2), ("A3", 3)]
RULES: dict[str, Any] = {
    "approval": {"required": 1, "signers": "approvers", "valid": "24h"},
    "protect": {"never": "never.csv", "max_operations": 10_000},
    "rollout": {"canary": 1, "waves": ["50%"], "between": "1m", "confirm": ["canary"]},
    "abort": {"failed": "2% of 500", "99403": 3},
    "check": {"command": ["./fleet-ok.sh", "--all"]},
    "window": {"open": ["Mon-Fri 22:00-05:00"], "zone": "Europe/Berlin"},
}


class Plans:
    """Plans one job again and again, each time with some changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "never.csv").write_text("assetId\nZ1\n")
        for name in ("approvers", "fleet-ok.sh", "to-chat.sh"):
            (folder / name).write_text("#!/bin/sh\n")
            (folder / name).chmod(0o700)

    def plan(
        self,
        rows: list[tuple[object, ...]] | None = None,
        header: str = "assetId,certSn",
        *,
        top: str = "",
        **sections: Any,
    ) -> PlanHash:
        write_csv(self.folder / "targets.csv", ROWS if rows is None else rows, header)
        document = {"provider": "enos", "action": "revoke", "targets": "targets.csv"}
        connection = {"endpoint": "https://example.com", "org_id": "o1"}
        given = {"connection": connection, "parameters": {"reason": 1}, **RULES, **sections}
        job_file = self.folder / "job.toml"
        sections_given = {name: section for name, section in given.items() if section}
        job_file.write_text(f"{top}\n{toml(document | sections_given)}")
        job, directory = load_job(job_file), RunDirectory(self.folder / "run")
        checkpoint = self.folder / f"{random.random()}.sqlite3"
        return build(job, TargetFile.of(job), checkpoint, directory).hash


@pytest.fixture
def plans(tmp_path: Path) -> Plans:
    return Plans(tmp_path)


def said(old: PlanHash, new: PlanHash) -> list[str]:
    return [str(each) for each in differences(old, new)]


def changed(old: PlanHash, new: PlanHash) -> set[str]:
    """The sections whose digests differ."""
    before, now = old.sections, new.sections
    assert (before == now) == (old.hash == new.hash)
    return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}


def test_the_same_plan_has_the_same_hash(plans: Plans) -> None:
    assert plans.plan().hash == plans.plan().hash


def test_every_section_has_a_digest(plans: Plans) -> None:
    assert list(plans.plan().sections) == [
        *("targets", "action", "parameters", "connection", "limits"),
        *("approval", "protect", "rollout", "abort", "check", "window"),
    ]


def test_a_job_without_rules_has_no_sections_for_them(plans: Plans) -> None:
    plan = plans.plan(**dict.fromkeys(RULES))
    assert list(plan.sections) == ["targets", "action", "parameters", "connection", "limits"]


@pytest.mark.parametrize(
    ("rows", "header"),
    [
        ([(sn, name) for name, sn in ROWS], "certSn,assetId"),
        ([(*row, "note") for row in ROWS], "assetId,certSn,note"),
        ([(name, f" {sn} ") for name, sn in ROWS], "assetId,certSn"),
        ([*ROWS, ROWS[0]], "assetId,certSn"),
    ],
)
def test_how_the_target_file_is_written_does_not_matter(
    plans: Plans, rows: list[tuple[object, ...]], header: str
) -> None:
    assert plans.plan(rows, header).hash == plans.plan().hash


def test_thousands_of_targets_are_hashed_in_their_order(plans: Plans) -> None:
    """More than are hashed at once."""
    rows: list[tuple[object, ...]] = [(f"A{n}", n) for n in range(1, 3002)]
    plan = plans.plan(rows)
    swapped = [*rows[:1999], rows[2000], rows[1999], *rows[2001:]]
    assert changed(plan, plans.plan(swapped)) == {"targets"}
    assert plan.hash == plans.plan(rows).hash


@pytest.mark.parametrize(
    "change",
    [
        {"top": "deadline = 2026-11-28T09:00:00Z"},
        {"top": 'name = "another"'},
        {"connection": {"endpoint": "https://example.com/", "org_id": "o1"}},
        {
            "connection": {
                "endpoint": "https://example.com",
                "org_id": "o1",
                "proxy": "http://me:secret@proxy:1",
                "source_addresses": ["127.0.0.2"],
                "ca_file": "ca.pem",
            }
        },
        {"limits": {"requests_per_second": 500.0, "in_flight": 1000}},
        {"retry": {"max_attempts": 3}},
        {"notify": {"command": ["./to-chat.sh"]}},
        {"approval": {"required": 1, "signers": "./approvers"}},
        {"rollout": {"waves": ["50%"], "canary": 1, "confirm": ["canary"], "between": "60s"}},
    ],
)
def test_what_is_outside_or_says_the_same(plans: Plans, change: dict[str, Any]) -> None:
    before = plans.plan()
    assert plans.plan(**change).hash == before.hash


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("targets", {"rows": [*ROWS, ("A4", 4)]}, "targets: 3 operations before, and 4 now"),
        ("targets", {"rows": ROWS[::-1]}, "targets: others, or in another order"),
        ("parameters", {"parameters": {"reason": 3}}, "parameters.reason was 1 and is now 3"),
        (
            "connection",
            {"connection": {"endpoint": "https://example.com", "org_id": "o2"}},
            "connection.org_id was 'o1' and is now 'o2'",
        ),
        (
            "limits",
            {"limits": {"requests_per_second": 100}},
            "limits.requests_per_second was 500 and is now 100",
        ),
        ("abort", {"abort": {"99403": 3}}, "abort.failed was '2% of 500' and is now 'not set'"),
        (
            "rollout",
            {"rollout": RULES["rollout"] | {"between": "90s"}},
            "rollout.between was 1 min 00 s and is now 1 min 30 s",
        ),
        (
            "window",
            {"window": RULES["window"] | {"zone": "UTC"}},
            "window.zone was 'Europe/Berlin' and is now 'UTC'",
        ),
    ],
)
def test_a_mismatch_says_what_differs(
    plans: Plans, section: str, change: dict[str, Any], words: str
) -> None:
    before, now = plans.plan(), plans.plan(**change)
    assert changed(before, now) == {section}
    assert said(before, now) == [words]


@pytest.mark.parametrize(
    ("file", "section", "name"),
    [
        ("approvers", "approval", "approval.signers"),
        ("never.csv", "protect", "protect.never"),
        ("fleet-ok.sh", "check", "check../fleet-ok.sh"),
    ],
)
def test_the_content_of_files_counts(plans: Plans, file: str, section: str, name: str) -> None:
    before = plans.plan()
    with (plans.folder / file).open("a") as opened:
        opened.write("Z2\n")
    now = plans.plan()
    assert changed(before, now) == {section}
    assert said(before, now) == [f"the content of {name} has changed"]


def test_the_global_never_touch_list_is_outside(
    plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plans.plan()
    (plans.folder / "always.csv").write_text("assetId\nZ9\n")
    monkeypatch.setenv("BULKCERT_NEVER", str(plans.folder / "always.csv"))
    assert said(before, plans.plan()) == []


def test_a_file_that_cannot_be_read_is_an_error(plans: Plans) -> None:
    (plans.folder / "approvers").unlink()
    with pytest.raises(JobError, match=r"approval.signers names .*approvers, which can't be read"):
        plans.plan()


def test_a_hash_is_shown_in_groups_and_read_with_or_without_them(plans: Plans) -> None:
    plan = plans.plan()
    assert len(plan.hash) == 64
    assert plan.grouped.split(" ") == [plan.hash[at : at + 4] for at in range(0, 64, 4)]
    assert ungrouped(f" {plan.grouped.upper()}\n") == ungrouped(plan.hash) == plan.hash
    assert grouped("1a2b3c") == "1a2b 3c"


def test_a_plan_takes_limits_and_rules_of_its_job_and_nothing_else(plans: Plans) -> None:
    old = plans.plan()
    plans.plan([("A9", 9)], parameters={"reason": 3}, limits={"in_flight": 5}, window=None)
    within = PlanHash.within(old, load_job(plans.folder / "job.toml"))
    assert changed(old, within) == {"limits", "window"}


def test_the_hash_is_the_same_on_every_machine() -> None:
    """A stored hash and an approval outlive a version: this one may change only with its format."""
    plan = PlanHash({"targets": Targets(1, "0" * 64)._asdict(), "limits": {"in_flight": 5}})
    assert plan.grouped.startswith("912c 87f9 a6c1 40f5 ")
