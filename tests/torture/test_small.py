"""A small seed of the torture, and a few kills around sends (`make torture`, `make delivery`), so that none can rot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from torture.deliveries import kill_around_sends


def test_a_hard_limit_holds_over_processes_lost_answers_and_a_kill() -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TALLYSTICK_")}
    command = [sys.executable, str(Path(__file__).with_name("torture.py")), "--seeds", "1", "--processes", "2"]
    command += ["--threads", "2", "--limit", "0.06", "--kills", "1", "--collector-kills", "0"]

    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environ)

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_kills_around_the_sending_of_alerts_lose_none_and_every_repeat_is_marked(tmp_path: Path) -> None:
    outcome = kill_around_sends(tmp_path, kills=3, seed=5)

    assert outcome.holds, outcome.table()
    assert outcome.kills == 3
