"""Completion, in real shells: commands, options, choices, files, and the names of runs."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import BULKCERT, LIMIT_S

from bulkcert.known_runs import KnownRun, remember

pytestmark = pytest.mark.system

LINES = {
    "bulkcert ": "plan approve run work control runs status hosts results history verify report"
    " material evidence store simulate completion",
    "bulkcert st": "status store",
    "bulkcert run --re": "--rehearse --retry-failed",
    "bulkcert run --dr": "",
    "bulkcert results x --outcome al": "already_done",
    "bulkcert completion ": "bash zsh fish",
    "bulkcert status no": "november november.toml",
    "bulkcert status 2": "",  # its name would have to be quoted
}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("november", "2 b|!2b"):
        run_dir = tmp_path / "runs" / name
        run_dir.mkdir(parents=True)
        remember(KnownRun(name=name, path=run_dir, action="revoke", provider="enos"))
    (tmp_path / "november.toml").write_text("")
    return os.environ | {"PATH": f"{BULKCERT.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def test_bash_completes(environment: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(
        "source <(bulkcert completion bash) || exit\n"
        "compopt() { :; }\n"  # works only while a person completes
        'while IFS= read -r line; do COMP_WORDS=($line); [[ "$line" == *" " ]] && COMP_WORDS+=("");'
        " COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=();"
        ' _bulkcert_completion bulkcert; echo "${COMPREPLY[*]}"; done\n'
    )
    ended = subprocess.run(
        ["bash", "--norc", script],
        cwd=tmp_path,
        env=environment,
        input="".join(f"{line}\n" for line in LINES),
        capture_output=True,
        text=True,
    )
    assert ended.stderr == ""
    assert dict(zip(LINES, ended.stdout.splitlines(), strict=True)) == LINES


def test_a_person_completes_a_command_and_a_choice(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """With a terminal: Tab behind a part of each."""
    keyboard, terminal = pty.openpty()
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        cwd=tmp_path,
        env=environment,
        stdin=terminal,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(terminal)
        os.write(keyboard, b"source <(bulkcert completion bash)\nbulkcert comp\tba\t > out; exit\n")
        assert process.wait(timeout=LIMIT_S) == 0
    os.close(keyboard)
    assert "_bulkcert_completion" in (tmp_path / "out").read_text()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_script(
    shell: str, environment: dict[str, str], tmp_path: Path
) -> None:
    script = subprocess.run(
        [BULKCERT, "completion", shell], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "_BULKCERT_COMPLETE" in script
    if not (program := shutil.which(shell)):
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(script)
    subprocess.run([program, "-n", tmp_path / "script"], check=True)


def test_an_unknown_shell_is_refused(environment: dict[str, str]) -> None:
    ended = subprocess.run([BULKCERT, "completion", "csh"], env=environment, capture_output=True)
    assert ended.returncode == 2
    assert ended.stdout == b""
