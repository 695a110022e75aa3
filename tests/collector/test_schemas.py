"""Real answers have the keys and kinds that the description of the API says, and no other."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pyarrow as pa
import pytest

from fakes.collector import Running, otlp_call, otlp_unit, running_collector
from tallystick.collector.schemas import ANSWERS

USAGE = {"input_tokens": 1200, "output_tokens": 350}
BUDGETS = """
[[budget]]
name = "all"
limit_usd = 0.001
[[budget]]
name = "users"
limit_calls = 1
group_by = ["user"]
action = "block"
"""


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A collector with something to say to every question."""
    unpriced = otlp_unit(provider="nobody", model="no-such-model", api="chat", usage={"prompt_tokens": 5})
    with running_collector(tmp_path_factory.mktemp("schemas"), BUDGETS) as running:
        running.send(
            otlp_call(
                id="00f067aa0ba902b7", usage=USAGE, tags={"tenant": "=acme"}, user__id="u1",
                gen_ai__request__stream=True,
                attempts=[
                    {"http.response.status_code": 429, "tallystick.attempt.outcome": "rate_limited",
                     "tallystick.attempt.retry_after_s": 1.5},
                    {"http.response.status_code": 200, "tallystick.attempt.waited_s": 1.6},
                ],
            ),
            otlp_call(outcome="abandoned", units=[otlp_unit(usage=USAGE, estimated=True)]),
            otlp_call(model="no-such-model", provider="nobody", units=[unpriced]),
        )  # fmt: skip
        for number in "ab":
            hold = {"id": number * 32, "dimensions": {"user": "u1"}, "usd": "0.1", "tokens": 5, "calls": 1}
            running.post(json.dumps(hold).encode(), "/api/v1/reservations", content_type="application/json")
        yield running


def strict(schema: Any) -> Any:
    """Return ``schema`` with no room for a key that it does not name."""
    if isinstance(schema, list | tuple):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in made:
        made["additionalProperties"] = False
    return made


@pytest.mark.parametrize("name", sorted(set(ANSWERS) - {"/api/v1/alerts/test"}))
def test_an_answer_is_what_the_description_says(collector: Running, name: str) -> None:
    path = name if name.startswith("/") else f"/api/v1/{name}"
    trace = collector.ask("calls/00f067aa0ba902b7")["call"]["trace_id"]
    path = path.replace("{id}", trace if "traces" in path else "00f067aa0ba902b7")
    query = {"dimensions": "?name=model", "groups": "?by=model", "series": "?by=model"}.get(name, "")
    status, _, body = collector.request("GET", path + query)

    assert status == 200
    jsonschema.validate(json.loads(body), strict(ANSWERS[name]))


def test_the_description_can_fail() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            {"name": "model", "rows": [{"value": "x", "calls": 1, "more": 1}]}, strict(ANSWERS["dimensions"])
        )


@pytest.mark.parametrize("question", ["groups", "series", "calls", "units", "refusals"])
def test_rows_come_as_arrow_too(collector: Running, question: str) -> None:
    media = "application/vnd.apache.arrow.stream"
    asked = f"/api/v1/{question}?by=model" if question in {"groups", "series"} else f"/api/v1/{question}?"
    rows = json.loads(collector.request("GET", asked)[2])["rows"]
    by_name = collector.request("GET", f"{asked}&format=arrow")
    by_header = collector.request("GET", asked, accept=media)

    assert by_name[0] == by_header[0] == 200
    assert by_name[1]["content-type"] == media
    for _, _, body in (by_name, by_header):
        table = pa.ipc.open_stream(io.BytesIO(body)).read_all().to_pylist()
        assert [
            {key: json.loads(value) if isinstance(row[key], dict | list) else value for key, value in line.items()}
            for line, row in zip(table, rows, strict=True)
        ] == rows
    assert rows


def test_another_form_is_refused(collector: Running) -> None:
    status, _, body = collector.request("GET", "/api/v1/calls?format=xml")
    assert (status, json.loads(body)["error"]["message"]) == (400, "format is 'xml'; one of json, csv, arrow")
