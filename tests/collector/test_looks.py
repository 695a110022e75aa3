"""What a request looks like, which calls belong together and what a provider said of its limits are columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import Running, otlp_call, running_collector
from tallystick.collector import store as stores
from tallystick.collector.decode import PREFIXES_MAX, _prefixes
from tallystick.collector.store import Store

FIRST, SECOND, ALONE = "00000000000000a1", "00000000000000a2", "00000000000000b1"
LOOK: dict[str, Any] = {
    "gen_ai.request.max_tokens": 1024,
    "tallystick.request_digest": "753778041399aea4",
    "tallystick.template": "0fb4c6a2591159aa",
    "tallystick.prefix_digests": '[["753778041399aea4",300],["ffffffffffffffff",4800]]',
    "tallystick.request.characters": 4800,
    "tallystick.request.tools_characters": 900,
    "tallystick.request.messages": 3,
}
LIMITED = {
    "http.response.status_code": 429,
    "tallystick.attempt.outcome": "rate_limited",
    "tallystick.attempt.code": "rate_limit_error",
    "tallystick.attempt.retry_after_s": 2.0,
    "tallystick.attempt.should_retry": True,
    "tallystick.ratelimit.requests.limit": 50,
    "tallystick.ratelimit.requests.remaining": 0,
    "tallystick.ratelimit.input_tokens.limit": 3_000_000_000,
}
AGAIN = {"http.response.status_code": 200, "started_ms": 1400, "tallystick.attempt.waited_s": 2.1}


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A call and its re-ask, with all that `instrument()` tells of them, and a call of which nothing is told."""
    usage = {"input_tokens": 1200, "output_tokens": 350}
    link = {"tallystick.link.id": FIRST, "tallystick.link.kind": "re_ask", "tallystick.link.index": 1}
    with running_collector(tmp_path_factory.mktemp("looks")) as running:
        running.send(
            otlp_call(id=FIRST, usage=usage, attempts=[LIMITED, AGAIN], **LOOK),
            otlp_call(id=SECOND, usage=usage, **LOOK, **link),
            otlp_call(id=ALONE, usage=usage),
        )
        yield running


def test_a_call_tells_how_its_request_looked(collector: Running) -> None:
    call = collector.ask(f"calls/{SECOND}")["call"]

    assert [call[name] for name in ("digest", "template")] == ["753778041399aea4", "0fb4c6a2591159aa"]
    assert [call[name] for name in ("max_tokens", "request_characters", "tools_characters", "messages")] == [
        1024, 4800, 900, 3,
    ]  # fmt: skip
    assert [call[name] for name in ("chain", "link", "link_index")] == [FIRST, "re_ask", 1]


def test_an_attempt_tells_the_headroom_and_the_waits(collector: Running) -> None:
    limited, again = collector.ask(f"calls/{FIRST}")["attempts"]

    assert (limited["code"], limited["should_retry"], limited["waited_s"]) == ("rate_limit_error", True, None)
    assert (limited["requests_limit"], limited["requests_remaining"]) == (50, 0)
    assert (limited["input_tokens_limit"], limited["tokens_limit"]) == (3_000_000_000, None)
    assert (again["waited_s"], again["should_retry"]) == (2.1, None)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"chain": FIRST}, {FIRST, SECOND}),
        ({"chain": ALONE}, {ALONE}),
        ({"link": "re_ask"}, {SECOND}),
        ({"link": ""}, {FIRST, ALONE}),
        ({"digest": "753778041399aea4"}, {FIRST, SECOND}),
        ({"template": ""}, {ALONE}),
    ],
)
def test_calls_are_found_by_what_they_have_in_common(
    collector: Running, asked: dict[str, str], found: set[str]
) -> None:
    assert {row["id"] for row in collector.ask("calls", **asked)["rows"]} == found


def test_who_asks_for_an_attribute_that_has_a_column_still_finds_it(collector: Running) -> None:
    def count(name: str, value: str) -> int:
        path = f"/api/v1/spans?attribute.{name}={value}&limit=0"
        answer: int = json.loads(collector.request("GET", path)[2])["count"]
        return answer

    assert count("tallystick.request_digest", "753778041399aea4") == 2
    assert count("tallystick.link.id", FIRST) == 1
    assert count("tallystick.ratelimit.requests.limit", "50") == 1
    assert count("tallystick.attempt.waited_s", "2.1") == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LOOK["tallystick.prefix_digests"], ([0x753778041399AEA4, 2**64 - 1], [300, 4800])),
        (None, ([], [])),
        ("", ([], [])),
        ("[[", ([], [])),
        ('{"a": 1}', ([], [])),
        ('[["xyz", 1]]', ([], [])),
        ('[["10000000000000000", 1]]', ([], [])),
        ('[["-1", 1]]', ([], [])),
        ('[["a", -1]]', ([], [])),
        ('[["a", 1, 2]]', ([], [])),
        ("[" * 20_000, ([], [])),
    ],
    ids=["ours", "none", "empty", "cut", "object", "no-hex", "too-large", "negative", "size", "three", "deep"],
)
def test_prefixes_are_taken_whole_or_not_at_all(text: str | None, found: tuple[list[int], list[int]]) -> None:
    assert _prefixes(text) == found


def test_of_too_many_prefixes_the_first_are_taken() -> None:
    digests, sizes = _prefixes(json.dumps([["a", size] for size in range(PREFIXES_MAX + 1)]))

    assert (len(digests), sizes[-1]) == (PREFIXES_MAX, PREFIXES_MAX - 1)


def test_calls_that_were_stored_before_there_were_columns_get_what_their_attributes_say(tmp_path: Path) -> None:
    path = tmp_path / "tallystick.duckdb"
    database = stores._open(path, 128)
    cursor = database.cursor()
    cursor.execute("USE ledger").fetchall()
    for script in sorted(files("tallystick.collector").joinpath("migrations").iterdir(), key=lambda found: found.name)[
        :3
    ]:
        cursor.execute(script.read_text(encoding="utf-8")).fetchall()
    cursor.execute("INSERT INTO meta VALUES ('schema', '3'), ('applied', '[1, 0]')").fetchall()
    for call_id, attributes in (
        ("a1", {"tallystick.request_digest": "75", "gen_ai.request.max_tokens": "1024", "tallystick.link.id": "a0"}),
        ("b1", {"gen_ai.request.max_tokens": "many"}),
    ):
        cursor.execute(
            "INSERT INTO calls BY NAME SELECT ? AS id, 'c1' AS trace_id, TIMESTAMP '2026-01-01' AS started_at,"
            " started_at AS received_at, 'ok' AS outcome, 1 AS attempts, 0 AS units, 0 AS unpriced_units,"
            " 0 AS estimated_units, 0 AS estimated_usd, 0 AS input_tokens, 0 AS cache_read_tokens,"
            " 0 AS cache_write_tokens, 0 AS output_tokens, 0 AS reasoning_tokens, 'tallystick' AS source,"
            " 40 AS precedence, ?::MAP(VARCHAR, VARCHAR) AS attributes",
            [call_id, attributes],
        ).fetchall()  # fmt: skip
    database.close()

    store = Store(path, 128)
    try:
        rows = store.ask("SELECT id, digest, max_tokens, chain FROM calls ORDER BY id")
    finally:
        store.close()

    assert rows == [("a1", "75", 1024, "a0"), ("b1", None, None, "b1")]
