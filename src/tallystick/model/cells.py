"""What may stand in a cell of a CSV file."""

from __future__ import annotations

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A cell that begins so is a formula to Excel, Calc and Sheets; source: OWASP, "CSV Injection"."""


def defused(text: str) -> str:
    """Return ``text``, with an apostrophe before it when a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(FORMULAS) else text
