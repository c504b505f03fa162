"""What a provider declares, and what the rest of the program may know of it.

The declarations (`Provider`, `Action`, `Field`) are plain data, importable without a network
library: `plan` needs nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from bulkcert.model import (
    AttemptResult,
    Fields,
    FieldValue,
    LookupResult,
    Operation,
    Outcome,
    StepRules,
)
from bulkcert.providers.advice import Advice
from bulkcert.providers.bounds import Result, bounded
from bulkcert.providers.call import Channel, OnDeparture, Request
from bulkcert.providers.clock import ProviderClock
from bulkcert.timings import Timings

MASK = "********"
"""Stands for what is secret, or known only when a request leaves, in a sample."""


@dataclass(frozen=True, slots=True)
class Key:
    """A name under which people write a value, with the text that documents it.

    The reference in docs/job-file.md is generated from these attributes.

    Attributes:
        name: as it is written in a job file or target file.
        parse: checks and converts a value from CSV (text), JSONL or TOML; raises `ValueError` with
            a reason that completes the sentence "certSn ...".
        type: what kind of value it takes, in a few words.
        meaning: what the value does, in a phrase without a full stop.
        default: what happens when the key is left out, in a few words.
        example: a value as TOML reads it.
        from_file: reads the value from the content of a file; in a job file the value may then also
            be the path of one, relative to the job file. Raises `ValueError` as `parse` does.
    """

    name: str
    parse: Callable[[object], Any]
    _: KW_ONLY
    type: str = "text"
    meaning: str = ""
    default: str = ""
    example: object = None
    from_file: Callable[[bytes], Any] | None = None


@dataclass(frozen=True, slots=True)
class Field(Key):
    """A column of a target file, or a parameter of a job, in the provider's own spelling.

    Attributes:
        show: writes a parsed value for people.
        pem: the value is PEM text or, in a target file, the path of a PEM file relative to it.
        public_key: returns what identifies the public key in a PEM value; two rows of one device
            that share it are refused. None if the value contains no key.
        clause: a condition of `[select]`, as a clause about certificates with {} for the value.
        past: the value is a moment, in milliseconds since 1970, that must not be in the future.
        option: the key of `[connection]` whose value is the default; a target without it must have
            the field itself.
    """

    parse: Callable[[object], FieldValue]
    show: Callable[[FieldValue], str] = str
    pem: bool = False
    public_key: Callable[[FieldValue], bytes] | None = None
    option: str = ""
    clause: str = ""
    past: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that a provider can be asked to do.

    Attributes:
        name: as in the job file.
        meaning: what it does, in a phrase without a full stop; for the documentation.
        changes: it changes certificates, so `run` asks for confirmation.
        requests: the fewest requests that an operation takes.
        identifiers: the ways to name a device; a target uses exactly one of them, in full.
        required: further fields that every target must have.
        optional: fields that a target may have.
        select: the conditions that `[select]` may have. With a selection, the target file does not
            need the field `selects`.
        selects: the required field that a selection supplies.
        select_needs: conditions of which a selection must have at least one, because it must not
            hit what an earlier run of the same job brought about.
        makes_keys: `[keys]` may generate key pairs, which replace the field `csr`.
        needs_keys: it makes no sense without new keys.
        excluded: the fields that `[keys]` takes the place of in this job; a target file that has
            one is refused, because either could be meant.
        verified_by: the action that reads a device back; empty if there is nothing to verify.
        undone_by: the action that undoes it; empty if it changes nothing, or can't be undone.
        revokes: its certificates belong into the revocation list of their CA.
        pages: an operation may lead to another one on the same target, the next page.
        result_columns: columns of the CSV report for each item of `result["certificates"]`; with
            `replaces` among them, for the result itself, which is a new certificate.
        key_fields: fields that a request gets from a generated key unless they are given, by the
            kind of key.
        warning: what an operator must know about the action, in one sentence.
    """

    name: str
    changes: bool
    identifiers: tuple[tuple[Field, ...], ...]
    required: tuple[Field, ...] = ()
    optional: tuple[Field, ...] = ()
    select: tuple[Field, ...] = ()
    selects: str = ""
    select_needs: tuple[str, ...] = ()
    makes_keys: bool = False
    needs_keys: bool = False
    excluded: tuple[str, ...] = ()
    requests: int = 1
    verified_by: str = ""
    undone_by: str = ""
    revokes: bool = False
    pages: bool = False
    result_columns: tuple[str, ...] = ()
    key_fields: Mapping[str, Fields] = field(default_factory=dict)
    warning: str = ""
    meaning: str = ""

    def __repr__(self) -> str:
        return f"<Action {self.name}>"

    @property
    def fields(self) -> dict[str, Field]:
        """All fields by name, in the order in which a person would expect the columns."""
        ways = [field for way in self.identifiers for field in way]
        return {field.name: field for field in (*ways, *self.required, *self.optional)}


@dataclass(frozen=True, slots=True)
class Provider:
    """A service whose certificates can be worked on.

    Attributes:
        name: as in the job file.
        actions: by name.
        connection_required: keys that `[connection]` must have in addition to `endpoint`.
        connection_optional: keys that it may have in addition to `ca_file`.
        requests_per_second: the limit of an account, the default ceiling.
        credentials: environment variables that hold the credentials.
        handler: where the handlers of its actions are made: the import path
            "package.module:function" of a function from `Setup` to `ActionHandler`. A path, because
            the module may import network libraries, which must not be loaded for a declaration.
        sample: returns the request that an action would send, with everything secret masked. It
            takes the action, the provider's own keys of `[connection]`, and a target's fields.
        difference: says how what was read back differs from what a run recorded, see
            `RecordedResult`; returns an empty text if they agree.
        remarks_on: takes the same, and says by their names which of the `remarks` are true of the
            device now.
        seen: makes what was read back short: what `verify.jsonl` shows of the certificates. It
            takes the result of the reading action, or None if there is no such certificate.
        revoked: takes the same as `difference`, and returns the certificate that the operation
            revoked; None if it revoked none.
        ca_of_list: returns where the certificate of the CA is that publishes a revocation list
            under this URL; empty if that is not known.
        optional_credentials: further environment variables that may be set.
        absent: the codes with which the reading action says that the certificate does not exist.
        requests_per_second_per_source_ip: the documented limit of each address that requests come
            from, above which the provider blocks it; None if there is none.
        region_endpoint: the endpoint of a `{region}`, for jobs that name a region instead of an
            endpoint; `region` must then be one of `connection_optional`.
        limit_is_assumed: the vendor documents no limit of an account; `requests_per_second` is our
            own careful guess.
        advice: what an operator can do about each failure, the first that fits; shown beside the
            failures of a run.
        remarks: what is worth knowing about operations that succeeded, by the names that a step
            puts into `result["remarks"]`; counted in the summary of a run.
        accounts: what tells the accounts of an endpoint apart: keys of `[connection]` and
            credentials. Runs that agree in one of them share the ceiling of an account. Without
            any, all runs on the endpoint do.
        path: whether an endpoint may have a path, below which the API is.
        simulated: `bulkcert simulate` stands in for it, so its jobs can be rehearsed.
    """

    name: str
    actions: Mapping[str, Action]
    connection_required: tuple[Key, ...]
    connection_optional: tuple[Key, ...]
    requests_per_second: float
    credentials: tuple[str, ...]
    handler: str
    sample: Callable[[Action, Mapping[str, str], Fields], Sample]
    difference: Callable[[RecordedResult, Any], str]
    remarks_on: Callable[[RecordedResult, Any], Sequence[str]] = lambda recorded, read: ()
    seen: Callable[[Any], Any] = lambda read: read
    revoked: Callable[[RecordedResult, Any], Revoked | None] = lambda recorded, read: None
    ca_of_list: Callable[[str], str] = lambda url: ""
    optional_credentials: tuple[str, ...] = ()
    absent: frozenset[str] = frozenset()
    requests_per_second_per_source_ip: float | None = None
    region_endpoint: str = ""
    accounts: tuple[str, ...] = ()
    path: bool = True
    limit_is_assumed: bool = False
    advice: tuple[Advice, ...] = ()
    remarks: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False

    def __repr__(self) -> str:
        return f"<Provider {self.name}>"


@dataclass(frozen=True, slots=True)
class RecordedResult:
    """What a run recorded about one operation: action, fields, outcome and result."""

    action: str
    fields: Fields
    outcome: Outcome
    result: Any


@dataclass(frozen=True, slots=True)
class Revoked:
    """A certificate that an operation revoked, as the list of its CA may name it.

    Attributes:
        serial: its serial number; as text if the provider does not say how it is written.
        issuer: the name of its CA, as text; empty if it is not known.
        pem: the certificate, which then decides; empty if it is not at hand.
        at_s: when it was revoked, as Unix time in seconds; set by who calls `Provider.revoked`.
        expires_at_s: the end of its validity; None if it is not known.
    """

    serial: int | str
    issuer: str = ""
    pem: str = ""
    at_s: float = 0.0
    expires_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A request to show to people, as it would be sent."""

    request: Request
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """How key pairs are generated.

    Attributes:
        generate: the kind of key, see `bulkcert.keyspec.KINDS`.
        subject: template of the subject of the signing request, with `{field}`s; if empty, the
            subject of the old certificate is used.
        operator: the public key that private keys in a shared store are sealed for, in PEM; None if
            there is none.
    """

    generate: str
    subject: str = ""
    operator: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMaterial:
    """How a shared store keeps the keys and certificates of a run.

    Attributes:
        run: the id of the run.
        operator: the public key that private keys are sealed for, in PEM; empty if the run makes no
            keys.
    """

    run: str
    operator: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """In which further forms new certificates are kept.

    Attributes:
        pkcs12_password_env: the environment variable with the password of PKCS#12 files; empty if
            there are none.
    """

    pkcs12_password_env: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What an action handler is made from.

    Attributes:
        action: the action.
        channel: sends requests.
        endpoint: base URL that the channel sends to, without trailing slash.
        open_channel: makes a channel to another endpoint, by the same rules and under the same
            ceiling, for what the provider refers to. Whoever opens it closes it.
        options: the provider's own keys of `[connection]`.
        parameters: fields that apply to every target.
        sample: the fields of some target.
        credentials: by the names of their environment variables.
        directory: the run directory, for keys and certificates.
        selection: the conditions of `[select]`; empty when targets name their certificates.
        planned_s: when the run was planned, in seconds of `clock.elapsed_s`: what "now" is for a
            selection. None for the moment at which something is selected.
        keys: how keys are generated; None if they are not.
        shared: how keys and certificates are kept in a shared store; None without one.
        pkcs12_password: of the PKCS#12 files with new certificates; empty if there are none.
        clock: learns the provider's time.
        timings: how long to wait, and for what.
    """

    action: Action
    channel: Channel
    endpoint: str
    open_channel: Callable[[str], Channel]
    options: Mapping[str, str]
    parameters: Fields
    credentials: Mapping[str, str]
    directory: Path
    selection: Mapping[str, Any] = field(default_factory=dict)
    planned_s: float | None = None
    keys: Keys | None = None
    shared: SharedMaterial | None = None
    pkcs12_password: str = field(default="", repr=False)
    clock: ProviderClock = field(default_factory=ProviderClock)
    timings: Timings = Timings()
    sample: Fields = field(default_factory=dict)


AttemptCall = Callable[[Operation, OnDeparture], Awaitable[AttemptResult]]
LookupCall = Callable[[Operation, OnDeparture], Awaitable[LookupResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of an action: what the life cycle must know of it, and how it is carried out.

    Attributes:
        rules: see `StepRules`.
        attempt: sends one attempt. It calls the `OnDeparture` when the request leaves, and not at
            all if it never does. Failures are results; it raises only errors that stop the run.
        look_up: finds out whether the wanted state exists; changes nothing.
    """

    rules: StepRules
    attempt: AttemptCall
    look_up: LookupCall


def reading(attempt: AttemptCall) -> Step:
    """A step that only reads: it is never in doubt, so it is never looked up."""
    return _step(StepRules(changes=False), attempt=attempt)


def lookup(look_up: LookupCall) -> Step:
    """A step that consists of a look-up, on which later steps depend."""
    rules = StepRules(changes=False, needs_lookup=True)
    return _step(rules, look_up=look_up)


def change(
    attempt: AttemptCall, look_up: LookupCall, *, idempotent: bool, needs_lookup: bool = False
) -> Step:
    """A step that changes certificates; see `StepRules`."""
    rules = StepRules(changes=True, idempotent=idempotent, needs_lookup=needs_lookup)
    return _step(rules, attempt, look_up)


def _step(
    rules: StepRules, attempt: AttemptCall | None = None, look_up: LookupCall | None = None
) -> Step:
    """A step whose results can be recorded, whatever the provider says."""
    return Step(
        rules=rules,
        attempt=_bounded(attempt) if attempt else _not_part_of_the_step,
        look_up=_bounded(look_up) if look_up else _not_part_of_the_step,
    )


def _bounded(
    call: Callable[[Operation, OnDeparture], Awaitable[Result]],
) -> Callable[[Operation, OnDeparture], Awaitable[Result]]:
    async def bounded_call(operation: Operation, on_departure: OnDeparture) -> Result:
        return bounded(await call(operation, on_departure))

    return bounded_call


async def _not_part_of_the_step(operation: Operation, on_departure: OnDeparture) -> NoReturn:
    raise NotImplementedError(f"step {operation.step} does not do this")


class ActionHandler(Protocol):
    """Carries out one action of one provider."""

    @property
    def steps(self) -> Sequence[Step]:
        """The steps of the action, in order."""

    async def open(self) -> None:
        """Get ready, and prove that the provider accepts the credentials.

        Raises:
            BulkcertError: the action can't be carried out; nothing was changed.
        """

    async def close(self) -> None:
        """Close all connections, and end all helper processes."""


def merged(parameters: Fields, fields: Fields) -> Fields:
    """The job's parameters under a target's own fields."""
    return {**parameters, **fields} if parameters else fields
