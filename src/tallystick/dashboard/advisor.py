"""Advisor: what can I save, with the calls behind each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import streamlit as st

from tallystick.dashboard import frames, pages, parts, words
from tallystick.dashboard.view import View

TIMEOUT_S = 60.0
LINKS_MAX = 3


def show() -> None:
    """Draw the page; not every few seconds anew, because its questions read every call of the range."""
    shown = parts.view()
    parts.controls(shown)
    is_drawn = False
    with parts.trouble():
        _body(shown)
        is_drawn = True
    if not is_drawn:
        parts.again()


def _body(shown: View) -> None:
    ask = parts.collector().ask
    with st.spinner(parts.ASKING):
        ledger, now = ask("ledger"), ask("totals", shown.question())
    if not now["calls"]:
        parts.nothing(shown, ledger)
        parts.footer(ledger, shown)
        return
    answers = _answers(shown)
    st.markdown(words.escape(headline(answers[0]), 400))
    if answers[0]["monthly_spend_usd"] is None:
        _too_short(shown)
    _target(answers, shown)
    rows = ranked([row for answer in answers for row in answer["rows"]])
    if not rows:
        st.success("Nothing to advise on these calls; below is what was looked at.", icon=":material/check_circle:")
    for row in rows:
        _advice(row, shown)
    _quiet([row for answer in answers for row in answer["quiet"]])
    parts.footer(ledger, shown)


def _answers(shown: View) -> list[dict[str, Any]]:
    """Ask for each advice by itself, and say how far that is."""
    told: list[dict[str, Any]] = []
    with st.empty():
        for place, about in enumerate(words.ADVICE):
            st.progress(place / len(words.ADVICE), text=f"Looking at: {words.ADVICE[about].lower()}")
            asked = {**parts.by_minutes(shown), "about": about, "to": _to(about, shown)}
            told.append(parts.ask_kept("advice", asked, TIMEOUT_S))
        st.empty()
    return told


def _to(about: str, shown: View) -> str | None:
    return shown.to if about == "other_model" else None


def headline(answer: Mapping[str, Any]) -> str:
    """Return what the advice is made of, and how a month is made of it."""
    days = Decimal(answer["days"])
    told = f"Made from {words.plural(answer['calls'], 'call')} for {words.usd(answer['spend_usd'])}"
    if answer["monthly_spend_usd"] is None:
        return f"{told}, within less than a day: too short to make a month of. Figures are of the range."
    return (
        f"{told} in {days:.1f} days, about {words.usd(answer['monthly_spend_usd'])} a month: figures of a month are "
        f"those days times {30 / days:.3g}. They overlap, so they do not add up."
    )


def ranked(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the advice, what saves most first; what only frees or is not known comes last."""
    return sorted(rows, key=lambda row: (row["means"] != "saved", -Decimal(row["usd"] or 0)))


def figure(usd: str | None, monthly_usd: str | None, means: str = "saved") -> str:
    """Return ``$52.00 a month``; of less than a day ``$1.10 in this range``; a word when nobody knows."""
    if usd is None:
        return words.usd(None)
    told = f"{words.usd(usd)} in this range" if monthly_usd is None else f"{words.usd(monthly_usd)} a month"
    return f"{told}, held back" if means == "held" else told


def _too_short(shown: View) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("Advice is better over a longer range:", width="content")
        for longer in ("7d", "30d"):
            query = {**shown.link(), "range": longer}
            for name in ("start", "end"):
                query.pop(name, None)
            pages.link("advisor", f"last {longer}", query)


def _target(answers: Sequence[Mapping[str, Any]], shown: View) -> None:
    """Let the reader choose which model the traffic is priced on."""
    targets: list[str] = next((answer["targets"] for answer in answers if answer["targets"]), [])
    if not targets:
        return
    moved = [row for answer in answers for row in answer["rows"] if row["about"] == "other_model"]
    chosen = shown.to or (moved[0]["evidence"]["to"] if moved else None)
    options = list(dict.fromkeys([*([chosen] if chosen else []), *targets]))
    st.session_state["pick_to"] = chosen
    st.selectbox(
        "The same traffic on",
        options,
        key="pick_to",
        format_func=lambda target: words.clean(target, 80),
        placeholder="another model",
        on_change=parts.changed("to"),
        width=420,
    )


def _advice(row: Mapping[str, Any], shown: View) -> None:
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.subheader(
                words.escape(figure(row["usd"], row["monthly_usd"], row["means"])), anchor=False, width="content"
            )
            if row["usd"] is not None:
                bound = words.BOUNDS.get(row["bound"], words.clean(row["bound"]))
                st.badge(bound, color="green" if row["means"] == "saved" else "orange")
        st.markdown(f"**{words.escape(row['title'])}.** {words.escape(row['cause'], 500)}")
        for part in row["parts"][:LINKS_MAX]:
            pages.link("calls", _label(part), _query(part["filters"], shown), ":material/list_alt:")
        with st.expander("How this is counted"):
            st.markdown(f"Counted: {words.escape(row['counted'], 500)}.")
            st.markdown("It assumes:\n" + "\n".join(f"- {words.escape(each, 300)}" for each in row["assumes"]))
            if row["parts"]:
                _parts(row)


def _label(part: Mapping[str, Any]) -> str:
    money = "" if part["usd"] is None else f"{words.usd(part['monthly_usd'] or part['usd'])} · "
    return words.escape(f"{money}{words.plural(part['calls'], 'call')} · {words.clean(part['label'], 90)}", 200)


def _query(filters: Mapping[str, str | list[str]], shown: View) -> dict[str, str | list[str]]:
    own = {name: (value,) if isinstance(value, str) else tuple(value) for name, value in filters.items()}
    return shown.at_window({**shown.filters, **own})


def _parts(row: Mapping[str, Any]) -> None:
    rows = [
        {"what": words.clean(part["label"], 80), "calls": part["calls"],
         "usd": None if part["usd"] is None else Decimal(part["monthly_usd"] or part["usd"])}
        for part in row["parts"]
    ]  # fmt: skip
    columns = {
        "what": st.column_config.TextColumn("of"),
        "calls": st.column_config.NumberColumn("calls", alignment="right"),
        "usd": st.column_config.NumberColumn(
            "a month" if row["monthly_usd"] is not None else "in this range", alignment="right"
        ),
    }
    st.dataframe(
        frames.table(rows, list(columns), {"calls": frames.count, "usd": frames.usd}),
        column_config=columns, hide_index=True, height="content", alt=f"The parts of: {words.clean(row['title'])}",
    )  # fmt: skip


def _quiet(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    st.markdown("**Looked at, and nothing to advise**")
    lines = [
        f"- {words.escape(words.ADVICE.get(row['about'], row['about']))}: {words.escape(row['reason'], 300)}"
        for row in rows
    ]
    st.markdown("\n".join(lines))
