"""Broken exports by the thousand: none brings down, resets or confuses the collector, and what is good is counted."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from fakes.collector import PROTOBUF, merged, otlp_call, running_collector

JSON = "application/json"
MUTATIONS = 900
USAGE = {"input_tokens": 1200, "output_tokens": 350}
Dice = random.Random


def flipped(data: bytes, dice: Dice) -> bytes:
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8))):
        out[dice.randrange(len(out))] ^= 1 << dice.randrange(8)
    return bytes(out)


def cut(data: bytes, dice: Dice) -> bytes:
    return data[: dice.randrange(len(data))]


def doubled(data: bytes, dice: Dice) -> bytes:
    start, end = sorted(dice.randrange(len(data)) for _ in range(2))
    return data[:end] + data[start:end] + data[end:]


def left_out(data: bytes, dice: Dice) -> bytes:
    start = dice.randrange(len(data))
    return data[:start] + data[start + dice.randrange(1, 16) :]


def overlong(data: bytes, dice: Dice) -> bytes:
    at = dice.randrange(len(data))
    return (
        data[:at] + dice.choice((b"\xff" * 9 + b"\x01", b"\x80" * 12, b"\xff\xff\xff\xff\x0f", b"-1e999")) + data[at:]
    )


MUTATORS: tuple[Callable[[bytes, Dice], bytes], ...] = (flipped, cut, doubled, left_out, overlong)


def broken_exports(dice: Dice) -> Iterator[tuple[bytes, dict[str, str]]]:
    for number in range(MUTATIONS):
        request = merged(*(otlp_call(usage=USAGE, attempts=[{}]) for _ in range(dice.randrange(1, 4))))
        form = number % 3
        body = json.dumps(MessageToDict(request)).encode() if form == 1 else request.SerializeToString()
        headers = {"Content-Type": JSON if form == 1 else PROTOBUF}
        mutate = dice.choice(MUTATORS)
        if form == 2:
            headers["Content-Encoding"] = "gzip"
            packs_first = dice.random() < 0.5
            body = mutate(gzip.compress(body), dice) if packs_first else gzip.compress(mutate(body, dice))
        else:
            body = mutate(body, dice)
        yield body, headers


def test_no_broken_export_is_answered_5xx_or_stops_the_good_ones(tmp_path: Path) -> None:
    dice = random.Random(20261121)
    with running_collector(tmp_path) as collector:
        connection = HTTPConnection("127.0.0.1", int(collector.url.rpartition(":")[2]), timeout=30)
        answers = []
        for number, (body, headers) in enumerate(broken_exports(dice)):
            connection.request("POST", "/v1/traces", body, headers)
            response = connection.getresponse()
            response.read()
            answers.append(response.status)
            if number % 100 == 0:
                good = otlp_call(id=f"{number + 1:016x}", usage=USAGE, service="the-good-one")
                connection.request("POST", "/v1/traces", good.SerializeToString(), {"Content-Type": PROTOBUF})
                assert connection.getresponse().read() == b""
        connection.close()
        collector.settle()
        ledger = collector.ask("ledger")
        good_ones = collector.ask("totals", service="the-good-one")

        assert set(answers) == {200, 400}
        assert answers.count(400) > MUTATIONS / 10, "the mutations break next to nothing"
        assert (good_ones["calls"], good_ones["spend_usd"]) == (9, "0.07965")
        assert ledger["unaccounted_spans"] == 0
        assert ledger["received_spans"] > 9
        assert collector.request("GET", "/healthz")[0] == 200
