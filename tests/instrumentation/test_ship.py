from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from fakes.receiver import Receiver, running_receiver, wait_until
from tallystick.instrumentation._ship import ANSWER_BYTES_MAX, Shipper, Undelivered, post
from tallystick.instrumentation._spool import Spool


def payload(name: str) -> bytes:
    spans = [Span(name=name)]
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])]
    ).SerializeToString()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


def shipper_of(folder: Path, url: str) -> tuple[Spool, Shipper]:
    spool = Spool(folder, 1 << 28)
    return spool, Shipper(spool, url, lambda _dropped, _at_ns: None)


def test_what_is_spooled_arrives_once_and_its_file_goes(tmp_path: Path, receiver: Receiver) -> None:
    spool, shipper = shipper_of(tmp_path, receiver.url)
    for n in range(50):
        spool.append(payload(f"span {n}"))

    assert shipper.ship(5)

    assert [span.name for span in receiver.spans()] == [f"span {n}" for n in range(50)]
    assert len(receiver.bodies) == 1, "one request carries many"
    assert list(tmp_path.iterdir()) == []


def test_the_thread_ships_by_itself(tmp_path: Path, receiver: Receiver) -> None:
    spool, shipper = shipper_of(tmp_path, receiver.url)
    spool.wake = shipper.wake
    spool.append(payload("a"))

    wait_until(lambda: len(receiver.spans()) == 1)


def test_what_somebody_has_deleted_before_it_was_sent_is_sent(tmp_path: Path, receiver: Receiver) -> None:
    spool, shipper = shipper_of(tmp_path / "spool", receiver.url)
    spool.append(payload("a"))
    shutil.rmtree(tmp_path / "spool")

    assert shipper.ship(5)
    spool.append(payload("b"))
    assert shipper.ship(5)

    assert [span.name for span in receiver.spans()] == ["a", "b"]


@pytest.mark.parametrize("behaviour", ["503", "429", "408", "500"])
def test_what_the_collector_does_not_take_stays_and_is_sent_later(
    tmp_path: Path, receiver: Receiver, behaviour: str
) -> None:
    receiver.behaviour = behaviour
    spool, shipper = shipper_of(tmp_path, receiver.url)
    spool.append(payload("a"))
    assert not shipper.ship(5)

    receiver.behaviour = "ok"
    spool.append(payload("b"))

    assert shipper.ship(5)
    assert [span.name for span in receiver.spans()] == ["a", "b"]


def test_what_the_collector_refuses_for_good_is_kept_aside(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.behaviour = "400"
    spool, shipper = shipper_of(tmp_path, receiver.url)
    spool.append(payload("a"))

    assert shipper.ship(5)

    assert [path.suffix for path in tmp_path.iterdir()] == [".refused"]
    assert "answered 400 for good" in caplog.text


def test_nobody_listens_is_no_error(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    spool, shipper = shipper_of(tmp_path, f"http://127.0.0.1:{port}")
    spool.append(payload("a"))

    assert not shipper.ship(1)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("behaviour", ["hang", "drip"])
def test_the_deadline_is_for_the_whole_exchange(receiver: Receiver, behaviour: str) -> None:
    receiver.behaviour = behaviour
    started = time.monotonic()

    with pytest.raises(Undelivered):
        post(receiver.url, b"", timeout_s=0.5)

    assert time.monotonic() - started < 5, "a drip would have taken a minute"


def test_of_a_huge_answer_only_the_beginning_is_read(receiver: Receiver) -> None:
    receiver.behaviour = "big"

    post(receiver.url, b"", timeout_s=10)

    assert receiver.sent_bytes < 20_000_000, f"{ANSWER_BYTES_MAX} bytes were to be read; sockets buffer some more"


def test_no_proxy_is_used(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    spool, shipper = shipper_of(tmp_path, receiver.url)
    spool.append(payload("a"))

    assert shipper.ship(5)


def test_segments_of_dead_processes_are_adopted(tmp_path: Path, receiver: Receiver) -> None:
    write = (
        "import os, sys\nfrom pathlib import Path\nfrom tallystick.instrumentation._spool import Spool\n"
        "Spool(Path(sys.argv[1]), 1 << 28).append(bytes.fromhex(sys.argv[2]))\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", write, str(tmp_path), payload("left behind").hex()], check=True, timeout=60)
    spool, shipper = shipper_of(tmp_path, receiver.url)
    spool.wake = shipper.wake
    spool.append(payload("mine"))

    wait_until(lambda: len(receiver.spans()) == 2)
    wait_until(lambda: list(tmp_path.iterdir()) == [])


EXIT = """
import sys, time
import tallystick
tallystick.instrument(collector=sys.argv[1], spool=sys.argv[2])
from tallystick.instrumentation import _install
_install._installed.spool.append(bytes.fromhex(sys.argv[3]))
print(time.time(), flush=True)
"""


@pytest.mark.parametrize("behaviour", ["ok", "hang", "drip", "503"])
def test_the_process_ends_soon_whatever_the_collector_does(tmp_path: Path, receiver: Receiver, behaviour: str) -> None:
    receiver.behaviour = behaviour
    arguments = [sys.executable, "-c", EXIT, receiver.url, str(tmp_path), payload("last words").hex()]

    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)

    assert time.time() - float(ended.stdout) < 3, "the stock exporter takes 30 s here"
    assert ended.stderr == ""
    kept = [path for path in tmp_path.iterdir() if path.suffix == ".tly"]
    assert bool(kept) != (behaviour == "ok"), "sent, or kept for the next one"
