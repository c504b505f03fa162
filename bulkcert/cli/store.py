"""`bulkcert store`: set up the database that several hosts share, and check it."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from bulkcert.cli import console
from bulkcert.cli.format import as_text
from bulkcert.cli.options import json_option
from bulkcert.errors import BulkcertError, StoreError
from bulkcert.quantities import count
from bulkcert.store.place import require_psycopg
from bulkcert.store_url import chosen
from bulkcert.timings import HostTimings

if TYPE_CHECKING:
    import psycopg

    from bulkcert.store.postgresql.health import Finding

VERBS = ("init", "check", "migrate", "recheck")

UNFIT = 1
"""The exit code when a run would be in danger with the store as it is."""


@click.command(short_help="Set up a shared store, or check it.")
@click.argument("verb", metavar="ACTION", type=click.Choice(VERBS))
@click.argument("url", metavar="[URL]", required=False)
@click.option("--worker", metavar="ROLE", default="", help="With init: who may work on runs.")
@click.option("--reader", metavar="ROLE", default="", help="With init: who may only read runs.")
@click.option("--run", metavar="NAME", default="", help="With recheck: the name of the run.")
@click.option("--why", metavar="TEXT", default="", help="With recheck: the reason, for the log.")
@click.option("--force", is_flag=True, help="With recheck: although no host has noticed a loss.")
@json_option
def store(
    verb: str,
    url: str | None,
    worker: str,
    reader: str,
    run: str,
    why: str,
    force: bool,
    as_json: bool,
) -> None:
    """Set up the PostgreSQL database that several hosts share, or check whether it is fit.

    `init` makes the tables, and lets the named roles use them; it can be repeated. `check` says
    what endangers a run or slows it down, and what to do about it. `migrate` brings the tables to
    the version of this program. `init` and `migrate` need the owner of the database; the hosts
    should work as somebody else.

    `recheck` lets a run go on after the store has lost commits, such as by a restore or a failover:
    everything that is not finished is looked up before anything is sent again.

    \b
    Examples:
      bulkcert store init postgresql://owner@db/bulkcert --worker bulkcert
      bulkcert store check postgresql://bulkcert@db/bulkcert
    """
    url = chosen(option=url or "")
    if not url:
        raise click.UsageError("Name the database, or set BULKCERT_STORE.")
    if (worker or reader) and verb != "init":
        raise click.UsageError("--worker and --reader go with `init`.")
    if bool(run) != (verb == "recheck"):
        raise click.UsageError("`recheck` and --run NAME go together.")
    try:
        if verb == "recheck":
            with contextlib.closing(_connected(url)):
                pass  # with a better message, if it can't be used
            _recheck(url, run, why, force=force, as_json=as_json)
            return
        with contextlib.closing(_connected(url)) as db:
            if verb == "check":
                _check(db, as_json=as_json)
            else:
                _migrate(db, worker, reader, is_new=verb == "init", as_json=as_json)
    except StoreError as error:
        error.exit_code = BulkcertError.exit_code  # nothing has begun that could be continued
        raise


def _connected(url: str) -> psycopg.Connection:
    require_psycopg()
    from bulkcert.store.postgresql.database import connect_to_any

    return connect_to_any(url)


def _migrate(
    db: psycopg.Connection, worker: str, reader: str, *, is_new: bool, as_json: bool
) -> None:
    from bulkcert.store.postgresql.database import explained
    from bulkcert.store.postgresql.schema import SCHEMA_VERSION, grant, migrate, refused, version

    with explained():
        before = version(db)
        if not before and not is_new:
            raise StoreError("There are no tables to migrate.", "Run `bulkcert store init`.")
        if is_new and before not in (0, SCHEMA_VERSION):
            raise StoreError(
                f"The tables have version {before}, and this bulkcert needs {SCHEMA_VERSION}.",
                "Run `bulkcert store migrate`.",
            )
        migrate(db)
        grant(db, worker=worker, reader=reader)
        too_old = refused(db)
    if as_json:
        console.print_json({"before": before, "version": SCHEMA_VERSION, "refused": too_old})
        return
    if before == SCHEMA_VERSION:
        console.print_text(f"The tables have version {SCHEMA_VERSION} already.")
    else:
        console.print_text(f"The tables have version {SCHEMA_VERSION} now.")
    if too_old:
        console.print_text(
            f"Hosts with an older bulkcert, which record nothing any more: {', '.join(too_old)}."
            f" Others take over from them after {HostTimings().fence_after_s:g} s."
        )
    for role, right in ((worker, "work on"), (reader, "read")):
        if role:
            console.print_text(f"{role} may {right} runs.")


def _recheck(url: str, run: str, why: str, *, force: bool, as_json: bool) -> None:
    from bulkcert.decisions import record_recheck
    from bulkcert.store.postgresql import PostgresStore

    with contextlib.closing(PostgresStore(url, run)) as store:
        operations = store.commit(lambda: record_recheck(store, why, force=force))
    if as_json:
        console.print_json({"run": run, "operations": operations})
        return
    console.print_text(
        f"{count(operations, 'operation')} of {run} will be looked up before anything is sent"
        " again. Start the hosts."
    )


def _check(db: psycopg.Connection, *, as_json: bool) -> None:
    from bulkcert.store.postgresql.health import Level, findings, look

    found = list(findings(look(db)))
    fit = all(each.level is not Level.PROBLEM for each in found)
    if as_json:
        console.print_json({"fit": fit, "findings": [_object(each) for each in found]})
    else:
        console.print_text(as_text(_lines(found), console.columns("stdout")))
    if not fit:
        sys.exit(UNFIT)


def _lines(found: list[Finding]) -> list[str]:
    lines = []
    for subject, level, text, next_step in found:
        lines.append(f"{level:<8} {subject}: {text}")
        if next_step:
            lines.append(f"         {next_step}")
    return lines


def _object(finding: Finding) -> dict[str, Any]:
    return finding._asdict() | {"level": str(finding.level), "next_step": finding.next_step or None}
