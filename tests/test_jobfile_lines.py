"""On which line of a job file a key stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkcert.errors import JobError
from bulkcert.jobfile import load_job
from bulkcert.jobfile.lines import lines_of

TEXT = """\
# waves = 1
name = "a"
limits.in_flight = 3
notes = '''
[rollout]
waves = 1
'''

[ rollout ] # waves
"waves" = [
  "1%",
  "10% = x",
]
  confirm = ["waves = 1"]
[columns]
'Asset ID' = "assetId"
[limits]
in_flight = 5
"""


def test_sections_and_keys_have_lines() -> None:
    assert lines_of(TEXT) == {
        "name": 2,
        "limits.in_flight": 3,
        "notes": 4,
        "rollout": 9,
        "rollout.waves": 10,
        "rollout.confirm": 14,
        "columns": 15,
        "columns.'Asset ID'": 16,
        "limits": 17,
    }


JOB = """\
provider = "enos"
action = "revoke"
targets = "fleet.csv"
[connection]
endpoint = "https://example.com"
org_id = "o1"
"""


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ('[rollout]\nwaves = ["10%", "5%"]', ":8: rollout.waves must grow, but 5% follows 10%"),
        ("[approval]\n\nrequired = 2", ":7: approval.signers is missing"),
        ('[window]\nopen = ["Mon 22:00-23:00"]\nzone = "Mars"', ":9: window.zone must be"),
        ("[limit]\nin_flight = 2", ":7: limit is not known"),
    ],
)
def test_a_fault_names_the_line(tmp_path: Path, rules: str, fault: str) -> None:
    (tmp_path / "job.toml").write_text(JOB + rules)
    with pytest.raises(JobError) as caught:
        load_job(tmp_path / "job.toml")
    assert f"job.toml{fault}" in caught.value.problem


def test_a_fault_of_what_is_not_there_names_only_the_file(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB.replace('action = "revoke"\n', ""))
    with pytest.raises(JobError, match=r"job\.toml: action is missing"):
        load_job(tmp_path / "job.toml")
