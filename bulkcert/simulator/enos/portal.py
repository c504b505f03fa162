"""The public part of EnOS: its authorities' certificates and revocation lists.

In: calls to `/enos/CA/...`, which need no credentials. Out: PEM or DER. The vendor publishes a list
once a day; here each request gets a new one, unless `crl_every` says otherwise.
"""

from __future__ import annotations

from base64 import b64decode

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import SECOND_US
from bulkcert.simulator.enos.authority import Authority
from bulkcert.simulator.enos.fleet import AUTHORITIES
from bulkcert.simulator.exchange import Call, Response

PORTAL_PATHS = {
    f"/enos/CA/{what}{suffix}": what
    for what in ("cacert", "crl")
    for suffix in ("", *(f"/{name}" for name in AUTHORITIES))
}
_PEM_TYPE = "application/x-pem-file"
_CRL_TYPE = "application/pkix-crl"


class Portal:
    """Serves the public files."""

    def __init__(self, behaviour: Behaviour, authority: Authority) -> None:
        self._authority = authority
        self._crl_format = behaviour.crl_format

    async def cacert(self, call: Call) -> Response:
        """The certificate of an authority; RSA if the path names none."""
        text = await self._authority.root(_authority(call))
        return Response(0, 200, text.encode(), _PEM_TYPE)

    async def crl(self, call: Call) -> Response:
        """The revocation list of an authority; RSA if the path names none."""
        now_s = call.request.at_us // SECOND_US
        text = await self._authority.revocation_list(_authority(call), now_s)
        if self._crl_format == "der":
            return Response(0, 200, b64decode("".join(text.splitlines()[1:-1])), _CRL_TYPE)
        return Response(0, 200, text.encode(), _PEM_TYPE)


def _authority(call: Call) -> int:
    name = call.request.path.rpartition("/")[2]
    return AUTHORITIES.index(name) if name in AUTHORITIES else 0
