"""docs/hosts.md and examples/hosts/: what an operator copies from there works."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from code_blocks import bulkcert_commands, job_files
from job_folder import devices, write_csv
from postgres import PostgresServer
from psycopg.conninfo import conninfo_to_dict
from test_commands_in_docs import parse
from test_readme import texts

from bulkcert.cli import main
from bulkcert.errors import BulkcertError
from bulkcert.report.summary import RESUMABLE, STOPPED_BY_RULES
from bulkcert.store.postgresql.health import OLDEST_SERVER
from bulkcert.timings import HostTimings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "hosts.md").read_text()
EXAMPLES = ROOT / "examples" / "hosts"
UNIT = EXAMPLES / "bulkcert-work@.service"
MANIFEST = EXAMPLES / "kubernetes.yaml"


# ---- the page


def test_its_job_can_be_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "fleet.csv", devices(3))
    (job,) = job_files(ROOT / "docs" / "hosts.md").values()
    # a plan looks into the store, for an earlier run of this name
    without = re.sub(r"^store = .*\n", "", job, flags=re.M)
    assert without != job
    (tmp_path / "revoke.toml").write_text(without)
    ended = CliRunner().invoke(main, ["plan", "revoke.toml"])
    assert ended.exit_code == 0, ended.output


def messages() -> list[str]:
    """The messages in the second column of the table "At 3 a.m."."""
    table = PAGE.partition("\n## At 3 a.m.")[2].partition("\n### ")[0]
    rows = [line.split(" | ")[1] for line in table.splitlines() if line.startswith("| ")][2:]
    return [said for row in rows for said in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("message", messages())
def test_the_program_says_so(message: str) -> None:
    figures = re.sub(r"\d+/s|\b\d\b|VERSION", "…", message)  # as they happen to be in the example
    if "No space" in figures:  # the server's own words
        return
    parts = [re.escape(part.strip()) for part in figures.split("…") if part.strip(" .:,")]
    assert all(re.search(part, everything()) for part in parts), parts


@cache
def everything() -> str:
    """Every text in the package."""
    return "\n".join(texts())


def test_the_page_has_messages_to_look_for() -> None:
    assert len(messages()) > 12


def test_its_figures_are_those_of_the_program() -> None:
    times = HostTimings()
    for text in (
        f"for {times.ttl_s:g} seconds from the begin",
        f"has not moved for\n{times.fence_after_s:g} seconds",
        f"after {times.silent_after_s:g} s `silent for",
        f"after {times.fence_after_s:g} s the event `fenced`",
        f"wait for {times.fence_after_s:g} s.",
        f"is {times.utilization * 100:.0f} % of the ceiling",
        f"waits {times.lock_patience_s:g} s for a table",
        f"PostgreSQL {OLDEST_SERVER} or newer",
    ):
        assert text in PAGE, text


def test_it_names_every_example_and_links_them() -> None:
    for path in EXAMPLES.iterdir():
        assert f"examples/hosts/{path.name}" in PAGE, path.name
        assert f"(hosts/{path.name})" in (ROOT / "examples" / "README.md").read_text()


def implemented() -> list[tuple[str, str]]:
    """Files, with the tests in them, that the documents about the protocol name."""
    texts = [
        (ROOT / "docs" / name).read_text() for name in ("model/README.md", "store-contract.md")
    ]
    named = re.findall(r"`((?:bulkcert|tests)/[\w/.]+\.\w+)(?:::(\w+))?`", "".join(texts))
    return sorted(set(named))


def test_what_documents_about_the_protocol_name_is_there() -> None:
    named = implemented()
    assert len(named) > 25
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text(), test


# ---- the database


@pytest.fixture(scope="module")
def prepared() -> Iterator[str]:
    """The URL of a server on which `roles.sql` was carried out."""
    with closing(PostgresServer()) as server:
        server.start()
        run_script(server.url)
        yield server.url


def run_script(url: str) -> None:
    """Carry out `roles.sql` as psql does: without a transaction around all."""
    script = (EXAMPLES / "roles.sql").read_text()
    script = re.sub(r"^(\\|--).*$", "", script, flags=re.M)
    with closing(psycopg.connect(url, autocommit=True)) as db:
        for statement in filter(str.strip, script.split(";")):
            db.execute(statement.encode())


def as_role(url: str, role: str) -> str:
    return url.replace("postgres@/postgres", f"{role}@/bulkcert")


def called(*words: str) -> tuple[int, str]:
    ended = CliRunner().invoke(main, words)
    return ended.exit_code, ended.output


@pytest.mark.system
def test_roles_and_the_first_commands_of_the_page(prepared: str) -> None:
    commands = bulkcert_commands(ROOT / "docs" / "hosts.md")
    for words in [
        words for words in commands if words[:2] in (["store", "init"], ["store", "check"])
    ]:
        url = next(word for word in words if word.startswith("postgresql:"))
        role = conninfo_to_dict(url).get("user") or "bulkcert"
        own = [as_role(prepared, str(role)) if word == url else word for word in words]
        code, said = called(*own)
        if words[1] == "init":
            assert (code, "bulkcert may work on runs." in said) == (0, True), said
        else:
            assert "ok       user: bulkcert may work on runs" in said
            assert "ok       synchronous_commit: on" in said
            assert "snapshots: none that is long" in said  # sees those of others


@pytest.mark.system
def test_a_reader_can_not_write_and_others_can_not_connect(prepared: str) -> None:
    called("store", "init", as_role(prepared, "bulkcert_owner"), "--reader", "bulkcert_reader")
    with closing(psycopg.connect(as_role(prepared, "bulkcert_reader"), autocommit=True)) as db:
        db.execute("SELECT * FROM bulkcert.run")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            db.execute("UPDATE bulkcert.run SET name = ''")
    with closing(psycopg.connect(prepared, autocommit=True)) as db:
        db.execute("CREATE ROLE stranger LOGIN")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(as_role(prepared, "stranger"))


@pytest.mark.system
def test_the_server_understands_the_lines_of_pg_hba(prepared: str) -> None:
    with closing(psycopg.connect(prepared, autocommit=True)) as db:
        (file,) = db.execute("SHOW hba_file").fetchone() or ("",)
        before = Path(file).read_text()
        Path(file).write_text((EXAMPLES / "pg_hba.conf").read_text() + before)
        try:
            rules = db.execute(
                "SELECT type, user_name, auth_method, error FROM pg_hba_file_rules"
                " WHERE database = '{bulkcert}' OR error IS NOT NULL ORDER BY line_number"
            ).fetchall()
        finally:
            Path(file).write_text(before)
    assert len(rules) == 4
    for kind, users, method, error in rules:
        # some servers are built without TLS
        assert error is None or "supported by this build" in error, error
        assert error or (kind, method) in (
            *(("hostssl", "cert"), ("hostssl", "scram-sha-256"), ("host", "reject")),
        ), users


@pytest.mark.system
def test_tls_makes_certificates_for_the_server_and_the_hosts(tmp_path: Path) -> None:
    command = [EXAMPLES / "tls.sh", "db.example.com", tmp_path / "tls"]
    subprocess.run(command, check=True, capture_output=True)
    made = tmp_path / "tls"
    assert {path.name for path in made.iterdir()} == {
        *("ca.crt", "ca.key", "server.crt", "server.key", "bulkcert.crt", "bulkcert.key"),
    }
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in made.glob("*.key"))

    def openssl(*words: str | Path) -> str:
        ended = subprocess.run(
            ["openssl", *map(str, words)], check=True, capture_output=True, text=True
        )
        return ended.stdout

    for name, purpose in (("server", "sslserver"), ("bulkcert", "sslclient")):
        openssl("verify", "-purpose", purpose, "-CAfile", made / "ca.crt", made / f"{name}.crt")
    assert "does match" in openssl(
        "x509", "-in", made / "server.crt", "-noout", "-checkhost", "db.example.com"
    )
    subject = openssl("x509", "-in", made / "bulkcert.crt", "-noout", "-subject")
    assert re.search(r"CN ?= ?bulkcert$", subject.strip())
    # a CA is never replaced
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_the_service_file_has_what_tls_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    services = re.split(r"^\[([\w-]+)\]$", (EXAMPLES / "pg_service.conf").read_text(), flags=re.M)
    found = dict(zip(services[1::2], services[2::2], strict=True))
    assert list(found) == ["bulkcert", "bulkcert-owner", "bulkcert-reader"]
    for name, text in found.items():
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        values = conninfo_to_dict(" ".join(lines))
        assert values["sslmode"] == "verify-full"
        assert values["user"] == name.replace("-", "_")


# ---- systemd and Kubernetes


def settings(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit, re.M)


def test_the_unit_joins_again_by_the_exit_codes() -> None:
    unit = UNIT.read_text()
    final = f"1 {BulkcertError.exit_code} {STOPPED_BY_RULES}"
    assert settings(unit, "RestartPreventExitStatus") == [final]
    assert settings(unit, "RestartForceExitStatus") == [str(RESUMABLE)]
    assert settings(unit, "Restart") == ["on-failure"]  # also after SIGKILL
    (command,) = settings(unit, "ExecStart")
    parse(shlex.split(command.replace("%S", "/var/lib").replace("%i", "revoke"))[1:])


@pytest.mark.system
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("true")
    assert program
    unit = UNIT.read_text().replace("/opt/bulkcert/bin/bulkcert", program)
    path = tmp_path / "bulkcert-work@revoke.service"
    path.write_text(unit)
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True
    )
    complaints = [line for line in ended.stderr.splitlines() if "bulkcert-work" in line]
    assert complaints == []


def test_the_job_of_kubernetes_starts_pods_again_by_the_exit_codes() -> None:
    manifest = MANIFEST.read_text()
    rules = re.findall(
        r"action: (\w+).*?(?:values: \[([\d, ]+)\]|DisruptionTarget)", manifest, re.S
    )
    assert rules == [("FailJob", "1, 4"), ("Ignore", "3, 137"), ("Ignore", "")]
    assert "restartPolicy: Never" in manifest  # or there may be no podFailurePolicy
    (command,) = re.findall(r"command: \[(.*)\]", manifest)
    parse([word.strip().strip('"') for word in command.split(",")][1:])
    assert "\t" not in manifest


@pytest.mark.system
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
def test_kubectl_takes_the_manifest() -> None:
    # reads it with the types of its own version; asks no cluster
    command = ["kubectl", "label", "--local", "-f", MANIFEST, "checked=yes", "-o", "name"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, "job.batch/bulkcert-revoke"), (
        ended.stderr
    )
