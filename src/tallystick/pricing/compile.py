"""Make the book that is shipped: genai-prices and our overrides in, ``book.json`` out.

    python -m tallystick.pricing.compile [--check]

The one place that knows genai-prices; nothing imports it when a call is priced.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tallystick.pricing._book import matches
from tallystick.pricing._items import UNITS
from tallystick.pricing._merge import amount_text, merge
from tallystick.pricing.overrides import Overrides, read_overrides

HERE = Path(__file__).parent
BOOK = HERE / "book.json"
OVERRIDES = HERE / "overrides.toml"

Json = dict[str, Any]

# The library's price keys, in our words.  What is missing here has no unit that a response reports.
ITEMS = {
    "input_mtok": "input",
    "input_text_mtok": "input",
    "input_audio_mtok": "input_audio",
    "input_image_mtok": "input_image",
    "input_video_mtok": "input_video",
    "cache_read_mtok": "cache_read",
    "cache_audio_read_mtok": "cache_read_audio",
    "cache_image_read_mtok": "cache_read_image",
    "cache_video_read_mtok": "cache_read_video",
    "cache_write_mtok": "cache_write",
    "cache_write_5m_mtok": "cache_write_5m",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
    "output_text_mtok": "output",
    "output_audio_mtok": "output_audio",
    "output_image_mtok": "output_image",
    "output_video_mtok": "output_video",
    "output_reasoning_mtok": "output_reasoning",
    "output_citation_mtok": "output_citation",
    "input_mchars": "characters",
    "audio_hours": "audio_seconds",
    "input_audio_hours": "audio_seconds",
    "input_document_kpages": "document_pages",
    "input_annotated_document_kpages": "annotated_pages",
    "input_text_messages_kcount": "text_messages",
    "web_searches_kcount": "web_search",
    "storage_searches_kcount": "file_search",
    "rerank_searches_kcount": "rerank_search",
    "requests_kcount": "request",
}
CASES = {
    ("service_tier", "flex"): "flex",
    ("service_tier", "priority"): "priority",
    ("service_tier", "fast"): "priority",
    ("processing", "batch"): "batch",
    ("speed", "fast"): "fast",
}
# Priced by Anthropic's own list, with multipliers for the endpoint; see overrides.toml.
CLAUDE_CLOUDS = frozenset({"aws", "google"})


def compile_book(overrides: Overrides, providers: Sequence[Any] | None = None) -> Json:
    """Return the book's document from ``overrides`` and the library's ``providers``, those it was installed with."""
    import genai_prices

    if providers is None:
        from genai_prices.data import providers
    assert providers is not None, "the library has data"
    library = f"genai-prices {genai_prices.__version__}"
    compiled: Json = {
        provider.id: {
            "source": f"{library}: {(provider.pricing_urls or [provider.api_pattern])[0]}",
            "models": [entry for model in provider.models if (entry := _model(provider, model, overrides)) is not None],
        }
        for provider in providers
    }
    document = {
        "version": overrides.version,
        "library": library,
        "hosts": _hosts(providers),
        "fallbacks": {p.id: p.fallback_model_providers for p in providers if p.fallback_model_providers},
        "fees": [],
        "multipliers": [],
        "aliases": [],
        "disputes": [],
        "limits": [],
        "providers": compiled,
    }
    merge(document, overrides)
    return document


def encode(document: Mapping[str, Any]) -> str:
    """Return the file's text, the same for the same prices: one model a line, so that a change reads as one."""
    head = {key: value for key, value in document.items() if key != "providers"}
    lines = [f"{json.dumps(key)}: {_dump(value)}," for key, value in head.items()]
    lines.append('"providers": {')
    providers = []
    for name, provider in document["providers"].items():
        models = ",\n".join(_dump(model) for model in provider["models"])
        providers.append(
            f'{json.dumps(name)}: {{"source": {json.dumps(provider["source"])}, "models": [\n{models}\n]}}'
        )
    return "{\n" + "\n".join(lines) + "\n" + ",\n".join(providers) + "\n}}\n"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- one model of the library ------------------------------------------------------------


def _model(provider: Any, model: Any, overrides: Overrides) -> Json | None:
    if provider.id in CLAUDE_CLOUDS and "claude" in model.id:
        return None
    names, stems = _model_names(provider, model)
    if not names and not stems:
        return None
    entry: Json = {"id": model.id.lower(), "names": names}
    if stems:
        entry["stems"] = stems
    rows = list(_rows(provider.id, model, overrides))
    if not any(row["rates"] for row in rows):
        entry["free"] = True
        rows = []
    if provider.id == "groq" and "whisper" in model.id:
        entry["minimum"] = 10  # seconds that every request is billed at least
    entry["rows"] = rows
    return entry


def _model_names(provider: Any, model: Any) -> tuple[list[str], list[str]]:
    """Return the exact names of ``model``, and those which the source says may carry an ending.

    Every name is checked against the library's own matching, whose first match wins.
    """
    exact, open_ended = {model.id.lower()}, set()
    for kind, text in _clauses(model.match):
        if kind == "equals":
            exact.add(text.lower().removeprefix("/"))
        elif kind in {"starts_with", "contains"}:
            open_ended.add(_stem(text.lower()))
        elif kind == "ends_with":
            exact.add(text.lower().removeprefix("/"))
    names = {name for name in exact | open_ended if _first_match(provider, name) is model}
    # A stem that is not itself the model's name (deepseek-r1 is, gpt-4o-2024- is not) still carries its dates.
    stems = {stem for stem in open_ended if (first := _first_match(provider, stem)) is model or first is None}
    return sorted(names), sorted(stems)


def _clauses(match: Any) -> Iterator[tuple[str, str]]:
    for part in getattr(match, "or_", None) or getattr(match, "and_", None) or ():
        yield from _clauses(part)
    for kind in ("equals", "starts_with", "ends_with", "contains"):
        if isinstance(text := getattr(match, kind, None), str):
            yield kind, text


def _stem(text: str) -> str:
    """Return an open-ended name without the beginning of a date: ``claude-sonnet-4-2025`` is ``claude-sonnet-4``."""
    return re.sub(r"-(20\d\d|0)$", "", text.rstrip("-@:"))


def _first_match(provider: Any, name: str) -> Any:
    return next((model for model in provider.models if model.is_match(name)), None)


def _rows(provider: str, model: Any, overrides: Overrides) -> Iterator[Json]:
    from genai_prices.types import ModelPrice

    prices = model.prices
    if isinstance(prices, ModelPrice):
        base: list[Json] = [{"rates": _rates(prices)}]
    else:
        base = [{**_constraint(row.constraint), "rates": _rates(row.prices), "full": 1} for row in prices]
    yield from base
    for case, variants in _variants(model).items():
        if not _is_replaced(provider, model.id.lower(), case, overrides):
            yield from _variant_rows(case, variants, base)


def _variants(model: Any) -> dict[str, list[Any]]:
    """Return the variants of ``model`` by case, the oldest first; the library has the newest first."""
    cases: dict[str, list[Any]] = {}
    for variant in model.price_variants or ():
        case = CASES.get(next(iter(variant.when.items())))
        if case is None or (variant.when.get("service_tier") == "fast" and "priority" in cases):
            continue  # `default` is the standard row; `fast` is what `priority` is called when asked for
        cases.setdefault(case, []).insert(0, variant)
    return cases


def _is_replaced(provider: str, model: str, case: str, overrides: Overrides) -> bool:
    """Tell whether one of our multipliers says the same as the library's variant: a factor explains itself better."""
    when = {"batch": {"batch": True}, "fast": {"speed": "fast"}}.get(case, {"service_tier": case})
    return any(
        entry["provider"] == provider and entry["when"] == when and any(matches(p, model) for p in entry["models"])
        for entry in overrides["multiplier"]
    )


def _variant_rows(case: str, variants: Sequence[Any], base: Sequence[Json]) -> Iterator[Json]:
    """Yield the rows of one case.

    The library lists most tiers from the day on which they were checked, not from that on which they began; before
    it the same ratio to the standard rate is taken.
    """
    first = _constraint(variants[0].constraint).get("from")
    rates = _rates(variants[0].prices)
    if first:
        yield from _dated_back(case, first, rates, base)
    for variant in variants:
        yield {"when": case, **_constraint(variant.constraint), "rates": _rates(variant.prices), "full": 1}


def _dated_back(case: str, first: str, rates: Json, base: Sequence[Json]) -> Iterator[Json]:
    periods = [row for row in base if row.get("from", "") < first and "hours" not in row]
    current = periods[-1]["rates"]
    for number, period in enumerate(periods):
        until = periods[number + 1]["from"] if number + 1 < len(periods) else first
        scaled = {
            item: _scaled(value, current[item], period["rates"][item])
            for item, value in rates.items()
            if item in current and item in period["rates"]
        }
        row: Json = {"when": case, "until": until, "rates": scaled, "full": 1, "back": first}
        if "from" in period:
            row["from"] = period["from"]
        yield row


def _scaled(value: Any, of: Any, to: Any) -> Any:
    """Return ``value`` in the same ratio to ``to`` as it is to ``of``; exactly ``value`` when the two are the same."""
    if of == to:
        return value
    ratio = Decimal(_base(value)) / Decimal(_base(of))
    if isinstance(to, str):
        return amount_text(Decimal(to) * ratio)
    return [amount_text(Decimal(part) * ratio) if n % 2 == 0 else part for n, part in enumerate(to)]


def _base(value: Any) -> str:
    return value if isinstance(value, str) else str(value[0])


def _constraint(constraint: Any) -> Json:
    if constraint is None:
        return {}
    if (start := getattr(constraint, "start_date", None)) is not None:
        return {"from": start.isoformat()}
    return {"hours": [[constraint.start_time.strftime("%H:%M"), constraint.end_time.strftime("%H:%M")]]}


def _rates(prices: Any) -> Json:
    rates: Json = {}
    for key, value in prices.__dict__.items():
        if value is not None and key in ITEMS:
            rates.setdefault(ITEMS[key], _spec(value))
    return {item: rates[item] for item in UNITS if item in rates}


def _spec(value: Any) -> Any:
    if isinstance(value, Decimal):
        return amount_text(value)
    steps = [part for tier in value.tiers for part in (tier.start, amount_text(tier.price))]
    return [amount_text(value.base), *steps]


def _hosts(providers: Sequence[Any]) -> Json:
    """Return the hosts whose pattern in the library is a plain name: host -> [[path, provider], ...]."""
    hosts: dict[str, list[list[str]]] = {}
    for provider in providers:
        plain = provider.api_pattern.removesuffix("(?:/|$)").replace("\\.", ".")
        if re.fullmatch(r"https://[a-z0-9.-]+(/[a-z0-9-]+)*", plain):
            parts = urlsplit(plain)
            hosts.setdefault(parts.netloc, []).append([parts.path, provider.id])
    return {host: sorted(places, key=lambda place: -len(place[0])) for host, places in sorted(hosts.items())}


def main(arguments: Sequence[str]) -> int:
    """Write the book, or with ``--check`` say whether the one on disk is up to date."""
    text = encode(compile_book(read_overrides(OVERRIDES)))
    if "--check" in arguments:
        is_same = BOOK.is_file() and BOOK.read_text(encoding="utf-8") == text
        sys.stdout.write(f"{BOOK.name} is up to date\n" if is_same else f"{BOOK.name} differs: compile it again\n")
        return 0 if is_same else 1
    BOOK.write_text(text, encoding="utf-8")
    models = sum(line.startswith('{"id"') for line in text.splitlines())
    sys.stdout.write(f"{BOOK.name}: {models} models, {len(text) // 1024} KiB\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
