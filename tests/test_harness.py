"""The harness itself: its example runs, sections are merged, and false claims are noticed."""

from __future__ import annotations

import inspect
import json
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import harness
import pytest
from enos_vendor import ENOS, devices, with_requests
from harness import in_this_process
from job_folder import JobFolder


@pytest.mark.system
async def test_the_example_in_the_docstring_runs(tmp_path: Path) -> None:
    text = inspect.getdoc(harness) or ""
    begin, end = text.index("    from enos_vendor"), text.index("\nSections of the job file")
    names: dict[str, Any] = {"Path": Path}
    exec(textwrap.dedent(text[begin:end]), names)
    await names["test_lost_responses_are_looked_up"](tmp_path)


def test_sections_are_merged_and_values_replaced(tmp_path: Path) -> None:
    document = {"action": "list", "targets": "targets.csv", "limits": {"in_flight": 1}}
    folder = JobFolder(tmp_path, document, devices(2))
    folder.write(action="revoke", limits={"requests_per_second": 5}, retry={"max_attempts": 2})
    assert tomllib.loads(folder.job_file.read_text()) == {
        "action": "revoke",
        "targets": "targets.csv",
        "limits": {"in_flight": 1, "requests_per_second": 5},
        "retry": {"max_attempts": 2},
    }
    assert folder.target_file.read_text() == "assetId,certSn\nA0,1000\nA1,1001\n"


@pytest.mark.system
@pytest.mark.parametrize(
    ("result", "violation"),
    [
        ({"certSN": "7"}, "line 1: claims 7, but its renewal issued"),
        (None, "line 1: is succeeded, but its renewal issued"),
    ],
)
async def test_a_result_that_names_the_wrong_certificate_is_a_violation(
    tmp_path: Path, result: Any, violation: str
) -> None:
    rows = with_requests(devices(1))
    async with in_this_process(tmp_path, ENOS, "renew", rows) as job:
        await job.run()
        assert job.violations() == []
        changed = [job.results()[0] | {"result": result}]
        lines = "".join(json.dumps(each) + "\n" for each in changed)
        (job.run_dir / "results.jsonl").write_text(lines)
        assert any(found.startswith(violation) for found in job.violations())
