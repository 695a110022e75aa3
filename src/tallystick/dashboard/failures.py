"""Failures: what broke, at whom, and what it cost."""

from __future__ import annotations

from typing import Any

import streamlit as st

from tallystick.dashboard import charts, figures, frames, pages, parts, words
from tallystick.dashboard.view import View


def show() -> None:
    """Draw the page."""
    parts.controls(parts.view())
    parts.live(_body)


def _body(shown: View) -> None:
    ask = parts.collector().ask
    ledger, now = ask("ledger"), ask("totals", shown.question())
    if not now["calls"]:
        parts.nothing(shown, ledger)
        parts.footer(ledger, shown)
        return
    answer = ask("failures", shown.question())
    # A filter by outcome that is in force stays in force; else what is drawn are the failed calls.
    failed = shown.question() if "outcome" in shown.filters else {**shown.question(), "outcome": "failed"}
    asked = {**failed, "bucket": shown.bucket, "by": "outcome", "timezone": shown.zone.key}
    series = [row for row in ask("series", asked)["rows"] if row["key"] != "ok"]

    _funnel(now, answer)
    st.markdown(f":material/timer: {words.escape(figures.waiting(answer['retry']), 400)}")
    rows = figures.failures(answer["rows"], answer["attempts"])
    if not rows:
        st.success("Nothing failed in this range, not even an attempt.", icon=":material/check_circle:")
        parts.footer(ledger, shown)
        return
    if series:
        _over_time(series, shown)
    _by_class(rows, shown)
    parts.footer(ledger, shown)


def _funnel(now: dict[str, Any], answer: dict[str, Any]) -> None:
    funnel = figures.Funnel(**answer["funnel"])
    tiles = [
        figures.Tile(
            label=name[0].upper() + name[1:],
            value=words.count(calls),
            versus=f"{words.percent(share)} of {words.plural(funnel.total, 'call')}",
        )
        for name, calls, share in funnel.rows()
    ]
    wasted = figures.Tile(label="Wasted", value=words.usd(now["wasted_usd"]), versus="paid for calls that failed")
    parts.tiles([*tiles, wasted])


def _over_time(rows: list[dict[str, Any]], shown: View) -> None:
    named = [{**row, "key": words.outcome(row["key"])} for row in rows]
    stack = figures.stack(named, shown.bucket, shown.zone)
    st.markdown("**Failed calls over time**")
    st.altair_chart(
        charts.stacked(stack, shown, parts.palette(), "outcome", "calls"),
        key="failed_over_time",
        alt="Failed calls over time by class; the same figures are in the table below",
    )


def _by_class(rows: list[dict[str, Any]], shown: View) -> None:
    st.markdown("**By class and provider**")
    columns = {
        "what": st.column_config.TextColumn("what happened"),
        "provider": st.column_config.TextColumn("provider"),
        "calls": st.column_config.NumberColumn("calls failed", alignment="right"),
        "attempts": st.column_config.NumberColumn("attempts failed", alignment="right"),
        "wasted_usd": st.column_config.NumberColumn("wasted", alignment="right"),
        "last": st.column_config.TextColumn("last seen"),
        "outcome": st.column_config.TextColumn("class"),
    }
    table = [
        {
            **row,
            "what": words.outcome(row["outcome"]),
            "provider": words.clean(row["provider"] or words.NONE),
            "outcome": words.clean(row["outcome"]),
            "last": words.clock(row["last_at"] or None, shown.zone, shown.now),
            "wasted_usd": row["wasted_usd"] or 0,
        }
        for row in rows
    ]
    told = {"calls": frames.count, "attempts": frames.count, "wasted_usd": frames.usd}
    event = st.dataframe(
        frames.table(table, list(columns), told),
        column_config=columns,
        hide_index=True,
        height=35 * (min(len(rows), 16) + 1) + 3,
        key="classes",
        on_select="rerun",
        selection_mode="single-cell",
        alt="Failures by class and provider",
    )
    st.caption("A click on a row opens its calls. A class with attempts but no calls was mended by a retry.")
    place = parts.clicked_row(event)
    if place is not None:
        pages.go("calls", calls_of(rows[place], shown))


def calls_of(row: dict[str, Any], shown: View) -> dict[str, str | list[str]]:
    """Return the query that shows the calls of a row; of a class that only ever cost retries, the provider's calls."""
    if not row["calls"]:
        return shown.link(provider=row["provider"] or "")
    return shown.link(provider=row["provider"] or "", outcome=row["outcome"])
