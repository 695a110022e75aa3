"""What every test has: a spool of its own, nothing of the user's, and a loud guard."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the test away from the user's folders, collector and proxies."""
    monkeypatch.setenv("TALLYSTICK_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("TALLYSTICK_DATA", str(tmp_path / "data"))
    others = ("COLLECTOR", "PROVIDERS", "PRICES", "ENVIRONMENT")
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", *(f"TALLYSTICK_{other}" for other in others)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def loud_guard(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail the test in which the guard swallowed a fault of ours, unless it is marked ``swallows``."""
    with caplog.at_level(logging.DEBUG, logger="tallystick.guard"):
        yield
    swallowed = [
        record
        for when in ("setup", "call", "teardown")
        for record in caplog.get_records(when)  # type: ignore[arg-type]
        if record.name == "tallystick.guard"
    ]
    if swallowed and request.node.get_closest_marker("swallows") is None:
        told = [record.getMessage() + "\n" + str(record.exc_info) for record in swallowed]
        pytest.fail("the guard swallowed a fault:\n" + "\n".join(told))
