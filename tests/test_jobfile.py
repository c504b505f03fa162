"""The job file: what a good one becomes, and that every fault is reported but never a secret."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkcert.errors import BulkcertError, JobError
from bulkcert.job import BreakerSettings, Job, Limits, Retry
from bulkcert.jobfile import load_job
from bulkcert.providers import BUILT_IN
from bulkcert.providers.base import Key
from bulkcert.providers.enos.actions import ENOS, REVOKE
from bulkcert.values import text

TOP = """
provider = "enos"
action = "revoke"
targets = "fleet.csv"
"""
CONNECTION = """
connection.endpoint = "https://apim.example.com"
connection.org_id = "o15444172373271"
"""
SECRET = "hunter2-do-not-print"

KNOWN_PROVIDERS = f"known are {', '.join(BUILT_IN)}"
KNOWN_ACTIONS = f"known are {', '.join(ENOS.actions)}"

Load = Callable[..., Job]
"""Writes a job file with this content and loads it, with the options of `load_job`."""

Refused = Callable[..., JobError]
"""The same for a content that must be refused; returns the error."""


@pytest.fixture
def job(tmp_path: Path) -> Load:
    def job(content: str | bytes, **options: Any) -> Job:
        path = tmp_path / "key-compromise.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_job(path, **options)

    return job


@pytest.fixture
def refused(job: Load) -> Refused:
    def refused(content: str | bytes, **options: Any) -> JobError:
        with pytest.raises(JobError) as caught:
            job(content, **options)
        error = caught.value
        assert SECRET not in str(error)
        assert SECRET not in repr(error.__cause__)
        assert error.next_step
        assert error.exit_code == 2
        for line in error.problem.splitlines():
            assert re.search(r"key-compromise\.toml:(\d+:)? ", line)
        return error

    return refused


def faults(error: JobError) -> list[str]:
    """The lines of an error without the name of the file, and where in it that is."""
    return [
        re.split(r"\.toml:(?:\d+:)? ", line, maxsplit=1)[1] for line in error.problem.splitlines()
    ]


# ---- good jobs


def test_the_smallest_job(job: Load, tmp_path: Path) -> None:
    small = job(TOP + CONNECTION)
    assert small.name == "key-compromise"
    assert small.provider is ENOS
    assert small.action == REVOKE
    assert small.targets == tmp_path / "fleet.csv"
    assert small.connection.endpoint == "https://apim.example.com"
    assert small.connection.ca_file is None
    assert small.connection.options == {"org_id": "o15444172373271"}
    assert (small.parameters, small.columns, small.warnings) == ({}, {}, (REVOKE.warning,))
    assert (small.limits, small.retry, small.circuit_breaker) == (
        Limits(requests_per_second=500),
        Retry(),
        BreakerSettings(),
    )


def test_every_key(job: Load, tmp_path: Path) -> None:
    full = job(
        """
        name = "Ünit 7"
        provider = "enos"
        action = "revoke"
        targets = "sub/fleet.jsonl.gz"
        [connection]
        endpoint = "https://Apim.Example.com:8443/base/"
        org_id = "o1"
        ca_file = "ca.pem"
        [parameters]
        reason = "key_compromise"
        productKey = "0P"
        [columns]
        assetId = "Asset ID"
        certSn = "reason"
        [limits]
        requests_per_second = 12.5
        in_flight = 10
        request_timeout_seconds = 5
        [retry]
        max_attempts = 3
        settling_seconds = 45
        [circuit_breaker]
        failing_share = 0.5
        stop_after_seconds = 10
        """
    )
    assert full.name == "Ünit 7"
    assert full.targets == tmp_path / "sub/fleet.jsonl.gz"
    assert full.connection.endpoint == "https://apim.example.com:8443/base"
    assert full.connection.ca_file == tmp_path / "ca.pem"
    assert full.connection.options == {"org_id": "o1"}
    assert full.parameters == {"reason": 1, "productKey": "0P"}
    assert full.columns == {"assetId": "Asset ID", "certSn": "reason"}
    assert full.limits == Limits(
        requests_per_second=12.5, in_flight=10, request_timeout_seconds=5.0
    )
    assert full.retry == Retry(max_attempts=3, settling_seconds=45)
    assert full.circuit_breaker == BreakerSettings(failing_share=0.5, stop_after_seconds=10.0)


def test_standard_input(job: Load) -> None:
    assert job(TOP.replace("fleet.csv", "-") + CONNECTION).targets is None


def test_an_absolute_path_is_kept(job: Load) -> None:
    assert job(TOP.replace("fleet.csv", "/data/f.csv") + CONNECTION).targets == Path("/data/f.csv")


def test_byte_order_mark_and_crlf_are_tolerated(job: Load) -> None:
    content = (TOP + CONNECTION).replace("\n", "\r\n").encode("utf-8-sig")
    assert job(content).name == "key-compromise"


def test_a_higher_rate_than_documented_is_accepted_with_a_warning(job: Load) -> None:
    fast = job(TOP + CONNECTION + "[limits]\nrequests_per_second = 1500000e-1")
    assert fast.limits.requests_per_second == 150_000
    [_, warning] = fast.warnings
    assert "is 150000, above the 500 that bulkcert assumes for enos, which" in warning
    assert job(TOP + CONNECTION + "[limits]\nrequests_per_second = 500").warnings == (
        REVOKE.warning,
    )


@pytest.mark.parametrize(
    ("given_url", "endpoint"),
    [
        ("https://apim.example.com", "https://apim.example.com"),
        ("https://apim.example.com///", "https://apim.example.com"),
        ("HTTPS://apim.example.com/a/", "https://apim.example.com/a"),
        ("https://10.0.0.1:443", "https://10.0.0.1:443"),
        ("https://[fd00::1]:8443/", "https://[fd00::1]:8443"),
        ("http://localhost:8765", "http://localhost:8765"),
        ("http://127.0.0.1:8765/", "http://127.0.0.1:8765"),
        ("http://127.8.9.10", "http://127.8.9.10"),
        ("http://[::1]:8765", "http://[::1]:8765"),
    ],
)
def test_good_endpoints(job: Load, given_url: str, endpoint: str) -> None:
    connection = CONNECTION.replace("https://apim.example.com", given_url)
    assert job(TOP + connection).connection.endpoint == endpoint


# ---- files that can't be read


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "locked").touch(mode=0)
    problems = {
        tmp_path: "Is a directory",
        tmp_path / "none.toml": "No such file or directory",
        tmp_path / "a\0b": "embedded null byte",
    }
    if os.geteuid():  # root may read everything
        problems[tmp_path / "locked"] = "Permission denied"
    for path, problem in problems.items():
        with pytest.raises(JobError) as caught:
            load_job(path)
        assert caught.value.problem == f"{path}: the job file can't be read: {problem}"
        assert caught.value.next_step


def test_size_is_bounded(job: Load, refused: Refused) -> None:
    good = TOP + CONNECTION + "#"
    assert job(good + "x" * (2**20 - len(good)))
    error = refused(good + "x" * (2**20 - len(good) + 1))
    assert faults(error) == ["the job file is larger than 1 MiB"]
    with pytest.raises(JobError, match="larger than 1 MiB"):
        load_job(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("name = \n", "this is not valid TOML: Invalid value (at line 1, column 8)"),
        (f"name = '{SECRET}\n", "this is not valid TOML: "),
        (f"password = {SECRET}", "this is not valid TOML: Invalid value (at line 1, column 12)"),
        (TOP + TOP, "this is not valid TOML: Cannot overwrite a value (at line 6, column 18)"),
        ("a = " + "9" * 5000, "this is not valid TOML: Exceeds the limit"),
        ("a = " + "[" * 5000, "the values are nested too deeply"),
        (f"name = '{SECRET}'\n# \xe9".encode("latin-1"), "line 2 is not UTF-8 text"),
        ((TOP + CONNECTION).encode("utf-16"), "line 1 is not UTF-8 text"),
    ],
)
def test_files_that_are_not_toml(refused: Refused, content: str | bytes, problem: str) -> None:
    [fault] = faults(refused(content))
    assert fault.startswith(problem)


# ---- faults


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "",
            [
                f"provider is missing; {KNOWN_PROVIDERS}",
                "action is missing",
                'targets is missing; it names the target file, or "-" for standard input',
            ],
        ),
        (TOP, ["connection.endpoint is missing"]),
        (TOP.replace("revoke", "Revok") + CONNECTION, [
            f"action 'Revok' is not known; the nearest is revoke; {KNOWN_ACTIONS}",
        ]),
        (TOP.replace("enos", "aws") + CONNECTION, [
            f"provider 'aws' is not known; {KNOWN_PROVIDERS}",
        ]),
        (TOP.replace('"enos"', "5") + CONNECTION, ["provider must be text, not the number 5"]),
        (TOP.replace('"revoke"', "['revoke']") + CONNECTION, ["action must be text, not a list"]),
        (TOP.replace("fleet.csv", "") + CONNECTION, ["targets is empty"]),
        (TOP.replace("fleet.csv", "a\\u0000") + CONNECTION, [
            r"targets contains the unprintable character '\x00'",
        ]),
        (TOP + CONNECTION.replace('"o15444172373271"', "15444172373271"), [
            "connection.org_id must be text, not the number 15444172373271",
        ]),
        (TOP + CONNECTION + "connection.ca_file = true", [
            "connection.ca_file must be text, not true or false",
        ]),
        ("connection = 5\n" + TOP, [
            "connection must be a section, [connection], not the number 5",
            "connection.endpoint is missing",
        ]),
        (TOP + CONNECTION + "[[limits]]", ["limits must be a section, [limits], not a list"]),
    ],
)  # fmt: skip
def test_missing_keys_and_wrong_types(refused: Refused, content: str, expected: list[str]) -> None:
    error = refused(content)
    assert faults(error) == expected
    assert error.next_step == "Correct the job file, then check it with `bulkcert plan`."


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("limits.requests_per_second", "0", "must be from 0.01 to 1000000, not 0"),
        ("limits.requests_per_second", "-5", "must be from 0.01 to 1000000, not -5"),
        ("limits.requests_per_second", "nan", "must be from 0.01 to 1000000, not nan"),
        ("limits.requests_per_second", "inf", "must be from 0.01 to 1000000, not inf"),
        ("limits.requests_per_second", "true", "must be a number, not true or false"),
        ("limits.requests_per_second", '"500"', "must be a number, not text '500'"),
        ("limits.requests_per_second", "9" * 400, "must be from 0.01 to 1000000, not about 2**"),
        ("limits.requests_per_second", "2026-01-01", "must be a number, not date"),
        ("limits.in_flight", "0", "must be from 1 to 100000, not 0"),
        ("limits.in_flight", "-1", "must be from 1 to 100000, not -1"),
        ("limits.in_flight", "10.0", "must be a whole number, not the number 10.0"),
        ("limits.in_flight", "true", "must be a whole number, not true or false"),
        ("limits.in_flight", "100001", "must be from 1 to 100000, not 100001"),
        ("limits.in_flight", "0x" + "f" * 9999, "must be from 1 to 100000, not about 2**39995"),
        ("limits.request_timeout_seconds", "0", "must be from 0.001 to 86400, not 0"),
        ("limits.request_timeout_seconds", "[]", "must be a number, not a list"),
        ("retry.max_attempts", "0", "must be from 1 to 1000, not 0"),
        ("retry.max_attempts", "1.5", "must be a whole number, not the number 1.5"),
        ("retry.settling_seconds", "0", "must be from 0.001 to 86400, not 0"),
        ("circuit_breaker.failing_share", "0", "must be from 0.001 to 1000, not 0"),
        ("circuit_breaker.failing_share", "-inf", "must be from 0.001 to 1000, not -inf"),
        ("circuit_breaker.stop_after_seconds", "nan", "must be from 0.001 to 1000000, not nan"),
        ("parameters.reason", '"STOLEN"', "is not a revocation reason: 'STOLEN'; known are "),
        ("parameters.certSn", "-1", "must not be negative"),
        ("parameters.certSn", "9223372036854775808", "is beyond 64 bits"),
        ("parameters.assetId", "{a = 1}", "must be text, not an object"),
        ("columns.assetId", '" "', "is empty"),
        ("columns.assetId", "1", "must be text, not the number 1"),
    ],
)
def test_wrong_values(refused: Refused, key: str, value: str, reason: str) -> None:
    [fault] = faults(refused(f"{key} = {value}\n{TOP}{CONNECTION}"))
    assert fault.startswith(f"{key} {reason}")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ('""', "is empty"),
        ('"."', "must be usable as a folder name, not '.'"),
        ('".."', "must be usable as a folder name, not '..'"),
        ('"../x"', "must be usable as a folder name, not '../x'"),
        (r'"a\\b"', r"must be usable as a folder name, not 'a\\b'"),
        (r'"a\nb"', r"contains the unprintable character '\n'"),
        (f'"{"é" * 101}"', "is longer than 200 bytes: "),
        ("7", "must be text, not the number 7"),
    ],
)
def test_names_that_are_not_usable_as_a_folder(refused: Refused, name: str, reason: str) -> None:
    [fault] = faults(refused(f"name = {name}\n{TOP}{CONNECTION}"))
    assert fault.startswith(f"name {reason}")


def test_the_name_is_checked_when_it_is_taken_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a\x1bb.toml"
    path.write_text(TOP + CONNECTION)
    with pytest.raises(JobError, match=r"name contains the unprintable character '\\x1b'"):
        load_job(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("limits.in_fligt = 5", "limits.in_fligt is not known; the nearest is in_flight; known"),
        ("limits.zzz = 5", "limits.zzz is not known; known are requests_per_second, in_flight, "),
        ("limts.in_flight = 5", "limts is not known; the nearest is limits; known are name, "),
        ("Targets = 5", "Targets is not known; the nearest is targets; known are name, provider, "),
        ("in_flight = 5", "in_flight does not belong here; move it under [limits]"),
        ("limits.provider = 5", "limits.provider does not belong here; move it to the top, before"),
        ("certSn = 5", "certSn does not belong here; move it under [parameters] or [columns]"),
        ("parameters.certsn = 5", "parameters.certsn is not known; the nearest is certSn; known"),
        ("parameters.validDay = 5", "parameters.validDay is not known; known are assetId, "),
        ("columns.asset_id = 'x'", "columns.asset_id is not known; the nearest is assetId; "),
        ("connection.orgId = 'x'", "connection.orgId is not known; the nearest is org_id; "),
        ("connection.region = 'x'", "connection.region is not known; known are org_id, "),
        (r'"a\u001b[2J".x = 5', r"'a\x1b[2J' is not known; known are name, "),
        (f"{'x' * 9999} = 5", f"'{'x' * 39}… is not known; known are name, "),
    ],
)
def test_unknown_keys_name_the_nearest(refused: Refused, line: str, expected: str) -> None:
    [fault] = faults(refused(f"{line}\n{TOP}{CONNECTION}"))
    assert fault.startswith(expected)


def test_a_section_under_its_former_name(refused: Refused) -> None:
    guard = "[guard]\nfailing_share = 0.5\nstop_after_seconds = 10\n"
    [fault] = faults(refused(TOP + CONNECTION + guard))
    assert fault.startswith("guard is not known; the nearest is circuit_breaker; known are name, ")


def test_a_section_that_the_action_does_not_use(refused: Refused) -> None:
    assert faults(refused(TOP + CONNECTION + "[keys]\ngenerate = 'rsa-2048'")) == [
        "keys.generate does not apply to this action"
    ]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", "keys.generate is missing; it must be rsa-2048 or ecdsa-p256"),
        ("subject = 'CN=x'", "keys.generate is missing; it must be rsa-2048 or ecdsa-p256"),
        ("generate = 'dsa'", "keys.generate must be rsa-2048 or ecdsa-p256, not 'dsa'"),
        (
            "generate = 'rsa-2048'\nsubject = 'CN={assetId'",
            "keys.subject is not a valid template: expected '}' before end of string",
        ),
        (
            "generate = 'rsa-2048'\nsubject = 'CN={serial}'",
            "keys.subject contains {serial}, which is not a field of the targets",
        ),
    ],
)
def test_bad_keys(refused: Refused, keys: str, expected: str) -> None:
    content = TOP.replace("revoke", "renew") + CONNECTION + f"[keys]\n{keys}"
    assert faults(refused(content))[0] == expected


@pytest.mark.parametrize("section", ["parameters", "columns"])
def test_signing_requests_beside_keys(refused: Refused, section: str) -> None:
    content = TOP.replace("revoke", "renew") + CONNECTION + f"[{section}]\ncsr = 'x'\n"
    assert faults(refused(content + "[keys]\ngenerate = 'rsa-2048'")) == [
        f"{section}.csr can't be used together with [keys], which makes a new key for each device;"
        " keep one of the two"
    ]


RENEWAL = TOP.replace("revoke", "renew") + CONNECTION
KEYS = "[keys]\ngenerate = 'rsa-2048'\n"


def test_the_password_of_pkcs12_files_is_named_not_given(job: Load) -> None:
    given = job(RENEWAL + KEYS + "[certificates]\npkcs12_password_env = 'P12_PASSWORD'")
    assert given.passwords == ("P12_PASSWORD",)
    assert job(RENEWAL + KEYS).passwords == ()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"{KEYS}[certificates]\npkcs12_password_env = '{SECRET}'", "must be the name of an"),
        (f"{KEYS}[certificates]\npkcs12_password_env = 7", "must be the name of an"),
        (f"{KEYS}[certificates]\npkcs12_password = '{SECRET}'", "looks like a credential"),
        (f"{KEYS}[certificates]\np12_password_env = 'A'", "nearest is pkcs12_password_env"),
        ("[certificates]\npkcs12_password_env = 'A'", "needs [keys]: only for a key"),
    ],
)
def test_bad_settings_of_certificates(refused: Refused, content: str, expected: str) -> None:
    [fault] = faults(refused(RENEWAL + content))
    assert expected in fault


def test_a_subject_with_an_unknown_attribute(refused: Refused) -> None:
    keys = "[keys]\ngenerate = 'rsa-2048'\nsubject = 'CN=x, X=1'"
    [fault] = faults(refused(TOP.replace("revoke", "renew") + CONNECTION + keys))
    assert fault.startswith("keys.subject ")
    assert "'X=1'" in fault


def test_two_fields_under_one_header(refused: Refused) -> None:
    columns = '[columns]\nassetId = "ID"\ncertSn = "SN"\ndeviceKey = " ID "'
    assert faults(refused(TOP + CONNECTION + columns)) == [
        "columns gives assetId and deviceKey the same header 'ID'"
    ]


def test_all_faults_are_reported_at_once_up_to_a_limit(refused: Refused) -> None:
    error = refused('action = "x"\nlimit = 5\nlimits.in_flight = 0\nretry.max_attempts = true')
    assert len(faults(error)) == 5
    many = faults(refused("".join(f"x{n} = 5\n" for n in range(1000)) + TOP + CONNECTION))
    assert len(many) == 51
    assert many[-1] == "and 950 more faults"
    many = faults(refused("".join(f"x{n} = 5\n" for n in range(51)) + TOP + CONNECTION))
    assert many[50:] == ["and 1 more fault"]


# ---- endpoints and secrets


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("http://apim.example.com", "must begin with https://; http:// is for loopback"),
        ("http://10.0.0.1", "must begin with https://; http:// is for loopback"),
        ("http://127.0.0.1.example.com", "must begin with https://; http:// is for loopback"),
        ("http://localhost.example.com", "must begin with https://; http:// is for loopback"),
        ("http://0.0.0.0", "must begin with https://; http:// is for loopback"),
        ("http://[::2]", "must begin with https://; http:// is for loopback"),
        ("ftp://apim.example.com", "must be a URL such as https://apim.example.com"),
        ("apim.example.com", "must be a URL such as "),
        ("//apim.example.com", "must be a URL such as "),
        ("https://", "must be a URL such as "),
        ("https:///path", "must be a URL such as "),
        ("https://:443", "must be a URL such as "),
        ("https://host:", "must be a URL such as "),
        ("https://host:0", "must be a URL such as "),
        ("https://host:99999", "must be a URL such as "),
        (f"https://user:{SECRET}", "must be a URL such as "),
        ("https://exa mple.com", "must be a URL such as "),
        ("https://apim.example.com/a b", "must be a URL such as "),
        (r"https:\\\\apim.example.com", "must be a URL such as "),
        (r"http://127.0.0.1\\.example.com", "must "),
        ("https://[::1", "must be a URL such as "),
        ("https://[::1]x:80", "must be a URL such as "),
        ("https://-a.example.com", "must be a URL such as "),
        ("https://apim.example.com?a=b", "must not have a query or fragment (? or #)"),
        (f"https://apim.example.com/?token={SECRET}", "must not have a query or fragment"),
        ("https://apim.example.com#", "must not have a query or fragment"),
        ("", "is empty"),
    ],
)
def test_bad_endpoints(refused: Refused, endpoint: str, reason: str) -> None:
    connection = CONNECTION.replace("https://apim.example.com", endpoint)
    [fault] = faults(refused(TOP + connection))
    assert fault.startswith(f"connection.endpoint {reason}")


@pytest.mark.parametrize(
    "endpoint",
    [
        f"https://user:{SECRET}@apim.example.com",
        f"https://{SECRET}@apim.example.com",
        f"http://localhost:{SECRET}@127.0.0.1",
        f"user:{SECRET}@apim.example.com",
        f"https://user:{SECRET}@[::1",
    ],
)
def test_credentials_in_the_endpoint(refused: Refused, endpoint: str) -> None:
    error = refused(TOP + CONNECTION.replace("https://apim.example.com", endpoint))
    assert faults(error) == [
        "connection.endpoint contains @, which suggests a user name or password"
    ]
    assert "ENOS_APP_SECRET" in error.next_step


@pytest.mark.parametrize(
    "key",
    [
        *("app_secret", "appSecret", "APP-SECRET", "app_key", "appKey", "access_key_secret"),
        *("accessKeyId", "security_token", "SecurityToken", "password", "Passwd", "token"),
        *("ENOS_APP_SECRET", "ENOS_APP_KEY", "enos-app-key", "access_token", "pwd", "deviceSecret"),
        *("private_key", "credentials", "Authorization", "api_key", "client secret"),
    ],
)
@pytest.mark.parametrize(
    "place", ["", "connection.", "parameters.", "columns.", "other.", "a.b.c.", "limits.x."]
)
def test_a_secret_is_refused_wherever_it_is(refused: Refused, place: str, key: str) -> None:
    error = refused(f"{place}'{key}' = '{SECRET}'\n{TOP}{CONNECTION}")
    section = place.partition(".")[0]
    shown_key = f"'{key}'" if " " in key else key
    assert faults(error)[0] == (
        f"{section}{'.' if section else ''}{shown_key} looks like a credential, "
        "which must not be in a job file"
    )
    assert sum(key in fault for fault in faults(error)) == 1
    assert "environment variables only (enos: ENOS_APP_KEY, ENOS_APP_SECRET" in error.next_step


@pytest.mark.parametrize(
    "content",
    [
        f"token = ['{SECRET}']",
        f"password.value = '{SECRET}'",
        f"secrets = [{{x = '{SECRET}'}}]",
        f"limits = [{{app_key = '{SECRET}'}}]",
        f"list = [[{{app_key = '{SECRET}'}}]]",
        f"connection.{'a.' * 1500}secret = '{SECRET}'",
    ],
)
def test_a_secret_in_any_shape(refused: Refused, content: str) -> None:
    assert "looks like a credential" in refused(f"{content}\n{TOP}{CONNECTION}").problem


def test_the_credentials_of_every_provider_are_refused_by_name(refused: Refused) -> None:
    other = dataclasses.replace(
        ENOS, name="other", credentials=("OTHER_LOGIN",), optional_credentials=("OTHER_PIN",)
    )
    providers = {"enos": ENOS, "other": other}
    for key in ("other_login", "OTHER-PIN"):
        error = refused(f"connection.{key} = '{SECRET}'\n{TOP}", providers=providers)
        assert f"connection.{key} looks like a credential" in error.problem
        assert "other: OTHER_LOGIN, OTHER_PIN" in error.next_step


# ---- a provider with a region


def test_a_region_instead_of_an_endpoint(job: Load, refused: Refused) -> None:
    regional = dataclasses.replace(
        ENOS,
        connection_required=(Key("instance_id", text),),
        connection_optional=(Key("region", text),),
    )
    providers = {"enos": regional}
    content = TOP + "[connection]\ninstance_id = 'i'\nregion = 'cn-hangzhou'"
    connection = job(content, providers=providers).connection
    assert connection.endpoint == ""
    assert connection.options == {"instance_id": "i", "region": "cn-hangzhou"}
    assert faults(refused(TOP, providers=providers)) == [
        "connection.endpoint is missing, and so is connection.region; one of them is needed",
        "connection.instance_id is missing",
    ]


# ---- properties

_keys = st.sampled_from(
    [
        *("name", "provider", "action", "targets", "connection", "parameters", "columns"),
        *(
            "limits",
            "retry",
            "circuit_breaker",
            "endpoint",
            "org_id",
            "ca_file",
            "assetId",
            "certSn",
        ),
        *("reason", "requests_per_second", "in_flight", "max_attempts", "failing_share", "token"),
    ]
)
_scalars = st.sampled_from(
    [
        *('"enos"', '"revoke"', '"-"', '"https://a"', '"http://[::1"', "0", "-1", "nan", "inf"),
        *("true", "1e400", "0xffffffffffffffffffff", "1979-05-27", "07:32:00", '"\\u0000"', '""'),
    ]
)
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(_keys, inner, max_size=3).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        )
    ),
    max_leaves=6,
)
_documents = st.dictionaries(_keys, _values, max_size=6).map(
    lambda table: "".join(f"{key} = {value}\n" for key, value in table.items()).encode()
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary() | st.text().map(str.encode) | _documents)
def test_no_content_makes_it_crash(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(content)
    try:
        load_job(path)
    except BulkcertError as error:
        assert error.next_step  # noqa: PT017 - a job file may be good or bad


def test_an_endpoint_of_apsaramq_that_is_no_url(refused: Refused) -> None:
    content = (TOP + CONNECTION).replace("enos", "apsaramq").replace("revoke", "delete")
    content = content.replace("https://apim.example.com", "https://[").replace("org", "instance")
    assert faults(refused(content)) == [
        "connection.endpoint must be a URL such as https://apim.example.com"
    ]


@pytest.mark.parametrize("path", ["/base", "/base/", "//x"])
def test_an_endpoint_of_apsaramq_has_no_path(refused: Refused, path: str) -> None:
    content = (TOP + CONNECTION).replace("enos", "apsaramq").replace("revoke", "delete")
    content = content.replace("https://apim.example.com", f"https://onsmqtt.example.com{path}")
    found = faults(refused(content.replace("org_id", "instance_id")))
    assert found == ["connection.endpoint must not have a path: apsaramq has none"]


def test_an_endpoint_of_apsaramq_may_end_with_a_slash(job: Load) -> None:
    content = (TOP + CONNECTION).replace("enos", "apsaramq").replace("revoke", "delete")
    content = content.replace("https://apim.example.com", "https://onsmqtt.example.com/")
    assert job(content.replace("org_id", "instance_id")).connection.endpoint == (
        "https://onsmqtt.example.com"
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [("0", "must be 1 day or more"), ("-1", "must not be negative"), ("1.5", "must be a whole nu")],
)
def test_a_validity_that_makes_no_sense(refused: Refused, value: str, reason: str) -> None:
    content = TOP.replace("revoke", "renew") + CONNECTION + f"parameters.validDay = {value}"
    assert faults(refused(content))[0].startswith(f"parameters.validDay {reason}")


def test_a_validity_has_no_limit_of_our_own(job: Load) -> None:
    content = TOP.replace("revoke", "renew") + CONNECTION + "parameters.validDay = 36500"
    assert job(content).parameters == {"validDay": 36500}
