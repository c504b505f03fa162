"""The EnOS side: tokens, the gateway's checks, `list` and `revoke`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from vendor_clients import Client, serving

from bulkcert.simulator import Behaviour

pytestmark = pytest.mark.system


async def statuses(client: Client, device: dict[str, str] | str = "A1") -> list[tuple[str, int]]:
    return [(item["certSN"], item["certStatus"]) for item in await client.listed(device)]


class TestTokens:
    async def test_get_returns_the_current_token_while_it_is_valid(self) -> None:
        async with serving() as client:
            first = (await client.token_call()).json
            again = (await client.token_call()).json
        assert first["status"] == 0
        assert first["business"] == "apim-token-service"
        assert again["data"]["accessToken"] == first["data"]["accessToken"]
        assert 7190 <= again["data"]["expire"] <= first["data"]["expire"] <= 7200

    async def test_an_expired_token_is_refused_and_replaced(self) -> None:
        async with serving(Behaviour(token_life=0.05)) as client:
            first = (await client.token_call()).json["data"]["accessToken"]
            client.token = first
            await asyncio.sleep(0.06)
            assert (await client.revoke()).json["code"] == 1203
            assert (await client.token_call()).json["data"]["accessToken"] != first
            assert (await client.token_call("refresh", accessToken=first)).json["status"] == 1204

    @pytest.mark.parametrize("ends_old", [False, True])
    async def test_refresh_returns_a_new_token(self, ends_old: bool) -> None:
        async with serving(Behaviour(refresh_ends_old=ends_old)) as client:
            old = (await client.token_call()).json["data"]["accessToken"]
            new = (await client.token_call("refresh", accessToken=old)).json["data"]["accessToken"]
            assert new != old
            client.token = old
            assert (await client.revoke()).code == (1203 if ends_old else 0)
            client.token = new
            assert len(await client.listed()) == 1

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"appKey": "nobody"}, 1002),
            ({"encryption": "0" * 64}, 1003),
            ({"timestamp": "soon"}, 1004),
            ({"encryption": 17}, 1004),
            ({"encryption": None}, 1202),
            ({"appKey": ""}, 1202),
        ],
    )
    async def test_invalid_token_calls_are_refused(
        self, changes: dict[str, Any], code: int
    ) -> None:
        async with serving() as client:
            response = await client.token_call(**changes)
        assert (response.status, response.json["status"]) == (200, code)
        assert response.json["data"] is None

    async def test_an_encryption_can_be_used_once(self) -> None:
        async with serving() as client:
            moment = int(time.time() * 1000)
            assert (await client.token_call(timestamp=moment)).code == 0
            assert (await client.token_call(timestamp=moment)).code == 1001
            # the vendor's clients send the timestamp as text
            assert (await client.token_call(timestamp=str(moment + 1))).code == 0

    async def test_a_token_call_must_be_a_post_with_json(self) -> None:
        async with serving() as client:
            path = "/apim-token-service/v2.0/token/get"
            assert (await client.send("POST", path, b"{")).json["status"] == 1004
            assert (await client.send("GET", path)).status == 405


class TestGateway:
    async def test_a_wrong_signature_is_refused(self) -> None:
        async with serving() as client:
            response = await client.enos(
                "revoke", document={"certSn": 5}, headers={"apim-signature": "0" * 64}
            )
            assert (response.status, response.json) == (
                401,
                {"message": "Invalid authentication credentials"},
            )
            assert client.simulator.ledger[-1]["executed"] is False

    @pytest.mark.parametrize("header", ["apim-accesstoken", "apim-signature"])
    async def test_token_and_signature_are_mandatory(self, header: str) -> None:
        async with serving() as client:
            refused = await client.enos("list", headers={header: ""})
            assert (refused.status, refused.json["code"]) == (401, 1202)
            assert "status" not in refused.json

    async def test_an_unknown_token_is_refused(self) -> None:
        async with serving() as client:
            assert (await client.enos("list", headers={"apim-accesstoken": "T"})).code == 1203

    @pytest.mark.parametrize(
        ("behaviour", "status", "code"),
        [
            (Behaviour(auth_error="code", auth_error_http=401), 401, 1202),
            (Behaviour(auth_error="status", auth_error_http=403), 403, 1202),
            (Behaviour(auth_error="kong"), 401, 401),
        ],
    )
    async def test_formats_of_authentication_errors(
        self, behaviour: Behaviour, status: int, code: int
    ) -> None:
        async with serving(behaviour) as client:
            response = await client.enos("list", headers={"apim-signature": ""})
            assert response.status == status
            assert client.simulator.ledger[-1]["code"] == code
        key = {"code": "code", "status": "status", "kong": "message"}[behaviour.auth_error]
        assert key in response.json

    async def test_options_of_the_signature_check(self) -> None:
        hour_ago = int(time.time() * 1000) - 3_600_000
        async with serving(Behaviour(clock_window=60, unsigned_calls=True)) as client:
            assert (await client.enos("list", timestamp=hour_ago)).status == 401
            assert (await client.enos("list")).code == 0
            assert (await client.enos("list", headers={"apim-signature": ""})).code == 0
        async with serving(Behaviour(replay_check=True)) as client:
            assert (await client.enos("list", timestamp=hour_ago)).code == 0
            assert (await client.enos("list", timestamp=hour_ago)).status == 401

    @pytest.mark.parametrize(
        ("query", "text"),
        [
            ({"orgId": ""}, "Invalid Argument orgId:orgId is missing"),
            ({"action": ""}, "Invalid Argument action:action is missing"),
            ({"action": "erase"}, "Invalid Argument action:action is invalid"),
            ({"action": "revoke"}, "Invalid Argument action:action is invalid"),  # sent as GET
            ({"assetId": ""}, "invalid argument: The device identifier is invalid"),
        ],
    )
    async def test_parameters_of_all_actions_are_checked(
        self, query: dict[str, str], text: str
    ) -> None:
        async with serving() as client:
            response = await client.enos("list", query)
        assert (response.status, response.code, response.json["msg"]) == (200, 99400, text)

    async def test_another_organization_is_denied(self) -> None:
        async with serving(Behaviour(org_id="o2", business_error_http=599)) as client:
            response = await client.enos("list")
            assert (response.status, response.code) == (599, 99403)
            assert (await client.enos("list", orgId="o2")).code == 0

    async def test_refuse_all_spares_token_calls(self) -> None:
        async with serving(Behaviour(refuse_all="11404")) as client:
            assert (await client.revoke()).code == 11404
            assert (await client.enos("list")).code == 11404
            assert client.simulator.certificates("assetId=A1") == []

    async def test_some_devices_may_be_listed_but_not_changed(self) -> None:
        async with serving(Behaviour(read_only="A0,A1")) as client:
            response = await client.revoke()
            assert (response.code, response.json["msg"]) == (99403, "Denied resource:  assetId=A1")
            assert [status for _, status in await statuses(client)] == [0]
            assert (await client.revoke(device="A2")).code == 0

    async def test_unknown_paths_and_large_bodies_are_refused(self) -> None:
        async with serving() as client:
            assert (await client.send("GET", "/nowhere")).status == 404
            response = await client.send("POST", "/nowhere", b"x" * (2**20 + 1))
            assert (response.status, response.json) == (
                413,
                {"message": "Request size limit exceeded"},
            )


class TestCertificates:
    async def test_a_certificate_is_revoked_once(self) -> None:
        async with serving() as client:
            response = await client.revoke(52739, reason=1)
            assert response.json["data"] is None
            assert response.json["msg"] == "OK"
            again = await client.revoke(52739)
            assert (again.code, "has been revoked" in again.json["msg"]) == (99400, True)
            item = (await client.listed())[0]
            effects = [(entry["effect"], entry["executed"]) for entry in client.simulator.ledger]
        assert (item["certSN"], item["certStatus"]) == ("52739", 1)
        assert (item["revoker"], item["revokerReason"]) == ("IoT_Hub", "KEY COMPROMISE")
        assert item["audit"]["updateTime"] > item["audit"]["createTime"]
        assert effects == [
            ("none", False),
            ("revoked", True),
            ("none", False),
            ("none", False),
        ]

    async def test_lists_in_forms_that_nobody_documents(self, tmp_path: Path) -> None:
        fleet = tmp_path / "fleet.csv"
        fleet.write_text("assetId,certSn\nA1,5\nA2,\n")
        behaviour = Behaviour(
            list_dates="text", list_authority=False, null_lists=True, bare_devices=True
        )
        async with serving(behaviour, fleet=fleet) as client:
            (item,) = await client.listed()
            assert item["signDate"].isdecimal()
            assert item["signDate"] == item["effetiveDate"] < item["expireDate"]
            assert "issueAuthority" not in item
            assert (await client.enos("list", "A2")).json["data"] is None
        async with serving(Behaviour(odd_items=True)) as client:
            _, odd = await client.listed()
            assert int(odd["certSN"]).bit_length() == 160
            assert odd["certStatus"] not in (0, 1, 2)

    async def test_a_list_item_has_every_documented_field(self) -> None:
        async with serving() as client:
            (item,) = await client.listed()
            assert (await client.listed())[0]["certSN"] == item["certSN"]
        assert list(item) == [
            *("certSN", "cert", "certStatus", "issuer", "subject", "signDate", "effetiveDate"),
            *("expireDate", "audit", "revoker", "revokerReason", "isEnosCert", "issueAuthority"),
        ]
        assert item["certStatus"] == 0
        assert item["issuer"].startswith("EMAILADDRESS=ca@example.com, CN=EnOS CA, OU=EnOS CA")
        assert item["expireDate"] - item["signDate"] == 730 * 86_400_000

    async def test_derived_serials_do_not_depend_on_order_or_seed(self) -> None:
        serials = []
        for order in (["A1", "A2"], ["A2", "A1"]):
            async with serving(Behaviour(seed=len(serials))) as client:
                listed = {device: await statuses(client, device) for device in order}
                serials.append(sorted(listed.items()))
        assert serials[0] == serials[1]

    @pytest.mark.parametrize(
        ("document", "text"),
        [
            ({}, "Invalid Argument certSn:certSn is missing"),
            ({"certSn": ""}, "Invalid Argument certSn:certSn is missing"),
            ({"certSn": -1}, "less than 0"),
            ({"certSn": "5"}, "not an Integer"),
            ({"certSn": 5.5}, "not an Integer"),
            ({"certSn": True}, "not an Integer"),
            ({"certSn": 2**63}, "not an Integer"),
            ({"certSn": 5, "reason": 2}, "no such reason"),
            ({"certSn": 5, "reason": "KEY_COMPROMISE"}, "no such reason"),
        ],
    )
    async def test_invalid_parameters_are_refused(
        self, document: dict[str, Any], text: str
    ) -> None:
        async with serving() as client:
            response = await client.enos("revoke", document=document)
        assert response.code == 99400
        assert text in response.json["msg"]

    async def test_the_body_must_be_a_json_object(self) -> None:
        async with serving() as client:
            response = await client.enos("revoke", document=[5])  # type: ignore[arg-type]
        assert (response.status, response.json["message"]) == (400, "Cannot process request body")

    @pytest.mark.parametrize(("allowed", "code"), [(True, 0), (False, 99400)])
    async def test_parameters_in_the_query_can_be_switched_off(
        self, allowed: bool, code: int
    ) -> None:
        async with serving(Behaviour(parameters_in_query=allowed)) as client:
            assert (await client.enos("revoke", document={}, certSn="5", reason="4")).code == code

    @pytest.mark.parametrize(
        ("behaviour", "code", "text"),
        [
            (Behaviour(revoke_again="ok"), 0, "OK"),
            (Behaviour(revoke_again="unbound"), 99400, "bound to other devices"),
            (Behaviour(revoke_again="refused"), 99400, "has been revoked"),
        ],
    )
    async def test_revoking_a_revoked_certificate(
        self, behaviour: Behaviour, code: int, text: str
    ) -> None:
        async with serving(behaviour) as client:
            await client.revoke()
            response = await client.revoke()
            entry = client.simulator.ledger[-1]
        assert (response.code, text in response.json["msg"]) == (code, True)
        assert (entry["code"], entry["executed"], entry["effect"]) == (code, False, "none")

    async def test_an_unknown_reason_can_count_as_unspecified(self) -> None:
        async with serving(Behaviour(bad_reason="unspecified")) as client:
            assert (await client.revoke(reason=7)).code == 0
            assert client.simulator.certificates("assetId=A1")[0].reason == 0


class TestFleet:
    @pytest.fixture
    def fleet(self, tmp_path: Path) -> Path:
        path = tmp_path / "fleet.csv"
        path.write_text(
            "assetId,productKey,deviceKey,certSn,expireDate,issueAuthority,certStatus\n"
            "A1,,,5,,,\n"
            "A1,,,6,,ECC,1\n"
            "A1,,,5,,,\n"
            "A2,p,d2,7,1000,,\n"
            ",p,d3,8,,,\n"
            "A4,,,,,,\n"
        )
        return path

    async def test_only_devices_of_the_fleet_file_exist(self, fleet: Path) -> None:
        async with serving(fleet=fleet) as client:
            assert await statuses(client) == [("5", 0), ("6", 1)]
            assert (await client.revoke(5)).code == 0
            assert await statuses(client) == [("5", 1), ("6", 1)]
            assert "bound to other devices" in (await client.revoke(7)).json["msg"]
            assert (await client.revoke(5, "A9")).code == 11404
            assert (await client.revoke(99, "A4")).code == 0  # the file names no certificate for A4
            assert client.simulator.certificates("assetId=A9") == []

    async def test_a_device_has_two_names(self, fleet: Path) -> None:
        keys = {"productKey": "p", "deviceKey": "d2"}
        async with serving(fleet=fleet) as client:
            assert await statuses(client, keys) == await statuses(client, "A2") == [("7", 2)]
            assert await statuses(client, {"assetId": "A2", **keys}) == [("7", 2)]
            conflict = {"assetId": "A1", "productKey": "p", "deviceKey": "d3"}
            assert (await client.enos("list", conflict)).code == 99400
            assert (await client.enos("list", {"productKey": "p"})).code == 99400
            assert client.simulator.ledger[-2]["device"] == "assetId=A1&productKey=p&deviceKey=d3"
            state = client.simulator.certificates("productKey=p&deviceKey=d2")
            assert [(item.cert_sn, item.status) for item in state] == [(7, "expired")]
        async with serving(Behaviour(conflicting_device="asset"), fleet=fleet) as client:
            assert await statuses(client, conflict) == [("5", 0), ("6", 1)]

    @pytest.mark.parametrize(("allowed", "code"), [("refused", 99400), ("ok", 0)])
    async def test_revoking_an_expired_certificate(
        self, fleet: Path, allowed: Any, code: int
    ) -> None:
        async with serving(Behaviour(revoke_expired=allowed), fleet=fleet) as client:
            assert (await client.revoke(7, "A2")).code == code

    async def test_products_get_returns_the_products_rules(self, fleet: Path) -> None:
        async with serving(Behaviour(product_max_valid_day=400), fleet=fleet) as client:
            path = "/connect-service/v2.1/products"
            response = await client.enos("get", {"productKey": "p"}, path=path)
            assert response.json["data"]["maxValidDay"] == 400
            assert response.json["data"]["biDirectionalAuth"] is True
            assert (await client.enos("get", {"productKey": "q"}, path=path)).code == 11611
            assert (await client.enos("get", {}, path=path)).code == 99400
            assert client.simulator.ledger[-1]["action"] == "products.get"
