"""Fixtures: people with real keys."""

from __future__ import annotations

import pytest
from approval_job import People


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    """People with keys made on the spot."""
    return People(tmp_path_factory.mktemp("people"))
