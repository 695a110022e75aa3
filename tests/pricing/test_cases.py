"""The public part of the truth table: real wire shapes, real prices, exact to the last digit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pricing.rules import RULES, Case
from tallystick.model.receipt import CostStatus, Receipt
from tallystick.pricing import price

TABLE = json.loads((Path(__file__).parents[1] / "data" / "cost_cases.json").read_text(encoding="utf-8"))
PRICED = [case for case in TABLE["cases"] if case["expect"] == "cost"]
REFUSED = [case for case in TABLE["cases"] if case["expect"] != "cost"]


def receipt_of(case: dict[str, Any]) -> Receipt:
    return price(case["provider"], case["model"], case["usage"], **case["params"])


def test_the_table_is_whole() -> None:
    assert (len(PRICED), len(REFUSED)) == (69, 11)


@pytest.mark.parametrize("case", PRICED, ids=lambda case: case["id"])
def test_a_call_costs_what_the_provider_charges(case: dict[str, Any]) -> None:
    receipt = receipt_of(case)

    assert receipt.cost_usd == Decimal(case["expected_cost_usd"]), receipt.reason
    stated = any(line["class"] == "provider_reported" for line in case["breakdown"])
    assert receipt.status == (CostStatus.PROVIDER_REPORTED if stated else CostStatus.EXACT)


@pytest.mark.parametrize("case", PRICED, ids=lambda case: case["id"])
def test_the_receipt_lists_what_was_charged(case: dict[str, Any]) -> None:
    receipt = receipt_of(case)

    assert sum(line.cost_usd for line in receipt.lines) == receipt.cost_usd
    expected = sorted(Decimal(line["cost_usd"]) for line in case["breakdown"] if line["quantity"])
    assert sorted(line.cost_usd for line in receipt.lines) == expected
    assert all(line.source for line in receipt.lines)


@pytest.mark.parametrize("case", PRICED, ids=lambda case: case["id"])
def test_a_receipt_survives_json_without_losing_a_digit(case: dict[str, Any]) -> None:
    receipt = receipt_of(case)

    told = json.loads(json.dumps(receipt.as_dict()))

    assert Decimal(told["cost_usd"]) == receipt.cost_usd
    assert [Decimal(line["cost_usd"]) for line in told["lines"]] == [line.cost_usd for line in receipt.lines]
    for line in told["lines"]:
        cost = Decimal(line["quantity"]) * Decimal(line["unit_price_usd"]) * Decimal(line["multiplier"])
        assert cost / line["per"] == Decimal(line["cost_usd"])


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["id"])
def test_what_has_no_price_is_unknown_with_a_reason_and_never_zero(case: dict[str, Any]) -> None:
    receipt = receipt_of(case)

    assert (receipt.status, receipt.cost_usd, receipt.lines) == (CostStatus.UNKNOWN, None, ())
    assert receipt.reason


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_case_of_a_billing_rule_costs_what_the_list_says(rule: Callable[[], Iterator[Case]]) -> None:
    cases = list(rule())

    assert len(cases) > 1
    assert [case for case in cases if not case.is_right()] == []
