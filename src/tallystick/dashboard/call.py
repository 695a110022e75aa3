"""One call: its attempts, its tokens, and its receipt line by line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import streamlit as st

from tallystick.dashboard import charts, figures, frames, parts, words
from tallystick.dashboard.view import View, iso
from tallystick.errors import CollectorRefusedError

CELL = 32
MILLISECOND = timedelta(milliseconds=1)


def show() -> None:
    """Draw the call that ``?call=`` names by its id or the beginning of it; a later span may still add to it."""
    if st.button("All calls", icon=":material/arrow_back:"):
        st.query_params.pop("call", None)
        st.rerun()
    parts.live(_body)


def _body(shown: View) -> None:
    ask = parts.collector().ask
    if not shown.call:
        return
    try:
        answer, ledger = ask(f"calls/{_path(shown.call)}"), ask("ledger")
    except CollectorRefusedError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        told = f"No call has the id {shown.call}. It may still be on its way, or be older than what is kept."
        st.info(words.escape(told, 200), icon=":material/search_off:")
        return
    row = answer["call"]
    _head(row, shown)
    _receipts(answer["units"], row, shown)
    _attempts(answer["attempts"], row)
    _tokens(row)
    with parts.section("Linked calls"):
        _linked(row, shown)
    _facts(row)
    with parts.section("Its trace"):
        _trace(row)
    parts.footer(ledger, shown)


def _path(call: str) -> str:
    """Return the id as a path segment; an id has nothing but hex digits, so all else is taken out."""
    return "".join(sign for sign in call.lower() if sign in "0123456789abcdef")[:16] or "0"


def _head(row: Mapping[str, Any], shown: View) -> None:
    title = f"{row['operation'] or 'call'} {row['model'] or ''}".strip()
    st.subheader(words.escape(title, 80), anchor=False)
    st.caption(words.escape(f"{words.stamp(row['started_at'], shown.zone)} · call {row['id']}", 200))
    first = f"first content after {words.duration(row['first_chunk_ms'])}" if row["first_chunk_ms"] else "not streamed"
    well = row["outcome"] == "ok"
    parts.tiles(
        [
            figures.Tile(label="Cost", value=_cost(row), versus=words.trust(row)),
            figures.Tile(
                label="Outcome",
                value="answered" if well else "failed",
                versus=words.outcome(row["outcome"]) if not well else _finish(row),
            ),
            figures.Tile(label="Took", value=words.duration(row["latency_ms"]), versus=first),
            figures.Tile(
                label="Attempts",
                value=words.count(row["attempts"]),
                versus="no retry" if row["attempts"] <= 1 else words.plural(row["attempts"] - 1, "retry", "retries"),
            ),
        ]
    )
    if not well:
        told = [words.outcome(row["outcome"])]
        if row["error_code"]:
            told.append(f"the provider's word: {row['error_code']}")
        if row["exception"]:
            told.append(f"your app saw {row['exception']}")
        st.error(words.escape("; ".join(told) + ".", 400), icon=":material/error:")


def _finish(row: Mapping[str, Any]) -> str:
    reasons = ", ".join(str(reason) for reason in row["finish_reasons"] or ())
    return f"finish: {reasons}" if reasons else "no finish reason told"


def _cost(row: Mapping[str, Any]) -> str:
    return "unknown" if words.is_untold(row) else words.usd(row["cost_usd"])


def _receipts(units: list[dict[str, Any]], row: Mapping[str, Any], shown: View) -> None:
    st.markdown("**Receipt**")
    if not units:
        untold = "No answer came, so what the provider bills is not known; it may have worked on the request."
        nothing = "The provider sent no billable response, so there is nothing to charge."
        st.caption(untold if words.is_untold(row) else nothing)
    for unit in units:
        _receipt(unit, shown)
    if len(units) > 1:
        st.markdown(f"Call total: **{words.escape(words.usd(row['cost_usd']))}**")


def _receipt(unit: Mapping[str, Any], shown: View) -> None:
    receipt = unit["receipt"] or {"lines": [], "status": "unknown", "reason": "no receipt was stored"}
    if receipt["lines"]:
        lines = [line(one) for one in receipt["lines"]]
        columns = frames.told(lines, RECEIPT)
        st.dataframe(
            frames.table(lines, columns),
            column_config={
                name: st.column_config.TextColumn(name, alignment="right") for name in columns if name not in LEFT
            },
            hide_index=True,
            height="content",
            alt="Receipt: quantity times unit price times multiplier is cost",
        )
    cost = "unpriced" if unit["cost_usd"] is None else f"${words.plain(unit['cost_usd'])}"
    told = [
        words.STATUSES.get(receipt["status"], str(receipt["status"])),
        f"prices of {unit['price_version']}" if unit["price_version"] else "no price version",
        f"response {unit['id']}" if unit["id"] else "response without an id",
        f"answered by {unit['model']} at {words.stamp(unit['at'], shown.zone)}",
    ]
    st.markdown(f"**Total {words.escape(cost)}** · {words.escape(' · '.join(told), 600)}")
    if receipt["reason"]:
        st.warning(words.escape(f"Why: {receipt['reason']}", 500), icon=":material/help:")
    for note in receipt.get("notes") or ():
        st.caption(words.escape(str(note), 300))


RECEIPT = ("item", "quantity", "unit price", "multiplier", "cost", "model", "price source", "in force since")
LEFT = ("item", "model", "price source", "in force since")


def line(one: Mapping[str, Any]) -> dict[str, str]:
    """Return one line of a receipt with every digit it has; a multiplier of one is not told."""
    return {
        "item": words.item(one["item"]),
        "quantity": f"{words.plain(one['quantity'])} {words.clean(one['unit'])}{'s' if one['quantity'] != '1' else ''}",
        "unit price": words.unit_price(one["unit_price_usd"], one["per"], one["unit"]),
        "multiplier": "" if Decimal(one["multiplier"]) == 1 else f"× {words.plain(one['multiplier'])}",
        "cost": f"${words.plain(one['cost_usd'])}",
        "model": words.clean(one["model"]),
        "price source": words.clean(one["source"]),
        "in force since": words.clean(one["valid_from"] or "undated"),
    }


def _attempts(attempts: list[dict[str, Any]], row: Mapping[str, Any]) -> None:
    steps = figures.steps(attempts)
    st.markdown("**Attempts**")
    if not steps:
        st.caption(f"{words.plural(row['attempts'], 'request')} made; no details of them came.")
        return
    if len(steps) > 1:
        st.altair_chart(charts.waterfall(steps), alt="Attempts over time; the same figures are in the table below")
    columns = ("attempt", "status", "outcome", "took", "asked to wait", "waited before", "request id")
    table = [
        {
            "attempt": step.name,
            "status": str(step.status or "no answer"),
            "outcome": step.outcome,
            "took": words.duration(step.duration_ms),
            "asked to wait": "" if step.retry_after_s is None else words.duration(step.retry_after_s * 1000),
            "waited before": "" if step.waited_s is None else words.duration(step.waited_s * 1000),
            "request id": words.clean(step.request_id or ""),
        }
        for step in steps
    ]
    shown = frames.told(table, columns)
    st.dataframe(frames.table(table, shown), hide_index=True, width="content", height="content", alt="Attempts")


def _tokens(row: Mapping[str, Any]) -> None:
    classes = figures.token_classes(row)
    if not classes:
        return
    st.markdown("**Tokens**")
    st.altair_chart(charts.token_bar(classes), alt="Tokens by class")
    st.caption(" · ".join(f"{words.escape(name)} {words.count(tokens)}" for name, tokens in classes))


FACTS = (
    "service",
    "environment",
    "feature",
    "user",
    "session",
    "prompt",
    "caller",
    "provider",
    "model",
    "response_model",
    "key",
    "trace_id",
    "parent_id",
)


def _facts(row: Mapping[str, Any]) -> None:
    facts = [(name.replace("_", " "), row[name]) for name in FACTS if row.get(name)]
    facts += [(f"tag {words.clean(str(name), 60)}", value) for name, value in sorted((row["tags"] or {}).items())]
    st.markdown("**Where it came from**")
    table = [{"what": name, "value": words.clean(str(value), 300)} for name, value in facts]
    # Measured by Streamlit from the first rows only, an id further down would be cut.
    wide = {"value": st.column_config.TextColumn("value", width=480)}
    st.dataframe(
        frames.table(table, ("what", "value")), column_config=wide, hide_index=True, width="content", height="content",
        alt="Tags",
    )  # fmt: skip


LINKED_WITHIN = timedelta(days=1)
"""Calls further away than this are not looked for: what is read is bounded by it."""
LINKED_MAX = 20
LINKED = {"when": "when", "how": "how", "model": "model", "outcome": "outcome", "cost_usd": "cost", "id": "id"}


def _linked(row: Mapping[str, Any], shown: View) -> None:
    """Show the calls that are the same piece of work, and those that asked the same."""
    at = datetime.fromisoformat(row["started_at"])
    near = {
        "start": iso(at - LINKED_WITHIN),
        "end": iso(at + LINKED_WITHIN),
        "order": "started_at",
        "limit": LINKED_MAX,
    }
    found: dict[str, dict[str, Any]] = {}
    for name in ("digest", "chain"):
        if row[name]:
            answer = parts.ask_kept("calls", {**near, name: row[name]})
            found |= {other["id"]: {**other, "how": _how(other, row)} for other in answer["rows"]}
    found.pop(row["id"], None)
    if not found and row["link"] is None:
        return
    st.markdown("**Linked calls**")
    if row["link"]:
        st.caption(f"This one: {words.escape(words.LINKS.get(row['link'], row['link']))}.")
    rows = sorted(found.values(), key=lambda other: str(other["started_at"]))
    table = [
        {
            "when": words.clock(other["started_at"], shown.zone, shown.now), "how": other["how"],
            "model": words.clean(other["model"] or words.NONE, CELL), "outcome": words.outcome(other["outcome"]),
            "cost_usd": None if words.is_untold(other) else other["cost_usd"], "id": other["id"],
        }
        for other in rows
    ]  # fmt: skip
    place = parts.table(table, LINKED, {"cost_usd": frames.usd}, "Linked calls", f"linked {row['id']}")
    st.caption("Of a day before and after. A click on a row opens the call.")
    if place is not None:
        st.query_params["call"] = rows[place]["id"]
        st.rerun()


def _how(other: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    if other["chain"] != row["chain"]:
        return "the same request"
    return words.LINKS.get(other["link"], words.clean(other["link"])) if other["link"] else "the first of this work"


def _trace(row: Mapping[str, Any]) -> None:
    """Show the whole trace when the reader asks for it: it is looked for in all that is stored."""
    if not st.toggle("Show its trace", key=f"trace {row['id']}"):
        return
    trace = parts.ask_kept(f"traces/{row['trace_id']}", {})
    begun = min(each["started_at"] for kind in ("calls", "attempts", "spans") for each in trace[kind])
    table = [
        {
            "after": (datetime.fromisoformat(each["started_at"]) - datetime.fromisoformat(begun)) / MILLISECOND,
            "what": kind.removesuffix("s"), "name": words.clean(str(_name(each)), 80),
            "took": each["latency_ms"] if kind == "calls" else each["duration_ms"],
            "ended": words.outcome(each["outcome"]) if kind != "spans" else "",
        }
        for kind in ("calls", "attempts", "spans") for each in trace[kind]
    ]  # fmt: skip
    table.sort(key=lambda each: each["after"])
    columns = {"after": "after", "what": "what", "name": "name", "took": "took", "ended": "ended"}
    parts.table(table, columns, dict.fromkeys(("after", "took"), words.duration), "The trace, in the order of time")


def _name(each: Mapping[str, Any]) -> object:
    if "model" in each:
        return f"{each['operation'] or 'call'} {each['model'] or ''}"
    return each.get("name") or f"attempt {each['number'] + 1}, status {each['status'] or 'none'}"
