"""A second endpoint is sent all that arrives, whatever befalls it or us."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from fakes.collector import Running, otlp_call, running_collector, until
from fakes.receiver import Receiver, running_receiver
from tallystick.collector import forward
from tallystick.errors import SettingsError


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "BACKOFF_S", (0.05,))


def forwarded(collector: Running) -> dict[str, object]:
    return collector.ask("ledger")["forward"]


def sent(receiver: Receiver) -> list[str]:
    return [span.span_id.hex() for span in receiver.spans()]


def test_what_arrives_is_sent_on_as_it_came(tmp_path: Path) -> None:
    headers = "[collector.forward_headers]\n'X-Key' = 'secret-of-theirs'"
    with (
        running_receiver() as receiver,
        running_collector(tmp_path, headers, forward_url=receiver.url) as collector,
    ):
        collector.send(otlp_call(id="00000000000000a1"), otlp_call(id="00000000000000a2"))
        until(lambda: len(sent(receiver)) == 2, "not everything was forwarded")

        assert sorted(sent(receiver)) == ["00000000000000a1", "00000000000000a2"]
        assert receiver.headers[0]["X-Key"] == "secret-of-theirs"
        until(lambda: forwarded(collector)["behind_bytes"] == 0, "the position does not move")
        assert forwarded(collector) == {
            "host": receiver.url.removeprefix("http://"), "sent_records": 2, "refused_records": 0,
            "rejected_spans": 0, "behind_bytes": 0, "fault": None,
        }  # fmt: skip
        assert b"tallystick_forward_behind_bytes 0\n" in collector.request("GET", "/metrics")[2]


@pytest.mark.parametrize("behaviour", ["503", "429", "500", "401", "301"])
def test_an_outage_loses_nothing_not_even_over_a_restart(tmp_path: Path, behaviour: str) -> None:
    with running_receiver() as receiver:
        receiver.behaviour = behaviour
        with running_collector(tmp_path, forward_url=receiver.url) as collector:
            collector.send(otlp_call(id="00000000000000b1"))
            until(lambda: forwarded(collector)["fault"], "the outage is not told")
            assert behaviour in str(forwarded(collector)["fault"])
            assert collector.request("GET", "/healthz")[0] == 200
        with running_collector(tmp_path, forward_url=receiver.url) as collector:
            collector.send(otlp_call(id="00000000000000b2"))
            receiver.behaviour = "ok"
            until(lambda: len(sent(receiver)) == 2, "what came before the restart is lost")
            assert sorted(sent(receiver)) == ["00000000000000b1", "00000000000000b2"]


def test_an_endpoint_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with running_receiver() as receiver:
        receiver.behaviour = "hang"
        with running_collector(tmp_path, forward_url=receiver.url) as collector:
            collector.send(otlp_call())
            until(lambda: forwarded(collector)["behind_bytes"] != 0, "nothing was to forward")
    assert "tallystick-forward" not in {thread.name for thread in threading.enumerate()}


def test_what_it_refuses_for_good_is_counted_and_passed(tmp_path: Path) -> None:
    with running_receiver() as receiver, running_collector(tmp_path, forward_url=receiver.url) as collector:
        receiver.behaviour = "400"
        collector.send(otlp_call(id="00000000000000c1"))
        until(lambda: forwarded(collector)["refused_records"] == 1, "the refusal is not counted")
        receiver.behaviour = "ok"
        receiver.answer = ExportTraceServiceResponse(
            partial_success=ExportTracePartialSuccess(rejected_spans=1, error_message="no")
        ).SerializeToString()
        collector.send(otlp_call(id="00000000000000c2"))
        until(lambda: forwarded(collector)["rejected_spans"] == 1, "the partial success is not counted")
        assert sent(receiver) == ["00000000000000c2"]


def test_another_endpoint_begins_with_what_arrives_from_then_on(tmp_path: Path) -> None:
    with running_collector(tmp_path) as collector:
        collector.send(otlp_call(id="00000000000000d1"))
    with running_receiver() as receiver, running_collector(tmp_path, forward_url=receiver.url) as collector:
        collector.send(otlp_call(id="00000000000000d2"))
        until(lambda: sent(receiver), "nothing was forwarded")
        assert sent(receiver) == ["00000000000000d2"]


def test_no_endpoint_no_forward(tmp_path: Path) -> None:
    with running_collector(tmp_path) as collector:
        assert forwarded(collector) is None
    with (
        pytest.raises(SettingsError, match="forward_url, is no URL; one looks like") as error,
        running_collector(tmp_path, forward_url="ftp://user:pass@otlp.example"),
    ):
        pytest.fail("it started")
    assert "pass@" not in str(error.value)
