"""Spend: how much, is it more than before, and who."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from tallystick.dashboard import charts, figures, frames, pages, parts, view, words
from tallystick.dashboard.view import View
from tallystick.errors import CollectorRefusedError, CollectorUnreachableError

SUMMED = frozenset({"provider", "model", "feature", "service", "environment", "key", "outcome"})
GROUPS_MAX = 500
DEAREST = 6
DEAREST_OF_A_BAR = 3
CALL = ":material/list_alt:"


def show() -> None:
    """Draw the page."""
    parts.controls(parts.view(), by=True)
    parts.live(_body)


def _body(shown: View) -> None:
    ask = parts.collector().ask
    ledger, now = ask("ledger"), ask("totals", shown.question())
    if not now["calls"]:
        parts.nothing(shown, ledger)
        parts.footer(ledger, shown)
        return
    before = ask("totals", shown.question_before())
    whole = not _began_in(before)
    # First, because they are what the page is opened for.
    parts.tiles(figures.tiles(now, before, shown.length, whole=whole))
    earlier = replace(shown, start=shown.start - shown.length, end=shown.start)
    groups = None
    with parts.section(f"Spend by {shown.by}"):
        groups = _asked("groups", shown, limit=GROUPS_MAX)
        groups_before = _asked("groups", earlier, limit=GROUPS_MAX) if whole else []
        _changed(figures.what_changed(groups, groups_before, shown.by))
    with parts.section("Spend over time"):
        _over_time(_asked("series", shown, bucket=shown.bucket, timezone=shown.zone.key), shown)
        _closer(now, shown)
    left, right = st.columns([2, 1], gap="medium")
    with left:
        if groups is not None:
            _by_group(groups, shown)
    with right, parts.section("Dearest calls"):
        _dearest(ask("calls", {**shown.question(), "order": "-cost_usd", "limit": DEAREST})["rows"], shown)
    parts.footer(ledger, shown)


def _asked(question: str, shown: View, **more: str | int) -> list[dict[str, Any]]:
    """Return the rows by the chosen dimension.

    What the collector keeps no sums of is read from all calls of the range: once a minute is enough for that.
    """
    if shown.by in SUMMED:
        rows = parts.collector().ask(question, {**shown.question(), "by": shown.by, **more})["rows"]
    else:
        rows = parts.ask_kept(question, {**parts.by_minutes(shown), "by": shown.by, **more})["rows"]
    found: list[dict[str, Any]] = rows
    return found


def _began_in(before: dict[str, Any]) -> bool:
    """Tell whether the ledger began in the period before; asked only when that period begins with silence."""
    if not figures.begins_within(before["first_call_at"], before):
        return False
    since = view.iso(datetime(view.YEARS[0], 1, 1, tzinfo=UTC))
    oldest = {"start": since, "end": before["end"], "order": "started_at", "limit": 1}
    try:
        first = parts.collector().ask("calls", oldest)["rows"]
    except (CollectorRefusedError, CollectorUnreachableError):
        return True  # nothing is compared then; the other figures of the page are as good
    return bool(first) and figures.begins_within(first[0]["started_at"], before)


def _changed(told: str | None) -> None:
    if told:
        icon = "trending_up" if " is up " in told.partition(";")[0] else "trending_down"
        st.markdown(f":material/{icon}: {words.escape(told, 300)}")


def _over_time(rows: list[dict[str, Any]], shown: View) -> None:
    stack = figures.stack(rows, shown.bucket, shown.zone)
    st.markdown(f"**Spend by {words.escape(shown.bucket)} and {words.escape(shown.by)}**")
    st.altair_chart(
        charts.stacked(stack, shown, parts.palette(), shown.by),
        key="over_time",
        on_select=_pick,
        selection_mode=charts.PICKED,
        alt=f"Spend over time by {shown.by}; the same figures are in the table below",
    )
    unpriced = sum(bar.unpriced_units for bar in stack.bars)
    told = [f"▲ {words.plural(unpriced, 'response')} without a known price, not in the bars."] if unpriced else []
    if shown.at is None:
        told.append("A click on a bar says what made it.")
    if told:
        st.caption(" ".join(told))
    _causes(stack, shown)


def _closer(now: dict[str, Any], shown: View) -> None:
    """Lead to the last hour when all that is shown came within it: it is one bar here."""
    began_at = words.instant(now["first_call_at"])
    if shown.range and shown.bucket != "minute" and began_at and began_at > shown.now - view.RANGES["1h"]:
        query = {**shown.link(), "range": "1h"}
        pages.link("spend", "All of this came within the last hour: see it by minute", query, ":material/zoom_in:")


def _pick() -> None:
    """Put the bar that was clicked into the URL; a callback, so that going back does not pick it again."""
    if picked := charts.picked_bar(st.session_state["over_time"]):
        st.query_params["at"] = picked[0]


def _causes(stack: figures.Stack, shown: View) -> None:
    """Say what made the bar that was clicked, or the highest ones, and lead to the calls."""
    if shown.at is None:
        for at in figures.spikes(stack):
            _cause(datetime.fromisoformat(at), shown)
        return
    with st.container(border=True):
        dearest = _cause(shown.at, shown)
        for row in parts.collector().ask("calls", {**dearest, "order": "-cost_usd", "limit": DEAREST_OF_A_BAR})["rows"]:
            pages.link("calls", _dearest_label(row, shown), {**shown.link(), "call": row["id"]}, CALL)
        if st.button("Close", icon=":material/close:"):
            st.query_params.pop("at", None)
            st.rerun()


def _cause(start: datetime, shown: View) -> dict[str, Any]:
    """Say what a bar cost beside the usual, and link to its calls; return which those are."""
    end = figures.bucket_end(start, shown.bucket, shown.zone)
    asked = {**shown.question(), "start": view.iso(start), "end": view.iso(end)}
    answer = parts.ask_kept("cause", asked)
    st.markdown(f":material/monitoring: {words.escape(figures.cause(answer, _when(start, end, shown)), 500)}")
    found = answer["cause"]
    with st.container(horizontal=True):
        if found:
            whose = {name: (value,) for name, value in found["filters"].items()}
            label = f"{words.plural(found['calls'], 'call')} that made the rise"
            pages.link("calls", label, shown.at_window({**shown.filters, **whose}, start, end), CALL)
        label = f"All {words.plural(answer['calls'], 'call')} of this {shown.bucket}"
        pages.link("calls", label, shown.at_window(shown.filters, start, end), CALL)
    return asked | (found["filters"] if found else {})


def _when(start: datetime, end: datetime, shown: View) -> str:
    local, until = start.astimezone(shown.zone), end.astimezone(shown.zone)
    day = f"{local.day} {local:%b}"
    return day if shown.bucket == "day" else f"{day} {local:%H:%M} to {until:%H:%M}"


def _by_group(rows: list[dict[str, Any]], shown: View) -> None:
    groups = figures.groups(rows)
    st.markdown(f"**By {words.escape(shown.by)}**")
    columns = {
        "label": st.column_config.TextColumn(words.escape(shown.by)),
        "spend_usd": st.column_config.NumberColumn("spend", alignment="right", width=80),
        "share": st.column_config.NumberColumn("share", alignment="right", width=80),
        "per_call_usd": st.column_config.NumberColumn("per call", alignment="right", width=80),
        "calls": st.column_config.NumberColumn("calls", alignment="right"),
        "failed": st.column_config.NumberColumn("failed", alignment="right"),
        "unpriced_units": st.column_config.NumberColumn("unpriced", alignment="right"),
        "input_tokens": st.column_config.NumberColumn("tokens in", alignment="right"),
        "cached_share": st.column_config.NumberColumn("from cache", alignment="right"),
        "output_tokens": st.column_config.NumberColumn("tokens out", alignment="right"),
    }
    told = {
        "spend_usd": frames.usd,
        "per_call_usd": frames.usd,
        "share": frames.percent,
        "cached_share": frames.percent,
        **dict.fromkeys(("calls", "failed", "unpriced_units", "input_tokens", "output_tokens"), frames.count),
    }
    table = [{name: getattr(group, name) for name in columns} for group in groups]
    event = st.dataframe(
        frames.table(table, list(columns), told),
        column_config=columns,
        hide_index=True,
        key="groups",
        on_select="rerun",
        selection_mode="single-cell",
        placeholder=words.usd(None),
        alt=f"Spend by {shown.by}",
    )
    st.caption("A click on a row opens its calls.")
    row = parts.clicked_row(event)
    if row is not None:
        pages.go("calls", shown.link(**{shown.by: groups[row].key or ""}))


def _dearest(rows: list[dict[str, Any]], shown: View) -> None:
    st.markdown("**Dearest calls**")
    for row in rows:
        if row["cost_usd"] is not None:
            pages.link("calls", _dearest_label(row, shown), {**shown.link(), "call": row["id"]})


def _dearest_label(row: dict[str, Any], shown: View) -> str:
    who = " · ".join(
        words.escape(str(part), 40)
        for part in (row["model"], row["feature"], row["user"], words.clock(row["started_at"], shown.zone, shown.now))
        if part
    )
    return f"**{words.escape(words.usd(row['cost_usd']))}** · {who}"
