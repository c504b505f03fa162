"""Hosts that are stopped between the check of their lease and the write, and continued."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from processes import LIMIT_S

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the switch"),
]


def trial(*options: str) -> tuple[int, str]:
    """Exit code and verdict of a trial, in which each process stops itself at the worst moment."""
    script = Path(__file__).with_name("zombies.py")
    words = [sys.executable, script, "--worst", "--cycles", "6", *options]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_with_the_switch_nothing_arrives_late() -> None:
    code, verdict = trial("--switch", "on")
    assert code == 0, verdict
    assert "6 processes killed" in verdict
    assert "0 late requests" in verdict


def test_without_it_something_does() -> None:
    code, verdict = trial("--switch", "off")
    assert code == 0, verdict
    assert "0 processes killed" in verdict
    assert "0 late requests" not in verdict
