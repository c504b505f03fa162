"""README.md: its commands work, its messages are the program's, its library example runs."""

from __future__ import annotations

import ast
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from code_blocks import python_blocks, run_block
from job_folder import devices, write_csv
from processes import SimulatorProcess, bulkcert
from test_reference import exit_codes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)
DEVICES = 40


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with README's job, for a simulator that has the job's devices and some faults."""
    fleet = write_csv(tmp_path / "fleet.csv", devices(DEVICES))
    with SimulatorProcess(
        tmp_path / "ledger.jsonl", files={"fleet": fleet}, error_after=0.05
    ) as simulator:
        [job] = blocks("toml")
        real = tomllib.loads(job)["connection"]["endpoint"]
        (tmp_path / "revoke.toml").write_text(job.replace(real, simulator.endpoint))
        monkeypatch.chdir(tmp_path)
        for name, value in simulator.credentials.items():
            monkeypatch.setenv(name, value)
        yield tmp_path


# ---- the commands


def commands() -> list[list[str]]:
    """Return the words of each `bulkcert` command in the section "Use it"."""
    text = README.partition("## Use it")[2].partition("\n### ")[0]
    [session] = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    lines = [shlex.split(line, comments=True) for line in session.splitlines()]
    return [words[1:] for words in lines if words[0] == "bulkcert"]


@pytest.mark.system
def test_its_commands_work_one_after_the_other(folder: Path) -> None:
    assert [words[0] for words in commands()] == [
        *("plan", "run", "run", "status", "results", "verify", "report", "runs"),
    ]
    for words in commands():
        asks = words[0] == "run" and "--rehearse" not in words
        credentials = {name: value for name, value in os.environ.items() if name.startswith("ENOS")}
        ended = bulkcert(
            *words, *(["--yes"] if asks else []), folder=folder, environment=credentials
        )
        assert ended.code == 0, (words, ended.err)


def test_the_two_commands_to_try_are_targets_of_make() -> None:
    session = README.partition("## Try it")[2].partition("## ")[0]
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", session, re.M)
    assert targets == ["rehearse", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


# ---- what it says about the program


def texts() -> list[str]:
    """Return every text in the package, with … for each value that is inserted."""
    found = []
    for path in ROOT.glob("bulkcert/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                ]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def quoted_messages() -> list[str]:
    """Return the messages in the first column of the table "At 3 a.m."."""
    table = README.partition("### At 3 a.m.")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")][2:]
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def test_there_are_messages_to_check() -> None:
    assert len(quoted_messages()) > 7


@pytest.mark.parametrize("message", quoted_messages())
def test_the_program_prints_this_message(message: str) -> None:
    parts = [re.escape(part) for part in message.split("…")]
    assert any(re.search(".*".join(parts), text, re.S) for text in texts())


def test_it_explains_every_exit_code() -> None:
    table = re.findall(r"^\| (\d) \| ", README, re.M)
    assert table == sorted({str(code) for code in exit_codes()})


def test_every_document_is_linked_and_every_link_leads_somewhere() -> None:
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README)}
    documents = {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")}
    assert documents <= links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.name)
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = link.partition("#")
        if "://" in file:
            continue
        target = path.parent / file if file else path
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            anchors = [
                re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings
            ]
            assert anchor in anchors, link


# ---- the library example


@pytest.mark.system
def test_the_library_example_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [example] = python_blocks(ROOT / "README.md")
    run_block(example, {})
    assert capsys.readouterr().out.splitlines()[-1] == f"{DEVICES} of {DEVICES}"


# ---- CONTRIBUTING.md

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_contributing_lists_every_target_of_make() -> None:
    [phony] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    listed = re.findall(r"^\| `make ([\w-]+)` ", CONTRIBUTING, re.M)
    assert set(phony.split()) - {"rehearse", "clean"} == set(listed)


def test_contributing_names_files_that_exist() -> None:
    named = re.findall(r"`((?:tests|tools|docs|bulkcert|benchmarks)/[\w./]*)`", CONTRIBUTING)
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []
