"""Why a process has ended, as its run logs it: without anything that may name a device."""

from __future__ import annotations

import asyncio

import pytest

from bulkcert.errors import ProviderUnusableError, RunDirectoryError, StoppedByRulesError
from bulkcert.process_log import in_words


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            ProviderUnusableError(
                "30 refusals: 99403 Denied resource: assetId=pump-a",
                "",
                for_log="30 refusals: 99403",
            ),
            "30 refusals: 99403",
        ),
        (RunDirectoryError("No space left on device"), "No space left on device"),
        (StoppedByRulesError("4 of 573 failed"), "4 of 573 failed"),
        (KeyError("pump-a"), "bulkcert itself has failed: KeyError"),
        (asyncio.CancelledError("pump-a"), "it was cancelled"),
    ],
)
def test_the_reason_names_no_device(failure: BaseException, words: str) -> None:
    assert in_words(failure) == words
