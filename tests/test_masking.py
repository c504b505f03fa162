"""Secrets are taken out of what a provider says, however they are written."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.providers.masking import masked

TOKEN = "STS.a+b/c=&d"


@pytest.mark.parametrize(
    "written", [TOKEN, quote(TOKEN, safe=""), quote(quote(TOKEN, safe=""), safe=""), escape(TOKEN)]
)
def test_a_secret_is_masked_in_every_form(written: str) -> None:
    text = f"string to sign is x:{written} and {written}"
    assert masked(text, (TOKEN, "")) == "string to sign is x:******** and ********"


def test_a_secret_that_contains_another_is_masked_whole() -> None:
    assert masked("key key-2", ("key", "key-2")) == "******** ********"


@pytest.mark.parametrize("value", [None, 7, 1.5, ["key"], {"key": "key"}, True])
def test_what_is_not_text_stays_as_it_is(value: object) -> None:
    assert masked(value, ("key",)) is value


@given(
    st.text(st.characters(codec="ascii", exclude_characters="*"), min_size=1), st.text(), st.text()
)
def test_a_secret_is_masked_wherever_it_stands(secret: str, before: str, after: str) -> None:
    assert secret not in str(masked(before + secret + after, (secret,)))
