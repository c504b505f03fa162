"""Whatever a provider responds, no step raises, or returns what can't be recorded, or says that
something is done without a code that says so. Through the whole way: client, responses, steps."""

from __future__ import annotations

import asyncio
import copy
import json
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from enos_vendor import signed_certificate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from bulkcert.errors import BulkcertError
from bulkcert.model import AttemptKind, AttemptResult, LookupKind, LookupResult, Operation
from bulkcert.providers import BUILT_IN, connect
from bulkcert.providers.base import Setup
from bulkcert.providers.call import CallResult, OnDeparture, Request, Response, Signer

DEVICES: Mapping[str, dict[str, Any]] = {
    "enos": {"assetId": "A1", "certSn": 52725, "orgId": "o15"},
    "apsaramq": {"DeviceSn": "00F2", "CaSn": "007", "MqttInstanceId": "post-cn-1"},
}
OPTIONS: Mapping[str, dict[str, str]] = {
    "enos": {"org_id": "o15"},
    "apsaramq": {"instance_id": "post-cn-1"},
}
ACTIONS = [(name, action) for name in DEVICES for action in BUILT_IN[name].actions]
RENEWED = {"certSN": "52726", "certStatus": 0, "subject": "CN=A0", "signDate": 1_795_000_000_000}

# ---- responses

CERTIFICATE = {
    "certSN": "52725",
    "cert": signed_certificate(),
    "certStatus": 1,
    "issuer": "CN=EnOS CA",
    "subject": "CN=A0",
    "signDate": 1581216505000,
    "effetiveDate": 1581216505000,
    "expireDate": 1982080505000,
    "audit": {"createBy": "o15", "createTime": 1581217021695},
    "revokerReason": "KEY COMPROMISE",
    "isEnosCert": True,
    "issueAuthority": "RSA",
}
ISSUED = {
    "certSN": "52725",
    "cert": signed_certificate(),
    "caCert": "",
    "certChainURL": "https://x",
}
VO = {"CaSn": "007", "DeviceSn": "00F2", "Status": "0", "ValidEnd": "1654137303000"}
PLAIN: list[dict[str, Any]] = [
    *(
        {"code": code, "msg": "OK", "requestId": "r", "data": data}
        for code, data in ((0, None), (0, [CERTIFICATE]), (0, ISSUED), (99400, None), (99500, None))
    ),
    {"message": "API rate limit exceeded"},
    {"RequestId": "R", "DeviceSn": "00F2"},
    {"RequestId": "R", "Data": VO},
    {"RequestId": "R", "Data": {"PageNo": 1, "PageSize": 2, "DeviceCertificateVOS": [VO, VO]}},
    {"RequestId": "R", "Code": "FindDeviceBySnError", "Message": "no"},
    {"RequestId": "R", "Code": "Throttling.User", "Message": "no"},
]
names = sorted({name for body in PLAIN for name in body} | {*CERTIFICATE, *VO})
anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.integers(-(10**40), 10**40),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5),
        st.sampled_from([0, 2**63, "0", "9" * 31, "x" * 3000, "1e400", "OK", "\0\x1b[31m", 1e300]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from([*names, "status", "success", "Success"]), inner),
    ),
    max_leaves=6,
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A plain response in which some members are replaced, and that may be damaged."""
    document = copy.deepcopy(draw(st.sampled_from(PLAIN)))
    for _ in range(draw(st.integers(0, 2))):
        inside: Any = document
        while True:
            where = draw(st.sampled_from(range(len(inside)) if isinstance(inside, list) else names))
            if isinstance(inside, dict):
                where = draw(st.sampled_from([*inside, "status", "success", "Code", "code"]))
            deeper = inside[where] if isinstance(inside, list) else inside.get(where)
            if not deeper or not isinstance(deeper, dict | list) or draw(st.booleans()):
                break
            inside = deeper
        inside[where] = draw(anything)
    content = json.dumps(document, ensure_ascii=draw(st.booleans())).encode()
    damage = draw(st.sampled_from(["", "", "", "cut", "bytes", "xml", "deep"]))
    if damage == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if damage == "bytes":
        return draw(st.binary(max_size=50))
    if damage == "xml":
        inside = "".join(f"<{name}>{value}</{name}>" for name, value in document.items())
        return f"<Error>{inside}</Error>".encode()
    if damage == "deep":
        return content[:-1] + b', "%s": ' % b"data" + b"[" * 900 + b"]" * 900 + b"}"
    return content


class Responding:
    """Stands in for a channel: grants a token, and has one response to everything else."""

    def __init__(self, response: Response) -> None:
        self.pace = self
        self._response = response

    async def depart(self) -> float:
        return 0.0

    async def pause_over(self) -> None:
        """Nothing pauses."""

    def throttled(self, departed_at: float, retry_after_s: float | None) -> object:
        return None

    def accepted(self, departed_at: float) -> object:
        return None

    async def close(self) -> None:
        """Nothing is open."""

    async def send(
        self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
    ) -> Response | CallResult:
        on_departure("")
        if "/token/" in request.target:
            granted = {"status": 0, "data": {"accessToken": "token", "expire": 7200}}
            return Response(200, {}, orjson.dumps(granted), 0.0)
        return self._response


def says_success(provider: str, action: str, response: Response) -> bool:
    """Whether a response says that something is so, found out in another way than the code does."""
    if provider == "apsaramq" and action == "delete" and b"FindDeviceBySnError" in response.body:
        return True  # what is to be gone is gone
    try:
        body = json.loads(response.body.decode(errors="replace"), strict=False)
    except ValueError:
        return response.status == 200 and b"<Code>" not in response.body
    if not isinstance(body, dict):
        return False
    if provider == "apsaramq":
        said = [body.get(name) for name in ("Code", "code")]
        return response.status == 200 and said == [None, None]
    said = [body[name] for name in ("code", "status", "apim_status") if body.get(name) is not None]
    return 200 <= response.status < 300 and {json.dumps(value) for value in said} <= {"0", '"0"'}


def check(result: AttemptResult | LookupResult, said_so: bool) -> None:
    values = (result.code, result.message, result.request_id)
    with closing(sqlite3.connect(":memory:")) as db:
        assert db.execute("SELECT ?, ?, ?", values).fetchone() == values
    kept = orjson.loads(orjson.dumps(result.result))
    assert kept == result.result
    assert len(str(kept)) < 100_000
    if result.kind in (AttemptKind.DONE, AttemptKind.FLAWED, LookupKind.HOLDS, LookupKind.SELECTED):
        assert said_so
    if isinstance(result, LookupResult):
        for fields in result.selected:
            assert orjson.loads(orjson.dumps(fields)) == fields


async def take_every_step(provider: str, action: str, response: Response, folder: Path) -> None:
    declared = BUILT_IN[provider]
    credentials = dict.fromkeys((*declared.credentials, *declared.optional_credentials), "k" * 20)
    setup = Setup(
        action=declared.actions[action],
        channel=Responding(response),
        endpoint="http://127.0.0.1",
        open_channel=lambda endpoint: Responding(response),
        options=OPTIONS[provider],
        parameters={},
        credentials=credentials,
        directory=folder,
        selection={"status": "valid"} if declared.actions[action].select else {},
    )
    handler = connect(declared, setup)
    baseline = {"taken_at": 0.0, "known": [52725], "subject": "CN=A0", "certSN": "52726"}
    for number, step in enumerate(handler.steps):
        operation = Operation(1, 1, DEVICES[provider], step=number, step_data=baseline)
        for call in (step.attempt, step.look_up):
            if call.__name__ == "_not_part_of_the_step":
                continue
            try:
                result = await call(operation, lambda _: None)
            except BulkcertError:
                continue  # stops the run
            check(result, says_success(provider, action, response))
    await handler.close()


@pytest.mark.parametrize(("provider", "action"), ACTIONS)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(
    body=bodies(), status=st.sampled_from([200, 200, 200, 204, 302, 400, 401, 403, 429, 500, 503])
)
def test_any_response_is_taken(provider: str, action: str, body: bytes, status: int) -> None:
    response = Response(status, CIMultiDict({"Content-Type": "application/json"}), body, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(take_every_step(provider, action, response, Path(folder)))
