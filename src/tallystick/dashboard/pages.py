"""The pages and their addresses.  Spend is the default page, so its address is ``/`` and must stay so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import streamlit as st


def page(name: str) -> st.Page:
    """Return the page called ``name``, one of `NAMES`."""
    # Here, because each page links to the others.
    from tallystick.dashboard import advisor, budgets, calls, failures, settings, spend

    shows = {
        "spend": spend.show, "failures": failures.show, "calls": calls.show, "budgets": budgets.show,
        "advisor": advisor.show, "settings": settings.show,
    }  # fmt: skip
    icons = {
        "spend": "payments", "failures": "error", "calls": "list_alt", "budgets": "savings", "advisor": "lightbulb",
        "settings": "settings",
    }  # fmt: skip
    return st.Page(
        shows[name],
        title=name.capitalize(),
        icon=f":material/{icons[name]}:",
        url_path="" if name == "spend" else name,
        default=name == "spend",
    )


NAMES = ("spend", "failures", "calls", "budgets", "advisor", "settings")


def link(name: str, label: str, query: Mapping[str, str | list[str]], icon: str | None = None) -> None:
    """Show a link to a page; ``label`` is markdown, so names from outside in it are escaped by the caller."""
    st.page_link(page(name), label=label, query_params=dict(query), icon=icon)


def go(name: str, query: Mapping[str, str | list[str]]) -> NoReturn:
    """Leave for another page."""
    st.switch_page(page(name), query_params=dict(query))
