"""The URL of a shared store: which is meant, and which are refused."""

from __future__ import annotations

import pytest

from bulkcert.errors import StoreUrlError
from bulkcert.store_url import checked, chosen, remote_hosts

NO_LIBPQ: dict[str, str] = {}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db/bulkcert",
        "postgresql://bulkcert@db.example.com:6432/bulkcert?sslrootcert=ca.pem",
        "postgres://db1,db2/bulkcert?sslmode=verify-full&target_session_attrs=read-write",
        "postgresql://127.0.0.1/bulkcert?sslmode=disable",
        "postgresql://[::1]:5432/bulkcert?sslmode=prefer",
        "postgresql:///bulkcert?host=/run/postgresql&sslmode=disable",
        "postgresql:///?service=bulkcert",
    ],
)
def test_a_url_is_taken_as_it_is(url: str) -> None:
    assert checked(url, NO_LIBPQ) == url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bulkcert:hunter2@db/bulkcert",
        "postgresql://bulkcert:@db/bulkcert",
        "postgresql://db/bulkcert?user=bulkcert&password=hunter2",
        "postgresql://db/bulkcert?pass%77ord=hunter2",
        "postgresql://db/bulkcert?sslpassword=hunter2",
    ],
)
def test_a_password_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r"contains a password.*\.pgpass") as refused:
        checked(url, NO_LIBPQ)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        *("", "db", "mysql://db/bulkcert", "host=db password=hunter2", "postgresql://[db/bulkcert"),
        *("postgresql://db/\n", 5),
    ],
)
def test_what_is_not_such_a_url_is_refused(url: object) -> None:
    with pytest.raises(ValueError, match="must be a URL such as postgresql://") as refused:
        checked(url, NO_LIBPQ)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "environment"),
    [
        ("postgresql://db/bulkcert?sslmode=require", {}),
        ("postgresql://127.0.0.1,db/bulkcert?sslmode=verify-ca", {}),
        ("postgresql:///bulkcert?host=db&sslmode=prefer", {}),
        ("postgresql://localhost/bulkcert?hostaddr=10.0.0.1&sslmode=disable", {}),
        ("postgresql://db/bulkcert", {"PGSSLMODE": "prefer"}),
        ("postgresql:///bulkcert?sslmode=disable", {"PGHOST": "db"}),
    ],
)
def test_tls_that_does_not_prove_who_the_server_is_is_refused(
    url: str, environment: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="sslmode=verify-full"):
        checked(url, environment)


def test_this_machine_is_not_remote() -> None:
    assert list(remote_hosts("postgresql://db%2D1,127.0.0.2:5432,/bulkcert", {})) == ["db-1"]
    assert list(remote_hosts("postgresql:///bulkcert", {"PGHOST": "/run,db2"})) == ["db2"]
    assert list(remote_hosts("postgresql:///?service=x", {"PGHOST": "db2"})) == []


def test_the_option_comes_before_the_job_and_the_job_before_the_environment() -> None:
    environment = {"BULKCERT_STORE": "postgresql://c/x"}
    assert chosen("postgresql://b/x", "postgresql://a/x", environment) == "postgresql://a/x"
    assert chosen("postgresql://b/x", "", environment) == "postgresql://b/x"
    assert chosen("", "", environment) == "postgresql://c/x"
    assert chosen("", "", {"BULKCERT_STORE": ""}) == ""
    with pytest.raises(StoreUrlError, match=r"^--store contains a password"):
        chosen("", "postgresql://u:p@a/x", environment)
    with pytest.raises(StoreUrlError, match=r"^BULKCERT_STORE must be a URL"):
        chosen("", "", {"BULKCERT_STORE": "a"})
