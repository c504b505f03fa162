"""Credentials: the line break of a file is cut off; what can't be one is refused, never quoted."""

from __future__ import annotations

import pytest

from bulkcert.credentials import credentials_from
from bulkcert.errors import CredentialsError
from bulkcert.providers import BUILT_IN
from bulkcert.providers.base import Provider

GOOD = {
    *("ENOS_APP_KEY", "ENOS_APP_SECRET", "ALIBABA_CLOUD_ACCESS_KEY_ID"),
    *("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN"),
}
ENVIRONMENT = {name: f"LTAI5t+{name}/=" for name in GOOD}

VARIABLES = [
    pytest.param(provider, name, id=name)
    for provider in BUILT_IN.values()
    for name in (*provider.credentials, *provider.optional_credentials)
]


@pytest.mark.parametrize(("provider", "name"), VARIABLES)
@pytest.mark.parametrize(
    "around", ["{}\n", "{}\r\n", "  {}", "\t{} ", "\ufeff{}", "{}\u00a0", "\u200b{}\n\n", "{}"]
)
def test_blanks_and_line_breaks_around_a_credential_are_cut_off(
    provider: Provider, name: str, around: str
) -> None:
    given = ENVIRONMENT | {name: around.format(ENVIRONMENT[name])}
    assert credentials_from(given, provider)[name] == ENVIRONMENT[name]


@pytest.mark.parametrize(("provider", "name"), VARIABLES)
@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("LTAI\nsecret", "contains a line break"),
        ("LTAI\rsecret", "contains a line break"),
        ("LTAI secret", "contains a blank"),
        ("LTAI\tsecret", "contains a blank"),
        ("LTAI\u00a0secret", "contains a blank"),
        ("LTAI\u200bsecret", "contains a character that is not ASCII"),
        ("LTAIsécret", "contains a character that is not ASCII"),
        ("LTAI\udcffsecret", "contains a character that is not ASCII"),
        ("LTAI\x1bsecret", "contains a control character"),
        ("LTAI\x7fsecret", "contains a control character"),
        ('"LTAIsecret"', "is in quotes or brackets"),
        ("'LTAIsecret'\n", "is in quotes or brackets"),
        ("<LTAIsecret>", "is in quotes or brackets"),
        ("[LTAIsecret]", "is in quotes or brackets"),
    ],
)
def test_what_cannot_be_a_credential_is_refused_by_name(
    provider: Provider, name: str, value: str, fault: str
) -> None:
    with pytest.raises(CredentialsError) as caught:
        credentials_from(ENVIRONMENT | {name: value}, provider)
    assert caught.value.problem == f"The credentials can't be used: {name} {fault}."
    assert name in caught.value.next_step
    assert caught.value.exit_code == 2
    assert "LTAI" not in str(caught.value)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("value", ["", "\n", " \ufeff"])
def test_a_blank_credential_is_missing_unless_it_is_optional(value: str) -> None:
    apsaramq = BUILT_IN["apsaramq"]
    with pytest.raises(CredentialsError, match="ALIBABA_CLOUD_ACCESS_KEY_ID is not set"):
        credentials_from(ENVIRONMENT | {"ALIBABA_CLOUD_ACCESS_KEY_ID": value}, apsaramq)
    found = credentials_from(ENVIRONMENT | {"ALIBABA_CLOUD_SECURITY_TOKEN": value}, apsaramq)
    assert found.keys() == set(apsaramq.credentials)
