"""Younger prices into the data folder: fetched, checked, whole or not at all; and beside somebody else's list."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fakes import price_data
from tallystick.cli import main
from tallystick.errors import SettingsError
from tallystick.pricing import Shelf, load_book, price
from tallystick.pricing.audit import audit, read_list
from tallystick.pricing.update import run

TODAY = date(2031, 5, 6)
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)


def dearer(model: str) -> list[dict[str, Any]]:
    """Return the installed data with another price of OpenAI's ``model``."""
    providers = price_data.installed()
    openai = next(provider for provider in providers if provider["id"] == "openai")
    found = next(entry for entry in openai["models"] if entry["id"] == model)
    found["prices"] = {**found["prices"], "input_mtok": "7.5"}
    return providers


def test_younger_prices_are_fetched_and_taken_by_a_collector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with price_data.served(dearer("gpt-4o")) as url:
        assert run(data=tmp_path, url=url, offline=False, today=TODAY) == 0

    told = capsys.readouterr().out
    assert f"fetched from {url}" in told
    assert "0 models are new, 1 have other rates, 0 are gone" in told
    shelf = Shelf(tmp_path / "prices", {})
    assert shelf.book.version.startswith("2031-05-06.")
    receipt = shelf.price("openai", "gpt-4o", {"prompt_tokens": 1_000_000, "completion_tokens": 0}, api="chat")
    assert receipt.cost_usd == Decimal("7.5")
    assert receipt.price_version == shelf.book.version
    assert (tmp_path / "prices" / f"book-{shelf.book.version}.json").read_text() == (
        tmp_path / "prices" / "book.json"
    ).read_text()


def test_our_own_overrides_stay_on_top_of_what_was_fetched(tmp_path: Path) -> None:
    with price_data.served(dearer("gpt-4o")) as url:
        run(data=tmp_path, url=url, offline=False, today=TODAY)
    book = Shelf(tmp_path / "prices", {}).book

    usage = {"prompt_tokens": 1000, "completion_tokens": 0}
    assert price("openai", "gpt-6.2-sol", usage, api="chat", book=book).cost_usd == Decimal("0.002")


def test_without_a_network_what_is_installed_stays_and_its_age_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data=tmp_path, url="http://127.0.0.1:9/data.json", offline=False, today=date(2026, 12, 11)) == 0

    told = capsys.readouterr().out
    assert "cannot fetch http://127.0.0.1:9/data.json" in told
    assert "checked 20 days ago; nothing is younger" in told
    assert not (tmp_path / "prices").exists()


def test_an_update_without_a_network_does_not_undo_an_earlier_one(tmp_path: Path) -> None:
    with price_data.served(dearer("gpt-4o")) as url:
        run(data=tmp_path, url=url, offline=False, today=TODAY)
    before = (tmp_path / "prices" / "book.json").read_bytes()

    run(data=tmp_path, url=None, offline=True, today=TODAY)

    assert (tmp_path / "prices" / "book.json").read_bytes() == before


@pytest.mark.parametrize("payload", [b"<html>sign in</html>", {"no": "list"}, [], [{"id": 5}]])
def test_what_is_no_price_data_changes_nothing(tmp_path: Path, payload: Any) -> None:
    with price_data.served(payload) as url:
        run(data=tmp_path, url=url, offline=False, today=TODAY)

    assert not (tmp_path / "prices").exists()


@pytest.mark.parametrize("kept", [2, None], ids=["whole-providers", "most-models"])
def test_data_that_has_lost_most_of_its_models_is_refused(tmp_path: Path, kept: int | None) -> None:
    payload = price_data.installed()[:kept]
    for provider in payload:
        provider["models"] = provider["models"][: 2 if kept is None else None]

    with price_data.served(payload) as url, pytest.raises(SettingsError, match="nothing was changed"):
        run(data=tmp_path, url=url, offline=False, today=TODAY)

    assert not (tmp_path / "prices").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "prices").write_text("a file where the folder should be")

    with price_data.served(dearer("gpt-4o")) as url, pytest.raises(SettingsError, match="cannot write the book"):
        run(data=tmp_path, url=url, offline=False, today=TODAY)


# --- audit ------------------------------------------------------------

THEIRS = {
    "sample_spec": {"litellm_provider": "one of the providers"},
    "gpt-4o": {
        "litellm_provider": "openai", "input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05,
        "cache_read_input_token_cost": 1.3e-06, "input_cost_per_token_batches": 1.25e-06,
        "max_tokens": 16384, "supports_vision": True,
    },
    "claude-haiku-5-5": {
        "litellm_provider": "anthropic", "input_cost_per_token": 1e-07, "cache_creation_input_token_cost": 1.25e-07,
        "cache_creation_input_token_cost_above_1hr": 2e-07, "input_cost_per_token_above_100k_tokens": 5e-07,
    },
    "xai/grok-4.7": {"litellm_provider": "xai", "input_cost_per_token": 2e-06},
    "gpt-9-imagined": {"litellm_provider": "openai", "input_cost_per_token": 1e-06},
    "somebody/elses": {"litellm_provider": "nobody_we_know", "input_cost_per_token": 1e-06},
}  # fmt: skip


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    path = tmp_path / "model_prices_and_context_window.json"
    path.write_text(json.dumps(THEIRS), encoding="utf-8")
    return path


def test_each_price_that_differs_is_listed_by_model_and_class(theirs: Path) -> None:
    found = audit(load_book(), read_list(theirs), AT)

    assert [(d.model, d.item, d.ours, d.theirs) for d in found.differences] == [
        ("gpt-4o", "cache_read", Decimal("1.25"), Decimal("1.3"))
    ]
    assert found.compared == 9
    assert found.unlisted == [("openai", "gpt-9-imagined")]


def test_the_command_prints_the_differences(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prices", "audit", "--against", str(theirs)])

    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert "9 prices compared, 1 differ; 1 of its models are not listed here" in told
    assert "  not listed here: " in told
    assert [line.split() for line in told.splitlines() if "gpt-4o" in line] == [
        ["openai", "gpt-4o", "cache_read", "1.25", "1.3"]
    ]


def test_models_that_the_ledger_has_no_price_for_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"by": "model", "rows": [{"key": "gpt-4oo\x1b[2J", "unpriced_units": 3}]}
    with price_data.served(answer) as url, pytest.raises(SystemExit) as ended:
        main(["prices", "audit", "--collector", url.removesuffix("/data.json")])

    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert "1 model of the last 30 days has calls without a price" in told
    assert "gpt-4oo?[2J: 3 units; near names: " in told
    assert "\x1b" not in told


@pytest.mark.parametrize(
    ("text", "told"), [("{", "is not JSON"), ("[]", "is not litellm's list"), ('{"a": {}}', "is not litellm's list")]
)
def test_a_list_that_is_none_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)

    with pytest.raises(SettingsError, match=told):
        read_list(path)


def test_an_audit_of_nothing_says_what_to_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prices", "audit"])

    assert ended.value.code == 1
    assert "--against FILE" in capsys.readouterr().err
