"""The six actions on device certificates.

In: a call that the gateway let in. Out: the document of a successful response, and a change in the
registry; or `RefusedError`. Parameters are checked first, then the instance, the permission and the
certificate.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

from bulkcert.simulator.apsaramq.refusals import RefusedError
from bulkcert.simulator.apsaramq.registry import ACTIVE, INACTIVE, Name, Registry
from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import DAY_S
from bulkcert.simulator.exchange import Call, CertificateState

_LONGEST_SN = 128  # bytes
_LARGEST_PAGE = 100
_ODD_ITEM = {"CaSn": "another", "DeviceSn": "unknown", "Status": 9, "ValidBegin": None}


class CertificateService:
    """The service behind the gateway.

    Args:
        now_s: Unix time at which the simulator started.
    """

    def __init__(self, behaviour: Behaviour, registry: Registry, now_s: int) -> None:
        self._behaviour = behaviour
        self._registry = registry
        self._valid_from_s = now_s - int(behaviour.certificate_age * DAY_S)
        self._actions: dict[str, Callable[[Call], dict[str, Any]]] = {
            "InactivateDeviceCertificate": lambda call: self._set(call, INACTIVE, "inactivated"),
            "ActiveDeviceCertificate": lambda call: self._set(call, ACTIVE, "activated"),
            "DeleteDeviceCertificate": self._delete,
            "GetDeviceCertificate": self._get,
            "ListDeviceCertificate": self._list,
            "ListDeviceCertificateByCaSn": self._list,
        }

    def has_action(self, action: str) -> bool:
        """Whether an action exists."""
        return action in self._actions

    def execute(self, call: Call) -> dict[str, Any]:
        """Execute a call; returns the document of its response.

        Raises:
            RefusedError: the parameters, the instance, the permission or the certificate is wrong.
        """
        self._check_parameters(call)
        return self._actions[call.action](call)

    def states(self, ca_sn: str, device_sn: str) -> list[CertificateState]:
        """The states of a certificate, one for each instance in which it is registered."""
        return [
            CertificateState(
                self._registry.name(row).device_sn,
                "active" if self._registry.status[row] == ACTIVE else "inactive",
            )
            for row in self._registry.known(ca_sn, device_sn)
        ]

    def _check_parameters(self, call: Call) -> None:
        """Raise `RefusedError` if a parameter, the instance or the permission is wrong."""
        needed = {"MqttInstanceId"}
        if call.action != "ListDeviceCertificate":
            needed.add("CaSn")
        if not call.action.startswith("List"):
            needed.add("DeviceSn")
        if not all(call.query.get(name) for name in needed):
            raise RefusedError("ParameterFieldCheckFailed")
        for name in ("CaSn", "DeviceSn"):
            value = call.query.get(name) or ""
            if len(value.encode()) > _LONGEST_SN or "\0" in value:
                raise RefusedError("ParameterFieldCheckFailed")
        if self._behaviour.mq_instance not in ("", call.query["MqttInstanceId"]):
            raise RefusedError("MqttInstanceNotFound")
        if (code := self._behaviour.refuse_all) and not code.isdecimal():
            raise RefusedError(code)

    def _row(self, call: Call) -> int:
        row = self._registry.find(
            Name(
                call.query["MqttInstanceId"] or "",
                call.query["CaSn"] or "",
                call.query["DeviceSn"] or "",
            )
        )
        if row is None:
            raise RefusedError("FindDeviceBySnError")
        return row

    def _set(self, call: Call, status: int, effect: str) -> dict[str, Any]:
        row = self._row(call)
        if self._registry.status[row] != status:
            self._registry.status[row] = status
            call.effect = effect
        elif self._behaviour.mq_already == "error":
            raise RefusedError("ParameterFieldCheckFailed")
        return {"DeviceSn": self._registry.name(row).device_sn}

    def _delete(self, call: Call) -> dict[str, Any]:
        row = self._row(call)
        self._registry.delete(row)
        call.effect = "deleted"
        return {"DeviceSn": self._registry.name(row).device_sn}

    def _get(self, call: Call) -> dict[str, Any]:
        return {"Data": self._item(self._row(call))}

    def _list(self, call: Call) -> dict[str, Any]:
        behaviour = self._behaviour
        number = _page_number(call.query.get("PageNo"), behaviour.mq_max_page)
        size = _page_number(call.query.get("PageSize"), _LARGEST_PAGE)
        by_ca = call.action == "ListDeviceCertificateByCaSn"
        instance = call.query["MqttInstanceId"] or ""
        ca_sn = call.query["CaSn"] if by_ca else None
        total, rows = self._registry.page(instance, ca_sn, (number - 1) * size, size)
        # the vendor's reference explains Total differently for the two actions
        items: list[dict[str, Any]] = [self._item(row) for row in rows]
        if behaviour.odd_items and len(items) < size:
            items.append(_ODD_ITEM)
        counts_rows = by_ca if behaviour.mq_total == "documented" else behaviour.mq_total == "rows"
        page = {
            "Total": total if counts_rows else -(-total // size),
            "PageNo": number,
            "PageSize": size,
            "DeviceCertificateVOS": None if behaviour.null_lists and not items else items,
        }
        return {"Data": page}

    def _item(self, row: int) -> dict[str, str]:
        name = self._registry.name(row)
        content = b64encode("\n".join(name).encode()).decode()
        ends_s = self._valid_from_s + self._behaviour.certificate_life * DAY_S
        return {
            "CaSn": name.ca_sn,
            "DeviceSn": name.device_sn,
            "DeviceName": f"device-{name.device_sn}",
            "DeviceContent": "-----BEGIN DEVICECERTIFICATE-----\n"
            f"{content}\n-----END DEVICECERTIFICATE-----",
            "Status": str(self._registry.status[row]),
            "ValidBegin": f"{self._valid_from_s}000",
            "ValidEnd": f"{ends_s}000",
        }


def _page_number(text: str | None, most: int) -> int:
    """Read a page number or page size; both are sent as text. No upper limit if `most` is 0."""
    if not text or not text.isdecimal() or int(text) < 1 or (most and int(text) > most):
        raise RefusedError("ParameterFieldCheckFailed")
    return int(text)
