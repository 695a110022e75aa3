"""The promise end to end: what a killed app has called is on the ledger, to the last digit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fakes.collector import running_collector, until
from fakes.provider import running_provider

APP = """
import os, signal, sys, tallystick
tallystick.instrument(service="shop")
import anthropic
client = anthropic.Anthropic(base_url=sys.argv[1], api_key="k")
client.messages.create(model="claude-haiku-4-5", max_tokens=300, messages=[{"role": "user", "content": "hello"}])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_call_of_an_app_that_was_killed_right_after_it_is_on_the_ledger(tmp_path: Path) -> None:
    with running_provider() as provider, running_collector(tmp_path) as running:
        places = {"TALLYSTICK_SPOOL": str(running.spool), "TALLYSTICK_PROVIDERS": provider.providers}
        # Nobody listens there: the spool file is all that the call left.
        environ = os.environ | places | {"TALLYSTICK_COLLECTOR": "http://127.0.0.1:9"}
        killed = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", APP, provider.anthropic_url], env=environ, check=False, timeout=60
        )
        until(lambda: running.ask("totals")["calls"] == 1, "the collector took nothing over")
        [row] = running.ask("calls")["rows"]
        [item] = provider.invoice()["items"]

    assert killed.returncode == -9
    assert (row["service"], row["outcome"], row["attempts"]) == ("shop", "ok", 1)
    assert row["cost_usd"] == item["usd"]
