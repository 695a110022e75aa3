"""What a page shows, as its URL says it: range, grouping, filters, zone.  The URL is the only state."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RANGES = {
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
}
RANGE_DEFAULT = "24h"
DIMENSIONS = ("model", "provider", "feature", "user", "session", "prompt", "key", "service", "environment")
"""What the group-by menu offers beside the tags in use; the URL may name any filter."""
FILTERS = (
    "provider",
    "model",
    "feature",
    "user",
    "session",
    "service",
    "environment",
    "prompt",
    "key",
    "caller",
    "outcome",
    "cost_status",
    "template",
    "digest",
    "chain",
    "link",
)
GROUPABLE = tuple(name for name in FILTERS if name != "cost_status")
TABLES = {"calls": "calls", "sessions": "sessions", "prompts": "prompt versions"}
"""What Calls lists; all but calls are groups of them."""
ORDERS = {
    "-started_at": "newest first",
    "started_at": "oldest first",
    "-cost_usd": "dearest first",
    "-latency_ms": "slowest first",
}
ORDER_DEFAULT = "-started_at"
VALUE_LENGTH_MAX = 8192
TAG = "tag."
YEARS = (2000, 2100)
"""Times outside are mistakes, and the arithmetic on them would overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A question to the collector in the reader's terms.  ``start`` is within, ``end`` is outside, both aware."""

    start: datetime
    end: datetime
    now: datetime
    """When the page was drawn: what "today" and "resets in" are counted from."""
    zone: ZoneInfo
    range: str | None = RANGE_DEFAULT
    """The key in `RANGES` when the range moves with the clock; None when the URL fixes both ends."""
    by: str = "model"
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    order: str = ORDER_DEFAULT
    cursor: str | None = None
    table: str = "calls"
    """Calls: what is listed, one of `TABLES`."""
    call: str | None = None
    at: datetime | None = None
    """Spend: the start of the bar whose cause is shown."""
    to: str | None = None
    """Advisor: the model, as ``provider/model``, on which the traffic is priced."""
    zone_asked: bool = False
    """True when the URL names the zone, so that links carry it on."""
    complaints: tuple[str, ...] = ()
    """What in the URL was not understood, for the reader; with what is shown instead."""

    @property
    def length(self) -> timedelta:
        """How long the range is."""
        return self.end - self.start

    @property
    def bucket(self) -> str:
        """Return the finest bucket that leaves bars wide enough to hit."""
        if self.length <= timedelta(hours=2):
            return "minute"
        return "hour" if self.length <= timedelta(days=8) else "day"

    def question(self) -> dict[str, str | int | Sequence[str] | None]:
        """Return the parameters that the collector takes: range and filters."""
        return {"start": iso(self.start), "end": iso(self.end), **{name: list(v) for name, v in self.filters.items()}}

    def question_before(self) -> dict[str, str | int | Sequence[str] | None]:
        """Return the same for the equal period that ends where this one starts."""
        return {**self.question(), "start": iso(self.start - self.length), "end": iso(self.start)}

    def link(self, **filters: str) -> dict[str, str | list[str]]:
        """Return the query of a link that keeps range, zone and filters and sets ``filters`` beside them."""
        return self.at_window({**self.filters, **{name: (value,) for name, value in filters.items()}})

    def at_window(
        self,
        filters: Mapping[str, tuple[str, ...]],
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> dict[str, str | list[str]]:
        """Return the query of a link to other filters, and to another window when one is given."""
        query: dict[str, str | list[str]] = {}
        if start is not None and end is not None:
            query |= {"start": iso(start), "end": iso(end)}
        elif self.range is None:
            query |= {"start": iso(self.start), "end": iso(self.end)}
        elif self.range != RANGE_DEFAULT:
            query["range"] = self.range
        if self.zone_asked:
            query["tz"] = self.zone.key
        return query | {name: values[0] if len(values) == 1 else list(values) for name, values in filters.items()}


def kept(params: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the part of a URL that goes with the reader from page to page: range, zone, grouping and filters."""
    names = {"range", "start", "end", "tz", "by", *FILTERS}
    return {name: list(values) for name, values in params.items() if name in names or name.startswith(TAG)}


def iso(at: datetime) -> str:
    """Return ``at`` as the collector's API writes times."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def read_view(params: Mapping[str, Sequence[str]], now: datetime, viewer_zone: str | None) -> View:
    """Return the view that the URL's ``params`` describe; what they say wrongly becomes a complaint and a default."""
    complaints: list[str] = []
    zone, zone_asked = _zone(_last(params, "tz"), viewer_zone, complaints)
    span, start, end = _range(params, now, zone, complaints)
    by = _known(params, "by", "model", GROUPABLE, complaints)
    if by.startswith(TAG) and len(by) == len(TAG):
        by = "model"
    return View(
        start=start,
        end=end,
        now=now,
        zone=zone,
        range=span,
        by=by,
        filters=_filters(params),
        order=_known(params, "order", ORDER_DEFAULT, tuple(ORDERS), complaints),
        cursor=_last(params, "cursor"),
        table=_known(params, "table", "calls", tuple(TABLES), complaints),
        call=_last(params, "call"),
        at=_moment(params, "at", zone, complaints),
        to=_last(params, "to"),
        zone_asked=zone_asked,
        complaints=tuple(complaints),
    )


def _last(params: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = params.get(name)
    return values[-1][:VALUE_LENGTH_MAX] if values and values[-1] else None


def _known(
    params: Mapping[str, Sequence[str]], name: str, default: str, known: tuple[str, ...], complaints: list[str]
) -> str:
    value = _last(params, name)
    if value is None or value in known or (name == "by" and value.startswith(TAG)):
        return value or default
    complaints.append(f"{name}={value} is not known, so this is {name}={default}; known: {', '.join(known)}")
    return default


def _zone(asked: str | None, viewer: str | None, complaints: list[str]) -> tuple[ZoneInfo, bool]:
    if asked and (zone := _zone_named(asked)):
        return zone, True
    if asked:
        complaints.append(f"tz={asked} is not a time zone, so times are in yours; an example is tz=Europe/Berlin")
    return (_zone_named(viewer) if viewer else None) or ZoneInfo("UTC"), False


def _zone_named(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # an absolute path, a folder of the database, a NUL
        return None


def _range(
    params: Mapping[str, Sequence[str]], now: datetime, zone: ZoneInfo, complaints: list[str]
) -> tuple[str | None, datetime, datetime]:
    if "start" in params or "end" in params:
        fixed = _fixed(params, now, zone, complaints)
        if fixed is not None:
            return None, *fixed
    span = _known(params, "range", RANGE_DEFAULT, tuple(RANGES), complaints)
    return span, now - RANGES[span], now


def _fixed(
    params: Mapping[str, Sequence[str]], now: datetime, zone: ZoneInfo, complaints: list[str]
) -> tuple[datetime, datetime] | None:
    start, end = (_moment(params, name, zone, complaints) for name in ("start", "end"))
    if start is None and end is None:
        return None
    end = end or now
    start = start or end - RANGES[RANGE_DEFAULT]
    if start >= end:
        complaints.append(f"start={iso(start)} is not before end={iso(end)}, so these are the last 24 hours")
        return None
    return start, end


def _moment(params: Mapping[str, Sequence[str]], name: str, zone: ZoneInfo, complaints: list[str]) -> datetime | None:
    text = _last(params, name)
    if text is None:
        return None
    try:
        # In a URL a plus sign is a space: "12:00:00+01:00" arrives as "12:00:00 01:00".
        at = datetime.fromisoformat(text.replace(" ", "+") if text.count(" ") == 1 and "T" in text else text)
        at = (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
        if YEARS[0] <= at.year <= YEARS[1]:
            return at
        complaints.append(f"{name}={text} is outside the years {YEARS[0]} to {YEARS[1]}")
    except (ValueError, OverflowError):
        complaints.append(f"{name}={text} is not a time; an example is {name}=2026-11-21T12:00:00Z")
    return None


def _filters(params: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(value[:VALUE_LENGTH_MAX] for value in values)
        for name, values in params.items()
        if values and (name in FILTERS or (name.startswith(TAG) and len(name) > len(TAG)))
    }
