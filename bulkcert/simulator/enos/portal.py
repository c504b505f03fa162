"""The public part of EnOS: the certificates of its authorities and their revocation lists.

In: calls to `/enos/CA/...`, which need no credentials. Out: PEM or DER. The vendor makes a new list
once a day; here it is new whenever it is asked for, unless `crl_every` says otherwise.
"""

from __future__ import annotations

from base64 import b64decode

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import SECOND_US
from bulkcert.simulator.enos.authority import Authority
from bulkcert.simulator.enos.fleet import AUTHORITIES
from bulkcert.simulator.exchange import Call, Reply

PORTAL_PATHS = {
    f"/enos/CA/{what}{suffix}": what
    for what in ("cacert", "crl")
    for suffix in ("", *(f"/{name}" for name in AUTHORITIES))
}
_PEM_TYPE = "application/x-pem-file"
_CRL_TYPE = "application/pkix-crl"


class Portal:
    """Serves what is public."""

    def __init__(self, behaviour: Behaviour, authority: Authority) -> None:
        self._authority = authority
        self._crl_format = behaviour.crl_format

    async def cacert(self, call: Call) -> Reply:
        """The certificate of an authority; RSA if the path names none."""
        text = await self._authority.root(_authority(call))
        return Reply(0, 200, text.encode(), _PEM_TYPE)

    async def crl(self, call: Call) -> Reply:
        """The revocation list of an authority."""
        now_s = call.request.at_us // SECOND_US
        text = await self._authority.revocation_list(_authority(call), now_s)
        if self._crl_format == "der":
            return Reply(0, 200, b64decode("".join(text.splitlines()[1:-1])), _CRL_TYPE)
        return Reply(0, 200, text.encode(), _PEM_TYPE)


def _authority(call: Call) -> int:
    name = call.request.path.rpartition("/")[2]
    return AUTHORITIES.index(name) if name in AUTHORITIES else 0
