"""Reads a provider's credentials from environment variables, and from nowhere else."""

from __future__ import annotations

from collections.abc import Mapping

from bulkcert.errors import CredentialsError
from bulkcert.providers.base import Provider


def credentials_from(environment: Mapping[str, str], provider: Provider) -> dict[str, str]:
    """Return the provider's credentials by the names of their environment variables.

    Args:
        environment: the environment variables, usually `os.environ`.
        provider: the provider that the credentials are for.

    Raises:
        CredentialsError: required credentials are missing.
    """
    missing = [name for name in provider.credentials if not environment.get(name)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise CredentialsError(
            f"Credentials are missing: {' and '.join(missing)} {verb} not set.",
            "Set them in the environment; they are read from nowhere else.",
        )
    names = (*provider.credentials, *provider.optional_credentials)
    return {name: environment[name] for name in names if environment.get(name)}
