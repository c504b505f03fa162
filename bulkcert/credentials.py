"""Reads a provider's credentials from environment variables, and from nowhere else.

In: the environment. Out: the credentials, without the line break that a file or a shell added. Must
never put any part of a credential into a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bulkcert.errors import CredentialsError
from bulkcert.providers import BUILT_IN
from bulkcert.providers.base import Provider
from bulkcert.store_url import VARIABLE as STORE_VARIABLE

STAND_IN_PASSWORD = "simulator-password"  # noqa: S105 - not a secret
"""Password of the files of a rehearsal, and of a run without the network."""

_AROUND = " \t\r\n\v\f\u00a0\u200b\ufeff"
"""What `echo`, an editor or a copy from a web page adds: blanks, line breaks, a byte order mark."""

_WRAPPERS = {
    *('""', "''", "``", "<>", "()", "[]", "{}"),
    *("\u201c\u201d", "\u2018\u2019"),
}


def credentials_from(
    environment: Mapping[str, str], provider: Provider, passwords: Iterable[str] = ()
) -> dict[str, str]:
    """Return the provider's credentials by the names of their environment variables.

    Blanks and line breaks around a credential are not part of it.

    Args:
        environment: the environment variables, usually `os.environ`.
        provider: the provider that the credentials are for.
        passwords: the variables that a job reads passwords from, `job.passwords`; they are returned
            too.

    Raises:
        CredentialsError: required credentials are missing, or one can't be a credential.
    """
    return _of_provider(environment, provider) | {
        name: password_from(environment, name) for name in passwords
    }


def without_credentials(
    environment: Mapping[str, str], provider: Provider, passwords: Iterable[str] = ()
) -> dict[str, str]:
    """Return the environment without anything that is a credential, for commands of others.

    Args:
        environment: the environment variables, usually `os.environ`.
        provider: the provider of the run. Its credentials are left out, and those of all built-in
            providers, whichever the run uses.
        passwords: the variables that a job reads passwords from, `job.passwords`.
    """
    secret = _secret_variables(provider, passwords)
    return {name: value for name, value in environment.items() if name not in secret}


def secret_values(
    environment: Mapping[str, str], provider: Provider, passwords: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return the credentials in an environment, whether they can be used or not; see there."""
    secret = _secret_variables(provider, passwords)
    return tuple(filter(None, (environment.get(name, "").strip(_AROUND) for name in secret)))


def _secret_variables(provider: Provider, passwords: Iterable[str]) -> set[str]:
    """The environment variables that contain credentials."""
    secret = {*passwords, STORE_VARIABLE}
    for each in (provider, *BUILT_IN.values()):
        secret |= {*each.credentials, *each.optional_credentials}
    return secret


def password_from(environment: Mapping[str, str], variable: str) -> str:
    """Return the password in an environment variable, without a line break at its end.

    Raises:
        CredentialsError: it is missing, or programs do not agree how to read it.
    """
    password = environment.get(variable, "").rstrip("\r\n")
    if not password:
        raise CredentialsError(
            f"A password is missing: {variable} is not set, or empty.",
            f"Set {variable} in the environment; [certificates] of the job, or --pkcs12, names it.",
        )
    if not (password.isascii() and password.isprintable()):
        raise CredentialsError(
            f"The password in {variable} can't be used: it contains a character that is not"
            " printable ASCII, which programs read in different ways.",
            f"Set {variable} to another password.",
        )
    return password


def _of_provider(environment: Mapping[str, str], provider: Provider) -> dict[str, str]:
    names = (*provider.credentials, *provider.optional_credentials)
    found = {name: environment.get(name, "").strip(_AROUND) for name in names}
    missing = [name for name in provider.credentials if not found[name]]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise CredentialsError(
            f"Credentials are missing: {' and '.join(missing)} {verb} not set.",
            "Set them in the environment; they are read from nowhere else.",
        )
    for name, value in found.items():
        if fault := _fault(value):
            raise CredentialsError(
                f"The credentials can't be used: {name} {fault}.",
                f"Set {name} to the credential alone, as the provider shows it.",
            )
    return {name: value for name, value in found.items() if value}


def _fault(value: str) -> str:
    """Why a value can't be a credential; it is never quoted."""
    if "\n" in value or "\r" in value:
        return "contains a line break"
    if any(character.isspace() for character in value):
        return "contains a blank"
    if not value.isascii():
        return "contains a character that is not ASCII"
    if not value.isprintable():
        return "contains a control character"
    if value[:1] + value[-1:] in _WRAPPERS:
        return "is in quotes or brackets"
    return ""
