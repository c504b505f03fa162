"""Refuse credentials in a job file.

Credentials come from environment variables only. A key whose name looks like that of a credential,
or whose value contains a private key, is reported and removed before anything else looks at the
document, so that no later message can quote its value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bulkcert.jobfile.faults import Faults
from bulkcert.jobfile.names import fold, place
from bulkcert.pem import has_private_key
from bulkcert.providers.base import Provider

_WORDS = (
    *("secret", "password", "passwd", "passphrase", "credential", "token", "authorization"),
    *("appkey", "apikey", "accesskey", "privatekey"),
)
"""A name that contains one of these is refused. They are folded, see `fold`."""

_NAMES = {"pass", "pwd"}
"""These are refused too, but only as whole names: "passive" is not a credential."""


_OF_A_VARIABLE = "passwordenv"
"""How the names of keys end whose value is the name of an environment variable."""


def refuse_credentials(
    document: dict[str, Any], providers: Mapping[str, Provider], faults: Faults
) -> None:
    """Report and remove, at any depth, every key that looks like a credential."""
    names = _NAMES | {fold(name) for p in providers.values() for name in _variables(p)}
    open_tables: list[tuple[str, Any]] = [("", document)]
    while open_tables:
        section, table = open_tables.pop()
        if isinstance(table, list):
            open_tables += [(section, item) for item in table]
        elif isinstance(table, dict):
            for key in list(table):
                if _is_credential(fold(key), names):
                    del table[key]
                    faults.add_credential(
                        place(section, key),
                        "looks like a credential, which must not be in a job file",
                    )
                elif isinstance(table[key], str) and has_private_key(table[key]):
                    del table[key]
                    faults.add_credential(
                        place(section, key),
                        "contains a private key, which must not be in a job file",
                    )
                else:
                    open_tables.append((section or key, table[key]))


def _is_credential(folded: str, names: Collection[str]) -> bool:
    if folded.endswith(_OF_A_VARIABLE):  # it only says where to read one
        return False
    return folded in names or any(word in folded for word in _WORDS)


def remove_credential(providers: Mapping[str, Provider]) -> str:
    """Say what to do with a credential in a job file, and which variables are read instead."""
    names = "; ".join(f"{p.name}: {', '.join(_variables(p))}" for p in providers.values())
    return (
        "Remove the credential from the job file; credentials are read from environment variables "
        f"only ({names}). If it was a real secret, have it replaced."
    )


def _variables(provider: Provider) -> tuple[str, ...]:
    return provider.credentials + provider.optional_credentials
