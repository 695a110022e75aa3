"""What real emitters sent, recorded by tests/emitters/record.py, costs what the provider billed: once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fakes.collector import Running, running_collector

DATA = Path(__file__).parents[1] / "data" / "emitters"
RECORDINGS = sorted(path.stem for path in DATA.glob("*.pb"))
CLASSES = {
    "input_tokens": ("input", "cache_read", "cache_write_5m", "cache_write_1h"),
    "cache_read_tokens": ("cache_read",),
    "cache_write_tokens": ("cache_write_5m", "cache_write_1h"),
    "output_tokens": ("output",),
}
# What an emitter gets wrong or leaves out, so that no reader of its spans can know better.
MISCOUNTS = {
    ("openllmetry", "anthropic", True): {"output_tokens": 201},  # adds message_start's first token to the total
    ("otel", "openai", False): {"cache_read_tokens": 0},  # 2.1b0 has no attribute for the cache
    ("otel", "openai", True): {"cache_read_tokens": 0},
}
# Logfire tells of a stream in a log of a trace of its own, without a response id: nothing says that it is the same.
TWICE = {"logfire+native": ("anthropic", True)}
RECORDED_ONCE = [name for name in RECORDINGS if name not in TWICE]


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Running]:
    with running_collector(tmp_path) as running:
        yield running


def recorded(name: str) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString((DATA / f"{name}.pb").read_bytes())


def billed(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DATA / f"{name}.json").read_text())["invoice"]
    return found


def counts_of(item: dict[str, Any]) -> dict[str, int]:
    return {ours: sum(item["counts"].get(name, 0) for name in theirs) for ours, theirs in CLASSES.items()}


def is_known_wrong(name: str, item: dict[str, Any]) -> dict[str, int]:
    return MISCOUNTS.get((name, item["provider"], item["stream"]), {})


@pytest.mark.parametrize("name", RECORDED_ONCE)
def test_a_recording_has_as_many_calls_tokens_and_dollars_as_were_billed(collector: Running, name: str) -> None:
    collector.send(recorded(name))
    rows = collector.ask("calls", order="started_at")["rows"]
    invoice = billed(name)

    told = [(row["provider"], row["units"], row["outcome"], {name: row[name] for name in CLASSES}) for row in rows]
    expected = [(item["provider"], 1, "ok", counts_of(item) | is_known_wrong(name, item)) for item in invoice]
    assert sorted(told, key=str) == sorted(expected, key=str)
    exact = [Decimal(item["usd"]) for item in invoice if not is_known_wrong(name, item)]
    costs = [Decimal(row["cost_usd"]) for row in rows]
    assert all(costs.count(usd) >= exact.count(usd) for usd in exact), (costs, exact)


@pytest.mark.parametrize("name", [name for name in RECORDED_ONCE if name.endswith("+native")])
def test_what_two_emitters_saw_costs_once_whoever_tells_first(collector: Running, name: str) -> None:
    """Each span in a request of its own, children first and then last."""
    parts = [
        ExportTraceServiceRequest(resource_spans=[one])
        for resource in recorded(name).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        for one in [
            type(resource)(resource=resource.resource, scope_spans=[type(scope)(scope=scope.scope, spans=[span])])
        ]
    ]
    collector.send(*reversed(parts))
    totals = collector.ask("totals")

    assert (totals["calls"], totals["units"]) == (len(billed(name)), len(billed(name)))
    assert Decimal(totals["spend_usd"]) == sum(Decimal(item["usd"]) for item in billed(name))


@pytest.mark.parametrize("name", list(TWICE))
def test_where_nothing_links_two_accounts_both_count(collector: Running, name: str) -> None:
    """A limit that docs/collector.md states; when this fails, somebody has mended it."""
    collector.send(recorded(name))
    repeated = [item for item in billed(name) if (item["provider"], item["stream"]) == TWICE[name]]

    assert repeated
    assert collector.ask("totals")["calls"] == len(billed(name)) + len(repeated)


@pytest.mark.parametrize("name", ["anthropic-native", "otel-genai", "vercel", "vercel-legacy", "openllmetry"])
def test_a_stream_is_told_from_a_whole_answer(collector: Running, name: str) -> None:
    collector.send(recorded(name))
    rows = collector.ask("calls")["rows"]

    streamed = {row["id"]: row["stream"] for row in rows}
    assert sum(streamed.values()) >= sum(item["stream"] for item in billed(name)) - (name == "vercel") * 2
    assert all(row["first_chunk_ms"] is None or 0 < row["first_chunk_ms"] < 10_000 for row in rows)


@pytest.mark.parametrize("name", RECORDINGS)
def test_no_text_of_a_user_or_a_model_is_in_the_tables(collector: Running, name: str) -> None:
    collector.send(recorded(name))
    found = collector.ask("calls")["rows"]
    collector.ask("totals")

    assert found
    for path in collector.data.glob("tallystick.duckdb*"):
        data = path.read_bytes()
        assert b"How many angels" not in data
        assert b"we are glad to help" not in data
