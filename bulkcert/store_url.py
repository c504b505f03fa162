"""The URL of a shared store: which one is meant, and whether it may be used. Pure.

In: what a user has written, and the environment. Out: the URL, or what is wrong with it. A password
in it would be seen by everybody who sees the job, the command line or a log; libpq finds it
elsewhere. Nothing leaves this machine without TLS that proves who the server is.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

from bulkcert.errors import StoreUrlError

VARIABLE = "BULKCERT_STORE"
"""Names the shared store, where neither a command nor its job does."""

EXAMPLE = "postgresql://bulkcert@db.example.com/bulkcert"

SAFE = "verify-full"
"""The mode of TLS in which the name and the certificate of the server are checked."""

_SCHEMES = ("postgresql", "postgres")
_PASSWORDS = ("password", "sslpassword")


def checked(url: object, environment: Mapping[str, str] = os.environ) -> str:
    """Return the URL of a shared store.

    Args:
        url: what somebody has written.
        environment: has the variables of libpq.

    Raises:
        ValueError: it can't be used. The text has nothing of it but the name of a host.
    """
    if not isinstance(url, str) or not url.isprintable():
        raise ValueError(f"must be a URL such as {EXAMPLE}")
    try:
        parts = urlsplit(url)
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        password = parts.password
    except ValueError:
        raise ValueError(f"must be a URL such as {EXAMPLE}") from None
    if password is not None or any(name in parameters for name in _PASSWORDS):
        raise ValueError(
            "contains a password, which others could read there; leave it out. It belongs where"
            " libpq looks for it: in ~/.pgpass or the file that PGPASSFILE names, or in a service"
            " file; or use a client certificate (sslcert, sslkey)"
        )
    if parts.scheme not in _SCHEMES or parts.fragment:
        raise ValueError(f"must be a URL such as {EXAMPLE}")
    mode = parameters.get("sslmode") or environment.get("PGSSLMODE") or SAFE
    if mode != SAFE and (host := next(remote_hosts(url, environment), None)):
        raise ValueError(
            f"has sslmode={mode}, which does not prove that {host} is the server that is meant:"
            f" leave it out, or write sslmode={SAFE}; sslrootcert names the file with the server's"
            " CA"
        )
    return url


def remote_hosts(url: str, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """The hosts that a URL names and that are not this machine.

    A host that only a service file names is not among them.
    """
    parts = urlsplit(url)
    parameters = dict(parse_qsl(parts.query))
    named = ",".join(_host_of(each) for each in parts.netloc.rpartition("@")[2].split(","))
    named = parameters.get("host") or named
    environment = {} if "service" in parameters else environment
    address = parameters.get("hostaddr") or environment.get("PGHOSTADDR")
    for host in (address or named or environment.get("PGHOST", "")).split(","):
        if host and not is_local(host):
            yield host


def is_local(host: str) -> bool:
    """Whether a host is this machine: a loopback address, or the folder of a Unix socket."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def chosen(job: str = "", option: str = "", environment: Mapping[str, str] = os.environ) -> str:
    """Return the shared store that is meant; empty if none is.

    Args:
        option: what the command line says.
        job: what the job says.
        environment: the environment variables.

    Raises:
        StoreUrlError: its URL can't be used.
    """
    for source, url in (("--store", option), ("store", job), (VARIABLE, environment.get(VARIABLE))):
        if url:
            try:
                return checked(url, environment)
            except ValueError as error:
                raise StoreUrlError(f"{source} {error}.") from None
    return ""


def _host_of(part: str) -> str:
    """The host in a part of a URL, such as `db:5432` or `[::1]:5432`."""
    if part.startswith("["):
        return part[1:].partition("]")[0]
    return unquote(part.partition(":")[0])
