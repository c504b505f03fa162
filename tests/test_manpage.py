"""The man page is current, correct troff, and where `man` finds it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "man/bulkcert.1"


def test_the_man_page_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import manpage

    assert PAGE.read_text() == manpage.render(), "run `make docs`"


def test_the_man_page_has_every_command_and_no_stray_request() -> None:
    text = PAGE.read_text()
    assert re.findall(r"^\.SH (.*)", text, re.M) == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "ARGUMENTS", "COMMANDS"),
        *("EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"),
    ]
    requests = {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))}
    known = {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".I", ".RS", ".RE", ".nf", ".fi"}
    assert requests - known == {'.\\"'}


@pytest.mark.system
@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_has_no_complaints() -> None:
    shown = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-c", PAGE], capture_output=True, text=True, check=True
    )
    assert shown.stderr == ""
    text = re.sub(".\b", "", shown.stdout)  # bold is a character over itself
    assert "--retry-failed" in text  # with hyphens that can be searched for and copied


@pytest.mark.system
def test_the_wheel_has_the_man_page(tmp_path: Path) -> None:
    build = [*("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q")]
    subprocess.run([sys.executable, *build, "-w", tmp_path, ROOT], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        [name] = [n for n in content.namelist() if n.endswith("/share/man/man1/bulkcert.1")]
        assert content.read(name) == PAGE.read_bytes()
        assert "bulkcert/py.typed" in content.namelist()  # or type checkers see no types
