"""``tallystick reconcile``: fetch a provider's report, compare, print what differs and why."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal

from tallystick.client import Collector
from tallystick.errors import ReportError, SettingsError
from tallystick.model.money import show_usd
from tallystick.pricing import load_book
from tallystick.reconcile import anthropic_report, openai_report
from tallystick.reconcile.compare import Charge, Difference, compare
from tallystick.reconcile.ours import charges, units_of

REPORTS = {"openai": openai_report, "anthropic": anthropic_report}
SHOWN_MAX = 50
HEAD = ("day", "model", "line", "account", "ledger", "provider", "difference", "cause", "")


def run(
    *,
    provider: str,
    since: str,
    until: str,
    collector: str,
    keys: Sequence[str],
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Print each line on which the provider's report and the ledger differ, with its cause; 0 also when they do."""
    start, end = _day(since, "--from"), _day(until, "--to")
    if start >= end:
        raise SettingsError(f"--from {start} is not before --to {end}; the second is the first day that is left out")
    accounts = _accounts(keys)
    report = REPORTS[provider]
    admin_key = environ.get(report.KEY, "")
    if not admin_key:
        raise SettingsError(f"{report.KEY} is not set; the report of {provider} needs an admin key of the organization")
    book = load_book()
    theirs = list(_fetched(provider, admin_key, start, end, by_account=bool(accounts)))
    ours = list(charges(units_of(Collector(collector), provider, start, end), provider, book, accounts))
    for line in lines(provider, start, end, ours, theirs, compare(ours, theirs)):
        sys.stdout.write(f"{line}\n")
    return 0


def _fetched(provider: str, key: str, start: date, end: date, *, by_account: bool) -> Iterator[Charge]:
    from httpx2 import HTTPError  # the SDKs stand on it

    report, book = REPORTS[provider], load_book()
    try:
        yield from report.fetch(key, start, end, book, by_account=by_account)
    except (HTTPError, ValueError) as error:
        raise ReportError(f"the report of {provider} cannot be read: {_one_line(error)}") from error
    except Exception as error:
        # The SDKs have a root of errors each; neither is known here.
        if type(error).__module__.partition(".")[0] in {"openai", "anthropic"}:
            raise ReportError(f"{provider} refused its report: {_one_line(error)}") from error
        raise


def lines(
    provider: str, start: date, end: date, ours: Sequence[Charge], theirs: Sequence[Charge],
    found: Sequence[Difference],
) -> Iterator[str]:  # fmt: skip
    """Yield what a person is told."""
    ledger, bill = (sum((charge.usd for charge in side), Decimal(0)) for side in (ours, theirs))
    last = end - timedelta(days=1)
    yield f"{provider}, {start} to {last} (UTC days): ledger {show_usd(ledger)}, provider {show_usd(bill)}"
    if not found:
        yield "every line agrees to the cent"
        return
    causes: dict[str, list[Difference]] = {}
    for difference in found:
        causes.setdefault(difference.cause.value, []).append(difference)
    for cause, of_it in sorted(causes.items(), key=lambda pair: -abs(sum((d.usd for d in pair[1]), Decimal(0)))):
        total = sum((d.usd for d in of_it), Decimal(0))
        yield f"  {_signed(total)} {cause}: {len(of_it)} line{'s' if len(of_it) > 1 else ''}"
    alike = list(_alike(found))
    rows = [HEAD, *(_row(*differences) for differences in alike[:SHOWN_MAX])]
    used = [c for c in range(len(HEAD)) if any(row[c] for row in rows[1:])]
    widths = {c: max(len(row[c]) for row in rows) for c in used}
    yield ""
    for row in rows:
        yield "  ".join(row[c].rjust(widths[c]) if 4 <= c <= 6 else row[c].ljust(widths[c]) for c in used).rstrip()
    if len(alike) > SHOWN_MAX:
        yield f"... and {len(alike) - SHOWN_MAX} smaller ones"


def _alike(found: Sequence[Difference]) -> list[list[Difference]]:
    """Return the differences that say the same of several days together, the largest sums first."""
    kinds: dict[tuple[str, ...], list[Difference]] = {}
    for d in found:
        kinds.setdefault((d.model, d.line, d.account, d.cause.value, d.detail), []).append(d)
    return sorted(kinds.values(), key=lambda alike: -abs(sum((d.usd for d in alike), Decimal(0))))


def _row(*alike: Difference) -> tuple[str, ...]:
    d, days = alike[0], sorted(each.day for each in alike)
    ours, theirs = (sum((getattr(each, side) for each in alike), Decimal(0)) for side in ("ours_usd", "theirs_usd"))
    when = days[0].isoformat() if len(days) == 1 else f"{len(days)} days from {days[0]}"
    return (
        when, _clean(d.model), _clean(d.line), _clean(d.account), show_usd(ours), show_usd(theirs),
        _signed(theirs - ours), d.cause.value, d.detail,
    )  # fmt: skip


def _signed(amount: Decimal) -> str:
    return ("+" if amount > 0 else "") + show_usd(amount)


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:60]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _day(text: str, option: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"{option} {text!r} is not a day; write one like 2026-11-01") from None


def _accounts(keys: Sequence[str]) -> dict[str, str]:
    accounts = {}
    for pair in keys:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise SettingsError(
                f"--key {pair!r}: write our name of the key, =, the provider's, as a1b2c3d4…9xyz=key_abc"
            )
        accounts[ours] = theirs
    return accounts
