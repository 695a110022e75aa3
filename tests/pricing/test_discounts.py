"""Prices of one's own: what a contract takes off, what is refused, and what stays in force meanwhile."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tallystick.errors import SettingsError
from tallystick.model.receipt import CostStatus, Receipt
from tallystick.pricing import Shelf, price
from tallystick.pricing._book import BOOK_FILE, SHIPPED, USER_FILE, read_book

NOON = "2026-11-20T12:00:00Z"
USAGE = {"input_tokens": 1000, "output_tokens": 1000}

CONTRACT = """
[[discount]]
provider = "anthropic"
factor = "0.90"
source = "everything"

[[discount]]
provider = "anthropic"
models = ["claude-opus-*"]
factor = "0.75"
from = "2026-07-01"
until = "2026-12-01"
source = "contract 4711"

[[discount]]
provider = "aws.bedrock"
factor = "0.5"
"""


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(CONTRACT, encoding="utf-8")
    return path


def receipt_of(path: Path, model: str, provider: str = "anthropic", **params: Any) -> Receipt:
    return price(provider, model, USAGE, api="messages", book=read_book("", str(path)), **{"timestamp": NOON, **params})


@pytest.mark.parametrize(
    ("model", "at", "factor"),
    [
        pytest.param("claude-sonnet-5", NOON, "0.90", id="everything"),
        pytest.param("claude-opus-5", NOON, "0.75", id="the-last-one-that-applies"),
        pytest.param("claude-opus-5", "2026-06-30T23:59:59Z", "0.90", id="the-day-before"),
        pytest.param("claude-opus-5", "2026-07-01T00:00:00Z", "0.75", id="the-first-day"),
        pytest.param("claude-opus-5", "2026-12-01T00:00:00Z", "0.90", id="until-is-outside"),
    ],
)
def test_the_contract_is_shown_beside_the_list_price(contract: Path, model: str, at: str, factor: str) -> None:
    receipt = receipt_of(contract, model, timestamp=at)
    listed = price("anthropic", model, USAGE, api="messages", timestamp=at)

    assert receipt.cost_usd == listed.cost_usd
    assert receipt.cost_usd is not None
    assert receipt.contracted_usd == receipt.cost_usd * Decimal(factor)
    assert any(note.startswith(f"contracted: x{factor}") for note in receipt.notes)
    assert receipt.status is CostStatus.EXACT
    assert receipt.as_dict()["contracted_usd"] == format(receipt.contracted_usd, "f")


def test_who_bills_gives_the_discount_and_not_who_made_the_model(contract: Path) -> None:
    bedrock = receipt_of(contract, "global.anthropic.claude-opus-5", "aws.bedrock")

    assert bedrock.cost_usd is not None
    assert bedrock.contracted_usd == bedrock.cost_usd / 2


def test_without_a_contract_the_two_are_the_same() -> None:
    receipt = price("openai", "gpt-4o", {"prompt_tokens": 10, "completion_tokens": 1}, api="chat", timestamp=NOON)

    assert receipt.contracted_usd == receipt.cost_usd
    assert not receipt.notes


def test_what_has_no_price_has_no_contracted_one(contract: Path) -> None:
    assert receipt_of(contract, "claude-never-9").contracted_usd is None


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        pytest.param('[[discount]]\nprovider = "anthropic"\nfactor = "15"', '"0.85"', id="per-cent"),
        pytest.param('[[discount]]\nprovider = "anthropic"\nfactor = 0.85', "in quotes", id="a-float"),
        pytest.param('[[discount]]\nprovider = "antropic"\nfactor = "0.85"', "near names: anthropic", id="mistyped"),
        pytest.param('[[discount]]\nfactor = "0.85"', "'provider' is missing", id="without-a-provider"),
        pytest.param('[[discount]]\nprovider = "openai"\nfactor = "0.9"\nmodels = "gpt-4o"', "a list of", id="no-list"),
        pytest.param(
            '[[discount]]\nprovider = "openai"\nfactor = "0.9"\nfrom = "2026-02-01"\nuntil = "2026-01-01"',
            "is not before until", id="ends-before-it-begins",
        ),
        pytest.param('[[price]]\nprovider = "acme"\nmodel = "m"\nweekdays = [0]', "1 (Monday)", id="weekday"),
        pytest.param('[[price]]\nprovider = "acme"\nmodel = "m"\nfree = "yes"', "true, false", id="no-truth"),
        pytest.param('[[price]]\nprovider = "acme"\nmodel = 5\ninput = "1"', "is not a text", id="no-text"),
        pytest.param('[[alias]]\nprovider = "nobody"\nname = "a"\nmodel = "b"', "nobody that is listed", id="alias"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named_with_its_value_and_what_is_allowed(tmp_path: Path, entry: str, told: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(f'[[discount]]\nprovider = "openai"\nfactor = "0.9"\n\n{entry}\n', encoding="utf-8")

    with pytest.raises(SettingsError) as raised:
        read_book("", str(path))

    table = entry.split("\n")[0]
    assert f"{path}: {table} number {2 if table == '[[discount]]' else 1}" in str(raised.value)
    assert told in str(raised.value)


def touch(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    later = path.stat().st_mtime + 5
    os.utime(path, (later, later))


def test_a_wrong_file_leaves_the_last_good_prices_in_force(contract: Path, caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf(None, {USER_FILE: str(contract)})
    before = shelf.book

    touch(contract, '[[discount]]\nprovider = "anthropic"\nfactor = "85"\n')

    assert shelf.refresh() is False
    assert shelf.book is before
    assert "factor = '85'" in (shelf.fault or "")
    assert "stay in force" in caplog.text

    touch(contract, 'version = "mended"\n' + CONTRACT)
    contract_stamp = contract.stat().st_mtime + 10
    os.utime(contract, (contract_stamp, contract_stamp))

    assert shelf.refresh() is True
    assert shelf.fault is None
    assert shelf.book.version.endswith("+mended")


def test_nothing_is_read_again_while_nothing_changes(contract: Path) -> None:
    shelf = Shelf(None, {USER_FILE: str(contract)})

    assert shelf.refresh() is False


def test_a_younger_book_in_the_folder_is_taken_and_an_older_one_is_not(tmp_path: Path) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    version = read_book().version
    (tmp_path / "book.json").write_text(text.replace(version, "2031-01-01", 1), encoding="utf-8")
    shelf = Shelf(tmp_path, {})

    assert shelf.book.version == "2031-01-01"
    assert shelf.price("anthropic", "claude-sonnet-5", USAGE, api="messages").price_version == "2031-01-01"

    touch(tmp_path / "book.json", text.replace(version, "2020-01-01", 1))

    assert shelf.refresh() is True
    assert shelf.book.version == version


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 5}', '{"version": "2026-11-21"}'])
def test_a_file_that_is_no_book_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "book.json"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(SettingsError, match=r"book\.json is no price book"):
        Shelf(None, {BOOK_FILE: str(path)})
