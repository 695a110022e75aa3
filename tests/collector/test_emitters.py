"""Calls that others tell of count too, but never beside a better account of the same response."""

# ruff: noqa: A002 -- an id is called id

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fakes.collector import Running, merged, otlp_call, otlp_request, otlp_span, otlp_unit, running_collector

TRACE = "0af7651916cd43dd8448eb211c80319c"
RESPONSE = "msg_01AbcdefghijklmnopqrstuV"
PROVIDER_SCOPE = "opentelemetry.instrumentation.anthropic"
NOW_NS = time.time_ns() - 10**10


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Running]:
    with running_collector(tmp_path) as running:
        yield running


def foreign(
    scope: str = PROVIDER_SCOPE, id: str = "f0" * 8, parent_id: str | None = None, **attributes: Any
) -> ExportTraceServiceRequest:
    found = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-sonnet-4-5",
        "gen_ai.usage.input_tokens": 1200, "gen_ai.usage.output_tokens": 350,
        **{key.replace("__", "."): value for key, value in attributes.items()},
    }  # fmt: skip
    span = otlp_span(id, TRACE, parent_id, "chat", NOW_NS, 1000, found)
    return otlp_request([span], {"service.name": "other"}, scope)


def ours(parent_id: str | None = None, response: str = RESPONSE) -> ExportTraceServiceRequest:
    unit = otlp_unit(id=response, usage={"input_tokens": 1200, "output_tokens": 350})
    return otlp_call(id="0a" * 8, trace_id=TRACE, parent_id=parent_id, units=[unit], started_ns=NOW_NS + 10**8)


def test_a_foreign_call_is_priced_by_what_it_counted(collector: Running) -> None:
    collector.send(
        foreign(
            gen_ai__usage__cache_read__input_tokens=200, gen_ai__usage__cache_write__input_tokens=100,
            gen_ai__response__id=RESPONSE,
        )
    )  # fmt: skip
    (row,) = collector.ask("calls")["rows"]
    answer = collector.ask(f"calls/{row['id']}")

    # 900 x 3 + 200 x 0.30 + 100 x 3.75 + 350 x 15 USD per million
    assert (row["cost_usd"], row["input_tokens"], row["cache_read_tokens"]) == ("0.008385", 1200, 200)
    assert (row["service"], row["provider"], row["outcome"]) == ("other", "anthropic", "ok")
    assert {line["item"] for line in answer["units"][0]["receipt"]["lines"]} == {
        "input", "cache_read", "cache_write_5m", "output",
    }  # fmt: skip
    assert collector.ask("ledger")["stored_spans"] == 1


def test_a_total_that_leaves_out_the_cache_is_mended(collector: Running) -> None:
    collector.send(foreign(gen_ai__usage__input_tokens=10, gen_ai__usage__cache_read__input_tokens=200))
    (row,) = collector.ask("calls")["rows"]

    assert (row["input_tokens"], row["cache_read_tokens"]) == (210, 200)


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({"gen_ai__operation__name": "invoke_agent"}, id="an-agent-repeats-the-sums"),
        pytest.param({"gen_ai__operation__name": "execute_tool"}, id="a-tool"),
        pytest.param({"gen_ai__usage__input_tokens": None, "gen_ai__usage__output_tokens": None}, id="nothing-counted"),
        pytest.param({"gen_ai__usage__input_tokens": "12", "gen_ai__usage__output_tokens": -1}, id="no-counts"),
    ],
)
def test_a_span_that_is_no_inference_is_only_kept(collector: Running, attributes: dict[str, Any]) -> None:
    collector.send(foreign(**attributes))

    assert collector.ask("totals")["calls"] == 0
    assert collector.ask("ledger")["stored_spans"] == 1


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_one_response_counts_once_whoever_tells_first(
    collector: Running, order: tuple[int, ...], *, together: bool
) -> None:
    """A framework, a provider's instrumentation and we tell of the same response, in every order."""
    told = [
        foreign("langchain", id="f1" * 8, gen_ai__response__id=RESPONSE),
        foreign(gen_ai__response__id=RESPONSE, parent_id="f1" * 8),
        ours(parent_id="f0" * 8),
    ]
    requests = [told[n] for n in order]
    collector.send(*([merged(*requests)] if together else requests))
    (row,) = collector.ask("calls")["rows"]
    totals = collector.ask("totals")

    assert row["id"] == "0a" * 8
    assert (totals["calls"], totals["units"], totals["spend_usd"]) == (1, 1, "0.00885")
    assert collector.ask("ledger")["stored_spans"] == 3


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("ours_first", [True, False])
def test_a_wrapper_without_a_response_id_does_not_count(
    collector: Running, *, ours_first: bool, together: bool
) -> None:
    told = [ours(parent_id="f0" * 8), foreign("langchain")]
    told = told if ours_first else told[::-1]
    collector.send(*([merged(*told)] if together else told))

    totals = collector.ask("totals")
    assert (totals["calls"], totals["spend_usd"]) == (1, "0.00885")
    assert collector.ask("calls")["rows"][0]["service"] == "shop"


def test_another_model_in_the_same_trace_counts(collector: Running) -> None:
    collector.send(ours(), foreign(gen_ai__request__model="claude-haiku-4-5"))

    assert collector.ask("totals")["calls"] == 2


def test_a_local_server_that_reuses_its_ids_loses_nothing(collector: Running) -> None:
    """Ollama numbers its responses from chatcmpl-0 to chatcmpl-999."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    unit = otlp_unit(id="chatcmpl-7", provider="127.0.0.1:11434", model="llama3", api="chat", usage=usage)
    collector.send(otlp_call(units=[unit]), otlp_call(units=[unit]))

    totals = collector.ask("totals")
    assert (totals["units"], totals["unpriced_units"], totals["input_tokens"]) == (2, 2, 20)


def test_texts_of_users_are_not_kept(collector: Running) -> None:
    secret = "my secret prompt"
    collector.send(
        foreign(
            **{"gen_ai.input.messages": secret, "gen_ai.output.messages": secret, "input.value": secret},
            **{"gen_ai.prompt.0.content": secret, "llm.input_messages.0.message.content": secret, "ai.prompt": secret},
        )
    )  # fmt: skip
    collector.ask("totals")
    for path in collector.data.glob("tallystick.duckdb*"):
        assert secret.encode() not in path.read_bytes()
