"""What a person is asked before a run begins, and which answers are a yes."""

from __future__ import annotations

from pathlib import Path

import pytest

import bulkcert
from bulkcert.cli.plan_screen import account, where
from bulkcert.cli.prompt import Question
from bulkcert.job import Job
from bulkcert.model import Fields
from bulkcert.providers import BUILT_IN
from bulkcert.providers.base import Provider

ENOS = """
provider = "enos"
action = "{action}"
targets = "fleet.csv"
[connection]
endpoint = "https://apim.example.com"
org_id = "o1"
"""
APSARAMQ = """
provider = "apsaramq"
action = "{action}"
targets = "fleet.csv"
[connection]
region = "cn-hangzhou"
instance_id = "post-cn-1"
"""


def job(folder: Path, action: str, document: str = ENOS, more: str = "") -> Job:
    path = folder / "job.toml"
    path.write_text(document.format(action=action) + more)
    return bulkcert.load_job(path)


def question(
    job: Job, to_do: int = 4210, fields: Fields | None = None, in_doubt: int = 0
) -> Question:
    return Question(job=job, fields=fields or {"assetId": "A1"}, to_do=to_do, in_doubt=in_doubt)


def test_the_question_names_all_that_makes_a_run_the_wrong_one(tmp_path: Path) -> None:
    assert question(job(tmp_path, "revoke")).text().splitlines() == [
        "",
        "revoke on enos at https://apim.example.com, org_id o1: 4,210 operations are still to do.",
        "This is not a rehearsal, and it can't be undone.",
        "Type the number of operations, 4210, to start: ",
    ]


def test_what_may_have_happened_and_what_a_selection_may_find_is_said(tmp_path: Path) -> None:
    selecting = job(tmp_path, "revoke", more="[select]\nissued_before = 2026-01-01T00:00:00Z\n")
    text = question(selecting, to_do=1, in_doubt=1).text()
    assert "1 operation is still to do." in text
    assert "1 of them may have happened, and is looked up first." in text
    assert "several certificates of one device" in text


@pytest.mark.parametrize("action", ["inactivate", "activate"])
def test_what_can_be_undone_is_a_question_for_yes_or_no(tmp_path: Path, action: str) -> None:
    asked = question(job(tmp_path, action, APSARAMQ))
    other = {"inactivate": "activate", "activate": "inactivate"}[action]
    assert asked.text().splitlines()[1:] == [
        f"{action} on apsaramq at https://onsmqtt.cn-hangzhou.aliyuncs.com,"
        " instance_id post-cn-1: 4,210 operations are still to do.",
        f"This is not a rehearsal. It can be undone with {other}.",
        "Start? [y/N] ",
    ]
    assert all(map(asked.confirms, ["y\n", "Y\n", " yes \n"]))
    assert not any(map(asked.confirms, ["", "\n", "n\n", "4210\n", "yess\n"]))


def test_what_can_not_be_undone_is_confirmed_with_the_number_of_operations(tmp_path: Path) -> None:
    asked = question(job(tmp_path, "delete", APSARAMQ))
    assert all(map(asked.confirms, ["4210\n", " 4,210 \n"]))
    assert not any(map(asked.confirms, ["", "\n", "y\n", "yes\n", "421\n", "42100\n", "4.210\n"]))


@pytest.mark.parametrize("provider", BUILT_IN.values(), ids=BUILT_IN)
def test_an_action_is_undone_by_one_that_undoes_it(provider: Provider) -> None:
    for action in provider.actions.values():
        if action.undone_by:
            assert action.changes
            assert provider.actions[action.undone_by].undone_by == action.name


def test_the_account_is_that_of_the_rows_where_they_name_their_own(tmp_path: Path) -> None:
    enos = job(tmp_path, "revoke")
    assert account(enos, {"assetId": "A1"}) == "org_id o1"
    assert account(enos, {"assetId": "A1", "orgId": "o2"}) == "org_id of each row"
    overridden = job(tmp_path, "revoke", more='[parameters]\norgId = "o3"\n')
    assert account(overridden, {"assetId": "A1"}) == "org_id o3"


def test_a_rehearsal_is_called_one(tmp_path: Path) -> None:
    lines = where(job(tmp_path, "revoke"), {}, rehearsal=True)
    assert "a simulator on this machine, in place of https://apim.example.com" in lines[0]
