"""From the bytes of a job file to a checked `Job`.

In: TOML, UTF-8, at most 1 MiB. Out: a `Job`, or one `JobError` that lists every fault. By module:

    document     the bytes                    -> TOML, unchecked
    credentials  whatever looks like one is reported and removed
    sections     the keys of each section, with their parsers and their documentation
    parsers      one value                    -> the checked value
    reading      a section and its table      -> parsed values
    rules        what several keys must satisfy together
    campaign     the sections of a campaign's rules -> `Rules`
    names        misspelt keys; faults        what is wrong, collected
    lines        on which line a key stands
    location     the path that was named      -> the file itself

This package must never use credentials, wherever they are, nor quote in a message the value of
anything that looks like one. It does not open the target file; that is for `bulkcert.targets`.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bulkcert import store_url
from bulkcert.errors import JobError
from bulkcert.job import BreakerSettings, Connection, CsvFormat, Job, Limits, Retry
from bulkcert.jobfile.campaign import campaign_rules, notifications
from bulkcert.jobfile.credentials import refuse_credentials, remove_credential
from bulkcert.jobfile.document import read_document
from bulkcert.jobfile.faults import CORRECT_JOB, Faults
from bulkcert.jobfile.location import locate
from bulkcert.jobfile.parsers import folder_name
from bulkcert.jobfile.reading import choose, read_keys, read_section, refuse_unknown
from bulkcert.jobfile.rules import (
    refuse_bad_keys,
    refuse_empty_selection,
    refuse_excluded,
    refuse_files_without_keys,
    refuse_shared_headers,
    require_connection,
    unsafe_selection,
)
from bulkcert.jobfile.sections import (
    CONNECTION,
    DOCUMENTED_LIMITS,
    REQUIRED,
    TOP,
    abort_keys,
    sections,
)
from bulkcert.providers import providers_for
from bulkcert.providers.base import Action, CertificateFiles, Field, Keys, Provider
from bulkcert.rules import NO_RULES


def load_job(
    file: str | os.PathLike[str],
    *,
    targets: str | os.PathLike[str] | None = None,
    providers: Mapping[str, Provider] | None = None,
) -> Job:
    """Read and check a job file. The target file is not opened yet.

    Args:
        file: path of the job file; relative paths in it are relative to its folder, or to the
            current one if it is a pipe.
        targets: path of a target file to use instead of the job's; "-" is standard input.
        providers: the providers that it may name, by name; by default all that are installed.

    Raises:
        JobError: the file can't be used; it lists all faults, one per line.
        PluginError: a package has a provider that can't be used.
    """
    path = Path(file)
    document, lines = read_document(path)
    document.setdefault("name", _stem(path))
    folder = _folder(path)
    if providers is None:
        providers = providers_for(str(document.get("provider")))
    faults = Faults(path, remove_credential(providers), lines)
    refuse_credentials(document, providers, faults)
    required = REQUIRED | {"provider": f"is missing; known are {', '.join(providers)}"}
    top = read_keys("", document, TOP, faults, required)
    provider = choose("provider", top, providers, faults)
    action = choose("action", top, provider.actions, faults) if provider else None
    action = _as_used(action, document) if action else None
    refuse_excluded(document, action, faults)
    tables = sections(provider, action)
    if isinstance(document.get("abort"), dict):
        tables["abort"] = abort_keys(document["abort"])
    refuse_unknown(document, tables, faults)
    values = {name: read_section(name, document, tables, faults, path.parent) for name in tables}
    refuse_shared_headers(values["columns"], faults)
    refuse_bad_keys(document, values["keys"].get("subject", ""), action, faults)
    refuse_files_without_keys(document, faults)
    refuse_empty_selection(document, action, faults)
    if provider:
        require_connection(provider, document.get("connection"), faults)
    rules = campaign_rules(document, values, action, folder, faults) if action else NO_RULES
    notify = notifications(document, values["notify"], faults)
    if faults or provider is None or action is None:
        raise faults.error()

    if targets is None:
        target_file = None if top["targets"] == "-" else folder / top["targets"]
    else:
        target_file = None if os.fspath(targets) == "-" else Path(targets)
    documented = {name: getattr(provider, name) for name in DOCUMENTED_LIMITS}
    limits = Limits(**documented | values["limits"])
    return Job(
        name=top["name"],
        file=path,
        folder=folder,
        lines=lines,
        provider=provider,
        action=action,
        targets=target_file,
        connection=_connection(folder, provider, values["connection"]),
        limits=limits,
        parameters=values["parameters"],
        select=values["select"],
        keys=Keys(**values["keys"]) if values["keys"] else None,
        certificates=CertificateFiles(**values["certificates"]),
        columns=values["columns"],
        format=CsvFormat(**values["format"]),
        retry=Retry(**values["retry"]),
        circuit_breaker=BreakerSettings(**values["circuit_breaker"]),
        warnings=_warnings(provider, action, limits),
        unsafe=unsafe_selection(values["select"], action, time.time()),
        rules=rules,
        notify=notify,
        deadline_s=top.get("deadline"),
        store=top.get("store", ""),
    )


def store_of(path: Path) -> str:
    """Return the shared store that a job names, whatever else its file contains; empty for none.

    Raises:
        JobError: the file can't be read, is not TOML, or the URL can't be used.
    """
    document, _ = read_document(path)
    try:
        return store_url.checked(document["store"]) if "store" in document else ""
    except ValueError as error:
        raise JobError(f"{path}: store {error}", CORRECT_JOB) from error


def name_of(path: Path) -> str:
    """Return the name of a job, whatever else its file contains.

    Raises:
        JobError: the file can't be read, is not TOML, or its name can't be used.
    """
    document, _ = read_document(path)
    try:
        return folder_name(document.get("name", _stem(path)))
    except ValueError as error:
        raise JobError(f"{path}: name {error}", CORRECT_JOB) from error


def _stem(path: Path) -> str:
    return (locate(path) or path).stem


def _folder(path: Path) -> Path:
    """The folder of a job file; it stays as short as it was named."""
    if path.is_symlink():
        real = locate(path)
        return real.parent if real else Path()
    return path.parent if locate(path) else Path()


def _as_used(action: Action, document: Mapping[str, Any]) -> Action:
    """Return the action without the fields that `[select]` or `[keys]` supplies.

    A field whose default is not in `[connection]` is required.
    """
    identifiers, required, optional = action.identifiers, [*action.required], [*action.optional]
    for field in action.fields.values():
        if not field.option or field.option in _keys(document, "connection"):
            continue
        if field in optional:
            optional.remove(field)
            required.insert(0, field)
        else:
            identifiers = tuple(way for way in identifiers if field in way)
    if "select" in document and action.select:
        required = [field for field in required if field.name != action.selects]
    excluded: list[Field] = []
    if action.makes_keys:
        requests = [field for field in optional if field.pem]
        if "keys" in document or action.needs_keys:
            optional = [field for field in optional if not field.pem]
        if "keys" in document:
            excluded = requests
        elif action.needs_keys:
            required += requests
    return dataclasses.replace(
        action,
        identifiers=identifiers,
        required=tuple(required),
        optional=tuple(optional),
        excluded=tuple(field.name for field in excluded),
    )


def _keys(document: Mapping[str, Any], section: str) -> Collection[str]:
    values = document.get(section)
    return values.keys() if isinstance(values, dict) else ()


def _connection(folder: Path, provider: Provider, values: dict[str, Any]) -> Connection:
    ca_file = values.get("ca_file")
    return Connection(
        endpoint=values.get("endpoint")
        or provider.region_endpoint.format(region=values.get("region")),
        ca_file=folder / ca_file if ca_file else None,
        source_addresses=values.get("source_addresses", ()),
        proxy=values.get("proxy", ""),
        options={key: value for key, value in values.items() if key not in CONNECTION},
    )


_CONSEQUENCE = {
    "requests_per_second": "it may reject requests or block the sender",
    "requests_per_second_per_source_ip": "it BLOCKS an address that sends more",
}


def _warnings(provider: Provider, action: Action, limits: Limits) -> tuple[str, ...]:
    warnings = [action.warning] if action.warning else []
    for name in DOCUMENTED_LIMITS:
        documented, asked = getattr(provider, name), getattr(limits, name)
        if documented is not None and asked > documented:
            assumed = provider.limit_is_assumed and name == "requests_per_second"
            source = (
                f"that bulkcert assumes for {provider.name}, which documents no limit; unless you"
                " know that yours is higher"
                if assumed
                else f"that {provider.name} documents; unless your limit was raised"
            )
            warnings.append(
                f"limits.{name} is {asked:.10g}, above the {documented:.10g} {source},"
                f" {_CONSEQUENCE[name]}."
            )
    return tuple(warnings)
