"""Where the runs of one user find each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkcert.statefolder import state_folder


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ("/state", "/state/bulkcert"),
        ("", "/home/ann/.local/state/bulkcert"),
        ("relative", "/home/ann/.local/state/bulkcert"),
    ],
)
def test_the_state_folder_is_where_the_user_has_such_folders(
    given: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("XDG_STATE_HOME", given)
    assert state_folder() == Path(folder)
