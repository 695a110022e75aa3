"""The form that makes, changes and deletes a budget; the collector checks it, and its words stand beside the form."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn
from urllib.parse import quote

import streamlit as st

from tallystick.dashboard import parts, words
from tallystick.errors import CollectorRefusedError
from tallystick.model.budgets import DIMENSIONS, FAIL, ON_UNBOUNDED, ON_UNPRICED, WEEKDAYS, WINDOWS

ASKED = "edit"
"""The URL's parameter: the name of the budget to change, empty for a new one."""
UNITS = {"usd": "USD", "tokens": "tokens", "calls": "calls"}
ACTIONS = ("alert", "block")
NEW: Mapping[str, Any] = {
    "name": "", "limit_usd": "10", "scope": {}, "group_by": [], "window": "day", "timezone": "UTC", "reset_at": "00:00",
    "week_start": "monday", "thresholds": ["0.5", "0.8", "1"], "action": "alert", "fail": "closed",
    "on_unpriced": "block", "on_unbounded": "block", "wait": "0", "clamp": False,
}  # fmt: skip
AS_THEY_ARE = (
    "name", "group_by", "window", "timezone", "reset_at", "week_start", "action", "fail", "on_unpriced",
    "on_unbounded", "wait", "clamp",
)  # fmt: skip


class FormError(ValueError):
    """A field cannot be read; says which, what stands there, and what would be right."""


def open_for(name: str) -> NoReturn:
    """Open the form for the budget ``name``; for a new one when it is empty."""
    st.query_params[ASKED] = name
    st.rerun()


def close() -> NoReturn:
    """Close the form."""
    st.query_params.pop(ASKED, None)
    st.rerun()


def show() -> None:
    """Draw the form that the URL asks for, else the button that opens one."""
    if ASKED not in st.query_params:
        if st.button("New budget", icon=":material/add:"):
            open_for("")
        return
    name = st.query_params[ASKED]
    definition = _definition(name)
    if definition is None:
        told = (
            f"No budget called {words.clean(name, 80)} can be changed here: it is gone, or stands in tallystick.toml."
        )
        st.info(words.escape(told, 200), icon=":material/search_off:")
        if st.button("All budgets", icon=":material/arrow_back:"):
            close()
        return
    st.subheader(words.escape(f"Budget {name}" if name else "New budget", 80), anchor=False)
    with st.form(f"budget {name}", enter_to_submit=False):
        fields = _fields(definition, name)
        is_sent = st.form_submit_button("Save" if name else "Put in force", icon=":material/check:")
    if is_sent:
        _send(fields, name)
    with st.container(horizontal=True):
        if st.button("Cancel", icon=":material/close:"):
            close()
        if name:
            _delete(name)


def _definition(name: str) -> Mapping[str, Any] | None:
    if not name:
        return NEW
    rows = parts.collector().ask("budgets")["rows"]
    return next((row["definition"] for row in rows if row["name"] == name and row["source"] != "file"), None)


def _send(fields: Mapping[str, Any], name: str) -> None:
    try:
        told = body(fields)
        if name:
            parts.collector().order(_address(name), told, "PUT")
        else:
            parts.collector().order("budgets", told)
    except (FormError, CollectorRefusedError) as error:
        said = error.detail if isinstance(error, CollectorRefusedError) else str(error)
        st.error(f"Nothing was changed: {words.escape(said, 500)}.", icon=":material/error:")
        return
    close()


def _delete(name: str) -> None:
    with st.popover("Delete", icon=":material/delete:"):
        st.markdown("What was spent stays on the ledger; nothing is refused or told in this budget's name any more.")
        if st.button("Delete this budget", icon=":material/delete:"):
            parts.collector().order(_address(name), {}, "DELETE")
            close()


def _address(name: str) -> str:
    return f"budgets/{quote(name, safe='')}"


def _fields(definition: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Draw the fields with what stands in ``definition``, and return what stands in them."""
    shown = texts(definition)
    left, middle, right = st.columns(3)
    got: dict[str, Any] = {
        "name": left.text_input("Name", shown["name"], disabled=bool(name), key=f"name {name}"),
        "limit": middle.text_input("Limit", shown["limit"], key=f"limit {name}"),
        "unit": right.selectbox(
            "In", list(UNITS), list(UNITS).index(shown["unit"]), format_func=UNITS.__getitem__, key=f"unit {name}"
        ),
    }
    left, middle, right = st.columns(3)  # row by row, so that a phone shows the fields in this order
    got |= {
        "window": left.selectbox(
            "Window",
            *_choice(WINDOWS, shown["window"]),
            accept_new_options=True,
            help="Of the calendar; or the last hours, as `rolling 24h`.",
            key=f"window {name}",
        ),
        "action": middle.selectbox(
            "At the limit",
            *_choice(ACTIONS, shown["action"]),
            accept_new_options=True,
            help="`alert` only tells, `block` refuses, `downgrade:MODEL` asks another model.",
            key=f"action {name}",
        ),
        "thresholds": right.text_input("Tells at, in percent", shown["thresholds"], key=f"thresholds {name}"),
    }
    left, middle, right = st.columns(3)
    got |= {
        "scope": left.text_area("Which calls count", shown["scope"], height=80, placeholder="feature = chat",
                                help="A condition on each line, all must match; empty: every call.",
                                key=f"scope {name}"),
        "group_by": middle.multiselect("The limit is for each", _options(DIMENSIONS, *shown["group_by"]),
                                       shown["group_by"], accept_new_options=True, placeholder="all together",
                                       help="As `user`, or `tag.NAME`.", key=f"group_by {name}"),
        "timezone": right.text_input("Time zone", shown["timezone"], key=f"timezone {name}"),
    }  # fmt: skip
    with st.expander("When a day begins, and what happens when something is not known"):
        left, middle, right = st.columns(3)
        return got | {
            "reset_at": left.text_input("Begins at", shown["reset_at"], key=f"reset_at {name}"),
            "week_start": middle.selectbox("A week begins on", *_choice(WEEKDAYS, shown["week_start"]),
                                           key=f"week_start {name}"),
            "wait": right.text_input("Wait for room, in seconds", shown["wait"], key=f"wait {name}"),
            "fail": left.selectbox("While no collector answers", *_choice(FAIL, shown["fail"]), key=f"fail {name}"),
            "on_unpriced": middle.selectbox("A model without a price", *_choice(ON_UNPRICED, shown["on_unpriced"]),
                                            key=f"on_unpriced {name}"),
            "on_unbounded": right.selectbox("A cost without a bound", *_choice(ON_UNBOUNDED, shown["on_unbounded"]),
                                            key=f"on_unbounded {name}"),
            "clamp": left.checkbox("Shorten answers to what fits", shown["clamp"], key=f"clamp {name}"),
        }  # fmt: skip


def _options(known: tuple[str, ...], *chosen: str) -> list[str]:
    return [*known, *(value for value in chosen if value not in known)]


def _choice(known: tuple[str, ...], chosen: str) -> tuple[list[str], int]:
    options = _options(known, chosen)
    return options, options.index(chosen)


def texts(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands in the form for a budget's definition."""
    unit = next(unit for unit in UNITS if definition.get(f"limit_{unit}") is not None)
    return {
        **{name: definition[name] for name in AS_THEY_ARE},
        "limit": str(definition[f"limit_{unit}"]),
        "unit": unit,
        "scope": "\n".join(f"{name} = {value}" for name, value in definition["scope"].items()),
        "thresholds": ", ".join(words.plain(str(Decimal(share) * 100)) for share in definition["thresholds"]),
    }


def body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of ``[[budget]]`` for what stands in the form; raises FormError."""
    return {
        **{name: fields[name] for name in AS_THEY_ARE},
        f"limit_{fields['unit']}": fields["limit"].strip(),
        "scope": dict(_condition(line) for line in fields["scope"].splitlines() if line.strip()),
        "thresholds": [_share(text) for text in fields["thresholds"].replace("%", " ").replace(",", " ").split()],
    }


def _condition(line: str) -> tuple[str, str]:
    name, sign, value = line.partition("=")
    if not sign:
        raise FormError(f"'{line.strip()}' is no condition for which calls count; write feature = chat")
    return name.strip(), value.strip()


def _share(text: str) -> str:
    try:
        return format(Decimal(text) / 100, "f")
    except InvalidOperation as error:
        raise FormError(f"'{text}' is no percentage to tell at; write 50, 80, 100") from error
