"""What may change within a run: limits and rules, with `run --amend`. The runs send nothing."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from job_folder import devices, toml, write_csv

import bulkcert
from bulkcert import load_job
from bulkcert.amendment import Amendment, Changes
from bulkcert.campaign_state import campaign_state
from bulkcert.cli.campaign_screen import amendment_lines, campaign_object
from bulkcert.errors import RunDirectoryError, StoppedByRulesError
from bulkcert.model import State
from bulkcert.plan_hash import Difference, PlanHash
from bulkcert.rundir import RunDirectory
from bulkcert.store.manifest import RunManifest
from bulkcert.testing import FakeTransport, Request

TARGETS = 5
LIMITS = {"limits": {"requests_per_second": 100, "in_flight": 1}}


class Campaign:
    """A run of a job whose file is edited in between."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_csv(folder / "targets.csv", devices(TARGETS))
        (folder / "approvers").write_text("")

    def run(self, *, amend: bool = False, stop: bool = False, **sections: Any) -> bulkcert.Summary:
        """Work on the run until it is over, or stop it with its first request."""
        document = {
            "provider": "enos",
            "action": "revoke",
            "targets": "targets.csv",
            "connection": {"endpoint": "https://example.com", "org_id": "o1"},
            **LIMITS,
        }
        (self.folder / "job.toml").write_text(toml(document | sections))
        job = load_job(self.folder / "job.toml")

        def respond(request: Request) -> None:
            if stop and request.action == "revoke":
                run.stop()

        run = bulkcert.Run(job, self.folder / "run", transport=FakeTransport(respond), amend=amend)
        with run:
            return asyncio.run(run.execute())

    @property
    def manifest(self) -> RunManifest:
        return RunDirectory(self.folder / "run").manifest()


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    campaign = Campaign(tmp_path)
    assert campaign.run(stop=True).exit_code == 3
    return campaign


def test_a_lower_limit_needs_nothing(campaign: Campaign) -> None:
    before = campaign.manifest.plan
    lowered = {"requests_per_second": 50, "in_flight": 1, "request_timeout_seconds": 5}
    assert campaign.run(limits=lowered).exit_code == 0
    assert campaign.manifest.plan == before
    assert campaign.manifest.limits.requests_per_second == 50
    assert campaign.manifest.amendments == ()


@pytest.mark.parametrize(
    ("sections", "change"),
    [
        (
            {"limits": {"requests_per_second": 200, "in_flight": 1}},
            "limits.requests_per_second was 100 and is now 200",
        ),
        ({"abort": {"failed": 1}}, "abort.failed was 'not set' and is now '1'"),
    ],
)
def test_more_needs_to_be_asked_for_and_is_recorded(
    campaign: Campaign, sections: dict[str, Any], change: str
) -> None:
    before = campaign.manifest.plan
    with pytest.raises(RunDirectoryError) as refused:
        campaign.run(**sections)
    assert change in refused.value.problem
    assert "--amend" in refused.value.next_step
    assert campaign.manifest.plan == before
    assert campaign.run(amend=True, **sections).exit_code == 0
    [amended] = campaign.manifest.amendments
    assert (amended.before, amended.changes) == (before.hash, (change,))
    assert amended.who
    with closing(RunDirectory(campaign.folder / "run").reader()) as reader:
        state = campaign_state(RunDirectory(campaign.folder / "run"), reader)
    [line] = amendment_lines(state)
    assert line.startswith("Amended at ")
    assert line.endswith(f" by {amended.who}: {change}")
    assert campaign_object(state)["amendments"][0]["changes"] == [change]
    assert campaign.manifest.plan != before
    # from now on, this is what is planned
    assert campaign.run(**sections).exit_code == 0


def test_what_is_done_never_changes(campaign: Campaign) -> None:
    with pytest.raises(RunDirectoryError, match=r"parameters.reason was 'not set'") as refused:
        campaign.run(amend=True, parameters={"reason": 1}, abort={"failed": 1})
    assert "--amend" not in refused.value.next_step


def test_a_changed_target_file_is_noticed_beside_an_amendment(campaign: Campaign) -> None:
    write_csv(campaign.folder / "targets.csv", devices(TARGETS + 1))
    with pytest.raises(RunDirectoryError, match="the content of the target file has changed"):
        campaign.run(amend=True, abort={"failed": 1})


def test_a_run_that_is_over_does_not_mind(campaign: Campaign) -> None:
    assert campaign.run().exit_code == 0
    assert campaign.run(abort={"failed": 1}).exit_code == 0
    assert campaign.manifest.amendments == ()


def test_a_cap_counts_what_was_done_before_and_is_lifted_by_one_that_raises_it(
    campaign: Campaign,
) -> None:
    (campaign.folder / "never.csv").write_text("assetId\nZ1\n")
    protect = {"never": "never.csv"}
    for _ in range(2):  # the same again does not help
        with pytest.raises(StoppedByRulesError):
            campaign.run(amend=True, protect=protect | {"max_operations": 3})
        with closing(RunDirectory(campaign.folder / "run").reader()) as reader:
            assert reader.counts()[State.SUCCEEDED] == 3
    with pytest.raises(StoppedByRulesError):
        campaign.run(amend=True, protect=protect | {"max_operations": 2})
    assert campaign.run(amend=True, protect=protect).succeeded == TARGETS
    assert len(campaign.manifest.amendments) == 2  # of the second, nothing was asked


@pytest.mark.parametrize(
    ("difference", "sort"),
    [
        (Difference("limits", "in_flight", 10, 5), "lowered"),
        (Difference("limits", "in_flight", 5, 10), "amending"),
        (Difference("limits", "requests_per_second_per_source_ip", None, 10), "lowered"),
        (Difference("limits", "requests_per_second_per_source_ip", 10, None), "amending"),
        (Difference("window", "zone", "UTC", "Europe/Berlin"), "amending"),
        (Difference("rollout", "between_s", 60, 0), "amending"),
        (Difference("rollout", "confirm", [], ["all"]), "amending"),
        (Difference("rollout", "canary", 20, 10), "fixed"),
        (Difference("rollout", "sizes", ["1%"], ["2%"]), "fixed"),
        (Difference("rollout", "order", [], ["-risk"]), "fixed"),
        (Difference("approval", "required", 1, 2), "amending"),
        (Difference("approval", "required", 2, 1), "fixed"),
        (Difference("approval", "required", 2, None), "fixed"),
        (Difference("approval", "signers", "sha256:a", "sha256:b"), "amending"),
        (Difference("connection", "endpoint", "a", "b"), "fixed"),
        (Difference("keys", "generate", "a", "b"), "fixed"),
    ],
)
def test_what_may_change(difference: Difference, sort: str) -> None:
    changes = Changes.sorted([difference])
    found = {name for name in ("fixed", "amending", "lowered") if getattr(changes, name)}
    assert found == {sort}


@pytest.mark.parametrize(
    ("before", "now", "raised"), [(5, 6, True), (5, None, True), (5, 4, False), (None, 5, False)]
)
def test_a_raised_number(before: int | None, now: int | None, raised: bool) -> None:
    difference = Difference("protect", "max_operations", before, now)
    assert Amendment((difference,), PlanHash({})).lifts("max_operations") == raised


@pytest.mark.parametrize(
    ("section", "rule", "lifted"),
    [
        ("abort", "failed", True),
        ("abort", "99403", True),
        ("abort", "check", False),
        ("check", "check", True),
        ("window", "failed", False),
        ("abort", "max_operations", False),
    ],
)
def test_a_changed_rule_lets_the_run_go_on_that_it_has_stopped(
    section: str, rule: str, lifted: bool
) -> None:
    difference = Difference(section, "failed", 1, 5)
    assert Amendment((difference,), PlanHash({})).lifts(rule) == lifted
