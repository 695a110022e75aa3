"""The whole product at work without a key: providers, app, collector, dashboard and Slack, all on loopback."""

from __future__ import annotations

from pathlib import Path


def run(once: bool, data: Path | None, port: int | None, dashboard_port: int | None) -> int:
    """Play the demo; with ``once`` one round, and 0 only when the ledger equals the provider's invoice."""
    from tallystick.demo.stage import Stage

    with Stage.set(data, port, dashboard_port) as stage:
        return stage.play(once=once)
