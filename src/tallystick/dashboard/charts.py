"""The charts, as Vega-Lite by Altair.  Names from outside are data, never part of an expression or a field's name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import altair as alt

from tallystick.dashboard import words
from tallystick.dashboard.figures import BUCKETS, Stack, Step, wall
from tallystick.dashboard.theme import FAILED_COLOUR, NONE_COLOUR, OK_COLOUR, REST_COLOUR, SERIES_COLOURS, Palette
from tallystick.dashboard.view import View

FITTING = alt.expr("width < 480 ? 1 : width < 900 ? 3 : 7")
"""How many columns a legend may have, told by the chart's width: a row that does not fit would be cut off."""
SHORT = alt.expr("width < 480 ? 2 : 7")
"""The same for names of ours, which are short."""
PICKED = "picked"
"""Name of the selection that a click on a bar makes."""
Measure = Literal["spend_usd", "calls"]


def _data(rows: Sequence[dict[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=list(rows))


def _epoch_ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _time_scale(view: View) -> alt.Scale:
    start, end = (_epoch_ms(wall(at, view.zone)) for at in (view.start, view.end))
    # The first and the last bucket reach over the range; their bars are drawn whole.
    size = int(BUCKETS[view.bucket].total_seconds() * 1000)
    return alt.Scale(type="utc", domain=[start - start % size, end + -end % size], nice=False)


def stacked(stack: Stack, view: View, palette: Palette, by: str, measure: Measure = "spend_usd") -> alt.LayerChart:
    """Return stacked bars over time; buckets with responses that no price is known for carry a mark below the bars."""
    rows = [
        {
            "start": _epoch_ms(bar.start),
            "end": _epoch_ms(bar.end),
            "at": bar.at,
            "series": bar.series,
            "value": float(bar.spend_usd) if measure == "spend_usd" else bar.calls,
            "spend": words.usd(bar.spend_usd),
            "calls": bar.calls,
            "failed": bar.failed,
            "unpriced": bar.unpriced_units,
            "rank": stack.series.index(bar.series),
        }
        for bar in stack.bars
    ]
    x = alt.X("start:T", scale=_time_scale(view), title=None, axis=_time_axis(view))
    bars = (
        alt.Chart(_data([row for row in rows if row["value"]]))
        .mark_bar(orient="vertical", binSpacing=1, cursor="pointer")
        .encode(
            x=x,
            x2="end:T",
            y=alt.Y(
                "value:Q", title=None, stack="zero", axis=_money_axis() if measure == "spend_usd" else _count_axis()
            ),
            color=_colour(
                stack, by, palette, {bar.series for bar in stack.bars if bar.spend_usd or measure == "calls"}
            ),
            order=alt.Order("rank:Q"),
            tooltip=[
                alt.Tooltip("start:T", title="from", format=_tooltip_time(view)),
                alt.Tooltip("series:N", title=words.clean(by, 40)),
                alt.Tooltip("spend:N", title="spend"),
                alt.Tooltip("calls:Q", title="calls", format=","),
                alt.Tooltip("failed:Q", title="failed", format=","),
                alt.Tooltip("unpriced:Q", title="unpriced responses", format=","),
            ],
        )
        .add_params(alt.selection_point(name=PICKED, fields=["at", "series"], on="click", clear="dblclick"))
    )
    unpriced = [row for row in rows if row["unpriced"] and measure == "spend_usd"]
    layers = [bars, _unpriced_marks(unpriced, view)] if unpriced else [bars]  # a layer without marks has no name
    chart: alt.LayerChart = alt.layer(*layers).properties(height=320).configure_view(strokeWidth=0)
    return chart


def _unpriced_marks(rows: list[dict[str, Any]], view: View) -> alt.Chart:
    chart: alt.Chart = (
        alt.Chart(_data(rows))
        .transform_aggregate(unpriced="sum(unpriced)", groupby=["start", "end"])
        .transform_calculate(middle="(datum.start + datum.end) / 2")
        .mark_point(shape="triangle-up", filled=True, size=45, color=FAILED_COLOUR, yOffset=7, opacity=1, clip=False)
        .encode(
            x=alt.X("middle:T", scale=_time_scale(view), title=None),
            y=alt.datum(0),
            tooltip=[alt.Tooltip("unpriced:Q", title="responses without a price", format=",")],
        )
    )
    return chart


def _colour(stack: Stack, dimension: str, palette: Palette, drawn: set[str]) -> alt.Color:
    apart = [name for name in stack.series if name not in (words.NONE, stack.rest)]
    bound = dict(zip(apart, palette.colours(dimension, apart), strict=True)) | {words.NONE: NONE_COLOUR}
    if stack.rest:
        bound[stack.rest] = REST_COLOUR
    domain = [name for name in stack.series if name in drawn]
    colours = [bound[name] for name in domain]
    legend = alt.Legend(orient="top", title=None, labelLimit=280, symbolType="square", columns=FITTING)
    return alt.Color("series:N", scale=alt.Scale(domain=domain, range=colours), legend=legend)


def _time_axis(view: View) -> alt.Axis:
    shape = "%-d %b" if view.bucket == "day" else "%H:%M"
    if view.bucket == "hour" and view.length.days >= 2:
        shape = "%-d %b %H:%M"
    elif view.bucket == "hour":
        # Midnight says which day begins.
        expression = "hours(datum.value) == 0 ? utcFormat(datum.value, '%-d %b') : utcFormat(datum.value, '%H:%M')"
        expression = expression.replace("hours(", "utchours(")
        return alt.Axis(labelExpr=expression, labelOverlap=True, grid=False, tickCount=8, labelFlush=True)
    return alt.Axis(format=shape, labelOverlap=True, grid=False, tickCount=8, labelFlush=True)


def _tooltip_time(view: View) -> str:
    return "%-d %b %Y" if view.bucket == "day" else "%-d %b %H:%M"


def _money_axis() -> alt.Axis:
    # d3's "~r" keeps small money readable ($0.004) and "~s" large ($1.2k).
    small, large = "format(datum.value, '.3~r')", "format(datum.value, '.3~s')"
    expression = f"datum.value == 0 ? '$0' : '$' + (datum.value < 1000 ? {small} : {large})"
    return alt.Axis(labelExpr=expression, tickCount=4, domain=False, ticks=False)


def _count_axis() -> alt.Axis:
    return alt.Axis(format="~s", tickCount=4, tickMinStep=1, domain=False, ticks=False)


def waterfall(steps: Sequence[Step]) -> alt.LayerChart:
    """Return the attempts of a call as bars over the time since the first began."""
    longest = max((step.start_ms + (step.duration_ms or 0) for step in steps), default=1) or 1
    rows = [
        {
            "attempt": step.name,
            "start": step.start_ms / 1000,
            # A bar of no width would hide an attempt that failed at once.
            "end": (step.start_ms + max(step.duration_ms or 0, longest / 200)) / 1000,
            "ended": "answered" if step.ok else "failed",
            "told": f"{step.status or 'no answer'} · {step.outcome} · {words.duration(step.duration_ms)}",
        }
        for step in steps
    ]
    base = alt.Chart(_data(rows)).encode(
        y=alt.Y("attempt:N", title="attempt", sort=None, axis=alt.Axis(ticks=False, domain=False))
    )
    axis = alt.Axis(grid=True, tickCount=6, format="~r")
    colours = alt.Scale(domain=["answered", "failed"], range=[OK_COLOUR, FAILED_COLOUR])
    bars = base.mark_bar(height=16, cornerRadius=2).encode(
        x=alt.X("start:Q", title="seconds since the call's first attempt", axis=axis),
        x2="end:Q",
        color=alt.Color("ended:N", scale=colours, legend=alt.Legend(orient="top", title=None)),
        tooltip=[alt.Tooltip("attempt:N"), alt.Tooltip("told:N", title="outcome")],
    )
    height = 100 + 30 * len(rows)
    chart: alt.LayerChart = alt.layer(bars).properties(height=height).configure_view(strokeWidth=0)
    return chart


def token_bar(classes: Sequence[tuple[str, int]]) -> alt.Chart:
    """Return one bar whose parts are the call's tokens by class."""
    names = [name for name, _ in classes]
    rows = [
        {"class": name, "tokens": tokens, "told": words.count(tokens), "rank": rank}
        for rank, (name, tokens) in enumerate(classes)
    ]
    colours = alt.Scale(domain=names, range=list(SERIES_COLOURS[: len(names)]))
    chart: alt.Chart = (
        alt.Chart(_data(rows))
        .mark_bar(height=26)
        .encode(
            x=alt.X("tokens:Q", stack="zero", axis=None, scale=alt.Scale(nice=False)),
            color=alt.Color("class:N", scale=colours, legend=alt.Legend(orient="top", title=None, columns=SHORT)),
            order=alt.Order("rank:Q"),
            tooltip=[alt.Tooltip("class:N"), alt.Tooltip("told:N", title="tokens")],
        )
        .properties(height=95)
        .configure_view(strokeWidth=0)
    )
    return chart


def picked_bar(event: Any) -> tuple[str, str] | None:
    """Return (bucket's start, series) of the bar that was clicked, or None."""
    selection = getattr(event, "selection", None) or {}
    points = selection.get(PICKED) or []
    if not points or "at" not in points[0] or "series" not in points[0]:
        return None
    return str(points[0]["at"]), str(points[0]["series"])
