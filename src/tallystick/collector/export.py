"""Rows of an answer as CSV that a spreadsheet cannot be made to run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tallystick.model.cells import defused

MEDIA_TYPE = "text/csv; charset=utf-8; header=present"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``rows`` with a line of their names first; the keys of the first row are the columns.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.  Lists and maps are JSON.
    """
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\r\n")
    if rows:
        writer.writerow([_cell(name) for name in rows[0]])
    for row in rows:
        writer.writerow([_cell(value) for value in row.values()])
    return held.getvalue()


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return defused(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
