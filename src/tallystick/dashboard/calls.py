"""Calls: show me the very call."""

from __future__ import annotations

from typing import Any

import streamlit as st

from tallystick.dashboard import call, figures, frames, pages, parts, words
from tallystick.dashboard.view import TABLES, View

PAGE_SIZE = 50
CELL = 32
"""Letters in a cell: one long name must not push the other columns out of sight."""


def show() -> None:
    """Draw the list, or the one call that ``?call=`` names."""
    shown = parts.view()
    if shown.call:
        call.show()
        return
    parts.controls(shown, order=True)
    parts.live(_body)


def _body(shown: View) -> None:
    ask = parts.collector().ask
    ledger, now = ask("ledger"), ask("totals", shown.question())
    if not now["calls"]:
        parts.nothing(shown, ledger)
        parts.footer(ledger, shown)
        return
    st.markdown(words.escape(_headline(now), 300))
    with parts.section(TABLES[shown.table].capitalize()):
        if shown.table == "calls":
            _list(shown)
        else:
            _groups(shown)
    parts.footer(ledger, shown)


def _list(shown: View) -> None:
    asked = {**shown.question(), "order": shown.order, "limit": PAGE_SIZE, "cursor": shown.cursor}
    answer = parts.collector().ask("calls", asked)
    _table(answer["rows"], shown)
    _paging(answer, shown)


def _headline(now: dict[str, Any]) -> str:
    spent = words.spend(now["spend_usd"], now["units"], now["unpriced_units"])
    told = f"{words.plural(now['calls'], 'call')} · {spent} · {words.count(now['failed'])} failed"
    if now["unpriced_units"]:
        told += f" · {words.plural(now['unpriced_units'], 'response')} unpriced"
    return told


COLUMNS = {
    "when": "when",
    "model": "model",
    "cost_usd": "cost",
    "outcome": "outcome",
    "cost": "cost is",
    "feature": "feature",
    "user": "user",
    "input_tokens": "tokens in",
    "output_tokens": "tokens out",
    "latency_ms": "took",
    "attempts": "attempts",
    "service": "service",
    "caller": "called from",
    "provider": "provider",
    "id": "id",
}
UNSEEN = ("provider", "id")
"""For programs that read the page: a person has no room for them, and the call's own page has them."""
WIDTHS = {"cost_usd": 95, "outcome": 165, "cost": 90}
"""Pixels.  Measured by Streamlit from the first rows only, what stands further down would be cut."""
NUMBERS = {
    "cost_usd": frames.usd,
    "input_tokens": frames.count,
    "output_tokens": frames.count,
    "attempts": frames.count,
    "latency_ms": words.duration,
}


def _table(rows: list[dict[str, Any]], shown: View) -> None:
    config = {
        name: st.column_config.NumberColumn(label, alignment="right", width=WIDTHS.get(name))
        if name in NUMBERS
        else st.column_config.TextColumn(label, width=WIDTHS.get(name))
        for name, label in COLUMNS.items()
        if name not in UNSEEN
    } | dict.fromkeys(UNSEEN)
    event = st.dataframe(
        frames.table([_row(row, shown) for row in rows], list(COLUMNS), NUMBERS),
        column_config=config,
        hide_index=True,
        height=35 * (min(len(rows), 14) + 1) + 3,
        key="calls",
        on_select="rerun",
        selection_mode="single-cell",
        placeholder=words.usd(None),
        alt="Calls",
    )
    st.caption("A click on a row opens the call.")
    place = parts.clicked_row(event)
    if place is not None:
        st.query_params["call"] = rows[place]["id"]
        st.rerun()


def _row(row: dict[str, Any], shown: View) -> dict[str, Any]:
    told = {
        name: words.clean(str(row[name]), CELL) if row[name] is not None else ""
        for name in ("feature", "user", "caller")
    }
    return {
        **row,
        **told,
        "when": words.clock(row["started_at"], shown.zone, shown.now),
        "outcome": words.outcome(row["outcome"]),
        "cost": words.trust(row),
        "cost_usd": None if words.is_untold(row) else row["cost_usd"],
        "model": words.clean(row["model"] or words.NONE, CELL),
        "service": words.clean(row["service"] or "", CELL),
        "provider": words.clean(row["provider"] or "", CELL),
    }


def _paging(answer: dict[str, Any], shown: View) -> None:
    ways = (
        ("First page", ":material/first_page:", None, shown.cursor is not None),
        ("Previous page", ":material/chevron_left:", answer["previous_cursor"], bool(answer["previous_cursor"])),
        ("Next page", ":material/chevron_right:", answer["next_cursor"], bool(answer["next_cursor"])),
    )
    with st.container(horizontal=True):
        for label, icon, cursor, is_there in ways:
            if is_there and st.button(label, icon=icon):
                if cursor:
                    st.query_params["cursor"] = cursor
                else:
                    st.query_params.pop("cursor", None)
                st.rerun()


GROUPS = {"sessions": "session", "prompts": "prompt"}
GROUPS_MAX = 200
GROUP_COLUMNS = {
    "label": "", "calls": "calls", "failed": "failed", "spend_usd": "spend", "per_call_usd": "per call",
    "input_tokens": "tokens in", "output_tokens": "tokens out", "latency_ms_p50": "took (median)",
}  # fmt: skip
GROUP_NUMBERS = {
    **dict.fromkeys(("calls", "failed", "input_tokens", "output_tokens"), frames.count),
    **dict.fromkeys(("spend_usd", "per_call_usd"), frames.usd),
    "latency_ms_p50": words.duration,
}


def _groups(shown: View) -> None:
    """List the sessions or the versions of prompts, the dearest first; a click opens the calls of one."""
    by = GROUPS[shown.table]
    answer = parts.ask_kept("groups", {**parts.by_minutes(shown), "by": by, "limit": GROUPS_MAX})
    groups = figures.groups(answer["rows"])
    table = [{name: getattr(group, name) for name in GROUP_COLUMNS} for group in groups]
    named = {**GROUP_COLUMNS, "label": by}
    place = parts.table(table, named, GROUP_NUMBERS, f"Calls by {by}, the dearest first", shown.table, 14)
    st.caption(f"A click on a row opens its calls; the {words.plural(len(groups), by)} that cost most.")
    if place is not None:
        pages.go("calls", shown.link(**{by: groups[place].key or ""}))
