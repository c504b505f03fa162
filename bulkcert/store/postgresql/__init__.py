"""The store as tables of a PostgreSQL database, which several runs and several hosts share.

schema      the tables, and how they get there: numbered files in `migrations`
database    connections, and what their errors mean
plan        publishes a plan that was built in a checkpoint
store       the store during a run
reader      the store as the reports see it
runs        the runs that a shared store has
pace        slots of the ceiling that all hosts of an account share
campaign    where a campaign stands; reading only, for both of them
health      is a database fit for it?
timeline    the course of a run, by stretch of time

psycopg comes with the extra `postgresql`; whatever does not need it must not import this package.
"""

from bulkcert.store.postgresql.plan import discard, keep_files, publish, read_files
from bulkcert.store.postgresql.reader import PostgresReader
from bulkcert.store.postgresql.runs import read_runs, run_exists, run_is_worked_on
from bulkcert.store.postgresql.schema import SCHEMA_VERSION, migrate
from bulkcert.store.postgresql.store import PostgresStore

__all__ = [
    "SCHEMA_VERSION",
    "PostgresReader",
    "PostgresStore",
    "discard",
    "keep_files",
    "migrate",
    "publish",
    "read_files",
    "read_runs",
    "run_exists",
    "run_is_worked_on",
]
