"""The ledger as files for others: FOCUS for finance, plain rows for everybody else; csv or parquet.

It asks a collector over HTTP, page by page, and never has the whole of it in memory.
"""

from __future__ import annotations

from tallystick.export.run import run

__all__ = ["run"]
