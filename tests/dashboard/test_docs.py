from __future__ import annotations

from pathlib import Path

import pytest

from tallystick.dashboard.pages import NAMES
from tallystick.dashboard.view import FILTERS, ORDERS, RANGES

PAGE = (Path(__file__).parents[2] / "docs" / "dashboard.md").read_text(encoding="utf-8")
PARAMETERS = ("range", "start", "end", "by", "tz", "order", "cursor", "call", "tag.NAME", *FILTERS, *RANGES, *ORDERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_of_the_url_is_documented(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_documented(name: str) -> None:
    address = "/" if name == "spend" else f"/{name}"
    assert f"**{name.capitalize()}** `{address}`" in PAGE
