"""A job in a folder, a simulator in this process, and what came of it.

In: rows of a target file, sections of a job file, a behaviour. Out: the results of the run beside
the simulator's ledger. Everything goes through real files and sockets; only the waits are shorter
than in earnest. A `Go_between` can stand between the two, to see what comes when, to change what
the provider says, and to end a run as a crash would.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import aiohttp
import history
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from history import Circumstances
from processes import toml
from yarl import URL

import bulkcert
from bulkcert.plan import Plan
from bulkcert.report.summary import Summary
from bulkcert.simulator import Behaviour, Simulator
from bulkcert.simulator.enos import authority_process
from bulkcert.timings import PacerTimings, Timings

Row = dict[str, Any]
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

CREDENTIALS = {"ENOS_APP_KEY": "simulator-key", "ENOS_APP_SECRET": "simulator-secret"}
SUBJECT = "C=CN, ST=Shanghai, L=Shanghai, O=EnOS, OU=Meters, CN={assetId}"
SETTLING_S = 0.02
SHORT_WAITS = Timings(
    first_backoff_s=0.01, commit_every_s=0.002, pacer=PacerTimings(first_pause_s=0.02)
)
"""There is no load on anybody else that would have to be spared."""

PATIENCE_S = 20.0


@dataclass
class Scene:
    """A folder with a job and its targets, beside a simulator.

    Attributes:
        job: the job as a document; `write` puts it into `job_file`.
        endpoint: where the job sends to, the simulator unless somebody stands in between.
        settling_s: see `bulkcert.timings.Timings`.
    """

    folder: Path
    simulator: Simulator
    endpoint: str
    job: dict[str, Any]
    rows: list[Row]
    fleet: Path
    settling_s: float = SETTLING_S
    run_dir: Path = field(init=False)
    earlier: int = field(init=False)

    def __post_init__(self) -> None:
        self.run_dir = self.folder / "run"
        self.earlier = len(self.simulator.ledger)
        self.write()

    @property
    def job_file(self) -> Path:
        return self.folder / f"{self.job.get('name', 'job')}.toml"

    def write(self, **sections: Any) -> None:
        """Write the job file, with these sections or values changed, and the target file."""
        self.job |= sections
        self.job_file.write_text(toml(self.job))
        write_rows(self.folder / self.job["targets"], self.rows)

    def plan(self) -> Plan | None:
        """Make the run directory with its checkpoint; send nothing."""
        with bulkcert.Run(bulkcert.load_job(self.job_file), self.run_dir) as run:
            return run.plan

    async def run(self, **how: Any) -> Summary:
        """Run the job, or go on with it, and return the summary; the ledger is whole then."""
        summary = await self.run_alone(**how)
        async with asyncio.timeout(PATIENCE_S):
            while self.simulator.summary()["open"]:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
        return summary

    async def run_alone(self, **how: Any) -> Summary:
        """The same, but requests may still be under way at the provider."""
        with patch("bulkcert.keys.ProcessPoolExecutor", _shared_pool):
            job = bulkcert.load_job(self.job_file)
            timings = replace(SHORT_WAITS, settling_s=self.settling_s)
            with bulkcert.Run(job, self.run_dir, timings=timings, **how) as run:
                self.running = run
                return await run.execute(CREDENTIALS)

    @property
    def results(self) -> list[Row]:
        """The content of `results.jsonl`."""
        lines = (self.run_dir / "results.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def outcomes(self) -> list[str]:
        """The outcome of each operation, in target order."""
        return [result["outcome"] for result in self.results]

    def entries(self, *actions: str, device: str = "") -> list[Row]:
        """What was sent, in order of arrival."""
        return sorted(
            (
                entry
                for entry in self.simulator.ledger
                if (not actions or entry["action"] in actions)
                and device in ("", entry["device"].removeprefix("assetId="))
            ),
            key=lambda entry: int(entry["n"]),
        )

    def executed(self, action: str) -> Counter[tuple[str, int]]:
        """How often each certificate was acted on, by device and serial number."""
        return Counter(
            (entry["device"].removeprefix("assetId="), entry["certSn"])
            for entry in self.entries(action)
            if entry["executed"]
        )

    def states(self, device: str) -> dict[int, str]:
        """What the provider has of a device: status by serial number."""
        held = self.simulator.certificates(f"assetId={device}")
        return {int(state.cert_sn): state.status for state in held}

    def violations(self, **circumstances: Any) -> list[str]:
        """What should not have happened, by the history checker and by what was issued."""
        ledger = self.folder / "ledger.jsonl"
        ledger.write_text("".join(json.dumps(entry) + "\n" for entry in self.simulator.ledger))
        found = history.read(self.job_file, self.run_dir, ledger, fleet=self.fleet)
        known = {"earlier": self.earlier} | circumstances
        return [*history.check(found, Circumstances(**known)), *self._false_claims()]

    def _false_claims(self) -> Iterator[str]:
        """Results that are at odds with what their own renewal brought, and with no other."""
        brought: dict[history.Key, list[str]] = {}
        for entry in self.entries("renew"):
            if entry["executed"]:
                key = history.Key(entry["device"], str(entry["certSn"]))
                brought.setdefault(key, []).append(str(entry["issued"]))
        for result in self.results:
            own = brought.get(history.key_of(result["target"]), [])
            claimed = (result["result"] or {}).get("certSN")
            if claimed and claimed not in own:
                yield f"line {result['line']}: claims {claimed}, but brought {own or 'none'}"
            if own and not claimed and result["outcome"] not in ("unknown", "pending"):
                yield f"line {result['line']}: is {result['outcome']}, but brought {own}"

    def certificate(self, result: Row) -> x509.Certificate:
        """The certificate that a result names."""
        path = self.run_dir / result["result"]["certificate_file"]
        return x509.load_pem_x509_certificates(path.read_bytes())[0]


@asynccontextmanager
async def scene(
    folder: Path,
    action: str,
    rows: Iterable[Row],
    *,
    behaviour: dict[str, Any] | None = None,
    fleet: Iterable[Row] | None = None,
    between: GoBetween | None = None,
    settling_s: float = SETTLING_S,
    **sections: Any,
) -> AsyncIterator[Scene]:
    """Set a scene.

    Args:
        folder: an empty folder.
        action: what the job does.
        rows: its targets.
        behaviour: fields of `Behaviour`.
        fleet: what exists; the targets, unless given.
        between: who stands between the job and the simulator.
        settling_s: see `Scene`.
        sections: of the job file, over the ones that every job needs.
    """
    rows = list(rows)
    existing = folder / "existing.jsonl"
    write_rows(existing, rows if fleet is None else fleet)
    kind = Behaviour(**{"limit": 0, "retry_after": 0} | (behaviour or {}))
    async with AsyncExitStack() as stack:
        stack.enter_context(_authority_in_this_process())
        simulator = await stack.enter_async_context(Simulator(kind, fleet=existing))
        endpoint = simulator.endpoint
        if between:
            endpoint = await stack.enter_async_context(between.serving(simulator))
        job: dict[str, Any] = {
            "name": "job",
            "provider": "enos",
            "action": action,
            "targets": "targets.jsonl",
            "connection": {"endpoint": endpoint, "org_id": "o1"},
            "limits": {"requests_per_second": 5000},
        }
        yield Scene(folder, simulator, endpoint, job | sections, rows, existing, settling_s)


_made_once = cache(authority_process._generate)


def _authority_in_this_process() -> AbstractContextManager[object]:
    """Have the simulator's certificate authority here, with the same keys for all tests.

    To start a process for it takes longer than most tests.
    """

    async def start(*command: str, **options: Any) -> Any:
        answers, ended = asyncio.StreamReader(limit=2**28), asyncio.Event()
        authorities: list[authority_process.CertificateAuthority] = []

        def answer(document: Row) -> None:
            answers.feed_data(json.dumps(document).encode() + b"\n")

        def write(line: bytes) -> None:
            order = json.loads(line)
            if not authorities:
                for kind, name in order["authorities"]:
                    with patch("bulkcert.simulator.enos.authority_process._generate", _made_once):
                        authorities.append(
                            authority_process.CertificateAuthority(
                                kind, name, order["from_s"], order["to_s"]
                            )
                        )
                roots = [
                    authority.certificate.public_bytes(Encoding.PEM) for authority in authorities
                ]
                answer({"roots": [root.decode() for root in roots]})
            else:
                pem = authorities[order["authority"]].issue(order)
                answer({"id": order["id"], "pem": pem})

        def write_all(lines: Iterable[bytes]) -> None:
            for line in lines:
                write(line)

        orders = SimpleNamespace(write=write, writelines=write_all, close=ended.set)
        return SimpleNamespace(stdin=orders, stdout=answers, wait=ended.wait)

    return patch("bulkcert.simulator.enos.authority.asyncio.create_subprocess_exec", start)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class _SharedPool:
    """The processes that make keys, the same for all tests: to start them takes a second."""

    pool: ProcessPoolExecutor | None = None

    def __call__(self, **options: Any) -> _SharedPool:
        self.pool = self.pool or ProcessPoolExecutor(**options)
        return self

    def submit(self, *call: Any) -> Future[Any]:
        assert self.pool
        return self.pool.submit(*call)

    def shutdown(self, **options: Any) -> None:
        """They go on; the interpreter ends them."""


_shared_pool = _SharedPool()


@dataclass(frozen=True)
class Passing:
    """A request on its way: the action (`token.get` ... as in the ledger), the device, the body."""

    action: str
    device: str
    body: Any


_PASSED = ("Content-Type", "Location", "Retry-After")


class CutError(Exception):
    """Raised by whoever wants the connection cut."""


class GoBetween:
    """Stands between a job and the simulator, and passes on what comes.

    Override `before` and `after`; both may raise `CutError`.
    """

    async def before(self, passing: Passing) -> None:
        """Called before a request is passed on."""

    async def after(self, passing: Passing, answer: bytes) -> bytes:
        """Called with the body of each answer; what it returns goes to the job instead."""
        return answer

    @asynccontextmanager
    async def serving(self, simulator: Simulator) -> AsyncIterator[str]:
        """Serve; yields the endpoint."""
        self.simulator = simulator
        self._open: set[asyncio.Transport] = set()
        runner = web.ServerRunner(web.Server(self._pass_on), shutdown_timeout=0.01)
        async with aiohttp.ClientSession() as self._session:
            self._session._retry_connection = False  # what is passed on twice would be sent twice
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
            finally:
                await runner.cleanup()

    def cut_all(self) -> None:
        """Cut every connection of the job; what was passed on goes its way."""
        for transport in self._open:
            transport.abort()

    async def _pass_on(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if request.transport is None:  # cut meanwhile
            return web.Response()
        self._open.add(request.transport)
        query = request.rel_url.query
        passing = Passing(
            query.get("action") or request.path.rpartition("/")[2],
            query.get("assetId", ""),
            json.loads(body or b"null"),
        )
        kept = {k: v for k, v in request.headers.items() if k.startswith(("apim-", "Content-Type"))}
        try:
            await self.before(passing)
            url = URL(self.simulator.endpoint + request.raw_path, encoded=True)
            async with self._session.request(
                request.method, url, data=body or None, headers=kept, allow_redirects=False
            ) as response:
                content = await self.after(passing, await response.read())
        except (CutError, aiohttp.ClientError):
            if request.transport:
                request.transport.abort()
            return web.Response()
        passed = {name: response.headers[name] for name in _PASSED if name in response.headers}
        return web.Response(body=content, status=response.status, headers=passed)


class Crash(GoBetween):
    """Ends a run as a crash would, at one moment, and lets the next one through.

    What is on disk at that moment is kept and put back when the run has ended, which can't reach
    the provider any more.

    Args:
        when: says for each request whether its moment has come: called before it is passed on and,
            with the answer, after.
    """

    def __init__(self, when: Callable[[Passing, bytes | None], bool]) -> None:
        self._when = when
        self._scene: Scene | None = None
        self.happened = False

    async def before(self, passing: Passing) -> None:
        self._perhaps(passing, None)

    async def after(self, passing: Passing, answer: bytes) -> bytes:
        self._perhaps(passing, answer)
        return answer

    def _perhaps(self, passing: Passing, answer: bytes | None) -> None:
        scene = self._scene
        if scene is None or passing.action == "get":  # without a token nobody would even try
            return
        if not self.happened and self._when(passing, answer):
            self.happened = True
            unfinished = shutil.ignore_patterns("*.partial")
            shutil.copytree(scene.run_dir, self._kept(scene), ignore=unfinished)
            scene.running.stop()
            self.cut_all()
        if self.happened:
            raise CutError

    async def crash(self, scene: Scene) -> None:
        """Run the job until it crashes."""
        assert await self.tried(scene), "the moment never came"

    async def tried(self, scene: Scene) -> bool:
        """Run the job until it crashes; False if it came to its end before."""
        self._scene, self.happened = scene, False
        await scene.run_alone()
        self._scene = None
        if self.happened:
            shutil.rmtree(scene.run_dir)
            self._kept(scene).rename(scene.run_dir)
        return self.happened

    @staticmethod
    def _kept(scene: Scene) -> Path:
        return scene.folder / "kept"


Change = Callable[[Any], Any]


class Forger(GoBetween):
    """Changes what the provider says.

    Args:
        changes: by action, what to make of the JSON of an answer.
    """

    def __init__(self, **changes: Change) -> None:
        self._changes = changes

    async def after(self, passing: Passing, answer: bytes) -> bytes:
        change = self._changes.get(passing.action)
        return json.dumps(change(json.loads(answer))).encode() if change else answer


def signing_request(name: str, key: PrivateKey | None = None) -> str:
    """A signing request in PEM for a device of this name."""
    labels = {"C": "2.5.4.6", "ST": "2.5.4.8", "L": "2.5.4.7", "O": "2.5.4.10", "OU": "2.5.4.11"}
    values = {"C": "CN", "ST": "Shanghai", "L": "Shanghai", "O": "EnOS", "OU": "Meters"}
    names = {labels[label]: value for label, value in values.items()} | {"2.5.4.3": name}
    subject = x509.Name(
        [x509.NameAttribute(x509.ObjectIdentifier(oid), value) for oid, value in names.items()]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def public_key(holder: Any) -> bytes:
    """The public key of a certificate, a request or a private key, comparable."""
    key = holder.public_key()
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def devices(count: int, first_serial: int = 1000) -> list[Row]:
    """Rows of a target file: devices A0, A1, ... with a certificate each."""
    return [{"assetId": f"A{n}", "certSn": first_serial + n} for n in range(count)]


def with_requests(rows: Iterable[Row]) -> list[Row]:
    """The same rows, each with a signing request."""
    return [row | {"csr": signing_request(row["assetId"])} for row in rows]
