"""The providers that a job can name. A new one is one folder here and one line in `PROVIDERS`."""

from __future__ import annotations

from bulkcert.providers.base import Provider
from bulkcert.providers.enos.actions import ENOS

PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in (ENOS,)}
