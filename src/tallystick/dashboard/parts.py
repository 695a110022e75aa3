"""What the pages share: the controls, the footer, and what is shown while there is nothing to show."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import count
from typing import Any

import streamlit as st

from tallystick.client import Collector, Params
from tallystick.dashboard import figures, frames, pages, words
from tallystick.dashboard.theme import Palette
from tallystick.dashboard.view import DIMENSIONS, ORDERS, RANGES, TABLES, TAG, View, iso, kept, read_view
from tallystick.errors import CollectorRefusedError, CollectorUnreachableError
from tallystick.model.failures import Outcome
from tallystick.model.places import collector_url
from tallystick.model.receipt import CostStatus

REFRESH_S = 3.0
"""How often a page asks again, in seconds."""
ASKING = "Asking the collector"
SENT_S = 0.3
"""How long Streamlit may take to send what was drawn."""
ASKED_AGAIN = "It is asked again every few seconds."
KEPT_S = 60
TIMEOUT_S = 10.0
TIMEOUT_AGAIN_S = 0.5
"""How long each further question may take in a drawing that has waited in vain once."""
LATE = "late"
IN_POPOVER = ("model", "provider", "feature", "user", "service", "environment", "outcome", "cost_status")

MAY_BE_MISSING = ("feature", "user", "environment")


class Asked(Collector):
    """The collector as one drawing asks it: after a question that it did not answer in time, few seconds are left."""

    def ask(self, question: str, params: Params | None = None) -> dict[str, Any]:
        """Return the answer; raises as the collector's own does."""
        if st.session_state.get(LATE):
            self.timeout_s = min(self.timeout_s, TIMEOUT_AGAIN_S)
        try:
            return super().ask(question, params)
        except CollectorUnreachableError as error:
            st.session_state[LATE] = st.session_state.get(LATE) or _is_late(error)
            raise


def begin() -> None:
    """Begin a drawing: whatever was late before, the collector has its whole time again."""
    st.session_state[LATE] = False


def collector() -> Asked:
    """Return the collector that the pages ask."""
    return Asked(collector_url(os.environ), TIMEOUT_S)


def ask_kept(question: str, asked: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
    """Ask what reads more than sums; the answer is kept for a minute, so that drawing anew costs nothing."""
    # Not a decorator: at the import Streamlit does not run yet, and says so on stderr.
    keep = st.cache_data(ttl=KEPT_S, max_entries=200, show_spinner=False)(_answer)
    return keep(collector().url, question, asked, timeout_s or TIMEOUT_S)


def _answer(url: str, question: str, asked: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    return Asked(url, timeout_s).ask(question, asked)


def by_minutes(shown: View) -> dict[str, Any]:
    """Return range and filters; a range that moves with the clock moves by minutes, so that answers can be kept."""
    if shown.range is None:
        return shown.question()
    start, end = (at.replace(second=0, microsecond=0) for at in (shown.start, shown.end))
    return shown.question() | {"start": iso(start), "end": iso(end + timedelta(minutes=1))}


def utc_now() -> datetime:
    """Return the time that a page calls now."""
    return datetime.now(UTC)


def view() -> View:
    """Return what the URL asks for, in the zone that it names or the reader's own."""
    return read_view(_params(), utc_now(), st.context.timezone)


def _params() -> dict[str, list[str]]:
    return {name: st.query_params.get_all(name) for name in st.query_params}


def carry(page: str) -> None:
    """Give a page that was entered by the navigation bar, whose links have no query, the view of the page before.

    The view is the one that the reader entered with or set by hand: a link that narrows it down, say to one bar's hour,
    does not become the view of the other pages.
    """
    if "view" not in st.session_state:
        _remember()
    elif st.session_state["page"] != page and not st.query_params:
        st.query_params.from_dict(st.session_state["view"])
    st.session_state["page"] = page


def _remember() -> None:
    st.session_state["view"] = kept(_params())


@st.cache_resource(show_spinner=False)
def palette() -> Palette:
    """Return the colours of this dashboard: one binding for all viewers."""
    return Palette()


def live(body: Callable[[View], None]) -> None:
    """Draw ``body`` now and every few seconds again; it gets the view as the URL says it at that moment."""
    drawings = count()

    @st.fragment(run_every=REFRESH_S)
    def part() -> None:
        if next(drawings):  # the first is a part of the page's
            begin()
        begun = time.monotonic()
        with trouble():
            body(view())
        if time.monotonic() - begun > REFRESH_S:
            # The next drawing is due already, and with its beginning Streamlit drops what it has not sent yet.
            time.sleep(SENT_S)

    with st.spinner(ASKING):  # seen when that takes longer than half a second
        part()


def again() -> None:
    """Draw the whole page anew in a few seconds: for what is not `live`, and could not be drawn."""
    drawn_at = time.monotonic()

    @st.fragment(run_every=REFRESH_S)
    def later() -> None:
        if time.monotonic() - drawn_at > REFRESH_S / 2:  # not at once, as a part of this drawing
            st.rerun()

    later()


@contextmanager
def trouble() -> Iterator[None]:
    """Say in one place what to do when the collector does not answer, or answers no."""
    try:
        yield
    except CollectorUnreachableError as error:
        if _is_late(error):
            st.error(
                f"**The collector takes too long.** {_fault(error)} {ASKED_AGAIN}", icon=":material/hourglass_top:"
            )
            return
        st.error(
            f"**No collector answers at** {words.code(error.url)} ({words.escape(error.reason)}).  \n"
            "Start one with `tallystick up`. This page looks again every few seconds and goes on by itself.",
            icon=":material/cloud_off:",
        )
    except CollectorRefusedError as error:
        st.error(
            f"**The collector answered {error.status}**: {words.escape(error.detail, 500)}  \n{_todo(error.status)}",
            icon=":material/block:",
        )


@contextmanager
def section(what: str) -> Iterator[None]:
    """Leave out one section when the collector fails at its question, and say so there; the others are drawn.

    A collector that is not there at all, or does not know what is asked, is for the whole page: see `trouble`.
    """
    try:
        yield
    except (CollectorUnreachableError, CollectorRefusedError) as error:
        if not _is_late(error) and getattr(error, "status", 0) < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        st.warning(
            f"**{words.escape(what)}: not there at the moment.** {_fault(error)} The rest of this page is right. "
            f"{ASKED_AGAIN}",
            icon=":material/sync_problem:",
        )


def _is_late(error: Exception) -> bool:
    return isinstance(error.__cause__, TimeoutError)


def _fault(error: CollectorUnreachableError | CollectorRefusedError) -> str:
    if isinstance(error, CollectorRefusedError):
        return f"The collector answered {error.status}: {words.escape(error.detail, 300)}."
    return f"No answer came in time from {words.code(error.url)}; it may be busy."


def _todo(status: int) -> str:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"The fault is the collector's: `tallystick doctor` says more. {ASKED_AGAIN}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return "Start the dashboard with the collector's token in `TALLYSTICK_TOKEN`."
    return "The address of this page asks for something that it does not know."


def controls(shown: View, *, by: bool = False, order: bool = False) -> None:
    """Show range, grouping or list and order, and filters in one line, and the set filters as chips below it."""
    for complaint in shown.complaints:
        st.warning(words.escape(complaint, 400), icon=":material/link_off:")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        _range_control(shown)
        if by:
            _by_control(shown)
        if order:
            _table_control(shown)
        if order and shown.table == "calls":
            _order_control(shown)
        _filter_control(shown)
    if shown.range is None:
        edges = [words.escape(words.stamp(at, shown.zone)) for at in (shown.start, shown.end)]
        st.caption(" to ".join(edges))
    _chips(shown)


def changed(name: str, *drops: str) -> Callable[[], None]:
    """Return a callback that moves a widget's value into the URL; paging and ``drops`` start over."""

    def move() -> None:
        value = st.session_state[f"pick_{name}"]
        for gone in ("cursor", "at", *drops):
            st.query_params.pop(gone, None)
        if value:
            st.query_params[name] = value
        _remember()

    return move


def _range_control(shown: View) -> None:
    st.session_state["pick_range"] = shown.range
    st.segmented_control(
        "Range",
        list(RANGES),
        key="pick_range",
        label_visibility="collapsed",
        on_change=changed("range", "start", "end"),
    )


def _by_control(shown: View) -> None:
    st.session_state["pick_by"] = shown.by
    options = list(dict.fromkeys([*DIMENSIONS, *_tags(shown), shown.by]))
    st.selectbox(
        "Group by",
        options,
        key="pick_by",
        label_visibility="collapsed",
        width=170,
        format_func=lambda name: f"by {words.clean(name, 40)}",
        on_change=changed("by"),
    )


def _tags(shown: View) -> list[str]:
    """Return the tags in use on the last day of the range, as dimensions."""
    start = max(shown.start, shown.end - RANGES["24h"])
    try:
        asked = by_minutes(replace(shown, start=start, filters={}))
        return [TAG + row["value"] for row in ask_kept("dimensions", {**asked, "name": "tag"})["rows"]]
    except (CollectorUnreachableError, CollectorRefusedError):
        return []  # the page itself says so


def _table_control(shown: View) -> None:
    st.session_state["pick_table"] = shown.table
    st.segmented_control(
        "List",
        list(TABLES),
        key="pick_table",
        label_visibility="collapsed",
        format_func=lambda name: TABLES[name].capitalize(),
        on_change=changed("table"),
    )


def _order_control(shown: View) -> None:
    st.session_state["pick_order"] = shown.order
    st.selectbox(
        "Order",
        list(ORDERS),
        key="pick_order",
        label_visibility="collapsed",
        width=170,
        format_func=lambda order: ORDERS[order],
        on_change=changed("order"),
    )


def _filter_control(shown: View) -> None:
    number = len(figures.chosen(shown))
    label = f"Filters ({number})" if number else "Filters"
    box = st.popover(label, icon=":material/filter_alt:", on_change="rerun", key="filters")
    if not box.open:  # asking for every dimension's values is for who wants to see them
        return
    with box, trouble():
        for name in IN_POPOVER:
            _filter_picker(shown, name)


def _filter_picker(shown: View, name: str) -> None:
    picked = list(shown.filters.get(name, ()))
    known = _values(shown, name)
    st.session_state[f"pick_{name}"] = picked
    st.multiselect(
        name.replace("_", " "),
        [*known, *(value for value in picked if value not in known)],
        key=f"pick_{name}",
        format_func=lambda value: words.clean(value, 60) or words.NONE,
        on_change=changed(name, name),
        placeholder="any",
    )


def _values(shown: View, name: str) -> list[str]:
    if name == "cost_status":
        return [status.value for status in CostStatus]
    if name == "outcome":
        return ["failed", *(outcome.value for outcome in Outcome)]
    range_only = {key: value for key, value in shown.question().items() if key in ("start", "end")}
    rows = collector().ask("dimensions", {**range_only, "name": name})["rows"]
    # The empty value is "without one", which the collector does not list.
    return [*(row["value"] for row in rows if row["value"]), *([""] if name in MAY_BE_MISSING else [])]


def _chips(shown: View) -> None:
    chosen = figures.chosen(shown)
    if not chosen:
        return
    places = list(range(len(chosen)))
    st.session_state["chips"] = places

    def drop() -> None:
        kept = set(st.session_state["chips"])
        st.query_params.pop("cursor", None)
        for name in {name for name, _ in chosen}:
            values = [value for place, (key, value) in enumerate(chosen) if key == name and place in kept]
            if values:
                st.query_params[name] = values
            else:
                st.query_params.pop(name, None)
        _remember()

    st.pills(
        "Filters that are set; click one to take it away",
        places,
        selection_mode="multi",
        key="chips",
        format_func=lambda place: f"{words.escape(figures.chip(*chosen[place]))} :material/close:",
        label_visibility="collapsed",
        on_change=drop,
    )


def nothing(shown: View, ledger: dict[str, Any]) -> None:
    """Say why there is nothing: no call ever came, what came was rejected, or none is in range and filters."""
    if not ledger["received_spans"]:
        waiting()
        return
    st.info("No calls in this range" + (" with these filters." if shown.filters else "."), icon=":material/search_off:")
    if not ledger["stored_spans"]:
        st.warning(f"Of what arrived nothing was stored: {words.escape(figures.ledger_line(ledger), 400)}")


def waiting() -> None:
    """Say how the first call gets here, and where it is waited for."""
    st.subheader("No calls yet")
    st.markdown("Install it where your app runs, put two lines into the app, and its first call shows up here:")
    lines()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f":material/hourglass_top: Waiting for the first call at {words.code(collector().url)}")
    st.caption(
        "No key at hand? `tallystick demo` shows real SDK traffic against a provider on this machine. "
        "Made a call, and nothing came? The app and this collector must name the same address."
    )
    pages.link("settings", "What the doctor finds", {}, ":material/stethoscope:")


def lines() -> None:
    """Show what brings an app's calls here, to be copied."""
    st.code("pip install tallystick", language="bash")
    # On two lines: on one it does not fit a phone.
    st.code("import tallystick\ntallystick.instrument()", language="python")
    st.markdown("Or without a change to the app:")
    st.code(f"TALLYSTICK_COLLECTOR={collector().url} tallystick run app.py", language="bash")


def footer(ledger: dict[str, Any], shown: View) -> None:
    """Say how far the figures can be trusted: zone, prices, and what became of all that arrived."""
    line = f"Times in {shown.zone.key} · {figures.price_line(ledger)} · {figures.ledger_line(ledger)}"
    st.space("small")
    st.caption(words.escape(line, 1000))


def tiles(shown: Sequence[figures.Tile]) -> None:
    """Show the tiles side by side, two in a row on a phone."""
    with st.container(horizontal=True, gap="small"):
        for tile in shown:
            down = tile.good == "down"
            same = tile.difference in (None, "same")
            st.metric(
                tile.label,
                words.escape(tile.value),
                # A difference is made of digits and signs of ours, and Streamlit turns its arrow by the minus.
                tile.difference or words.escape(tile.versus),
                delta_color="off" if same or not down else "inverse",
                delta_arrow="off" if same else "auto",
                delta_description=words.escape(tile.versus) if tile.difference else None,
                border=True,
                width="stretch",
            )


def table(
    rows: Sequence[dict[str, Any]],
    columns: dict[str, str],
    told: Mapping[str, frames.Teller],
    alt: str,
    key: str | None = None,
    rows_max: int = 12,
) -> int | None:
    """Show ``rows`` by ``columns`` (name and heading), figures in ``told`` to the right.

    With a ``key`` a click picks a row, whose number is returned.
    """
    event = st.dataframe(
        frames.table(rows, list(columns), told),
        column_config={
            name: st.column_config.NumberColumn(heading, alignment="right")
            if name in told
            else st.column_config.TextColumn(heading)
            for name, heading in columns.items()
        },
        hide_index=True,
        width="content",
        height=35 * (min(len(rows), rows_max) + 1) + 3,
        key=key,
        on_select="rerun" if key else "ignore",
        selection_mode="single-cell" if key else "multi-row",
        placeholder=words.usd(None),
        alt=alt,
    )
    return clicked_row(event) if key else None


def clicked_row(event: Any) -> int | None:
    """Return the number of the table row that was clicked, or None."""
    cells = event.selection.cells
    return int(cells[0][0]) if cells else None
