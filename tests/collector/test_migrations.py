"""A collector that is killed while it changes the schema leaves a file that the next one opens."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from tallystick.collector.store import SCHEMA, TABLES, Store

NUMBERS = sorted(int(script.name[:4]) for script in files("tallystick.collector").joinpath("migrations").iterdir())
STATEMENTS = 2 + 1 + 4 * len(NUMBERS)
"""What a migration of a new file executes: its questions, the first row of ``meta``, and four for each script."""

# Runs the real migration with a cursor that ends the process before its nth statement.
KILLED = """
import os, signal, sys
from pathlib import Path
from tallystick.collector import store

class Cursor:
    def __init__(self, cursor, left):
        self.cursor, self.left = cursor, left
    def execute(self, *arguments):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return self.cursor.execute(*arguments)

path, statements = Path(sys.argv[1]), int(sys.argv[2])
cursor = store._open(path, 128).cursor()
cursor.execute("USE ledger").fetchall()
store._migrate(Cursor(cursor, statements), path)
"""


def test_migrations_are_numbered_without_a_gap_up_to_the_schema() -> None:
    assert list(range(1, SCHEMA + 1)) == NUMBERS


@pytest.mark.parametrize("statements", range(STATEMENTS))
def test_a_migration_that_is_killed_before_any_statement_is_made_by_the_next_one(
    tmp_path: Path, statements: int
) -> None:
    path = tmp_path / "tallystick.duckdb"
    killed = subprocess.run([sys.executable, "-c", KILLED, path, str(statements)], check=False, capture_output=True)
    if killed.returncode == 0:
        # A new file has one question less to answer than one that has tables.
        assert statements == STATEMENTS - 1
    else:
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    store = Store(path, 128)
    try:
        schema = store.ask("SELECT value FROM meta WHERE key = 'schema'")
        counts = [store.ask(f"SELECT count(*) FROM {table}") for table in TABLES]
    finally:
        store.close()

    assert schema == [(str(SCHEMA),)]
    assert counts == [[(0,)]] * len(TABLES)
