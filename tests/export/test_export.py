"""The ledger as a file: what finance gets is FOCUS, adds up to the ledger, and holds nothing that is not known."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from fakes.collector import Running, otlp_call, otlp_unit, running_collector
from tallystick.cli import main
from tallystick.export import focus
from tallystick.pricing._book import SHIPPED

Rows = list[dict[str, Any]]
AT_NS = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp() * 1e9)
CACHED = {"input_tokens": 1000, "cache_read_input_tokens": 2000, "cache_creation_input_tokens": 0, "output_tokens": 500,
          "server_tool_use": {"web_search_requests": 2}, "service_tier": "standard"}  # fmt: skip
CHAT = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}


def spent_on(provider: str, model: str, usage: Any, api: str = "chat", **more: Any) -> Any:
    unit = otlp_unit(provider=provider, model=model, api=api, usage=usage, **more.pop("params", {}))
    return otlp_call(provider=provider, model=model, units=[unit], started_ns=AT_NS, **more)


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A collector whose prices have 15 % off gpt-4o, with one call for each way in which something is charged."""
    folder = tmp_path_factory.mktemp("export")
    document = json.loads(SHIPPED.read_text(encoding="utf-8"))
    document["version"] = "2031-01-01"
    document["discounts"] = [{"provider": "openai", "models": ["gpt-4o"], "factor": "0.85", "source": "contract 4711"}]
    path = folder / "data" / "prices" / "book.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    os.utime(path, (time.time() + 1, time.time() + 1))
    openrouter = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.0105}
    with running_collector(folder) as running:
        running.send(
            spent_on("anthropic", "claude-sonnet-5", CACHED, "messages", tags={"tenant": "acme"}, user__id="=1+1",
                     tallystick__key="a1b2c3d4…9xyz"),
            spent_on("openai", "gpt-4o", CHAT),
            spent_on("openai", "gpt-5-mini", CHAT, params={"batch": True}),
            spent_on("openai", "whisper-1", {"type": "duration", "seconds": 100}, "transcription"),
            spent_on("openrouter", "anthropic/claude-sonnet-4.5", openrouter),
            spent_on("aws.bedrock", "global.anthropic.claude-opus-4-6-v1:0", CACHED, "messages",
                     params={"region": "us-east-1"}),
            spent_on("openai", "gpt-5-mini", CHAT, params={"requested_service_tier": "flex"}),
            spent_on("nobody", "no-such-model", CHAT),
        )  # fmt: skip
        yield running


def export(collector: Running, *words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["export", "--collector", collector.url, *words])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def exported(collector: Running, tmp_path: Path, *words: str) -> Rows:
    """Return the rows of a file of 21 November 2026."""
    path = tmp_path / "out"
    assert export(collector, *words, "--from", "2026-11-21", "--to", "2026-11-22", "--out", str(path)) == 0
    if "parquet" in words:
        return parquet.read_table(path).to_pylist()
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def charge(rows: Rows, **wanted: str) -> dict[str, Any]:
    [found] = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return found


@pytest.mark.parametrize("version", focus.VERSIONS)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_every_version_passes_the_check_and_adds_up_to_the_ledger(
    collector: Running, tmp_path: Path, version: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = exported(collector, tmp_path, "--focus", version, "--format", form)
    told = capsys.readouterr().err
    totals = collector.ask("totals", start="2026-11-21T00:00:00Z", end="2026-11-22T00:00:00Z")

    assert export(collector, "--check", str(tmp_path / "out"), "--focus", version) == 0
    assert "FOCUS" in capsys.readouterr().out
    listed = sum(Decimal(row["ListCost"]) for row in rows)
    assert abs(listed - Decimal(totals["spend_usd"])) < Decimal("1e-12")
    assert totals["unpriced_units"] == 1
    assert f"{len(rows)} charges of 8 units, FOCUS {version}; 1 units without a known price are not in it" in told
    assert "1 charges are estimates" in told


def test_the_versions_differ_in_who_provides_and_in_the_invoices_line() -> None:
    old, both, new = ({column.name for column in focus.columns(version)} for version in focus.VERSIONS)

    assert both - old == {"ServiceProviderName", "HostProviderName"}
    assert both - new == {"ProviderName", "PublisherName"}
    assert new - both == {"InvoiceDetailId"}


def test_a_charge_is_counted_priced_and_named_as_focus_has_it_for_tokens(collector: Running, tmp_path: Path) -> None:
    rows = exported(collector, tmp_path, "--focus", "1.3")

    cached = charge(rows, x_Item="cache_read", ProviderName="Anthropic")
    assert {name: cached[name] for name in (
        "ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingUnit", "ListUnitPrice", "ListCost", "BilledCost",
        "SkuId", "SkuMeter", "ServiceName", "ServiceCategory", "ServiceSubcategory", "ChargeCategory", "SubAccountId",
        "ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodStart", "BillingPeriodEnd", "PublisherName",
    )} == {
        "ConsumedQuantity": "2000", "ConsumedUnit": "Tokens", "PricingQuantity": "0.002",
        "PricingUnit": "1000000 Tokens", "ListUnitPrice": "0.2", "ListCost": "0.0004", "BilledCost": "0.0004",
        "SkuId": "anthropic/claude-sonnet-5/cache_read", "SkuMeter": "Cache Read Tokens", "ServiceName": "Claude API",
        "ServiceCategory": "AI and Machine Learning", "ServiceSubcategory": "Generative AI", "ChargeCategory": "Usage",
        "SubAccountId": "a1b2c3d4…9xyz", "ChargePeriodStart": "2026-11-21T12:00:00Z",
        "ChargePeriodEnd": "2026-11-21T13:00:00Z", "BillingPeriodStart": "2026-11-01T00:00:00Z",
        "BillingPeriodEnd": "2026-12-01T00:00:00Z", "PublisherName": "Anthropic",
    }  # fmt: skip
    assert json.loads(cached["Tags"]) == {"service": "shop", "tenant": "acme", "user": "=1+1"}
    search = charge(rows, x_Item="web_search", ProviderName="Anthropic")
    assert (search["PricingUnit"], search["SkuMeter"], search["ListCost"]) == ("1000 Requests", "Web Search", "0.02")
    heard = charge(rows, x_Item="audio_seconds")
    assert (heard["ConsumedQuantity"], heard["ConsumedUnit"], heard["PricingUnit"]) == ("100", "Seconds", "Hours")


def test_what_was_negotiated_is_the_contracted_cost_beside_the_list_cost(collector: Running, tmp_path: Path) -> None:
    row = charge(exported(collector, tmp_path, "--focus", "1.4"), x_Model="gpt-4o")
    assert row["InvoiceDetailId"] == ""

    costs = {name: Decimal(row[name]) for name in ("ListCost", "ContractedCost", "BilledCost", "EffectiveCost")}
    assert costs == {"ListCost": Decimal("2.5"), "ContractedCost": Decimal("2.125"), "BilledCost": Decimal("2.125"),
                     "EffectiveCost": Decimal("2.125")}  # fmt: skip
    assert Decimal(row["ContractedUnitPrice"]) == Decimal("2.125")


def test_a_batch_has_the_list_price_of_batches(collector: Running, tmp_path: Path) -> None:
    rows = exported(collector, tmp_path, "--focus", "1.3")
    batch = charge([row for row in rows if row["x_CostStatus"] == "exact"], x_Model="gpt-5-mini")

    assert (Decimal(batch["ListUnitPrice"]), Decimal(batch["ListCost"])) == (Decimal("0.125"), Decimal("0.125"))


def test_a_cloud_bills_for_a_model_that_another_has_made(collector: Running, tmp_path: Path) -> None:
    rows = exported(collector, tmp_path, "--focus", "1.3")

    clouded = charge(rows, x_Item="output", ProviderName="Amazon Web Services")
    assert (clouded["PublisherName"], clouded["ServiceName"], clouded["InvoiceIssuerName"], clouded["RegionId"]) == (
        "Anthropic", "Amazon Bedrock", "Amazon Web Services", "us-east-1")  # fmt: skip
    stated = charge(rows, x_CostStatus="provider_reported")
    assert (stated["ListCost"], stated["PricingUnit"], stated["SkuMeter"]) == (
        "0.0105", "Requests", "Provider Reported")  # fmt: skip


def test_parquet_has_types(collector: Running, tmp_path: Path) -> None:
    row = charge(exported(collector, tmp_path, "--focus", "1.3", "--format", "parquet"), x_Model="gpt-4o")

    assert row["ListCost"] == Decimal("2.5")
    assert row["ChargePeriodStart"] == datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert row["ChargeClass"] is None


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("what", ["calls", "units"])
def test_plain_rows_are_the_ledgers(collector: Running, tmp_path: Path, what: str, form: str) -> None:
    rows = exported(collector, tmp_path, what, "--format", form)

    assert len(rows) == 8
    found = charge(rows, model="gpt-4o")
    assert Decimal(found["cost_usd"]) == Decimal("2.5")
    unknown = charge(rows, model="no-such-model")
    assert unknown["cost_usd"] in {None, ""}, "an unknown cost is never a zero"
    assert charge(rows, model="claude-sonnet-5")["user"] == ("'=1+1" if form == "csv" else "=1+1")


def test_a_range_without_a_call_is_an_empty_file(collector: Running, tmp_path: Path) -> None:
    for words in (["calls"], ["--focus", "1.3"]):
        path = tmp_path / "empty.csv"
        assert export(collector, *words, "--from", "2020-01-01", "--to", "2020-01-02", "--out", str(path)) == 0
        assert path.read_text().strip().count("\n") == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param([], "say what to export: --focus 1.3 (or 1.2, 1.4), or one of calls, units", id="nothing"),
        pytest.param(["calls", "--focus", "1.3"], "say what to export", id="both"),
        pytest.param(["calls"], "say from which day on: --from 2026-11-01", id="no-day"),
        pytest.param(["calls", "--from", "monday"], "--from 'monday' is not a day", id="no-such-day"),
        pytest.param(["calls", "--from", "2026-11-02", "--to", "2026-11-01"], "is not before --to", id="backwards"),
        pytest.param(["calls", "--from", "2026-11-01", "--format", "parquet"], "name a file with --out", id="terminal"),
        pytest.param(["--check", "/nowhere/x.csv"], "cannot read /nowhere/x.csv: No such file", id="no-such-file"),
    ],
)
def test_what_cannot_be_exported_is_said(
    collector: Running, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(collector, *words) == 1
    assert told in capsys.readouterr().err


# --- the check -------------------------------------------------------------------------------------------------------


def without(name: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{key: value for key, value in row.items() if key != name} for row in rows]


def with_value(name: str, value: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{**rows[0], name: value}, *rows[1:]]


@pytest.mark.parametrize(
    ("defect", "told"),
    [
        pytest.param(without("BilledCost"), "BilledCost is missing; it is mandatory in FOCUS 1.3", id="column"),
        pytest.param(with_value("Vendor", "x"), "Vendor is not known here; own ones begin with x_", id="own-column"),
        pytest.param(with_value("ListCost", ""), "row 1: ListCost is null, and may not be", id="null"),
        pytest.param(with_value("BilledCost", "1,000"), "row 1: BilledCost = '1,000' is no decimal", id="thousands"),
        pytest.param(with_value("ListCost", "9"), "row 1: ListCost = 9 is not ListUnitPrice x Pricing", id="product"),
        pytest.param(with_value("ChargePeriodStart", "2026-11-21 12:00"), "= '2026-11-21 12:00' is no time", id="time"),
        pytest.param(
            with_value("ChargePeriodStart", "2026-10-21T12:00:00Z"), "is outside the billing period", id="period"
        ),
        pytest.param(with_value("ChargeCategory", "Fee"), "= 'Fee'; allowed: Adjustment, Credit", id="category"),
        pytest.param(with_value("ServiceCategory", "AI"), "ServiceCategory = 'AI'; allowed: AI and", id="service"),
        pytest.param(with_value("BillingCurrency", "Dollar"), "= 'Dollar' is no ISO 4217 code", id="currency"),
        pytest.param(with_value("Tags", "team=red"), "Tags = 'team=red' is no JSON object", id="tags"),
        pytest.param(with_value("Tags", '{"a": ["b"]}'), "Tags has a 'a' that is not a plain value", id="deep-tags"),
        pytest.param(with_value("PricingUnit", ""), "PricingQuantity and PricingUnit are null together", id="unit"),
        pytest.param(with_value("SkuPriceId", ""), "SkuPriceId is null, and may not be where Charge", id="sku-price"),
        pytest.param(with_value("SubAccountName", "us"), "SubAccountName is set where SubAccountId is null", id="sub"),
    ],
)
def test_a_planted_defect_is_named(
    collector: Running,
    tmp_path: Path,
    defect: Callable[[Rows], Rows],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = defect(sorted(exported(collector, tmp_path, "--focus", "1.3"), key=lambda row: row["SubAccountId"]))
    path = tmp_path / "defect.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

    assert export(collector, "--check", str(path), "--focus", "1.3") == 1
    assert told in capsys.readouterr().out


def test_a_row_that_is_not_focus_is_not_written_nor_is_the_file(
    collector: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tallystick.export.charges.BILLERS", {"openai": ("OpenAI", "")})
    path = tmp_path / "out.csv"

    assert export(collector, "--focus", "1.3", "--from", "2026-11-21", "--to", "2026-11-22", "--out", str(path)) == 1
    assert "is not FOCUS 1.3: ServiceName is an empty text" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
