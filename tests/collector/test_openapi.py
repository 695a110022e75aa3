"""The OpenAPI document, the page and the collector say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import Running, running_collector

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
EXAMPLES = {
    "bucket": "hour", "by": "model", "timezone": "UTC", "format": "json", "limit": "5", "order": "started_at",
    "name": "model", "kind": "call", "start": "2026-01-01", "end": "2026-01-02", "cursor": "",
    "budget": "chat", "about": "prices", "to": "anthropic/claude-haiku-4-5",
}  # fmt: skip


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_collector(tmp_path_factory.mktemp("openapi")) as running:
        yield running


@pytest.fixture(scope="module")
def document(collector: Running) -> dict[str, Any]:
    status, _, body = collector.request("GET", "/api/v1/openapi.json")
    assert status == 200
    found: dict[str, Any] = json.loads(body)
    return found


def test_the_page_has_every_path_and_no_other(document: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    on_page = set(re.findall(r"`(GET|POST|PUT|DELETE) (/[^`?\s]*)", PAGE))

    assert on_page == described


def test_every_parameter_is_on_the_page(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                name = parameter["name"]
                assert re.search(rf"[`?&{{]{name}[`=}}]", PAGE), f"{path}: {name}"


def test_every_parameter_is_taken_and_any_other_refused(collector: Running, document: dict[str, Any]) -> None:
    asked = 0
    for path, methods in document["paths"].items():
        if "get" not in methods or not path.startswith("/api/v1/") or "{id}" in path:
            continue
        needed = "name=model&" if path.endswith("/dimensions") else ""
        for parameter in methods["get"].get("parameters", []):
            name = parameter["name"]
            status, _, body = collector.request("GET", f"{path}?{needed}{name}={EXAMPLES.get(name, 'x')}")
            assert status == 200, (path, name, body)
            asked += 1
        if methods["get"].get("parameters"):
            assert collector.request("GET", f"{path}?{needed}no-such-parameter=1")[0] == 400, path
    assert asked > 50
