"""From a job's setup to the handler of its action. Imported only when a job is about to run."""

from __future__ import annotations

from collections.abc import Sequence

from bulkcert.providers.base import ActionHandler, Setup, Step, change, reading
from bulkcert_beacon.client import Client
from bulkcert_beacon.get import Get
from bulkcert_beacon.suspend import Suspend


class BeaconHandler:
    """Carries out one action; see `bulkcert.providers.base.ActionHandler`."""

    def __init__(self, client: Client, steps: Sequence[Step]) -> None:
        self.steps = steps
        self._client = client

    async def open(self) -> None:
        """Prove the credentials."""
        await self._client.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()


def connect(setup: Setup) -> ActionHandler:
    """Make the handler of the setup's action. Nothing is sent yet."""
    client = Client(setup)
    if setup.action.name == "get":
        return BeaconHandler(client, [reading(Get(client).attempt)])
    suspend = Suspend(client)
    return BeaconHandler(client, [change(suspend.attempt, suspend.look_up, idempotent=True)])
