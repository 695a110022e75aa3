"""Overrides onto a book: the same for the file that is shipped and for a user's own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from tallystick.errors import SettingsError
from tallystick.pricing._items import UNITS
from tallystick.pricing._names import PROVIDERS
from tallystick.pricing.overrides import Overrides, title

Json = dict[str, Any]


def merge(document: Json, overrides: Overrides) -> None:
    """Put ``overrides`` into ``document``, a book: what they say wins over what stands there."""
    providers = document["providers"]
    for entry in overrides["price"]:
        _add_price(providers, entry, str(overrides.path))
    _check_providers(providers, overrides)
    for ratio in overrides["ratio"]:
        if ratio["provider"] in providers:
            _add_ratio(providers[ratio["provider"]]["models"], ratio)
    for entry in overrides["host"]:
        places = document["hosts"].setdefault(entry["host"].lower(), [])
        places.insert(0, [entry.get("path", ""), entry["provider"]])
        places.sort(key=lambda place: -len(place[0]))
    document["fees"] += overrides["fee"]
    document["multipliers"] += overrides["multiplier"]
    document["aliases"] += overrides["alias"]
    document["disputes"] += overrides["dispute"]
    document["discounts"] = document.get("discounts", []) + overrides["discount"]
    document["limits"] = overrides["limit"] + document.get("limits", [])


def _check_providers(providers: Json, overrides: Overrides) -> None:
    """Refuse an entry about somebody whom nobody lists: it would never apply, and say nothing."""
    for table in ("alias", "multiplier", "discount", "limit", "fee", "dispute"):
        for number, entry in enumerate(overrides[table], 1):
            name = entry["provider"]
            if PROVIDERS.get(name, name) not in providers:
                near = difflib.get_close_matches(name, sorted(providers), n=3)
                hint = f"near names: {', '.join(near)}" if near else f"known: {', '.join(sorted(providers))}"
                where = f"{overrides.path}: {title(table, number, entry)}"
                raise SettingsError(f"{where}: provider = {name!r} is nobody that is listed; {hint}")


def amount_text(amount: Decimal) -> str:
    """Return ``amount`` in the shortest plain notation: the book's."""
    return format(amount.normalize(), "f")


def _add_price(compiled: Json, entry: Mapping[str, Any], path: str) -> None:
    models = compiled.setdefault(entry["provider"], {"source": "overrides", "models": []})["models"]
    name = entry["model"].lower()
    chosen = [model for model in models if model["id"] == name or name in model["names"]]
    if not chosen:
        chosen = [{"id": name, "names": [name], "rows": []}]
        models.append(chosen[0])
    for model in chosen:
        _apply_price(model, entry, path)


def _apply_price(model: Json, entry: Mapping[str, Any], path: str) -> None:
    if entry.get("replace"):
        model["rows"] = []
        model.pop("free", None)
    for key in ("free", "minimum", "unpublished"):
        if key in entry:
            model[key] = entry[key]
    rates = {item: amount_text(Decimal(entry[item])) for item in UNITS if item in entry}
    row = _override_row(entry)
    if "above" in entry:
        _add_step(model["rows"], row, rates, entry, path)
    elif rates:
        model["rows"].append({**row, "rates": rates})


def _override_row(entry: Mapping[str, Any]) -> Json:
    row: Json = {}
    if when := entry.get("when"):
        row["when"] = _case_of(when)
    for key in ("from", "until"):
        if key in entry:
            row[key] = entry[key]
    if "hours" in entry:
        row["hours"] = [span.split("-") for span in entry["hours"]]
    if "weekdays" in entry:
        row["days"] = entry["weekdays"]
    row["source"] = entry.get("source", "overrides")
    if entry.get("estimated"):
        row["estimated"] = 1
    return row


def _case_of(when: Mapping[str, Any]) -> str:
    """Return the book's word for the one case that ``when`` names; OpenAI's `fast` is served as `priority`."""
    if "batch" in when:
        return "batch"
    if "speed" in when:
        return str(when["speed"])
    return "priority" if when["service_tier"] == "fast" else str(when["service_tier"])


def _add_step(rows: list[Json], row: Json, rates: Json, entry: Mapping[str, Any], path: str) -> None:
    """Turn an entry with ``above`` into a step of the row that it belongs to: same model, days and hours."""
    belongs = [r for r in rows if all(r.get(k) == row.get(k) for k in ("when", "from", "until", "hours", "days"))]
    if not belongs:
        raise _misplaced_step(entry, path, "entry without 'above' for the same days and case")
    base = belongs[-1]["rates"]
    for item, price in rates.items():
        if item not in base:
            raise _misplaced_step(entry, path, f"{item} in the entry without 'above'")
        current = base[item]
        base[item] = [*([current] if isinstance(current, str) else current), entry["above"], price]


def _misplaced_step(entry: Mapping[str, Any], path: str, missing: str) -> SettingsError:
    where = f"{path}: [[price]] {entry['provider']} {entry['model']} above = {entry['above']}"
    return SettingsError(f"{where}: there is no {missing}; write that one first")


def _add_ratio(models: Sequence[Json], ratio: Mapping[str, Any]) -> None:
    factor, item, of = Decimal(ratio["factor"]), ratio["item"], ratio["of"]
    for model in models:
        for row in model["rows"]:
            rates = row["rates"]
            if item not in rates and of in rates and (ratio.get("needs") is None or ratio["needs"] in rates):
                rates[item] = _times(rates[of], factor)


def _times(value: Any, factor: Decimal) -> Any:
    if isinstance(value, str):
        return amount_text(Decimal(value) * factor)
    return [amount_text(Decimal(part) * factor) if n % 2 == 0 else part for n, part in enumerate(value)]
