"""Each advice is a figure that can be made again by hand: here it is, from ledgers of a few hundred calls.

Rates, in USD for a million tokens: claude-sonnet-4-5 3 in, 0.30 read, 3.75 and 6 written for 5 min and 1 h, 15 out;
claude-haiku-4-5 1, 0.10, 1.25, 2, 5; a batch is half of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from fakes.collector import Running, merged, otlp_call, running_collector
from tallystick.collector import advice, advise
from tallystick.collector.advice import ABOUT
from tallystick.collector.advise import Advice, Again, Flow, Prefix, Quiet, cache_savings, monthly, round_up
from tallystick.errors import CollectorRefusedError
from tallystick.model.usage import Usage
from tallystick.pricing import Rates, load_book, rates_of

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
DAYS = 10
START = NOW - timedelta(days=DAYS)
COUNT = 120
SONNET, HAIKU = "claude-sonnet-4-5", "claude-haiku-4-5"
USAGE = {"input_tokens": 2000, "output_tokens": 100}
# A call of it: 2,000 x $3 + 100 x $15 for a million.
COST = Decimal("0.0075")


def calls(service: str, count: int = COUNT, every_s: float = 60, **changes: Any) -> list[Any]:
    """Return calls of ``service``, so far apart, from an hour behind the start on; values may be made from a number."""
    at = int((START + timedelta(hours=1)).timestamp() * 1e9)
    return [
        otlp_call(
            service=service,
            started_ns=at + int(number * every_s * 1e9),
            **{
                "usage": USAGE,
                **{name: value(number) if callable(value) else value for name, value in changes.items()},
            },
        )
        for number in range(count)
    ]


def look(*prefixes: tuple[int, int], **sizes: int) -> dict[str, Any]:
    return {
        "tallystick.prefix_digests": json.dumps([[f"{digest:016x}", characters] for digest, characters in prefixes]),
        "tallystick.request.characters": prefixes[-1][1],
        **{f"tallystick.request.{name}": size for name, size in sizes.items()},
    }


def ledger() -> Iterator[Any]:
    """Yield a ledger in which each service has one thing to be advised about."""
    yield otlp_call(service="first", usage=USAGE, started_ns=int(START.timestamp() * 1e9))
    # 8,000 of 10,000 characters begin all prompts; every fortieth comes 30 minutes late.
    for number, call in enumerate(calls("cachable", tallystick__template="0fb4c6a2591159aa")):
        span = call.resource_spans[0].scope_spans[0].spans[-1]
        late_ns = number // 40 * 1800 * 10**9
        span.start_time_unix_nano += late_ns
        span.end_time_unix_nano += late_ns
        for key, value in look((1, 8000), (1000 + number, 10_000)).items():
            found = span.attributes.add(key=key)
            if isinstance(value, int):
                found.value.int_value = value
            else:
                found.value.string_value = value
        yield call
    # Three questions in turn, a minute apart: each comes again after 3 minutes.
    yield from calls("asking", **{"tallystick.request_digest": lambda number: f"{number % 3:016x}"})
    for number in range(COUNT):
        yield from chain(number)
    yield from calls(
        "tooled",
        **look((7, 4000), (8, 8000), tools_characters=2000),
        **{"gen_ai.response.finish_reasons": lambda number: ["tool_use" if number < 12 else "end_turn"]},
    )
    # A conversation: each call sends what the one before sent, and 1,000 characters more.
    yield from calls(
        "talking",
        count=COUNT,
        **{
            "tallystick.prefix_digests": lambda number: json.dumps(
                [[f"{50_000 + number:016x}", 1000 * (number + 19)], [f"{50_001 + number:016x}", 1000 * (number + 20)]]
            ),
            "tallystick.request.characters": lambda number: 1000 * (number + 20),
            "tallystick.request.messages": 40,
        },
    )
    yield from calls("asking-for-much", **{"gen_ai.request.max_tokens": 8192})
    yield from calls("nightly", user__id=None)
    yield from calls("live", user__id="u1")
    yield from calls("priced-by-nobody", model="acme-7b", provider="127.0.0.1:8000")
    yield from calls("few", count=99)


def chain(number: int) -> Iterator[Any]:
    """Yield a question; of every fourth one its answer does not parse, and it is asked again."""
    first = f"c{number:015x}"
    retried = [{"http.response.status_code": 429, "tallystick.attempt.outcome": "rate_limited"}, {}]
    yield from calls("repeating", count=1, id=first, attempts=retried)
    if number % 4 == 0:
        link = {"tallystick.link.id": first, "tallystick.link.kind": "re_ask", "tallystick.link.index": 1}
        yield from calls("repeating", count=1, **link)


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_collector(tmp_path_factory.mktemp("advice")) as running:
        running.send(merged(*ledger()))
        yield running


def ask(collector: Running, about: str, service: str, **more: Any) -> dict[str, Any]:
    edges = {"start": START.isoformat(), "end": NOW.isoformat()}
    return collector.ask("advice", **edges, about=about, service=service, **more)


def advised(collector: Running, about: str, service: str, **more: Any) -> dict[str, Any]:
    answer = ask(collector, about, service, **more)
    assert answer["quiet"] == []
    [row] = answer["rows"]
    # Of ten days a month is made by three.
    assert (answer["days"], row["monthly_usd"]) == ("10", None if row["usd"] is None else _plain(row["usd"], 3))
    found: dict[str, Any] = row
    return found


def _plain(usd: str, times: int) -> str:
    text = format(Decimal(usd) * times, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def reason(collector: Running, about: str, service: str, **more: Any) -> str:
    answer = ask(collector, about, service, **more)
    assert answer["rows"] == []
    [quiet] = answer["quiet"]
    assert quiet["about"] == about
    told: str = quiet["reason"]
    return told


def test_the_same_traffic_on_another_model(collector: Running) -> None:
    row = advised(collector, "other_model", "nightly", to=f"anthropic/{HAIKU}")

    # 120 calls of 2,000 x ($3 - $1) + 100 x ($15 - $5) for a million.
    assert Decimal(row["usd"]) == 120 * (2000 * Decimal("0.000002") + 100 * Decimal("0.00001"))
    assert (row["means"], row["bound"], row["calls"]) == ("saved", "about", 120)
    assert row["parts"][0]["filters"] == {"provider": "anthropic", "model": SONNET}
    assert any("tokenizers" in assumption for assumption in row["assumes"])


def test_a_dearer_model_is_no_advice(collector: Running) -> None:
    told = reason(collector, "other_model", "nightly", to="anthropic/claude-opus-4-1")

    # 120 x (2,000 x $12 + 100 x $60) for a million.
    assert told == "On claude-opus-4-1 the tokens of these 120 calls would have cost more by $3.60."


@pytest.mark.parametrize("to", ["haiku", "anthropic/", "anthropic/no-such-model", "/x"])
def test_a_model_that_is_none_is_refused(collector: Running, to: str) -> None:
    with pytest.raises(CollectorRefusedError, match="PROVIDER/MODEL"):
        ask(collector, "other_model", "nightly", to=to)


def test_beginnings_that_a_provider_would_have_kept(collector: Running) -> None:
    row = advised(collector, "prompt_caching", "cachable")

    # 8,000 of 10,000 characters are 1,600 of 2,000 tokens.  Kept for 5 minutes: 3 writes, 117 reads; that is better
    # than 1 write and 119 reads of an hour, at 117 x 1,600 x $2.70 - 3 x 1,600 x $0.75 against
    # 119 x 1,600 x $2.70 - 1,600 x $3 for a million.
    short = Decimal(1600) * (117 * Decimal("2.70") - 3 * Decimal("0.75")) / 1_000_000
    long = Decimal(1600) * (119 * Decimal("2.70") - Decimal(3)) / 1_000_000
    assert Decimal(row["usd"]) == max(short, long)
    assert row["parts"] == [
        {
            "label": f"prompt 0fb4c6a2591159aa, {SONNET}",
            "calls": 120,
            "usd": row["usd"],
            "monthly_usd": row["monthly_usd"],
            "filters": {"template": "0fb4c6a2591159aa"},
        }
    ]


def test_of_very_many_prompts_the_newest_are_looked_at_and_it_says_so(
    collector: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = advised(collector, "prompt_caching", "cachable")
    monkeypatch.setattr(advice, "PROMPTS_MAX", 60)

    row = advised(collector, "prompt_caching", "cachable")

    told = next(each for each in row["assumes"] if each.startswith("made from the newest"))
    looked_at = int(told.removeprefix("made from the newest ").partition(" of 120 such calls")[0])
    assert 0 < looked_at < 120
    assert told.endswith(f"and multiplied by {120 / looked_at:.3g}")
    assert Decimal(row["usd"]) == pytest.approx(Decimal(whole["usd"]), rel=Decimal("0.1"))
    assert row["parts"][0]["calls"] == 120


def test_answers_that_a_cache_would_have_had(collector: Running) -> None:
    row = advised(collector, "response_cache", "asking")

    # Each of three questions is asked 40 times; all but the first are a hit at one hour, none at one minute.
    assert Decimal(row["usd"]) == 117 * COST
    assert [(each["ttl_s"], each["calls"]) for each in row["evidence"]["by_ttl"]] == [
        (60, 0),
        (3600, 117),
        (86400, 117),
    ]
    assert [part["filters"] for part in row["parts"]] == [{"digest": f"{number:016x}"} for number in range(3)]
    assert row["bound"] == "at most"


def test_work_that_was_paid_for_twice(collector: Running) -> None:
    row = advised(collector, "repeats", "repeating")

    assert Decimal(row["usd"]) == 30 * COST  # every fourth of 120 was asked again; its first answer was paid for
    assert row["evidence"] == {"attempts_extra": 120, "longest": 3, "untold": 0}
    assert (row["bound"], row["filters"]) == ("exact", {"link": ["re_ask"]})


def test_tools_that_nobody_uses(collector: Running) -> None:
    row = advised(collector, "tools", "tooled")

    # 2,000 of 8,000 characters are 500 of 2,000 tokens, in the 108 calls that used none.
    assert Decimal(row["usd"]) == 108 * 500 * Decimal("0.000003")
    assert (row["evidence"], row["bound"]) == ({"used": 12}, "at most")


def test_a_conversation_that_is_sent_again_with_each_turn(collector: Running) -> None:
    row = advised(collector, "history", "talking")

    repeated = sum(2000 * 1000 * (number + 19) // (1000 * (number + 20)) for number in range(1, 120))
    assert Decimal(row["usd"]) == repeated * Decimal("0.000003")
    assert row["evidence"]["share"] == format(round(Decimal(repeated) / (120 * 2000), 4), "f")


def test_room_for_answers_that_never_come(collector: Running) -> None:
    row = advised(collector, "max_tokens", "asking-for-much")

    # 99 of 100 answers take 100 tokens; 150 and up to the next 64 are 192.
    assert row["evidence"] == {"enough": {SONNET: 192}}
    assert Decimal(row["usd"]) == 120 * (8192 - 192) * Decimal("0.000015")
    assert row["means"] == "held"


def test_calls_that_nobody_waits_for(collector: Running) -> None:
    row = advised(collector, "batch", "nightly")

    assert Decimal(row["usd"]) == 120 * COST / 2
    [part] = row["parts"]
    assert part["filters"] == {"model": SONNET, "service": "nightly", "feature": "", "user": "", "session": ""}


def test_calls_of_a_user_are_not_for_a_batch(collector: Running) -> None:
    assert reason(collector, "batch", "live") == "0 calls without a stream, a user and a session; 100 are needed."


def test_what_no_price_is_known_for(collector: Running) -> None:
    row = advised(collector, "prices", "priced-by-nobody")

    assert row["cause"].startswith("120 responses of 1 model have no price")
    assert (row["usd"], row["means"]) == (None, "unknown")
    assert row["parts"][0]["filters"] == {"model": "acme-7b", "cost_status": "unknown"}


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ("other_model", f"99 calls of other models than {HAIKU}; 100 are needed."),
        ("prompt_caching", "0 calls without a cache, with 1,024 tokens of input and more; 100 are needed."),
        ("response_cache", "0 answered calls with a request digest; 100 are needed."),
        ("repeats", "99 calls; 100 are needed."),
        ("tools", "0 calls with tools; 100 are needed."),
        ("history", "0 calls with 10 messages and more; 100 are needed."),
        ("max_tokens", "0 answered calls with max_tokens; 100 are needed."),
        ("batch", "99 calls without a stream, a user and a session; 100 are needed."),
    ],
)
def test_thin_evidence_gives_no_advice_and_says_what_is_missing(collector: Running, about: str, told: str) -> None:
    more = {"to": f"anthropic/{HAIKU}"} if about == "other_model" else {}

    assert reason(collector, about, "few", **more) == told


def test_advice_on_everything_is_sorted_by_what_it_saves(collector: Running) -> None:
    answer = collector.ask("advice", start=START.isoformat(), end=NOW.isoformat(), to=f"anthropic/{HAIKU}")

    assert {row["about"] for row in answer["rows"]} | {row["about"] for row in answer["quiet"]} == set(ABOUT)
    saved = [Decimal(row["usd"]) for row in answer["rows"] if row["means"] == "saved"]
    assert saved == sorted(saved, reverse=True)
    assert len(saved) > 2


def test_of_less_than_a_day_no_month_is_made(collector: Running) -> None:
    early = START + timedelta(hours=23)

    answer = collector.ask("advice", start=START.isoformat(), end=early.isoformat(), about="batch", service="nightly")

    assert Decimal(answer["days"]) < 1
    assert (answer["monthly_spend_usd"], answer["rows"][0]["monthly_usd"]) == (None, None)
    assert Decimal(answer["rows"][0]["usd"]) == 120 * COST / 2


def test_a_range_that_begins_before_the_ledger_counts_from_its_first_call(collector: Running) -> None:
    answer = collector.ask(
        "advice", start=(START - timedelta(days=80)).isoformat(), end=NOW.isoformat(), about="prices"
    )

    assert answer["days"] == "10"


@pytest.mark.parametrize("about", ["everything", "other model", "'"])
def test_an_advice_that_there_is_not_is_refused(collector: Running, about: str) -> None:
    with pytest.raises(CollectorRefusedError, match="one of other_model"):
        ask(collector, about, "few")


# The decisions alone


RATES = Rates(
    input=Decimal(3),
    cache_read=Decimal("0.3"),
    cache_write=Decimal("3.75"),
    cache_write_1h=Decimal(6),
    output=Decimal(15),
)


@pytest.mark.parametrize(
    ("read", "written", "saved"),
    [
        pytest.param((0, 0), (10, 10), [Decimal("-7.5"), Decimal(-30)], id="never-read-costs-the-surcharge"),
        pytest.param((10, 10), (10, 10), [Decimal("19.5"), Decimal(-3)], id="one-read-pays-for-a-short-write"),
        pytest.param((0, 20), (20, 10), [Decimal(-15), Decimal(24)], id="too-far-apart-for-five-minutes"),
    ],
)
def test_cheaper_reads_are_weighed_against_dearer_writes(
    read: tuple[int, int], written: tuple[int, int], saved: list[Decimal]
) -> None:
    prefix = Prefix(provider="anthropic", model="m", template=None, calls=2, read=read, written=written)

    assert [usd for _, usd in cache_savings(prefix, RATES)] == saved


@pytest.mark.parametrize(
    ("days", "month"), [("0.99", None), ("1", "30"), ("10", "3"), ("60", "0.5"), ("7", "4.285714285714")]
)
def test_a_month_is_thirty_days(days: str, month: str | None) -> None:
    found = monthly(Decimal(1), Decimal(days))

    assert found == (None if month is None else Decimal(month))


@pytest.mark.parametrize(("tokens", "rounded"), [(0, 64), (1, 64), (64, 64), (150, 192), (1024, 1024), (1025, 2048)])
def test_round_figures_are_not_smaller(tokens: int, rounded: int) -> None:
    assert round_up(tokens) == rounded


def test_what_saves_less_than_one_percent_is_no_advice() -> None:
    again = [Again(ttl_s=ttl_s, calls=50, usd=Decimal("0.99")) for ttl_s in advise.TTLS_S]

    assert isinstance(advise.advise_response_cache(again, [], 1000, Decimal(100)), Quiet)
    assert isinstance(advise.advise_response_cache(again, [], 1000, Decimal(99)), Advice)


def test_models_without_a_price_are_left_out_and_counted() -> None:
    flows = [
        Flow(provider=provider, model=model, asked=model, calls=100, usage=Usage(input_tokens=1000, output_tokens=10))
        for provider, model in (("a", "priced"), ("b", "unpriced"))
    ]
    book = {("a", "priced"): RATES, ("a", "target"): RATES}

    found = advise._moved(flows, ("a", "target"), lambda provider, model, _: book.get((provider, model)))

    assert ([flow.model for flow, _ in found[0]], found[1]) == (["priced"], 100)


def test_rates_are_the_ones_of_a_receipt() -> None:
    rates = rates_of("anthropic", SONNET, NOW, book=load_book())

    assert rates is not None
    assert [rate * 1_000_000 for rate in (rates.input, rates.cache_read, rates.cache_write, rates.output)] == [
        3, Decimal("0.3"), Decimal("3.75"), 15,
    ]  # fmt: skip
    assert rates.cache_write_1h == Decimal("0.000006")
    assert rates_of("anthropic", "no-such-model", NOW, book=load_book()) is None
