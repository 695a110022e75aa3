"""How the budgets stand, who was refused, and who changed which budget: the questions and orders about budgets."""

# ruff: noqa: S608 -- what is put into SQL here are columns by name and conditions of query.py; values are bound

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tallystick.collector import query
from tallystick.collector.budgeting import Budgeting
from tallystick.collector.query import (
    BadParameterError,
    Json,
    NotFoundError,
    Params,
    _integer,
    _iso,
    _named,
    _plain,
    _range,
    _refuse_unknown,
)
from tallystick.collector.rollups import Ask, naive
from tallystick.collector.settings import budget_from
from tallystick.errors import SettingsError, TallystickError
from tallystick.model.budgets import Budget
from tallystick.model.ledger import Standing, as_json, budget_of
from tallystick.model.money import show_amount
from tallystick.model.windows import Window, window_at

HOUR = timedelta(hours=1)
GROUPS_MAX = 100
"""How many groups of a budget are listed, the fullest first."""
REFUSAL = (
    "id", "refused_at", "budget", "group", "action", "reason", "unit", "limit", "spent", "reserved", "needed",
    "window_start", "window_end", "resets_at", "dimensions",
)  # fmt: skip
CHANGE = ("changed_at", "budget", "source", "definition")


class ConflictError(TallystickError):
    """What was ordered does not go with what is there."""


@dataclass(slots=True)
class Taken:
    """What a group took of a budget, as the store has it."""

    amount: Decimal = Decimal(0)
    lately: Decimal = Decimal(0)
    """In the last hour, or since the window began."""
    unpriced_units: int = 0


def budgets(ask: Ask, params: Params, now: datetime, budgeting: Budgeting) -> Json:
    """Each budget with its current window, what is spent, held and left, its pace, and its alerts."""
    _refuse_unknown(params, ())
    return {"rows": [_row(ask, budgeting, budget, now) for budget in budgeting.budgets()]}


def refusals(ask: Ask, params: Params, now: datetime) -> Json:
    """The calls that a budget did not let through, newest first."""
    asked = _range(params, now, "budget", "limit", filters=False)
    where, values = "", []
    if asked.rest.get("budget"):
        where, values = "AND budget = ?", [asked.rest["budget"]]
    limit = _integer(asked.rest, "limit", 100, 1, query.ROWS_MAX)
    columns = ", ".join({"group": "budget_group", "limit": "limit_amount"}.get(name, name) for name in REFUSAL)
    sql = f"""
        SELECT {columns} FROM refusals WHERE refused_at >= ? AND refused_at < ? {where}
        ORDER BY refused_at DESC, id LIMIT {limit}
    """
    rows = ask(sql, [naive(asked.start), naive(asked.end), *values])
    return {"rows": [_named(REFUSAL, row) for row in rows]}


def changes(ask: Ask, params: Params, now: datetime) -> Json:
    """Who changed which budget when, newest first; ``definition`` is null when it was deleted."""
    asked = _range(params, now, filters=False)
    sql = f"""
        SELECT {", ".join(CHANGE)} FROM budget_changes
        WHERE changed_at >= ? AND changed_at < ? ORDER BY changed_at DESC, budget LIMIT {query.ROWS_MAX}
    """
    rows = ask(sql, [naive(asked.start), naive(asked.end)])
    found = [_named(CHANGE, row) for row in rows]
    for row in found:
        row["definition"] = None if row["definition"] is None else json.loads(row["definition"])
    return {"rows": found}


# Orders


def create(budgeting: Budgeting, told: Mapping[str, Any]) -> Json:
    """Put a new budget in force."""
    budget = _read(told)
    if (source := budgeting.source_of(budget.name)) is not None:
        raise ConflictError(f"budget {budget.name!r} is there already{_where(source)}; take another name")
    budgeting.define(budget, "api")
    return as_json(budget)


def replace(budgeting: Budgeting, name: str, told: Mapping[str, Any]) -> Json:
    """Put a budget in force in place of the one of its name."""
    budget = _read({"name": name, **told})
    if budget.name != name:
        raise BadParameterError(f"name is {budget.name!r}, and the budget that is to change is {name!r}")
    _must_be_ours(budgeting, name)
    budgeting.define(budget, "api")
    return as_json(budget)


def raise_limit(budgeting: Budgeting, name: str) -> str:
    """Make the limit of a budget half as large again, and return that in words."""
    _must_be_ours(budgeting, name)
    (budget,) = (budget for budget in budgeting.budgets() if budget.name == name)
    limit = budget.limit * 3 / 2
    raised = as_json(budget) | {f"limit_{budget.unit}": str(limit) if budget.unit == "usd" else int(limit)}
    budgeting.define(budget_of(raised), "api")
    return f"Limit raised from {show_amount(budget.limit, budget.unit)} to {show_amount(limit, budget.unit)}"


def delete(budgeting: Budgeting, name: str) -> Json:
    """Take a budget out of force."""
    _must_be_ours(budgeting, name)
    budgeting.drop(name, "api")
    return {"deleted": name}


def _read(told: Mapping[str, Any]) -> Budget:
    try:
        return budget_from(told)
    except SettingsError as error:
        raise BadParameterError(str(error)) from error


def _must_be_ours(budgeting: Budgeting, name: str) -> None:
    source = budgeting.source_of(name)
    if source is None:
        raise NotFoundError(f"there is no budget {name[:80]!r}; GET /api/v1/budgets lists them")
    if source != "api":
        raise ConflictError(f"budget {name!r} is read only here{_where(source)}; change it there and start again")


def _where(source: str) -> str:
    return ", and stands in tallystick.toml" if source == "file" else ""


# Rows


def _row(ask: Ask, budgeting: Budgeting, budget: Budget, now: datetime) -> Json:
    window = window_at(budget, now)
    taken = _taken(ask, budget, window, now)
    told = {group: _standing(budget, group, window, found.amount) for group, found in taken.items()}
    if budget.enforces:
        told |= {standing.group: standing for standing in budgeting.standings(budget.name)}
    if not budget.group_by:
        told = {(): told.get((), _standing(budget, (), window, Decimal(0)))}
    ranked = sorted(told.values(), key=lambda standing: (standing.room, standing.group))
    fullest = ranked[0] if ranked else _standing(budget, ("",) * len(budget.group_by), window, Decimal(0))
    groups = [
        _figures(standing, taken.get(standing.group, Taken()), window, now)
        | {"group": dict(zip(budget.group_by, standing.group, strict=True))}
        for standing in ranked[:GROUPS_MAX]
    ]
    figures = _figures(fullest, taken.get(fullest.group, Taken()), window, now)
    is_usd = budget.unit == "usd"
    return {
        "name": budget.name,
        "source": budgeting.source_of(budget.name),
        "scope": dict(budget.scope),
        "group_by": list(budget.group_by),
        "action": budget.action,
        "unit": budget.unit,
        "limit": _plain(budget.limit),
        "limit_usd": _plain(budget.limit) if is_usd else None,
        "window": {
            "kind": budget.window,
            "timezone": budget.timezone,
            "start": _iso(window.start),
            "end": _iso(window.end),
        },
        "resets_in_s": None if budget.rolling else round((window.end - now).total_seconds(), 3),
        **figures,
        "spent_usd": figures["spent"] if is_usd else None,
        "refused": sum(standing.refused for standing in told.values()),
        "unpriced_units": sum(found.unpriced_units for found in taken.values()),
        "groups": groups if budget.group_by else [],
        "groups_count": len(told) if budget.group_by else 0,
        "thresholds": [_plain(share, trim=False) for share in budget.thresholds],
        "alerts": query.alerts_of(ask, budget, window),
        "definition": as_json(budget),
    }


def _figures(standing: Standing, taken: Taken, window: Window, now: datetime) -> Json:
    used = standing.spent + standing.reserved
    elapsed_s = Decimal(str((now - max(window.start, now - HOUR)).total_seconds()))
    pace = taken.lately * 3600 / elapsed_s if elapsed_s > 0 else Decimal(0)
    return {
        "spent": _plain(standing.spent),
        "reserved": _plain(standing.reserved),
        "left": _plain(standing.room),
        "share": _plain(round(standing.spent / standing.budget.limit, 6)),
        "pace_per_hour": _plain(round(pace, 12)),
        "full_at": _iso(_full_at(standing, used, pace, window, now)),
        "refused": standing.refused,
    }


def _full_at(standing: Standing, used: Decimal, pace: Decimal, window: Window, now: datetime) -> datetime | None:
    """Return when the limit is reached at this pace, None when the window ends before, or rolls on below it."""
    left = standing.budget.limit - used
    if left <= 0:
        return now
    if pace <= 0:
        return None
    hours = left / pace
    rolling = standing.budget.rolling
    if rolling is not None and pace * (rolling // HOUR) <= standing.budget.limit:
        return None
    if rolling is None and hours * 3600 >= Decimal(str((window.end - now).total_seconds())):
        return None
    return now + timedelta(hours=float(hours))


def _standing(budget: Budget, group: tuple[str, ...], window: Window, spent: Decimal) -> Standing:
    return Standing(budget=budget, group=group, window=window, spent=spent, reserved=Decimal(0), refused=0)


def _taken(ask: Ask, budget: Budget, window: Window, now: datetime) -> dict[tuple[str, ...], Taken]:
    where, values = query.scope_where(budget, window.start, window.end)
    columns, grouped = query.group_columns(budget)
    amount = query.AMOUNTS[budget.unit]
    sql = f"""
        SELECT coalesce({amount}, 0), coalesce({amount} FILTER (started_at >= ?), 0),
            coalesce(sum(unpriced_units), 0)::BIGINT{"".join(f", {column}" for column in columns)}
        FROM calls WHERE {where} GROUP BY ALL
    """
    lately = naive(max(window.start, now - HOUR))
    rows = ask(sql, [lately, *grouped, *values])
    return {tuple(group): Taken(Decimal(all_), Decimal(last), unpriced) for all_, last, unpriced, *group in rows}
