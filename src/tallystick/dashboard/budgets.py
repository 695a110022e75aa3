"""Budgets: will I stay inside."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import streamlit as st

from tallystick.dashboard import budget_form, figures, frames, pages, parts, words
from tallystick.dashboard.view import RANGES, View, iso

CELL = 32
"""Letters in a cell, so that one long name does not push the other columns out of sight."""
ALERTED_WITHIN = RANGES["30d"]
UNSEEN_MAX = 5
SNOOZES = {60: "1 hour", 8 * 60: "8 hours", 24 * 60: "1 day"}
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
    """Draw the page; the form, when the address asks for one, stands above and is not drawn anew by itself."""
    with parts.trouble():
        budget_form.show()
    parts.live(_body)


def _body(shown: View) -> None:
    ask = parts.collector().ask
    ledger, rows = ask("ledger"), ask("budgets")["rows"]
    if not rows:
        _none()
    # The fullest first: that is the one to look at.
    for row in sorted(rows, key=lambda row: -Decimal(row["share"] or 0)):
        _budget(row, shown)
    with parts.section("Alerts"):
        _alerted(ask("alerts", {"start": iso(shown.now - ALERTED_WITHIN), "end": iso(shown.now)})["rows"], shown)
    if rows:
        with parts.section("Blocked calls"):
            _blocked(ask("refusals", {"start": iso(shown.start), "end": iso(shown.end)})["rows"], shown)
    parts.footer(ledger, shown)


def _none() -> None:
    st.subheader("No budgets yet", anchor=False)
    st.markdown("Make one here, or put it into `tallystick.toml`, where the collector starts, and start it again:")
    st.code(EXAMPLE, language="toml")
    st.caption("It tells when 50, 80 and 100 % of ten dollars a day are spent by calls tagged with the feature chat.")


def _budget(row: Mapping[str, Any], shown: View) -> None:
    share = Decimal(row["share"] or 0)
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            covers = figures.scope(row["scope"], row["group_by"])
            st.markdown(f"**{words.escape(row['name'])}** · {words.escape(covers, 200)}", width="content")
            _badge(share, row)
        spent = f"{_amount(row, 'spent')} of {_amount(row, 'limit')} spent, {words.percent(share)}"
        if row["groups"]:  # a budget of groups has no sum of its own
            spent = f"The fullest, {words.group(row['groups'][0]['group'])}: {spent}"
        st.progress(float(min(max(share, Decimal()), Decimal(1))), text=words.escape(spent, 300))
        parts.tiles(figures.standing(row, shown.zone, shown.now))
        st.caption(words.escape(_conditions(row), 500))
        if row["unpriced_units"] and row["unit"] == "usd":
            st.warning(
                f"{words.plural(row['unpriced_units'], 'response')} without a known price: not in the figure above.",
                icon=":material/help:",
            )
        if row["groups"]:
            _groups(row, shown)
        if row["alerts"]:
            with st.expander(f"{words.plural(len(row['alerts']), 'alert')} in this window"):
                _alerts(row["alerts"], shown)
        _prove(row)
        _ways_on(row)


def _ways_on(row: Mapping[str, Any]) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        pages.link("calls", "Calls of this window", _calls_of(row), ":material/list_alt:")
        if row["source"] == "file":
            st.caption("Read only here: it stands in `tallystick.toml`. Change it there and start the collector again.")
        elif st.button("Edit", icon=":material/edit:", key=f"edit {row['name']}"):
            budget_form.open_for(row["name"])


def _prove(row: Mapping[str, Any]) -> None:
    if row["action"] == "alert":
        return
    with st.expander("Prove that it blocks"):
        st.code(f"tallystick budget test {shlex.quote(words.clean(row['name']))}", language="bash")
        st.caption(
            "Real SDK calls against a provider on this machine, with a copy of this budget, until it refuses; the "
            "provider's own bill is the judge. Nothing of it is on this ledger."
        )


def _amount(row: Mapping[str, Any], name: str) -> str:
    return words.amount(row[name], row["unit"])


def _badge(share: Decimal, row: Mapping[str, Any]) -> None:
    crossed = [level for level in map(Decimal, row["thresholds"]) if share >= level]
    if share >= 1:
        st.badge("over the limit" if share > 1 else "limit reached", icon=":material/block:", color="red")
    elif crossed:
        st.badge(f"past {words.percent(max(crossed))}", icon=":material/warning:", color="orange")
    else:
        st.badge("inside", icon=":material/check:", color="green")


def _conditions(row: Mapping[str, Any]) -> str:
    window = row["window"]
    told = [f"window: {words.clean(window['kind'])} ({words.clean(window['timezone'])})"]
    levels = ", ".join(words.percent(Decimal(level)) for level in row["thresholds"])
    told.append(f"tells at {levels}" if levels else "tells nobody")
    told.append({"alert": "only warns", "block": "blocks at the limit"}.get(row["action"], words.clean(row["action"])))
    if row["refused"]:
        told.append(f"{words.plural(row['refused'], 'call')} refused in this window")
    return " · ".join(told)


def _calls_of(row: Mapping[str, Any]) -> dict[str, str | list[str]]:
    window = row["window"]
    edges = {name: window[name] for name in ("start", "end") if window[name]}
    return {**edges, **{name: value for name, value in row["scope"].items() if isinstance(value, str)}}


def _groups(row: Mapping[str, Any], shown: View) -> None:
    listed, number = len(row["groups"]), row["groups_count"]
    told = f"{words.plural(number, 'group')}, each with the limit for itself"
    st.markdown(f"**{told}**" + (f": the {listed} fullest" if number > listed else ""))
    table = [
        {
            "group": words.group(group["group"]),
            **{name: Decimal(group[name]) for name in ("spent", "reserved", "left", "share")},
            "full": figures.full_at(group, shown.zone, shown.now),
            "refused": group["refused"],
        }
        for group in row["groups"]
    ]
    tell = frames.amount(row["unit"])
    told_as = {"spent": tell, "reserved": tell, "left": tell, "share": frames.percent, "refused": frames.count}
    st.dataframe(
        frames.table(table, ["group", "spent", "reserved", "left", "share", "full", "refused"], told_as),
        column_config={name: st.column_config.NumberColumn(name, alignment="right") for name in told_as},
        hide_index=True,
        height=35 * (min(listed, 6) + 1) + 3,
        alt="The groups of this budget, the fullest first",
    )


def _blocked(refusals: list[dict[str, Any]], shown: View) -> None:
    st.markdown("### Blocked calls")
    period = f"in the last {words.span(shown.length)}" if shown.range else "in this range"
    if not refusals:
        st.caption(f"No budget refused a call {period}.")
        return
    columns = ("when", "budget", "group", "why", "model", "feature", "opens again")
    table = [
        {
            "when": words.clock(row["refused_at"], shown.zone, shown.now),
            "budget": words.clean(row["budget"], CELL),
            "group": words.group(row["group"] or {}),
            "why": figures.arithmetic(row),
            "model": words.clean(row["dimensions"].get("model") or "", CELL),
            "feature": words.clean(row["dimensions"].get("feature") or "", CELL),
            "opens again": words.clock(row["resets_at"], shown.zone, shown.now),
        }
        for row in refusals
    ]
    st.dataframe(
        frames.table(table, columns),
        column_config={"why": st.column_config.TextColumn("why", width="large")},
        hide_index=True,
        height=35 * (min(len(table), 10) + 1) + 3,
        alt="Calls that a budget refused, each with its arithmetic",
    )
    st.caption(f"{words.plural(len(refusals), 'call')} refused {period}, the newest first; none of them was sent.")


def _alerted(alerts: list[dict[str, Any]], shown: View) -> None:
    """Show what was told in the last month; what nobody has seen yet stands first, with what to do about it."""
    st.markdown("### Alerts")
    if not alerts:
        st.caption("No alert was raised in the last 30 days.")
        return
    unseen = [alert for alert in alerts if not alert["acked_at"] and not _is_snoozed(alert, shown)]
    for alert in unseen[:UNSEEN_MAX]:
        _unseen(alert, shown)
    if len(unseen) > UNSEEN_MAX:
        st.caption(f"{words.plural(len(unseen) - UNSEEN_MAX, 'older alert')} not seen yet: see below.")
    table = [
        {
            "raised": words.clock(alert["raised_at"], shown.zone, shown.now),
            "what": words.clean(figures.alert(alert), 160),
            "notification": words.ALERT_STATES.get(alert["state"], words.clean(alert["state"])),
            "seen": words.clock(alert["acked_at"], shown.zone, shown.now) if alert["acked_at"] else "not yet",
            "held back until": words.clock(alert["snoozed_until"], shown.zone, shown.now)
            if alert["snoozed_until"]
            else "",
        }
        for alert in alerts
    ]
    columns = {name: name for name in frames.told(table, ("raised", "what", "notification", "seen", "held back until"))}
    parts.table(table, columns, {}, "Alerts of the last 30 days, the newest first", rows_max=8)


def _is_snoozed(alert: Mapping[str, Any], shown: View) -> bool:
    until = words.instant(alert["snoozed_until"])
    return until is not None and until > shown.now


def _unseen(alert: Mapping[str, Any], shown: View) -> None:
    told = f"{words.clock(alert['raised_at'], shown.zone, shown.now)} · {figures.alert(alert)}"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f":material/notifications: {words.escape(told, 250)}", width="stretch")
        if st.button("Seen", icon=":material/check:", key=f"seen {alert['id']}"):
            parts.collector().order(f"alerts/{alert['id']}/ack", {})
            st.rerun()
        with st.popover("Snooze", icon=":material/snooze:", key=f"snooze {alert['id']}"):
            st.markdown("Nothing is told of the same budget meanwhile; it is still written down.")
            for minutes, length in SNOOZES.items():
                if st.button(length, key=f"snooze {minutes} {alert['id']}"):
                    parts.collector().order(f"alerts/{alert['id']}/snooze", {"minutes": minutes})
                    st.rerun()


def _alerts(alerts: list[dict[str, Any]], shown: View) -> None:
    whose = ["group"] if any(alert["group"] for alert in alerts) else []
    columns = [*whose, "threshold", "spent", "raised", "notification", "delivered", "what went wrong"]
    table = [
        {
            "group": words.group(alert["group"] or {}),
            "threshold": words.percent(Decimal(alert["threshold"])),
            "spent": _amount(alert, "spent"),
            "raised": words.clock(alert["raised_at"], shown.zone, shown.now),
            "notification": words.ALERT_STATES.get(alert["state"], words.clean(alert["state"])),
            "delivered": words.clock(alert["delivered_at"], shown.zone, shown.now) if alert["delivered_at"] else "",
            "what went wrong": words.clean(alert["error"] or ""),
        }
        for alert in alerts
    ]
    columns = frames.told(table, columns)
    st.dataframe(
        frames.table(table, columns), hide_index=True, width="content", height="content", alt="Alerts of this budget"
    )
