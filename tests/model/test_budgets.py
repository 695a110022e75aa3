import pickle
import tomllib
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tallystick.model.budgets import DIMENSIONS, Budget

PAGE = (Path(__file__).parents[2] / "docs" / "budgets.md").read_text(encoding="utf-8")


def budget(**values: Any) -> Budget:
    return Budget(**{"name": "chat", "limit_usd": Decimal(10), **values})


def test_a_budget_needs_a_name_and_a_limit_only() -> None:
    plain = budget()

    assert (plain.window, plain.timezone, plain.reset_at, plain.action) == ("day", "UTC", time(), "alert")
    assert plain.thresholds == (Decimal("0.5"), Decimal("0.8"), Decimal("1.0"))


@pytest.mark.parametrize(
    ("scope", "dimensions", "counts"),
    [
        pytest.param({}, {"feature": "chat"}, True, id="no-scope-is-everything"),
        pytest.param({"feature": "chat"}, {"feature": "chat", "user": "u1"}, True, id="the-rest-is-free"),
        pytest.param({"feature": "chat"}, {"feature": "search"}, False, id="another-value"),
        pytest.param({"feature": "chat"}, {}, False, id="without-one"),
        pytest.param({"feature": "chat"}, {"feature": None}, False, id="none-is-without-one"),
        pytest.param({"feature": ""}, {"feature": None}, True, id="empty-is-without-one"),
        pytest.param({"feature": ""}, {}, True, id="empty-matches-a-missing-key"),
        pytest.param({"feature": ""}, {"feature": "chat"}, False, id="empty-is-not-any"),
        pytest.param({"feature": "chat", "user": "u1"}, {"feature": "chat", "user": "u2"}, False, id="all-must-match"),
        pytest.param({"tag.tenant": "acme"}, {"tag.tenant": "acme"}, True, id="tag"),
    ],
)
def test_a_call_counts_when_all_of_the_scope_matches(
    scope: dict[str, str], dimensions: dict[str, str | None], counts: bool
) -> None:
    assert budget(scope=scope).covers(dimensions) is counts


@pytest.mark.parametrize("dimension", [*DIMENSIONS, "tag.tenant"])
def test_every_dimension_may_be_a_scope(dimension: str) -> None:
    assert budget(scope={dimension: "x"}).covers({dimension: "x"})


@pytest.mark.parametrize(
    ("key", "value", "shown", "allowed"),
    [
        pytest.param("name", "", "name ''", "tells this budget from the others", id="no-name"),
        pytest.param("name", "  ", "name '  '", "tells this budget", id="blank-name"),
        pytest.param("name", 5, "name 5", "tells this budget", id="name-is-a-number"),
        pytest.param("limit_usd", Decimal(0), "limit_usd 0", "above 0", id="limit-zero"),
        pytest.param("limit_usd", Decimal(-1), "limit_usd", "above 0", id="limit-negative"),
        pytest.param("limit_usd", Decimal("NaN"), "NaN", "above 0", id="limit-nan"),
        pytest.param("limit_usd", Decimal("Infinity"), "Infinity", "above 0", id="limit-infinite"),
        pytest.param("limit_usd", 10.0, "limit_usd 10.0", "in USD", id="limit-is-a-float"),
        pytest.param("scope", {"featur": "chat"}, "scope 'featur'", "feature, user", id="scope-misspelt"),
        pytest.param("scope", {"tag.": "x"}, "scope 'tag.'", "tag.NAME", id="tag-without-a-name"),
        pytest.param("scope", {"feature": 5}, "scope.feature 5", "one text", id="scope-value-is-a-number"),
        pytest.param("scope", {"feature": ["a", "b"]}, "scope.feature", "one text", id="scope-value-is-a-list"),
        pytest.param("window", "fortnight", "'fortnight'", "hour, day, week, month", id="window-unknown"),
        pytest.param("timezone", "Mars/Olympus", "'Mars/Olympus'", "Europe/Berlin", id="zone-unknown"),
        pytest.param("timezone", "America", "'America'", "IANA", id="zone-is-a-folder"),
        pytest.param("timezone", "../../etc/passwd", "passwd", "IANA", id="zone-leaves-its-folder"),
        pytest.param("timezone", "", "timezone ''", "IANA", id="zone-empty"),
        pytest.param("timezone", None, "timezone None", "IANA", id="zone-none"),
        pytest.param("reset_at", time(6, tzinfo=UTC), "reset_at", "in the budget's timezone", id="reset-with-a-zone"),
        pytest.param("reset_at", time(6, 0, 0, 1), "reset_at", "06:00", id="reset-at-a-microsecond"),
        pytest.param("reset_at", "06:00", "reset_at '06:00'", "time of day", id="reset-is-a-text"),
        pytest.param("thresholds", (), "thresholds []", "one or more", id="no-threshold"),
        pytest.param("thresholds", (Decimal(80),), "thresholds 80 cannot", "0.8 is 80 %", id="threshold-in-per-cent"),
        pytest.param("thresholds", (Decimal(0),), "thresholds 0 cannot", "above 0", id="threshold-zero"),
        pytest.param("thresholds", (0.5,), "thresholds 0.5", "above 0", id="threshold-is-a-float"),
        pytest.param("thresholds", (Decimal(1), Decimal("0.5")), "['1', '0.5']", "ascending", id="thresholds-descend"),
        pytest.param("thresholds", (Decimal(1), Decimal("1.0")), "['1', '1.0']", "twice", id="thresholds-repeat"),
        pytest.param("action", "stop", "action 'stop'", "alert, block or downgrade:MODEL", id="action-unknown"),
        pytest.param("action", "downgrade:", "'downgrade:'", "downgrade:MODEL", id="downgrade-to-nothing"),
        pytest.param("action", 5, "action 5", "alert, block", id="action-is-a-number"),
        pytest.param("limit_tokens", 5, "'limit_usd and limit_tokens'", "exactly one of", id="two-limits"),
        pytest.param("limit_usd", None, "limit 'none'", "exactly one of limit_usd", id="no-limit"),
        pytest.param("window", "rolling 0h", "'rolling 0h'", "rolling Nh", id="rolling-nothing"),
        pytest.param("window", "rolling 745h", "'rolling 745h'", "up to 744", id="rolling-too-long"),
        pytest.param("window", 5, "window 5", "hour, day", id="window-is-a-number"),
        pytest.param("week_start", "Sunday", "'Sunday'", "sunday", id="week-start-unknown"),
        pytest.param("group_by", ("usr",), "group_by 'usr'", "user", id="group-misspelt"),
        pytest.param("group_by", ("user", "user"), "group_by", "each dimension once", id="group-repeats"),
        pytest.param("fail", "half", "fail 'half'", "closed or open or slice", id="fail-unknown"),
        pytest.param("on_unpriced", "cap", "on_unpriced 'cap'", "block or alert", id="unpriced-cannot-be-capped"),
        pytest.param("on_unbounded", "x", "on_unbounded 'x'", "block or cap or alert", id="unbounded-unknown"),
        pytest.param("wait", Decimal(601), "wait 601", "0 to 600", id="wait-too-long"),
        pytest.param("wait", 1.5, "wait 1.5", "seconds", id="wait-is-a-float"),
        pytest.param("clamp", 1, "clamp 1", "true or false", id="clamp-is-a-number"),
    ],
)
def test_a_value_that_cannot_work_is_told_with_what_is_allowed(key: str, value: Any, shown: str, allowed: str) -> None:
    with pytest.raises(ValueError) as told:
        budget(**{key: value})

    assert shown in str(told.value)
    assert allowed in str(told.value)


def test_a_budget_does_not_change_with_the_table_it_was_read_from() -> None:
    table = {"feature": "chat"}
    read = budget(scope=table)

    table["feature"] = "search"

    assert read.covers({"feature": "chat"})


def test_a_budget_is_a_value() -> None:
    one, same = budget(scope={"feature": "chat"}), budget(scope={"feature": "chat"})

    assert one == same
    assert len({one, same}) == 1
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(FrozenInstanceError):
        one.name = "other"  # type: ignore[misc]


def test_every_key_of_a_budget_is_documented() -> None:
    for key in fields(Budget):
        assert f"| `{key.name}` |" in PAGE


def test_every_dimension_is_documented() -> None:
    assert all(f"`{dimension}`" in PAGE for dimension in DIMENSIONS)


def test_the_budgets_in_the_documentation_work() -> None:
    example = tomllib.loads(PAGE.partition("```toml")[2].partition("```")[0], parse_float=Decimal)

    exact = [
        {**one, "limit_usd": Decimal(one["limit_usd"])} if "limit_usd" in one else one for one in example["budget"]
    ]

    assert [Budget(**one).name for one in exact] == ["chat", "everything this month", "each user"]
