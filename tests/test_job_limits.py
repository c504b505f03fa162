"""A job's two limits, its source addresses, and the region that its endpoint is derived from."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from bulkcert.errors import JobError
from bulkcert.job import Job
from bulkcert.jobfile import load_job
from bulkcert.plan import manifest_of
from bulkcert.preparation import differences
from bulkcert.store.manifest import RunManifest

TOP = 'provider = "apsaramq"\naction = "inactivate"\ntargets = "devices.csv"\n'
CONNECTION = '[connection]\nregion = "cn-hangzhou"\ninstance_id = "post-cn-7mz2d000001"\n'


class Loader:
    """Loads jobs from text."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "job.toml"

    def __call__(self, content: str) -> Job:
        self._path.write_text(content)
        return load_job(self._path)

    def fault(self, content: str) -> str:
        with pytest.raises(JobError) as caught:
            self(content)
        return re.split(r"\.toml:(?:\d+:)? ", caught.value.problem, maxsplit=1)[1]


@pytest.fixture
def job(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


def test_the_documented_limits_apply_unless_the_job_sets_its_own(job: Loader) -> None:
    limits = job(TOP + CONNECTION).limits
    assert limits.requests_per_second == 500
    assert limits.requests_per_second_per_source_ip == 300
    own = "[limits]\nrequests_per_second = 80\nrequests_per_second_per_source_ip = 50\n"
    limits = job(TOP + CONNECTION + own).limits
    assert limits.requests_per_second == 80
    assert limits.requests_per_second_per_source_ip == 50


def test_enos_has_no_limit_per_address_but_a_job_may_set_one(job: Loader) -> None:
    enos = (
        'provider = "enos"\naction = "revoke"\ntargets = "f.csv"\n'
        '[connection]\nendpoint = "https://a.example"\norg_id = "o"\n'
    )
    plain = job(enos)
    assert plain.limits.requests_per_second_per_source_ip is None
    assert (plain.ceiling, plain.bound_by) == (
        500,
        "bulkcert's default: enos documents no limit",
    )
    bound = job(enos + "[limits]\nrequests_per_second_per_source_ip = 40\n")
    assert (bound.ceiling, bound.warnings) == (40, plain.warnings)
    assert bound.bound_by == "1 source address at 40 (the account may send 500)"


@pytest.mark.parametrize(
    ("addresses", "limits", "ceiling", "bound_by"),
    [
        (0, "", 300, "1 source address at 300; apsaramq blocks an address that sends more"),
        (1, "", 300, "1 source address at 300; apsaramq blocks an address that sends more"),
        (2, "", 500, "the account's limit (2 source addresses at 300 each could send more)"),
        (3, "", 500, "the account's limit (3 source addresses at 300 each could send more)"),
        (
            2,
            "requests_per_second_per_source_ip = 100",
            200,
            "2 source addresses at 100 each; apsaramq blocks an address that sends more",
        ),
        (1, "requests_per_second = 120", 120, "the account's limit (1 source address at 300"),
    ],
)
def test_which_limit_sets_the_ceiling(
    job: Loader, addresses: int, limits: str, ceiling: float, bound_by: str
) -> None:
    listed = [f"10.0.0.{n}" for n in range(5, 5 + addresses)]
    sources = f"source_addresses = {listed}\n" if listed else ""
    loaded = job(f"{TOP}{CONNECTION}{sources}[limits]\n{limits}\n")
    assert loaded.connection.source_addresses == tuple(listed)
    assert loaded.ceiling == ceiling
    assert loaded.bound_by.startswith(bound_by)


def test_hosts_that_share_a_store_have_addresses_of_their_own(job: Loader) -> None:
    alone = job(f"{TOP}{CONNECTION}")
    assert (alone.ceiling, alone.limits.requests_per_second_per_source_ip) == (300, 300)
    shared = dataclasses.replace(alone, store="postgresql://db/bulkcert")
    assert shared.ceiling == 500
    assert shared.bound_by == "the account's limit (each address may send 300)"


def test_a_higher_limit_per_address_is_accepted_with_a_warning(job: Loader) -> None:
    loaded = job(f"{TOP}{CONNECTION}[limits]\nrequests_per_second_per_source_ip = 400\n")
    assert loaded.ceiling == 400
    warning = loaded.warnings[-1]
    assert "requests_per_second_per_source_ip is 400, above the 300 that apsaramq" in warning
    assert "BLOCKS an address that sends more" in warning


def test_addresses_are_normalized(job: Loader) -> None:
    sources = 'source_addresses = ["127.0.0.2", " ::1 ", "2001:DB8::0005"]\n'
    addresses = job(TOP + CONNECTION + sources).connection.source_addresses
    assert addresses == ("127.0.0.2", "::1", "2001:db8::5")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('"10.0.0.5"', "must be a list of IP addresses, not text '10.0.0.5'"),
        ("[]", "is empty; leave it out"),
        ("[5]", "must be text, not the number 5"),
        ('["eth0"]', "must list IP addresses of this machine; 'eth0' is not one"),
        ('["host.example"]', "'host.example' is not one"),
        ('["10.0.0.5:80"]', "'10.0.0.5:80' is not one"),
        ('["0.0.0.0"]', "'0.0.0.0' is not one"),
        ('["::"]', "'::' is not one"),
        ('["224.0.0.1"]', "'224.0.0.1' is not one"),
        ('["10.0.0.5", "10.0.0.5"]', "lists 10.0.0.5 twice"),
        ('["::1", "0:0::1"]', "lists ::1 twice"),
    ],
)
def test_bad_addresses(job: Loader, value: str, reason: str) -> None:
    fault = job.fault(f"{TOP}{CONNECTION}source_addresses = {value}\n")
    assert fault.startswith("connection.source_addresses ")
    assert reason in fault


@pytest.mark.parametrize(
    ("value", "proxy", "public"),
    [
        ("http://proxy.example.com:3128", "http://proxy.example.com:3128", None),
        ("http://proxy.example.com/", "http://proxy.example.com", None),
        (" HTTP://Proxy:3128 ", "http://proxy:3128", None),
        ("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128", None),
        ("http://me:s3cret@proxy:3128", "http://me:s3cret@proxy:3128", "http://proxy:3128"),
        ("http://me:a%40b%3A@[::1]:1", "http://me:a%40b%3A@[::1]:1", "http://[::1]:1"),
    ],
)
def test_a_proxy_is_kept_apart_from_its_password(
    job: Loader, value: str, proxy: str, public: str | None
) -> None:
    loaded = job(f'{TOP}{CONNECTION}proxy = "{value}"\n')
    assert loaded.connection.proxy == proxy
    assert loaded.connection.public_proxy == (public or proxy)
    assert "s3cret" not in repr(loaded)
    manifest = RunManifest.from_entries(manifest_of(loaded).as_entries())
    assert manifest.connection.proxy == (public or proxy)


def test_without_a_proxy_there_is_none(job: Loader) -> None:
    connection = job(TOP + CONNECTION).connection
    assert (connection.proxy, connection.public_proxy) == ("", "")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('"proxy.example.com:3128"', "must be a URL such as http://proxy.example.com:3128"),
        ('"socks5://me:s3cret@proxy:1080"', "must be a URL such as http://proxy"),
        ('"https://me:s3cret@proxy:3128"', "must begin with http://"),
        ('"http://me:s3cret@"', "must be a URL such as"),
        ('"http://me:s3cret@proxy:99999"', "must be a URL such as"),
        ('"http://me:s3cret@proxy/path"', "must be a URL such as"),
        ('"http://me:s3cret@proxy?a"', "must be a URL such as"),
        ("3128", "must be text, not the number 3128"),
        ('""', "is empty"),
    ],
)
def test_bad_proxies_are_refused_without_quoting_them(job: Loader, value: str, reason: str) -> None:
    fault = job.fault(f"{TOP}{CONNECTION}proxy = {value}\n")
    assert fault.startswith("connection.proxy ")
    assert reason in fault
    assert "s3cret" not in fault


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "'300'", "true"])
def test_bad_limits(job: Loader, value: str) -> None:
    content = f"{TOP}{CONNECTION}[limits]\nrequests_per_second_per_source_ip = {value}\n"
    assert job.fault(content).startswith("limits.requests_per_second_per_source_ip must be ")


def test_the_endpoint_comes_from_the_region(job: Loader) -> None:
    connection = job(TOP + CONNECTION).connection
    assert connection.endpoint == "https://onsmqtt.cn-hangzhou.aliyuncs.com"
    given = CONNECTION.replace("region = ", "endpoint = ").replace(
        "cn-hangzhou", "https://onsmqtt-vpc.cn-hangzhou.aliyuncs.com"
    )
    assert "vpc" in job(TOP + given).connection.endpoint


@pytest.mark.parametrize(
    "region", ["", "evil.example/", "CN-Hangzhou", "a--b", "-a", "cn_hangzhou", "x.y", "a@b"]
)
def test_bad_regions(job: Loader, region: str) -> None:
    fault = job.fault(TOP + CONNECTION.replace("cn-hangzhou", region))
    assert fault.startswith("connection.region ")


def test_region_and_endpoint_exclude_each_other(job: Loader) -> None:
    fault = job.fault(TOP + CONNECTION + 'endpoint = "https://a.example"\n')
    assert fault == "connection.endpoint and connection.region exclude each other; keep one"
    neither = job.fault(TOP + '[connection]\ninstance_id = "i"\n')
    assert neither.startswith("connection.endpoint is missing, and so is connection.region")


def test_a_token_in_the_job_file_is_refused(job: Loader) -> None:
    fault = job.fault(TOP + CONNECTION + 'security_token = "STS.x"\n')
    assert "looks like a credential" in fault
    assert "STS.x" not in fault


@pytest.mark.parametrize(
    ("action", "warned"),
    [
        ("inactivate", "may stay connected until it connects again"),
        ("delete", "delete is not a revocation"),
    ],
)
def test_actions_with_surprising_effects_carry_a_warning(
    job: Loader, action: str, warned: str
) -> None:
    [warning] = job(TOP.replace("inactivate", action) + CONNECTION).warnings
    assert warned in warning


def test_source_addresses_may_change_between_two_processes_of_a_run(job: Loader) -> None:
    slow = job(TOP + CONNECTION)
    fast = job(TOP + CONNECTION + 'source_addresses = ["10.0.0.5", "10.0.0.6"]\n')
    assert differences(fast, manifest_of(slow)) == []
    assert differences(fast, manifest_of(slow), rehearsal=True) != []
