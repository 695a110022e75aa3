"""Failures: what broke, at whom, and what it cost."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import streamlit as st

from tallystick.dashboard import charts, figures, frames, pages, parts, words
from tallystick.dashboard.view import View

CELL = 32
TRIES_MAX = 6
"""The collector counts so many attempts and more as one row."""


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

    _funnel(now, answer)
    st.markdown(f":material/timer: {words.escape(figures.waiting(answer['retry']), 400)}")
    rows = figures.failures(answer["rows"], answer["attempts"])
    if not rows:
        st.success("Nothing failed in this range, not even an attempt.", icon=":material/check_circle:")
    with parts.section("Failed calls over time"):
        if series := [row for row in ask("series", asked)["rows"] if row["key"] != "ok"]:
            _over_time(series, shown)
    if rows:
        _by_class(rows, shown)
    with parts.section("Waste, attempts, waits and headroom"):
        _behind(parts.ask_kept("waste", parts.by_minutes(shown)), shown)
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
    st.markdown(f"**Failed calls by {words.escape(shown.bucket)} and class**")
    st.altair_chart(
        charts.stacked(stack, shown, parts.palette(), "outcome", "calls"),
        key="failed_over_time",
        alt="Failed calls over time by class; the same figures are in the table below",
    )


def _by_class(rows: list[dict[str, Any]], shown: View) -> None:
    st.markdown("**By class and provider**")
    columns = {
        "what": st.column_config.TextColumn("what happened"),
        "calls": st.column_config.NumberColumn("calls failed", alignment="right"),
        "attempts": st.column_config.NumberColumn("attempts failed", alignment="right"),
        "wasted_usd": st.column_config.NumberColumn("wasted", alignment="right"),
        "provider": st.column_config.TextColumn("provider"),
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
        width="content",
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


def _behind(waste: dict[str, Any], shown: View) -> None:
    """Show what failures cost by cause, and what retries, waits, fallbacks and rate limits had to do with it."""
    left, right = st.columns(2, gap="medium")
    with left:
        _by_cause(waste["causes"], shown)
        _fallbacks(waste["fallbacks"], shown)
    with right:
        _tries(waste["tries"])
        _waits(waste["waits"])
    _headroom(waste["headroom"], shown)


def _by_cause(causes: list[dict[str, Any]], shown: View) -> None:
    st.markdown("**Paid without a result**")
    rows = [row for row in causes if row["calls"]]
    if not rows:
        st.caption("Nothing was: no failed call, no question asked again.")
        return
    columns = {"why": "because", "calls": "calls", "usd": "wasted", "untold": "may be billed"}
    table = [
        {**row, "why": words.WASTE.get(row["cause"], words.clean(row["cause"])), "usd": Decimal(row["usd"])}
        for row in rows
    ]
    told = {"calls": frames.count, "usd": frames.usd, "untold": frames.count}
    place = parts.table(table, columns, told, "Money paid without a result, by cause", "causes")
    st.caption(
        "A click on a row opens its calls. What may be billed got no answer: its cost is not known, and not in it."
    )
    if place is not None:
        filters = {
            name: tuple(value) if isinstance(value, list) else (value,)
            for name, value in rows[place]["filters"].items()
        }
        pages.go("calls", shown.at_window({**shown.filters, **filters}))


def _fallbacks(rows: list[dict[str, Any]], shown: View) -> None:
    if not rows:
        return
    st.markdown("**Fallbacks: which model took over**")
    columns = {"before": "instead of", "to": "asked", "calls": "calls", "answered": "answered", "spend_usd": "spend"}
    table = [
        {
            **row,
            "before": words.clean(row["model_before"] or words.NONE, CELL),
            "to": words.clean(row["model"] or words.NONE, CELL),
            "spend_usd": Decimal(row["spend_usd"]),
        }
        for row in rows
    ]
    told = {"calls": frames.count, "answered": frames.count, "spend_usd": frames.usd}
    place = parts.table(table, columns, told, "Fallbacks by model", "fallbacks")
    if place is not None:
        pages.go("calls", shown.link(link="fallback", model=rows[place]["model"] or ""))


def _tries(rows: list[dict[str, Any]]) -> None:
    st.markdown("**How many attempts it took**")
    table = [
        {
            "tries": f"{row['tries']} or more" if row["tries"] >= TRIES_MAX else str(row["tries"]),
            "answered": row["answered"],
            "failed": row["calls"] - row["answered"],
        }
        for row in rows
    ]
    told = {"answered": frames.count, "failed": frames.count}
    columns = {"tries": "attempts", "answered": "calls answered", "failed": "calls failed"}
    parts.table(table, columns, told, "Calls by the number of attempts")


def _waits(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    st.markdown("**Retry-After: asked against waited**")
    table = [
        {
            **row,
            "provider": words.clean(row["provider"] or words.NONE, CELL),
            "asked_ms": row["asked_s"] * 1000,
            "waited_ms": row["waited_s"] * 1000,
        }
        for row in rows
    ]
    columns = {"provider": "provider", "asked_ms": "asked", "waited_ms": "waited", "asked": "times asked",
               "followed": "tried again", "sooner": "sooner than asked"}  # fmt: skip
    told = dict.fromkeys(("asked", "followed", "sooner"), frames.count) | dict.fromkeys(
        ("asked_ms", "waited_ms"), words.duration
    )
    parts.table(table, columns, told, "Waits that servers asked for, and how long was waited")


def _headroom(rows: list[dict[str, Any]], shown: View) -> None:
    if not rows:
        return
    st.markdown("**Headroom of rate limits, on the last day**")
    table = [
        {
            "whose": " · ".join(words.clean(row[name], CELL) for name in ("provider", "model", "key") if row[name]),
            "of": row["of"].replace("_", " "),
            "lowest": f"{words.count(row['lowest'])} of {words.count(row['lowest_limit'])}",
            "share": row["lowest"] / row["lowest_limit"],
            "when": words.clock(row["lowest_at"], shown.zone, shown.now),
            "latest": f"{words.count(row['latest'])} of {words.count(row['latest_limit'])}",
        }
        for row in rows
    ]
    columns = {"share": "least left", "of": "limit of", "whose": "provider, model, key", "lowest": "that was",
               "when": "at", "latest": "left last"}  # fmt: skip
    place = parts.table(table, columns, {"share": frames.percent}, "Headroom of rate limits", "headroom")
    st.caption("A click on a row opens the calls of that model and key.")
    if place is not None:
        whose = {name: rows[place][name] or "" for name in ("provider", "model", "key")}
        pages.go("calls", shown.link(**whose))
