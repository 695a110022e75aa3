"""How the pages look: Streamlit's theme as flags, and colours that stay with a name."""

from __future__ import annotations

import threading
import zlib
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Okabe and Ito, "Color Universal Design": told apart with every kind of colour vision, legible on white and on black.
# Black is left out (invisible on the dark theme), and so is yellow (invisible on the light one).
SERIES_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
REST_COLOUR = "#8A8F98"
"""Whatever is not a series of its own: the rest, and calls without a value."""
OK_COLOUR = "#009E73"
FAILED_COLOUR = "#D55E00"

THEME: dict[str, str | float | bool | list[str]] = {
    "theme.baseRadius": "6px",
    "theme.metricValueFontSize": "1.75rem",
    "theme.headingFontSizes": ["1.6rem", "1.25rem", "1.05rem"],
    "theme.paddingTop": "1rem",
    "theme.chartCategoricalColors": list(SERIES_COLOURS),
    "theme.light.primaryColor": "#00609A",
    "theme.light.backgroundColor": "#FFFFFF",
    "theme.light.secondaryBackgroundColor": "#F3F5F7",
    "theme.light.textColor": "#0B1119",
    "theme.light.codeTextColor": "#0B1119",
    "theme.light.linkColor": "#00609A",
    "theme.light.borderColor": "#D5DBE1",
    "theme.dark.primaryColor": "#56B4E9",
    "theme.dark.backgroundColor": "#11161C",
    "theme.dark.secondaryBackgroundColor": "#1B222B",
    "theme.dark.textColor": "#E6EAEE",
    "theme.dark.codeTextColor": "#E6EAEE",
    "theme.dark.linkColor": "#7CC7F0",
    "theme.dark.borderColor": "#323C47",
}


class Palette:
    """Binds a colour to each series name, for as long as the dashboard runs.

    A name's colour never depends on its rank or on the filter: it is the one that the name's checksum points at, or the
    next that no other name of the same dimension has.  With more names than colours some share one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bound: defaultdict[str, dict[str, str]] = defaultdict(dict)

    def colours(self, dimension: str, names: Iterable[str]) -> list[str]:
        """Return the colours of ``names``, in their order."""
        with self._lock:
            return [self._colour(self._bound[dimension], name) for name in names]

    @staticmethod
    def _colour(bound: dict[str, str], name: str) -> str:
        if name not in bound:
            first = zlib.crc32(name.encode())
            turns = [SERIES_COLOURS[(first + step) % len(SERIES_COLOURS)] for step in range(len(SERIES_COLOURS))]
            taken = set(bound.values())
            bound[name] = next((colour for colour in turns if colour not in taken), turns[0])
        return bound[name]
