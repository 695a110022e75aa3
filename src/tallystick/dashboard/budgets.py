"""Budgets: will I stay inside."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import streamlit as st

from tallystick.dashboard import figures, frames, pages, parts, words
from tallystick.dashboard.view import View
from tallystick.model.money import show_amount

EXAMPLE = """\
[[budget]]
name = "chat"
scope = { feature = "chat" }
limit_usd = 10
window = "day"
thresholds = [0.5, 0.8, 1.0]
action = "alert"
"""


def show() -> None:
    """Draw the page."""
    parts.live(_body)


def _body(shown: View) -> None:
    ask = parts.collector().ask
    ledger, rows = ask("ledger"), ask("budgets")["rows"]
    if not rows:
        _none()
    # The fullest first: that is the one to look at.
    for row in sorted(rows, key=lambda row: -Decimal(row["share"] or 0)):
        _budget(row, shown)
    parts.footer(ledger, shown)


def _none() -> None:
    st.subheader("No budgets yet", anchor=False)
    st.markdown("Put one into `tallystick.toml`, in the folder where the collector starts, and start it again:")
    st.code(EXAMPLE, language="toml")
    st.caption("It tells when 50, 80 and 100 % of ten dollars a day are spent by calls tagged with the feature chat.")


def _budget(row: Mapping[str, Any], shown: View) -> None:
    share = Decimal(row["share"] or 0)
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            heading = f"**{words.escape(row['name'])}** · {words.escape(figures.scope(row['scope']), 200)}"
            st.markdown(heading, width="content")
            _badge(share, row)
        spent = f"{_amount(row, 'spent')} of {_amount(row, 'limit')} spent, {words.percent(share)}"
        st.progress(float(min(max(share, Decimal()), Decimal(1))), text=words.escape(spent))
        st.caption(words.escape(_conditions(row, shown), 500))
        if row["unpriced_units"]:
            st.warning(
                f"{words.plural(row['unpriced_units'], 'response')} without a known price: not in the figure above.",
                icon=":material/help:",
            )
        if row["alerts"]:
            _alerts(row["alerts"], shown)
        pages.link("calls", "Calls of this window", _calls_of(row), ":material/list_alt:")


def _amount(row: Mapping[str, Any], name: str) -> str:
    unit = row.get("unit", "usd")
    return words.usd(row[f"{name}_usd"]) if unit == "usd" else show_amount(Decimal(row[name]), unit)


def _badge(share: Decimal, row: Mapping[str, Any]) -> None:
    crossed = [level for level in map(Decimal, row["thresholds"]) if share >= level]
    if share >= 1:
        st.badge("over the limit" if share > 1 else "limit reached", icon=":material/block:", color="red")
    elif crossed:
        st.badge(f"past {words.percent(max(crossed))}", icon=":material/warning:", color="orange")
    else:
        st.badge("inside", icon=":material/check:", color="green")


def _conditions(row: Mapping[str, Any], shown: View) -> str:
    window = row["window"]
    end = words.instant(window["end"])
    told = [f"window: {words.clean(window['kind'])} ({words.clean(window['timezone'])})"]
    if end is not None and not window["kind"].startswith("rolling"):
        told.append(f"resets in {words.left(end - shown.now)}, at {words.stamp(end, shown.zone)}")
    levels = ", ".join(words.percent(Decimal(level)) for level in row["thresholds"])
    told.append(f"tells at {levels}" if levels else "tells nobody")
    told.append({"alert": "only warns", "block": "blocks at the limit"}.get(row["action"], words.clean(row["action"])))
    return " · ".join(told)


def _calls_of(row: Mapping[str, Any]) -> dict[str, str | list[str]]:
    window = row["window"]
    edges = {name: window[name] for name in ("start", "end") if window[name]}
    return {**edges, **{name: value for name, value in row["scope"].items() if isinstance(value, str)}}


def _alerts(alerts: list[dict[str, Any]], shown: View) -> None:
    columns = ("threshold", "spent", "raised", "notification", "delivered", "what went wrong")
    table = [
        {
            "threshold": words.percent(Decimal(alert["threshold"])),
            "spent": _amount(alert, "spent"),
            "raised": words.clock(alert["raised_at"], shown.zone, shown.now),
            "notification": words.ALERT_STATES.get(alert["state"], words.clean(alert["state"])),
            "delivered": words.clock(alert["delivered_at"], shown.zone, shown.now) if alert["delivered_at"] else "",
            "what went wrong": words.clean(alert["error"] or ""),
        }
        for alert in alerts
    ]
    st.dataframe(frames.table(table, columns), hide_index=True, height="content", alt="Alerts of this budget")
