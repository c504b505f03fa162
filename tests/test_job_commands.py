"""The commands of a job: where they run, what they don't get, and when they are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkcert.credentials import STORE_VARIABLE
from bulkcert.errors import JobError
from bulkcert.job import Job
from bulkcert.job_commands import outside_command, require_commands
from bulkcert.jobfile import load_job

JobMaker = Callable[[str], Job]


@pytest.fixture
def job_with(tmp_path: Path) -> JobMaker:
    def make(section: str = "") -> Job:
        (tmp_path / "fleet-ok.sh").write_text("#!/bin/sh\nenv | sort\n")
        (tmp_path / "fleet-ok.sh").chmod(0o755)
        file = tmp_path / "job.toml"
        file.write_text(
            'provider = "enos"\naction = "renew"\ntargets = "fleet.csv"\n'
            '[connection]\nendpoint = "https://apim.example.com"\norg_id = "o1"\n'
            '[keys]\ngenerate = "ecdsa-p256"\n'
            '[certificates]\npkcs12_password_env = "P12_PASSWORD"\n' + section
        )
        return load_job(file)

    return make


@pytest.mark.system
async def test_it_does_not_get_the_credentials(
    job_with: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_with()
    secret = {
        *("ENOS_APP_KEY", "ENOS_APP_SECRET", "P12_PASSWORD", STORE_VARIABLE),
        *("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
        "ALIBABA_CLOUD_SECURITY_TOKEN",
    }
    for name in secret:
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("HARMLESS", "1")
    command = outside_command(job, ["./fleet-ok.sh"], {})
    assert "HARMLESS" in command.environment
    assert secret.isdisjoint(command.environment)
    assert "s3cret" not in repr(command)
    ended = await dataclasses.replace(command, words=["sh", "-c", "env | grep -c s3cret"]).run(
        {}, 60
    )
    assert ended.line == "0"


@pytest.mark.system
async def test_what_it_says_shows_no_credential(job_with: JobMaker) -> None:
    words = ["sh", "-c", "echo the key is k3y"]
    command = outside_command(job_with(), words, {"ENOS_APP_KEY": "k3y"})
    assert (await command.run({}, 60)).line == "the key is ********"


@pytest.mark.parametrize("section", ["check", "notify"])
def test_a_command_that_can_not_be_executed_stops_the_planning(
    job_with: JobMaker, section: str
) -> None:
    job = job_with(f'[{section}]\ncommand = ["./no-such.sh"]\n')
    with pytest.raises(
        JobError, match=rf"job.toml:12: {section}.command can't be executed: .*no-such.sh"
    ):
        require_commands(job)


@pytest.mark.parametrize("section", ["", "[check]", "[notify]"])
def test_a_job_without_a_command_or_with_a_good_one_is_fine(
    job_with: JobMaker, section: str
) -> None:
    require_commands(job_with(section and f'{section}\ncommand = ["./fleet-ok.sh"]\n'))


def test_the_command_belongs_to_the_folder_of_the_job_file_itself(
    job_with: JobMaker, tmp_path: Path
) -> None:
    job = job_with('[check]\ncommand = ["./fleet-ok.sh"]\n')
    assert job.file is not None
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link.toml").symlink_to(job.file)
    require_commands(load_job(elsewhere / "link.toml"))
