"""A month of either provider: the ledger beside the bill, with causes planted and each of them named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fakes import anthropic_admin, openai_admin
from fakes.collector import Running, otlp_call, otlp_unit, running_collector
from tallystick.cli import main
from tallystick.pricing import load_book
from tallystick.reconcile import anthropic_report, openai_report
from tallystick.reconcile.compare import Cause, Difference, compare
from tallystick.reconcile.ours import charges, units_of

START, END = date(2026, 10, 1), date(2026, 11, 5)
"""More than the 31 days that one request to Anthropic may span."""
DAYS = [START + timedelta(days=number) for number in range((END - START).days)]
MILLION = Decimal(1_000_000)

# Rates of the test's own, in USD per million tokens: (input, cache read, output).
GPT = {"gpt-4o-2024-08-06": ("2.5", "1.25", "10"), "gpt-4.1-mini": ("0.40", "0.10", "1.60")}
CLAUDE = {"claude-sonnet-4-5-20250929": ("3", "0.30", "15"), "claude-haiku-4-5": ("1", "0.10", "5")}
FRESH, READ, WRITTEN = 40_000, 60_000, 20_000


def send(running: Running, provider: str, model: str, day: date, usage: dict[str, Any], key: str = "aaaa…1111") -> None:
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    api = "messages" if provider == "anthropic" else "chat"
    unit = otlp_unit(provider=provider, model=model, api=api, usage=usage, at=at.isoformat())
    body = otlp_call(provider=provider, model=model, started_ns=int(at.timestamp() * 1e9), units=[unit],
                     tallystick__key=key).SerializeToString()  # fmt: skip
    assert running.post(body)[0] == 200


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A collector that has seen one call per model and day, and two of Claude's priority tier."""
    with running_collector(tmp_path_factory.mktemp("month")) as running:
        for day in DAYS:
            for model in GPT:
                details = {"cached_tokens": READ}
                send(running, "openai", model, day, {"prompt_tokens": FRESH + READ, "prompt_tokens_details": details,
                     "completion_tokens": WRITTEN})  # fmt: skip
            for model in CLAUDE:
                send(running, "anthropic", model, day, {"input_tokens": FRESH, "cache_read_input_tokens": READ,
                     "output_tokens": WRITTEN, "service_tier": "standard"}, key="bbbb…2222")  # fmt: skip
        usage = {"input_tokens": FRESH, "output_tokens": 0, "service_tier": "priority"}
        send(running, "anthropic", "claude-haiku-4-5", DAYS[9], usage)
        running.settle()
        yield running


def usd(rate: str, count: int) -> Decimal:
    return Decimal(rate) * count / MILLION


# --- OpenAI ------------------------------------------------------------


def gpt_rows(model: str, day: date, times: int = 1, **rates: str) -> list[openai_admin.Row]:
    read, cached, written = GPT[model]
    lines = {"input_tokens": (read, FRESH), "cached_input_tokens": (cached, READ), "output_tokens": (written, WRITTEN)}
    return [
        openai_admin.Row(day, f"{model}, {line}", usd(rates.get(line, rate), count) * times, float(count * times))
        for line, (rate, count) in lines.items()
    ]


def openai_bill() -> list[openai_admin.Row]:
    return [row for day in DAYS for model in GPT for row in gpt_rows(model, day)]


def differences(provider: str, ledger: Running, accounts: dict[str, str] | None = None) -> list[Difference]:
    book, by = load_book(), accounts or {}
    report, key = {
        "openai": (openai_report, openai_admin.ADMIN_KEY), "anthropic": (anthropic_report, anthropic_admin.ADMIN_KEY)
    }[provider]  # fmt: skip
    theirs = list(report.fetch(key, START, END, book, by_account=bool(by)))
    ours = list(charges(units_of(ledger.client, provider, START, END), provider, book, by))
    return compare(ours, theirs)


def told(found: list[Difference]) -> set[tuple[str, str, str, str]]:
    return {(str(d.cause), d.day.isoformat(), d.model, d.line) for d in found}


def test_a_month_without_a_difference_has_none(ledger: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with openai_admin.running(openai_bill()) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")

        assert differences("openai", ledger) == []


def test_five_causes_in_a_month_of_openai_are_named(ledger: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    unseen, dearer = DAYS[3], DAYS[7]
    bill = [row for row in openai_bill() if not (row.day in {unseen, dearer} and row.line_item.startswith("gpt-4o"))]
    bill += gpt_rows("gpt-4o-2024-08-06", unseen, times=3)
    bill += gpt_rows("gpt-4o-2024-08-06", dearer, output_tokens="20")
    bill = [openai_admin.Row(r.day, r.line_item, r.usd * Decimal("0.8"), r.quantity) for r in bill]
    bill.append(openai_admin.Row(DAYS[11], "code interpreter sessions", Decimal("0.39"), 13))
    bill.append(openai_admin.Row(DAYS[12], "promotional credit grant", Decimal(-5)))
    with openai_admin.running(bill) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")

        found = differences("openai", ledger)

    seen = told(found)
    discounted = {entry for entry in seen if entry[0] == Cause.DISCOUNT}
    assert seen - discounted == {
        (Cause.UNSEEN, str(unseen), "gpt-4o", "input"), (Cause.UNSEEN, str(unseen), "gpt-4o", "cache_read"),
        (Cause.UNSEEN, str(unseen), "gpt-4o", "output"),
        (Cause.PRICE, str(dearer), "gpt-4o", "output"),
        (Cause.TOOL_FEES, str(DAYS[11]), "", "code_execution"), (Cause.CREDITS, str(DAYS[12]), "", "credits"),
    }  # fmt: skip
    assert (Cause.DISCOUNT, str(dearer), "gpt-4o", "input") in discounted
    assert (Cause.DISCOUNT, str(dearer), "gpt-4o", "output") not in discounted
    assert all("x0.800 as on most lines" in d.detail for d in found if d.cause is Cause.DISCOUNT)


def test_a_price_is_told_from_a_discount(ledger: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    bill = [row for row in openai_bill() if not (row.day == DAYS[7] and row.line_item.startswith("gpt-4o"))]
    bill += gpt_rows("gpt-4o-2024-08-06", DAYS[7], output_tokens="12.5")
    with openai_admin.running(bill) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")

        [found] = differences("openai", ledger)

    assert (found.cause, found.day, found.model, found.line) == (Cause.PRICE, DAYS[7], "gpt-4o", "output")
    assert (found.ours_usd, found.theirs_usd) == (Decimal("0.2"), Decimal("0.25"))
    assert "x1.250 of the book's price" in found.detail


def test_lines_can_be_told_apart_by_key(ledger: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    stray = openai_admin.Row(DAYS[0], "gpt-4.1-mini, input_tokens", Decimal("0.4"), 1e6, api_key_id="key_2")
    with openai_admin.running([*openai_bill(), stray]) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")

        [found] = differences("openai", ledger, {"aaaa…1111": "key_1"})

    assert (found.cause, found.account, found.usd) == (Cause.UNSEEN, "key_2", Decimal("0.4"))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("gpt-6-astra, input_tokens", ("gpt-6-astra", "input")),
        ("gpt-6-astra, cached_input_tokens", ("gpt-6-astra", "cache_read")),
        ("gpt-6-astra, input_uncached_tokens", ("gpt-6-astra", "input")),
        ("gpt-6-astra, cache_write_12h_tokens", ("gpt-6-astra", "cache_write")),
        ("gpt-audio, output_audio_tokens", ("gpt-audio", "output_audio")),
        ("ft:gpt-4o:acme, output_tokens", ("ft:gpt-4o:acme", "output")),
        ("web search tool calls", ("", "web_search")),
        ("file search tool calls", ("", "file_search")),
        ("vector store storage", ("", "storage")),
        ("something new", ("", "other")),
    ],
)
def test_a_line_item_is_a_model_and_a_class_or_a_fee(text: str, read: tuple[str, str]) -> None:
    assert openai_report.read_line_item(text) == read


# --- Anthropic ------------------------------------------------------------


def claude_rows(
    model: str, day: date, *, times: int = 1, output_rate: str | None = None, factor: str = "1"
) -> list[anthropic_admin.Row]:
    read, cached, written = CLAUDE[model]
    lines = {"uncached_input_tokens": (read, FRESH), "cache_read_input_tokens": (cached, READ),
             "output_tokens": (output_rate or written, WRITTEN)}  # fmt: skip
    return [
        anthropic_admin.Row(day, model, usd(rate, count) * times * Decimal(factor), usd(rate, count) * times,
                            token_type=kind, count=count * times)
        for kind, (rate, count) in lines.items()
    ]  # fmt: skip


def priority_row() -> anthropic_admin.Row:
    return anthropic_admin.Row(DAYS[9], "claude-haiku-4-5", token_type="uncached_input_tokens", count=FRESH,
                               service_tier="priority")  # fmt: skip


def test_five_causes_in_a_month_of_anthropic_are_named(ledger: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    unseen, dearer, cheaper = DAYS[3], DAYS[7], DAYS[33]
    bill = [priority_row()]
    for day in DAYS:
        bill += claude_rows("claude-sonnet-4-5-20250929", day, times=2 if day == unseen else 1,
                            output_rate="18" if day == dearer else None)  # fmt: skip
        bill += claude_rows("claude-haiku-4-5", day, factor="0.7" if day == cheaper else "1")
    bill.append(anthropic_admin.Row(DAYS[20], None, Decimal("1.23456"), cost_type="code_execution"))
    with anthropic_admin.running(bill) as url:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)

        found = differences("anthropic", ledger)

    sonnet, haiku = "claude-sonnet-4-5", "claude-haiku-4-5"
    assert told(found) == {
        *((Cause.UNSEEN, str(unseen), sonnet, line) for line in ("input", "cache_read", "output")),
        (Cause.PRICE, str(dearer), sonnet, "output"),
        *((Cause.DISCOUNT, str(cheaper), haiku, line) for line in ("input", "output")),
        (Cause.TOOL_FEES, str(DAYS[20]), "", "code_execution"),
        (Cause.PRIORITY, str(DAYS[9]), haiku, "input"),
    }  # fmt: skip
    [fee] = [d for d in found if d.cause is Cause.TOOL_FEES]
    assert fee.theirs_usd == Decimal("1.23456")
    [price] = [d for d in found if d.cause is Cause.PRICE]
    assert (price.ours_usd, price.theirs_usd) == (Decimal("0.3"), Decimal("0.36"))


# --- the command ------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["reconcile", *arguments])
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


def test_the_command_says_what_differs_and_why(
    ledger: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bill = [*openai_bill(), openai_admin.Row(DAYS[12], "promotional credit grant", Decimal(-5))]
    monkeypatch.setenv(openai_report.KEY, openai_admin.ADMIN_KEY)
    with openai_admin.running(bill) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")

        code, said, _ = command(
            capsys, "--provider", "openai", "--from", str(START), "--to", str(END), "--collector", ledger.url
        )

    assert code == 0
    assert said.splitlines()[0] == (
        "openai, 2026-10-01 to 2026-11-04 (UTC days): ledger $15.02, provider $10.02"
    ), said  # fmt: skip
    assert "  -$5.00 credits: 1 line" in said
    assert re.search(r"2026-10-13 +credits +\$0 +-\$5.00 +-\$5.00 +credits +credits are on the bill", said)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_key_that_is_refused_is_told_and_not_shown(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake, key = {"openai": (openai_admin, openai_report.KEY), "anthropic": (anthropic_admin, anthropic_report.KEY)}[
        provider
    ]
    monkeypatch.setenv(key, "sk-wrong-secret")
    with fake.running([]) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)

        code, said, complained = command(capsys, "--provider", provider, "--from", "2026-10-01", "--to", "2026-10-02")

    assert (code, said) == (1, "")
    assert f"{provider} refused its report" in complained
    assert "secret" not in complained


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--from", "2026-10-02", "--to", "2026-10-02"], "is not before", id="no-day"),
        pytest.param(["--from", "october", "--to", "2026-10-02"], "is not a day", id="no-date"),
        pytest.param(["--from", "2026-10-01", "--to", "2026-10-02"], "OPENAI_ADMIN_KEY is not set", id="no-key"),
        pytest.param(["--from", "2026-10-01", "--to", "2026-10-02", "--key", "x"], "--key 'x'", id="no-pair"),
    ],
)
def test_what_cannot_be_done_is_told(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(openai_report.KEY, raising=False)

    code, _, complained = command(capsys, "--provider", "openai", *arguments)

    assert code == 1
    assert said in complained
