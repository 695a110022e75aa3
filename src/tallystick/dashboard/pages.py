"""The pages and their addresses.  Spend is the default page, so its address is ``/`` and must stay so."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import NoReturn

import streamlit as st

NAMES = ("spend", "failures", "calls", "budgets", "advisor", "settings")
ICONS = ("payments", "error", "list_alt", "savings", "lightbulb", "settings")


def page(name: str) -> st.Page:
    """Return the page called ``name``, one of `NAMES`."""
    return st.Page(
        # Here, because each page links to the others.
        import_module(f"tallystick.dashboard.{name}").show,
        title=name.capitalize(),
        icon=f":material/{ICONS[NAMES.index(name)]}:",
        url_path="" if name == "spend" else name,
        default=name == "spend",
    )


def import_all() -> None:
    """Import every page."""
    for name in NAMES:
        import_module(f"tallystick.dashboard.{name}")


def link(name: str, label: str, query: Mapping[str, str | list[str]], icon: str | None = None) -> None:
    """Show a link to a page; ``label`` is markdown, so names from outside in it are escaped by the caller."""
    st.page_link(page(name), label=label, query_params=dict(query), icon=icon)


def go(name: str, query: Mapping[str, str | list[str]]) -> NoReturn:
    """Leave for another page."""
    st.switch_page(page(name), query_params=dict(query))
