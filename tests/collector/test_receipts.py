"""A receipt that was taken apart for the store comes back as it was."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.collector import otlp_call, running_collector
from tallystick.collector import receipts
from tallystick.collector.receipts import Forms, unfold
from tallystick.model.receipt import CostStatus, Line, Receipt
from tallystick.pricing import price

COUNT = st.integers(0, 10**7)
AT = "2026-11-21T12:00:00Z"


def _receipt(**usage: int) -> Receipt:
    return price("anthropic", "claude-sonnet-4-5", usage, api="messages", timestamp=AT)


def _round_trip(receipt: Receipt, status: str | None = None) -> tuple[str, str]:
    """Return the receipt as JSON before and after; the order of the keys counts too."""
    forms = Forms()
    text = forms.fold(receipt, status or receipt.status.value)
    before = {**receipt.as_dict(), "status": status or receipt.status.value}
    return json.dumps(before), json.dumps(unfold(text, forms.take()))


@given(COUNT, COUNT, COUNT, COUNT, st.sampled_from([{}, {"batch": True}, {"geo": "us"}, {"estimated": True}]))
def test_a_priced_receipt_comes_back_to_the_last_digit(
    read: int, written: int, cached: int, made: int, params: dict[str, object]
) -> None:
    usage = {"input_tokens": read, "output_tokens": written, "cache_read_input_tokens": cached,
             "cache_creation_input_tokens": made}  # fmt: skip
    before, after = _round_trip(price("anthropic", "claude-sonnet-4-5", usage, api="messages", timestamp=AT, **params))

    assert after == before


@pytest.mark.parametrize(
    "receipt",
    [
        pytest.param(price("openai", "no-such-model", {"prompt_tokens": 5}, api="chat"), id="unknown"),
        pytest.param(price("openai", "gpt-4o", None, api="chat"), id="no usage"),
        pytest.param(
            price(
                "openrouter", "openai/gpt-4o", {"prompt_tokens": 5, "completion_tokens": 1, "cost": 0.01}, api="chat"
            ),
            id="stated by the provider",
        ),
        pytest.param(_receipt(input_tokens=9, output_tokens=9)._replace(contracted_usd=Decimal("0.1")), id="contract"),
        pytest.param(_receipt(input_tokens=9, output_tokens=9)._replace(cost_usd=Decimal(7)), id="another sum"),
        pytest.param(_receipt(input_tokens=9, output_tokens=1)._replace(notes=("a note", "another")), id="notes"),
    ],
)
def test_a_receipt_of_any_kind_comes_back(receipt: Receipt) -> None:
    before, after = _round_trip(receipt)

    assert after == before


def test_the_status_is_the_units() -> None:
    before, after = _round_trip(_receipt(input_tokens=9, output_tokens=1), CostStatus.ESTIMATED.value)

    assert json.loads(after)["status"] == "estimated"
    assert after == before


def test_receipts_at_different_rates_do_not_share_a_form() -> None:
    forms = Forms()
    one = _receipt(input_tokens=9, output_tokens=1)
    line = one.lines[0]._replace(source="another source")
    other = one._replace(lines=(line, *one.lines[1:]))

    texts = [forms.fold(receipt, "exact") for receipt in (one, other)]

    assert len(forms.used) == 2
    assert [unfold(text, forms.used)["lines"][0]["source"] for text in texts] == [one.lines[0].source, "another source"]


def test_forms_without_end_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "FORMS_MAX", 3)
    forms = Forms()
    told = [_receipt(input_tokens=9, output_tokens=1)._replace(notes=(str(number),)) for number in range(10)]

    texts = [forms.fold(receipt, "exact") for receipt in told]

    assert len(forms.used) == 3
    assert [unfold(text, forms.used) for text in texts] == [receipt.as_dict() for receipt in told]


def test_every_field_of_a_receipt_is_in_the_forms_key_or_in_the_figures() -> None:
    # A field that is added must be put into one of the two in `Forms.fold`, and then here.
    assert set(Receipt._fields) == {
        "provider", "model", "status", "cost_usd", "contracted_usd", "lines", "usage", "reason", "price_version",
        "notes"}  # fmt: skip
    assert set(Line._fields) == {
        "item", "quantity", "unit", "unit_price_usd", "per", "multiplier", "cost_usd", "model", "source",
        "valid_from"}  # fmt: skip


def test_a_restarted_collector_still_shows_the_receipt_that_was_charged(tmp_path) -> None:
    usage = {"input_tokens": 1200, "output_tokens": 350}
    with running_collector(tmp_path) as collector:
        collector.send(otlp_call(id="00f067aa0ba902b7", usage=usage))
        first = collector.ask("calls/00f067aa0ba902b7")["units"][0]["receipt"]
    with running_collector(tmp_path) as collector:
        collector.send(otlp_call(id="00f067aa0ba902b8", usage=usage))
        again = [collector.ask(f"calls/00f067aa0ba902b{n}")["units"][0]["receipt"] for n in (7, 8)]

    assert first["cost_usd"] == "0.00885"
    assert again == [first, first]
    assert first == price("anthropic", "claude-sonnet-4-5", usage, api="messages", timestamp=AT).as_dict()
