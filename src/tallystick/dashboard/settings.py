"""Settings: is the ledger right, who sends to it, and how to get at it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import streamlit as st

from tallystick.client import Collector
from tallystick.dashboard import figures, frames, pages, parts, words
from tallystick.dashboard.view import RANGES, View, iso
from tallystick.errors import CollectorRefusedError, CollectorUnreachableError

CELL = 40
"""Letters in a cell, so that one long name does not push the other columns out of sight."""
UNPRICED_WITHIN = "30d"
EXPORT_PAGES_MAX = 100
EXPORT_PAGE = 1000
EXPORTS = {
    "calls": "one line for each call",
    "groups": "spend by model",
    "series": "spend by day and model",
    "alerts": "alerts",
}
STORED = "spans received = stored + duplicates + rejected"
FINISHED = "calls finished = stored here + dropped"


def show() -> None:
    """Draw the page."""
    shown = parts.view()
    parts.live(_body)
    try:
        ledger = parts.collector().ask("ledger")
    except CollectorUnreachableError:  # what is drawn above says so already
        parts.again()
        return
    with parts.trouble():
        _slack()
        _export(shown)
    parts.footer(ledger, shown)


def _body(shown: View) -> None:
    ask = parts.collector().ask
    told = ask("doctor")
    ledger = told["ledger"]
    if not ledger["received_spans"]:
        parts.waiting()
    st.markdown("### Doctor")
    for check in told["checks"]:
        st.markdown(check_line(check))
    st.caption(f"`tallystick doctor` says the same in a terminal. Version {words.escape(told['version'])} at "
               f"{words.code(told['address'])}, data in {words.code(told['data'])}.")  # fmt: skip
    _ledger(ledger)
    month = {"start": iso(shown.now - RANGES[UNPRICED_WITHIN]), "end": iso(shown.now)}
    with parts.section("Prices"):
        _prices(ledger, ask("advice", {**month, "about": "prices"}))
    _senders(told, shown)
    _kept(ledger["journal"], told["kept"])


def check_line(check: Mapping[str, str]) -> str:
    """Return a check as a line: its state in a word and a sign, what was found, what to do."""
    state, sign = words.CHECKS.get(check["state"], (words.clean(check["state"]), ":material/help:"))
    line = f"{sign} **{words.escape(check['name'])}**, {words.escape(state)}: {words.escape(check['told'], 500)}"
    return f"{line}  \n→ {words.escape(check['todo'], 300)}" if check["todo"] else line


def equations(ledger: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the ledger's equations, each with its figures."""
    rejected = sum(ledger["rejected_spans"].values())
    sums = " + ".join(words.count(each) for each in (ledger["stored_spans"], ledger["duplicate_spans"], rejected))
    left_over = ledger["unaccounted_spans"]
    balance = "it adds up" if not left_over else f"{words.count(left_over)} are unaccounted for, which is a fault"
    own = [
        (f"{words.clean(app['service'] or words.NONE, CELL)}: {FINISHED}", _own_equation(app)) for app in ledger["apps"]
    ]
    return [(STORED, f"{words.count(ledger['received_spans'])} = {sums}: {balance}"), *own]


def _own_equation(app: Mapping[str, Any]) -> str:
    finished, stored, dropped = (
        words.count(app[name]) for name in ("finished_calls", "spooled_calls", "dropped_calls")
    )
    missing = app["unaccounted_calls"]
    balance = "it adds up" if not missing else f"{words.count(missing)} are under way or missing"
    return f"{finished} = {stored} + {dropped}: {balance}"


def _ledger(ledger: Mapping[str, Any]) -> None:
    st.markdown("### The ledger's equations")
    for equation, told in equations(ledger):
        st.markdown(f"{words.escape(equation, 200)}  \n**{words.escape(told, 300)}**")
    lost = [
        *({"what": "rejected", "why": words.clean(why), "how many": count}
          for why, count in ledger["rejected_spans"].items()),
        *({"what": "dropped", "why": words.clean(why), "how many": count}
          for why, count in ledger["dropped"].items() if count),
    ]  # fmt: skip
    if lost:
        st.dataframe(
            frames.table(lost, ["what", "why", "how many"], {"how many": frames.count}), hide_index=True,
            height="content", alt="What was rejected or dropped, and why",
        )  # fmt: skip
    else:
        st.caption("Nothing was rejected, and nothing was dropped.")


def _prices(ledger: Mapping[str, Any], advice: Mapping[str, Any]) -> None:
    st.markdown("### Prices")
    line = figures.price_line(ledger)
    st.markdown(words.escape(line[0].upper() + line[1:], 200))
    unpriced = [part for row in advice["rows"] for part in row["parts"]]
    for part in unpriced:
        label = f"{words.plural(part['calls'], 'response')} without a price: {words.clean(part['label'], 80)}"
        pages.link("calls", words.escape(label), {**part["filters"], "range": UNPRICED_WITHIN}, ":material/help:")
    if not unpriced:
        st.caption("Every response of the last 30 days has a price.")
    st.caption("`tallystick prices update` fetches younger ones, `tallystick reprice` prices what is stored again.")


def _senders(told: Mapping[str, Any], shown: View) -> None:
    st.markdown("### Who sends")
    if not told["services"]:
        st.caption("No service sent a call in the last week.")
        return
    services = [
        {"service": words.clean(row["service"] or words.NONE, CELL), "calls": row["calls"],
         "last call": words.clock(row["last_call_at"], shown.zone, shown.now)}
        for row in told["services"]
    ]  # fmt: skip
    emitters = [
        {"emitter": words.clean(row["emitter"], CELL), "calls": row["calls"],
         "last call": words.clock(row["last_call_at"], shown.zone, shown.now)}
        for row in told["emitters"]
    ]  # fmt: skip
    with st.container(horizontal=True):
        for rows, name, alt in (
            (services, "service", "Services of the last week"),
            (emitters, "emitter", "Who told of calls"),
        ):
            st.dataframe(
                frames.table(rows, [name, "calls", "last call"], {"calls": frames.count}), hide_index=True,
                width="content", height="content", alt=alt,
            )  # fmt: skip
    with st.expander("Send from another app"):
        parts.lines()


def _kept(journal: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    st.markdown("### Kept")
    largest = kept["retention_gb"]
    told = [
        f"Calls are kept for {words.plural(kept['retention_days'], 'day')}"
        + (f" or up to {largest:g} GB, whichever is less" if largest else "")
        + "; the sums of their hours stay",
        f"after {words.plural(kept['archive_days'], 'day')} they move into the archive",
        f"the journal holds {words.size(journal['bytes'])} in {words.plural(journal['segments'], 'segment')}",
    ]
    st.markdown(f"{words.escape('. '.join(each[0].upper() + each[1:] for each in told), 400)}. "
                "`tallystick backup FILE` copies all of it.")  # fmt: skip
    st.caption("`archive_days`, `retention_days` and `retention_gb` of `tallystick.toml` say how long.")


def _slack() -> None:
    st.markdown("### Alerts")
    st.caption("A test message goes to every channel that `tallystick.toml` sets.")
    if not st.button("Send a test message", icon=":material/send:"):
        return
    for row in parts.collector().order("alerts/test", {})["rows"] or [None]:
        if row is None:
            st.info(
                "No channel is set: put slack_webhook_url into [alerts] of tallystick.toml.", icon=":material/info:"
            )
        elif row["delivered"]:
            st.success(f"{words.escape(row['channel'])} took the message.", icon=":material/check_circle:")
        else:
            st.error(
                f"{words.escape(row['channel'])}: {words.escape(row['error'] or '', 300)}", icon=":material/error:"
            )


def _export(shown: View) -> None:
    st.markdown("### Export")
    st.caption(
        f"Tables for a spreadsheet (CSV) of this range and these filters; up to "
        f"{words.count(EXPORT_PAGES_MAX * EXPORT_PAGE)} calls, more of them by `/api/v1`."
    )
    parts.controls(shown)
    with st.container(horizontal=True):
        for name, told in EXPORTS.items():
            st.download_button(
                told[0].upper() + told[1:], partial(exported, parts.collector().url, name, shown),
                file_name=f"tallystick-{name}.csv", mime="text/csv", icon=":material/download:", on_click="ignore",
            )  # fmt: skip


def exported(url: str, name: str, shown: View) -> bytes:
    """Return the rows of a question as CSV; when the collector does not answer, why: a download has no other voice."""
    owns: dict[str, dict[str, Any]] = {
        "calls": {"limit": EXPORT_PAGE},
        "groups": {"by": "model"},
        "series": {"bucket": "day", "by": "model", "timezone": shown.zone.key},
    }
    asked = {key: value for key, value in shown.question().items() if name != "alerts" or key in {"start", "end"}}
    try:
        return Collector(url).table(name, {**asked, **owns.get(name, {})}, EXPORT_PAGES_MAX)
    except (CollectorUnreachableError, CollectorRefusedError) as error:
        return str(error).encode()
