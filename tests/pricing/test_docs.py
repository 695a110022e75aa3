"""docs/prices.md says what the code takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallystick.model.receipt import CostStatus
from tallystick.pricing._book import USER_FILE
from tallystick.pricing._items import UNITS
from tallystick.pricing.overrides import _KEYS, _WHEN, read_overrides

PAGE = (Path(__file__).parents[2] / "docs" / "prices.md").read_text(encoding="utf-8")
ROWS = {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `[[")}


@pytest.mark.parametrize("table", _KEYS)
def test_every_table_and_key_of_the_override_file_is_documented(table: str) -> None:
    needed, besides = _KEYS[table]

    for key in (*needed, *besides):
        if key not in UNITS:
            assert f"`{key}" in ROWS[f"[[{table}]]"], key


@pytest.mark.parametrize("word", [*UNITS, *CostStatus, USER_FILE])
def test_every_item_status_and_variable_is_documented(word: str) -> None:
    assert f"`{word}`" in PAGE


@pytest.mark.parametrize("table", _WHEN)
def test_every_circumstance_is_documented(table: str) -> None:
    assert all(case in ROWS[f"[[{table}]]"] for case in _WHEN[table])


def test_the_documented_example_is_a_correct_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(PAGE.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")

    assert read_overrides(path).version == "acme-7"
