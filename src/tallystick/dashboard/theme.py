"""How the pages look: Streamlit's theme as flags, and colours that stay with a name."""

from __future__ import annotations

import threading
import zlib
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

# Okabe and Ito, "Color Universal Design": told apart with every kind of colour vision, legible on white and on black.
# Black is left out (invisible on the dark theme), and so is yellow (invisible on the light one).
SERIES_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
REST_COLOUR = "#8A8F98"
"""Whatever is not a series of its own."""
NONE_COLOUR = "#5B6470"
"""Calls without a value: a grey that is told from the rest's by its lightness, and seen on white and on black."""
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

STYLE = """<style>
[data-testid="stElementContainer"]:has(> [data-testid="stMetric"]) {{ flex: 1 1 0 !important; min-width: 9.5rem; }}
[data-testid="stPageLink"] a, [data-testid="stPageLink"] a * {{ white-space: normal; overflow-wrap: anywhere; }}
@media (max-width: 640px) {{
  [data-testid="stElementContainer"]:has(> [data-testid="stMetric"]) {{ max-width: calc(50% - 0.5rem); }}
  [data-testid="stMetricDelta"], [data-testid="stMetricDelta"] * {{
    height: auto !important; white-space: normal !important;
  }}
  [data-testid="stHeader"]::after {{
    content: "{title}"; position: absolute; left: 50%; top: 50%; transform: translate(-50%, -50%); font-weight: 600;
  }}
}}
</style>"""


def style(title: str) -> str:
    """Return what Streamlit's theme cannot say: tiles of one width, whole links and, on a phone, the page's name.

    The bar that tells the page elsewhere is folded away there.
    """
    return STYLE.format(title=title)


class Palette:
    """Binds a colour to each series name, for as long as the dashboard runs.

    A name's colour never depends on its rank or on the filter: it is the one that the name's checksum points at, or the
    next that no other name of the same dimension has.  With more names than colours some share one; where two of those
    are shown at once, the second gets another for that chart.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bound: defaultdict[str, dict[str, str]] = defaultdict(dict)

    def colours(self, dimension: str, names: Iterable[str]) -> list[str]:
        """Return the colours of ``names``, in their order; no two share one, as long as there are enough."""
        names = list(names)
        with self._lock:
            bound = self._bound[dimension]
            shown = {name: bound[name] for name in names if name in bound}
            for name in names:
                if name not in bound:
                    bound[name] = shown[name] = _free(name, set(bound.values()), set(shown.values()))
            given: dict[str, str] = {}
            for name, colour in shown.items():
                taken = set(given.values())
                given[name] = _free(name, taken | set(shown.values()), taken) if colour in taken else colour
            return [given[name] for name in names]


def _free(name: str, *taken: AbstractSet[str]) -> str:
    """Return the first colour, from the one that the checksum of ``name`` points at, that is in none of a ``taken``.

    The sets are tried in their order, the one to be kept clear of before all comes last.
    """
    first = zlib.crc32(name.encode())
    turns = [SERIES_COLOURS[(first + step) % len(SERIES_COLOURS)] for step in range(len(SERIES_COLOURS))]
    return next((colour for used in taken for colour in turns if colour not in used), turns[0])
