"""``/api/v1/doctor``: is the ledger right, and if not, what to do; the page and the command say what this says."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tallystick.collector.query import Json, _iso
from tallystick.collector.rollups import Ask, naive
from tallystick.model.segment import SUFFIX

SEEN = timedelta(days=7)
"""Services and emitters that were silent for longer are not listed."""
AHEAD_S_MAX = 5.0
"""A call that ended so much later than it arrived was timed by a clock that is ahead."""
PRICES_AGE_DAYS_MAX = 14
DISK_BYTES_MIN = 1024**3
SPOOL_BYTES_MAX = 64 * 1024**2
BEHIND_BYTES_MAX = 64 * 1024**2

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: str
    """``ok``, ``warn`` (figures may be incomplete) or ``fail`` (they are)."""
    told: str
    todo: str = ""
    """What to do; empty when there is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the checks are made of."""

    address: str
    version: str
    fault: str | None
    data: str
    disk_free_bytes: int
    spool: str
    spool_segments: int | None
    """None when there is no such folder."""
    spool_bytes: int
    ledger: Mapping[str, Any]
    services: Sequence[Mapping[str, Any]]
    channels: Sequence[str]


def diagnose(facts: Facts) -> list[Check]:
    """Return the checks, in the order in which a call passes what they are about."""
    return [
        _port(facts), *_spool(facts), _clock(facts), *_arrived(facts), *_prices(facts.ledger["prices"]), _disk(facts),
        _alerts(facts),
    ]  # fmt: skip


def _port(facts: Facts) -> Check:
    told = f"version {facts.version} listens at {facts.address}"
    if facts.fault is None:
        return Check("collector", OK, f"{told}, and stores what arrives")
    return Check(
        "collector", FAIL, f"{told}, but does not store what arrives: {facts.fault}",
        "nothing is lost, it is in the journal; mend the cause, or start the collector again",
    )  # fmt: skip


def _spool(facts: Facts) -> Iterator[Check]:
    where = f"the spool is {facts.spool}"
    if facts.spool_segments is None:
        told = f"{where}, which is not there: no app of this user has been instrumented on this machine yet"
        yield Check("spool", OK, told)
        return
    told = f"{where}: {facts.spool_segments} segments, {_size(facts.spool_bytes)}"
    if facts.spool_bytes > SPOOL_BYTES_MAX:
        todo = "apps do not reach this collector; TALLYSTICK_COLLECTOR must name its address in each of them"
        yield Check("spool", WARN, f"{told} wait to be sent", todo)
    else:
        yield Check("spool", OK, told)


def _clock(facts: Facts) -> Check:
    ahead = max(facts.services, key=lambda row: row["ahead_s"] or 0, default=None)
    future = facts.ledger["rejected_spans"].get("in the future", 0)
    if future:
        todo = "set that machine's clock (NTP); what it sent is in the journal and not in the figures"
        return Check("clock", FAIL, f"{future:,} spans were rejected because they begin in the future", todo)
    if ahead is not None and (ahead["ahead_s"] or 0) > AHEAD_S_MAX:
        told = f"the clock of {ahead['service'] or 'a service without a name'} is {ahead['ahead_s']:.0f} s ahead"
        return Check("clock", WARN, told, "set that machine's clock (NTP): its calls stand in the wrong window")
    return Check("clock", OK, "no app's clock is ahead of this one's")


def _arrived(facts: Facts) -> Iterator[Check]:
    ledger, journal = facts.ledger, facts.ledger["journal"]
    left_over = ledger["unaccounted_spans"]
    rejected = sum(ledger["rejected_spans"].values())
    told = (
        f"{ledger['received_spans']:,} spans received = {ledger['stored_spans']:,} stored + "
        f"{ledger['duplicate_spans']:,} duplicates + {rejected:,} rejected"
    )
    if left_over:
        yield Check("ledger", FAIL, f"{told}, and {left_over:,} unaccounted for", "report this: it must be 0")
    elif rejected:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(ledger["rejected_spans"].items()))
        yield Check("ledger", WARN, f"{told} ({reasons})", "docs/collector.md says what each reason means")
    else:
        yield Check("ledger", OK, told)
    yield from map(_unaccounted, (app for app in ledger["apps"] if app["unaccounted_calls"]))
    if ledger["dropped_records"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(ledger["dropped"].items()) if count)
        todo = "keep the collector up: an app's spool holds 256 MB; what cannot be stored is kept in aside/"
        yield Check("dropped", FAIL, f"{ledger['dropped_records']:,} records were lost ({reasons})", todo)
    if journal["behind_bytes"] > BEHIND_BYTES_MAX:
        told = f"{_size(journal['behind_bytes'])} of the journal are not counted yet"
        yield Check("applied", WARN, told, "the figures catch up by themselves")
    if journal["damaged_bytes"]:
        told = f"{_size(journal['damaged_bytes'])} of the journal or of spools were damaged and stepped over"
        yield Check("journal", WARN, told, "check the disk; `tallystick restore` brings a backup back")


def _unaccounted(app: Mapping[str, Any]) -> Check:
    told = (
        f"{app['service'] or 'a service without a name'} says that {app['finished_calls']:,} of its calls have "
        f"finished; {app['spooled_calls']:,} are here and {app['dropped_calls']:,} were dropped"
    )
    todo = "if this lasts: something between app and collector drops or samples spans, or spool files were deleted"
    return Check("apps", WARN, told, todo)


def _prices(prices: Mapping[str, Any]) -> Iterator[Check]:
    age = prices["age_days"]
    told = f"prices of {prices['version']}, {'of today' if age == 0 else f'{age} days old'}"
    if prices["fault"]:
        yield Check("prices", FAIL, f"{told}; the newest file is not in force: {prices['fault']}", "mend that file")
    elif age is not None and age > PRICES_AGE_DAYS_MAX:
        yield Check("prices", WARN, told, "`tallystick prices update` fetches younger ones")
    else:
        yield Check("prices", OK, told)


def _disk(facts: Facts) -> Check:
    told = f"{_size(facts.disk_free_bytes)} free below {facts.data}"
    if facts.disk_free_bytes >= DISK_BYTES_MIN:
        return Check("disk", OK, told)
    return Check("disk", WARN, told, "make room: when the disk is full, apps keep their calls in the spool")


def _alerts(facts: Facts) -> Check:
    if facts.channels:
        return Check("alerts", OK, f"alerts go to {', '.join(facts.channels)}")
    return Check("alerts", WARN, "alerts go nowhere, they are only shown", "set [alerts] slack_webhook_url")


def _size(size: int) -> str:
    for unit, factor in (("GB", 1024**3), ("MB", 1024**2), ("kB", 1024)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size:,} bytes"


def services(ask: Ask, now: datetime) -> list[Json]:
    """Return what each service sent in the last week, the newest first; ``ahead_s`` is how far its clock was ahead."""
    sql = """
        SELECT service, count(*)::BIGINT, max(started_at),
            max(epoch_us(started_at) + coalesce(latency_ms, 0) * 1000 - epoch_us(received_at)) / 1e6
        FROM calls WHERE started_at >= ? GROUP BY service ORDER BY 3 DESC
    """
    rows = ask(sql, [naive(now - SEEN)])
    return [
        {"service": service, "calls": calls, "last_call_at": _iso(last), "ahead_s": ahead}
        for service, calls, last, ahead in rows
    ]


def emitters(ask: Ask, now: datetime) -> list[Json]:
    """Return who told of calls in the last week, the busiest first."""
    sql = """
        SELECT source, count(*)::BIGINT AS calls, max(started_at) FROM calls WHERE started_at >= ?
        GROUP BY source ORDER BY calls DESC, source
    """
    return [
        {"emitter": emitter, "calls": calls, "last_call_at": _iso(last)}
        for emitter, calls, last in ask(sql, [naive(now - SEEN)])
    ]


def spool_of(folder: Path) -> tuple[int | None, int]:
    """Return how many segments wait in the spool, None without a folder, and their size in bytes."""
    try:
        with os.scandir(folder) as entries:
            sizes = [entry.stat().st_size for entry in entries if entry.name.endswith(SUFFIX)]
    except FileNotFoundError:
        return None, 0
    return len(sizes), sum(sizes)


def report(ask: Ask, now: datetime, facts: Mapping[str, Any]) -> Json:
    """Return the checks and what they were made of; ``facts`` are those that only the running collector knows."""
    seen = services(ask, now)
    segments, size = spool_of(Path(facts["spool"]))
    known = Facts(
        **facts, services=seen, spool_segments=segments, spool_bytes=size,
        disk_free_bytes=shutil.disk_usage(facts["data"]).free,
    )  # fmt: skip
    checks = diagnose(known)
    return {
        "version": known.version, "address": known.address, "data": known.data, "spool": known.spool,
        "checks": [asdict(check) for check in checks],
        "services": seen, "emitters": emitters(ask, now), "channels": list(known.channels), "ledger": known.ledger,
    }  # fmt: skip
