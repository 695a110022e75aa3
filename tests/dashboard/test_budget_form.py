"""A budget is made, changed and taken away on its page, of a real collector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from fakes.collector import Running, running_collector
from tallystick.dashboard.budget_form import NEW, FormError, body, texts

Open = Callable[..., AppTest]
OF_THE_FILE = '[[budget]]\nname = "month"\nlimit_usd = 500\nwindow = "month"\n'
NAME = "a/b & c"


@pytest.fixture
def collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with running_collector(tmp_path, OF_THE_FILE) as running:
        monkeypatch.setenv("TALLYSTICK_COLLECTOR", running.url)
        yield running


def press(page: AppTest, label: str) -> AppTest:
    [button] = [button for button in page.button if button.label == label]
    return button.click().run()


def definition(collector: Running, name: str) -> dict[str, Any]:
    [row] = [row for row in collector.ask("budgets")["rows"] if row["name"] == name]
    found: dict[str, Any] = row["definition"]
    return found


def test_a_budget_is_made_changed_and_taken_away(collector: Running, open_page_of_any_collector: Open) -> None:
    page = press(open_page_of_any_collector("budgets"), "New budget")
    page.text_input(key="name ").set_value(NAME)
    page.text_input(key="limit ").set_value("12.50")
    page.text_area(key="scope ").set_value("feature = chat\ntag.tenant=acme")
    page.multiselect(key="group_by ").set_value(["user"])
    page.selectbox(key="action ").set_value("block")
    page.text_input(key="thresholds ").set_value("75 %, 100")

    press(page, "Put in force")

    made = definition(collector, NAME)
    assert (made["limit_usd"], made["action"], made["group_by"]) == ("12.50", "block", ["user"])
    assert made["scope"] == {"feature": "chat", "tag.tenant": "acme"}
    assert made["thresholds"] == ["0.75", "1"]
    assert "edit" not in page.query_params

    page = press(page, "Edit")
    assert page.text_input(key=f"thresholds {NAME}").value == "75, 100"
    page.selectbox(key=f"unit {NAME}").set_value("tokens")
    page.text_input(key=f"limit {NAME}").set_value("200000")
    press(page, "Save")

    changed = definition(collector, NAME)
    assert (changed["limit_tokens"], changed["limit_usd"], changed["group_by"]) == (200_000, None, ["user"])

    press(press(page, "Edit"), "Delete this budget")

    assert [row["name"] for row in collector.ask("budgets")["rows"]] == ["month"]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        pytest.param("limit", "ten", "limit\\_usd is ten, must be a valid decimal", id="told-by-the-collector"),
        pytest.param("timezone", "Mars", "timezone 'Mars' cannot work", id="told-by-the-collector-too"),
        pytest.param("thresholds", "half", "'half' is no percentage to tell at; write 50, 80, 100", id="not-readable"),
    ],
)
def test_what_cannot_work_is_told_beside_the_form(
    field: str, value: str, told: str, collector: Running, open_page_of_any_collector: Open
) -> None:
    page = open_page_of_any_collector("budgets", edit="")
    page.text_input(key="name ").set_value("chat")
    page.text_input(key=f"{field} ").set_value(value)

    press(page, "Put in force")

    [error] = page.error
    assert told.replace("\\", "") in error.value.replace("\\", "")
    assert page.text_input(key=f"{field} ").value == value
    assert [row["name"] for row in collector.ask("budgets")["rows"]] == ["month"]


def test_a_name_is_taken_once(collector: Running, open_page_of_any_collector: Open) -> None:
    page = open_page_of_any_collector("budgets", edit="")
    page.text_input(key="name ").set_value("month")

    press(page, "Put in force")

    assert "is there already" in page.error[0].value


def test_a_form_that_is_not_touched_changes_nothing(collector: Running) -> None:
    told = {
        "name": "all", "limit_calls": 5, "scope": {"feature": ""}, "group_by": ["tag.tenant"], "window": "rolling 24h",
        "timezone": "Europe/Berlin", "reset_at": "06:00:00", "week_start": "sunday", "thresholds": ["0.125", "1.5"],
        "action": "downgrade:gpt-5-mini", "fail": "slice", "on_unpriced": "alert", "on_unbounded": "cap", "wait": "2.5",
        "clamp": True,
    }  # fmt: skip
    made = collector.client.order("budgets", told)

    assert collector.client.order("budgets/all", body(texts(made)), "PUT") == made


def test_a_condition_without_a_sign_is_told() -> None:
    with pytest.raises(FormError, match="'chat' is no condition for which calls count; write feature = chat"):
        body({**texts(NEW), "scope": "chat"})
