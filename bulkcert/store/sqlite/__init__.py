"""The store as one SQLite file, the checkpoint in the run directory.

database    the schema, and connections to a file
plan        builds a checkpoint from a stream of targets
rollout     puts the operations of a plan in order, and in waves
store       the store during a run
reader      the store as the reports see it
timeline    the course of a run, by stretch of time
keys        which operations of one run are also in another
"""

from bulkcert.store.sqlite.database import MINIMUM_SQLITE, SCHEMA_VERSION, require_sqlite
from bulkcert.store.sqlite.plan import Dropped, Pair, SqlitePlan, new_store
from bulkcert.store.sqlite.reader import SqliteReader
from bulkcert.store.sqlite.rollout import Breakdown, PlannedWave, RolledOut
from bulkcert.store.sqlite.store import SqliteStore

__all__ = [
    "MINIMUM_SQLITE",
    "SCHEMA_VERSION",
    "Breakdown",
    "Dropped",
    "Pair",
    "PlannedWave",
    "RolledOut",
    "SqlitePlan",
    "SqliteReader",
    "SqliteStore",
    "new_store",
    "require_sqlite",
]
