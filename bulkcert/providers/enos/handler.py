"""From a job's setup to the handler of an EnOS action: its steps, in order.

    revoke   [revocation]
    renew    renewal
    rotate   renewal with a check, revocation of the old certificate
    list     inventory

With `[select]`, the selection of certificates comes before the steps of the first three.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bulkcert.providers.base import (
    ActionHandler,
    AttemptCall,
    LookupCall,
    Setup,
    Step,
    change,
    lookup,
    reading,
)
from bulkcert.providers.enos.client import Client
from bulkcert.providers.enos.query import Inventory, Selection
from bulkcert.providers.enos.revocation import Revocation
from bulkcert.providers.enos.service import CertificateService

if TYPE_CHECKING:
    from bulkcert.keys import KeyMaker
    from bulkcert.providers.enos.certificate_folder import CertificateFolder


class EnosHandler:
    """An action handler, see `bulkcert.providers.base.ActionHandler`.

    Args:
        client: signed calls.
        steps: the steps of the action.
        keys: makes keys; None if the job makes none.
        folder: where new certificates are kept; None if there are none.
    """

    def __init__(
        self,
        client: Client,
        steps: Sequence[Step],
        keys: KeyMaker | None = None,
        folder: CertificateFolder | None = None,
    ) -> None:
        self.steps = steps
        self._client = client
        self._keys = keys
        self._folder = folder

    async def open(self) -> None:
        """Get a token, so that bad credentials are known before anything else is sent."""
        await self._client.open()
        if self._folder is not None:
            self._folder.open()

    async def close(self) -> None:
        """Close all connections, and end the processes that make keys."""
        await self._client.close()
        if self._keys is not None:
            await asyncio.to_thread(self._keys.close)


def connect(setup: Setup) -> ActionHandler:
    """Make the handler of the setup's action. Nothing is sent yet."""
    credentials = setup.credentials
    key, secret = credentials["ENOS_APP_KEY"], credentials["ENOS_APP_SECRET"]
    client = Client(setup.channel, key, secret, setup.clock, setup.timings)
    service = CertificateService(client, setup)
    if setup.action.name == "list":
        return EnosHandler(client, [reading(Inventory(service).attempt)])
    lookups: list[LookupCall] = [Selection(service, setup).look_up] if setup.selection else []
    if setup.action.name == "revoke":
        revocation = Revocation(service)
        revoke = change(revocation.attempt, revocation.look_up, idempotent=True)
        return EnosHandler(client, [*map(lookup, lookups), revoke])
    return _renewing(client, service, setup, lookups)


def _renewing(
    client: Client, service: CertificateService, setup: Setup, lookups: list[LookupCall]
) -> ActionHandler:
    """The handler of `renew` or `rotate`, after the look-ups that come first."""
    # imported only where needed: X.509 takes long to load
    from bulkcert.keykeeper import KeyKeeper, SharedKeys
    from bulkcert.keys import KeyMaker
    from bulkcert.providers.enos.certificate_folder import CertificateFolder
    from bulkcert.providers.enos.chain import Chains
    from bulkcert.providers.enos.renewal import Renewal
    from bulkcert.providers.enos.rotation import CheckedRenewal, OldRevocation

    keys, keeper, shared = None, None, setup.shared
    if setup.keys:
        keys = KeyMaker(setup.keys.generate, setup.directory / "keys")
        keeper = SharedKeys(keys, shared.run, shared.operator) if shared else KeyKeeper(keys)
    folder = CertificateFolder(setup.directory / "certificates")
    chains = Chains(
        setup.open_channel,
        allow_http=setup.endpoint.startswith("http://"),
        retry_s=setup.timings.chain_retry_s,
    )
    renewal = Renewal(service, setup, keeper, folder, chains)
    steps = list(map(lookup, lookups))
    if setup.action.name == "renew":
        steps.append(_once(renewal.attempt, renewal.look_up))
    else:
        checked, old = CheckedRenewal(renewal), OldRevocation(service, setup.clock)
        steps.append(_once(checked.attempt, checked.look_up))
        steps.append(change(old.attempt, old.look_up, idempotent=True, needs_lookup=True))
    return EnosHandler(client, steps, keys, folder)


def _once(attempt: AttemptCall, look_up: LookupCall) -> Step:
    """A renewal: it begins with a look-up, which records what there was before."""
    return change(attempt, look_up, idempotent=False, needs_lookup=True)
