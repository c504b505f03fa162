"""The providers that a job can name: the built-in ones, and those of installed packages.

enos/, apsaramq/    one folder per built-in provider; no provider knows another
base                what a provider declares, and what the rest of the program may know of it
call                one call of a provider: request, response, and what sends it
transport           sends one request over HTTP
connector           connections: when they are made, and which may be used
wire                the bytes of a request
conversation        one connection: its requests and their responses
departure           when a request leaves, and when it is given up
lateness            which requests have left, but may not have arrived?
sources             spreads requests over the source addresses of a job
advice              what an operator can do about a failure
compression         undoes a compression that nobody asked for
decoding            reads the bodies of responses
masking             takes secrets out of what a provider says
freshness           was a response made for its request, or kept from an earlier one?
bounds              results in a form that every store and report can keep
clock               the provider's clock, as learned from its responses
patience            how long a call is tried again without which nothing goes on

A package adds a provider with an entry point in the group `bulkcert.providers`; docs/providers.md
shows how. Searching for packages is slow, so it is done only for a job that names no built-in
provider.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING

from bulkcert.errors import PluginError
from bulkcert.providers.apsaramq.actions import APSARAMQ
from bulkcert.providers.base import ActionHandler, Provider, Setup
from bulkcert.providers.enos.actions import ENOS

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "bulkcert.providers"

BUILT_IN: Mapping[str, Provider] = MappingProxyType(
    {provider.name: provider for provider in (ENOS, APSARAMQ)}
)


@functools.cache
def installed() -> Mapping[str, Provider]:
    """Return all providers by name. Packages are searched once per process.

    Raises:
        PluginError: a package has a provider that can't be used.
    """
    # imported here because it is slow, and most commands never ask for a provider
    from importlib.metadata import entry_points

    return MappingProxyType({**BUILT_IN, **_load(entry_points(group=ENTRY_POINT_GROUP))})


def providers_for(name: str) -> Mapping[str, Provider]:
    """Return the providers by name among which a job that names this one chooses.

    Raises:
        PluginError: a package has a provider that can't be used.
    """
    return BUILT_IN if name in BUILT_IN else installed()


def installed_provider(name: str) -> Provider:
    """Return the provider that a stored run was made with.

    Raises:
        PluginError: it is not installed, or a package has a provider that can't be used.
    """
    provider = providers_for(name).get(name)
    if provider is None:
        raise PluginError(
            f"The run is of the provider {name!r}, which is not installed here.",
            "Install the package that has this provider, next to bulkcert.",
        )
    return provider


def connect(provider: Provider, setup: Setup) -> ActionHandler:
    """Make the handler of an action of this provider. Nothing is sent yet.

    Network libraries are imported here and not before: most commands do without.

    Raises:
        PluginError: the code that makes the handler can't be imported.
    """
    try:
        make = resolve_name(provider.handler)
    except Exception as error:
        raise PluginError(
            f"The provider {provider.name!r} can't be used: its handler {provider.handler}"
            f" can't be imported: {_reason(error)}.",
            "Fix or update the package that has this provider.",
        ) from error
    handler: ActionHandler = make(setup)
    return handler


def _load(entry_points: Iterable[EntryPoint]) -> dict[str, Provider]:
    """Load the providers of packages."""
    found: dict[str, Provider] = {}
    owners = dict.fromkeys(BUILT_IN, "bulkcert itself")
    for entry_point in entry_points:
        name, package = entry_point.name, _package(entry_point)
        if name in owners:
            problem = f"the name is already taken by {owners[name]}"
            raise _unusable(name, package, problem)
        try:
            provider = entry_point.load()
        except Exception as error:  # whatever its code does, this is not a fault of bulkcert
            raise _unusable(name, package, f"it can't be imported: {_reason(error)}") from error
        if not isinstance(provider, Provider):
            problem = f"{entry_point.value} is not a bulkcert.providers.base.Provider"
            raise _unusable(name, package, problem)
        if provider.name != name:
            problem = f"{entry_point.value} has the name {provider.name!r}"
            raise _unusable(name, package, problem)
        found[name], owners[name] = provider, f"the package {package}"
    return found


def _package(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist is not None else entry_point.value


def _unusable(name: str, package: str, problem: str) -> PluginError:
    return PluginError(
        f"The provider {name!r} of the package {package} can't be used: {problem}.",
        f"Update or uninstall {package}, then run the same command.",
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
