"""The providers that a job can name. A new one is one folder here and one line in `PROVIDERS`.

enos/, apsaramq/    one folder per provider; no provider knows another
base                what a provider declares, and what the rest of the program may know of it
call                one call of a provider: request, response, and what sends it
transport           sends one request over HTTP
sources             spreads requests over the source addresses of a job
decoding            reads the bodies of responses
clock               the provider's clock, as learned from its responses
"""

from __future__ import annotations

import importlib

from bulkcert.providers.apsaramq.actions import APSARAMQ
from bulkcert.providers.base import ActionHandler, Provider, Setup
from bulkcert.providers.enos.actions import ENOS

PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in (ENOS, APSARAMQ)}


def connect(provider: Provider, setup: Setup) -> ActionHandler:
    """Make the handler of an action of this provider. Nothing is sent yet.

    Network libraries are imported here and not before: most commands do without.
    """
    module = importlib.import_module(f"{__name__}.{provider.name}.handler")
    handler: ActionHandler = module.connect(setup)
    return handler
