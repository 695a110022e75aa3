"""Kills a collector around the sending of its alerts, and counts what arrived where Slack would be.

    python tests/torture/deliveries.py [--kills 20] [--seed 1]

Each turn one more user passes half of its budget, in some turns seven at once, of whom one message tells; and the
collector is killed: at a random moment thereafter, or at one after the message is there, while the answer is held back
or on its way.  Some answers are lost on top of it.  Another collector takes the folder.  In the end each alert must
have arrived; once more at most for each answer that was lost, to the network or a kill; and then marked as a repeat.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes.collector import Running, configure, merged, otlp_call, start_process, until, wait_for_address
from fakes.slack import FakeSlack, running_slack

HALF_A_DOLLAR = {"input_tokens": 0, "output_tokens": 40_000}  # 0.60 of 1 USD
CONFIG = """
[alerts]
every_ms = 20
watch = []
slack_webhook_url = "{url}"

[[budget]]
name = "each user"
limit_usd = 1
group_by = ["user"]
window = "month"
thresholds = [0.5]
"""
HOLD_S = 0.3
"""How long an answer is held back, if it is."""
AT_ONCE = 7
"""More than the collector tells one by one."""
STEPS = ("ok", "ok", f"slow:{HOLD_S}", f"slow:{HOLD_S}", f"slow:{HOLD_S}", "lost", "503:0.1")
MARK = "(repeated: the first answer was lost)"


@dataclass
class Outcome:
    kills: int = 0
    during: Counter[str] = field(default_factory=Counter)
    """When the kills came: before a message was there, while its answer was due, or after it."""
    alerts: int = 0
    arrived: Counter[str] = field(default_factory=Counter)
    """How often each came."""
    unmarked: list[str] = field(default_factory=list)
    causeless: list[str] = field(default_factory=list)
    """Repeats although no answer was lost."""
    waited_s: list[float] = field(default_factory=list)
    most: int = 0
    """How many alerts the fullest message told."""

    @property
    def holds(self) -> bool:
        return len(self.arrived) == self.alerts and not self.unmarked and not self.causeless

    def table(self) -> str:
        rows = {
            "kills": self.kills, **{f"... {when}": count for when, count in sorted(self.during.items())},
            "alerts": self.alerts, "lost": self.alerts - len(self.arrived), "most in one message": self.most,
            "came once": sum(1 for times in self.arrived.values() if times == 1),
            "came twice": sum(1 for times in self.arrived.values() if times == 2),
            "... more often, lost again": sum(1 for times in self.arrived.values() if times > 2),
            "repeats without a mark": len(self.unmarked), "... without a lost answer": len(self.causeless),
            "latest, s": f"{max(self.waited_s, default=0):.1f}",
        }  # fmt: skip
        return "\n".join(f"{name:>28}  {value}" for name, value in rows.items())


class Scene:
    """A collector that is killed and started again, and Slack."""

    def __init__(self, folder: Path, slack: FakeSlack) -> None:
        self.slack = slack
        self.config = configure(folder, CONFIG.format(url=slack.url))
        self.folder = folder
        self.start()

    def start(self) -> None:
        self.process: subprocess.Popen[str] = start_process(self.config)
        url, _ = wait_for_address(self.process)
        self.running = Running(self.folder, url, self.process.pid)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def spend(self, users: Sequence[str]) -> None:
        calls = merged(*(otlp_call(usage=HALF_A_DOLLAR, user__id=user) for user in users))
        status, answer = self.running.post(calls.SerializeToString())
        assert status == 200, answer

    def alerts(self) -> list[Any]:
        rows: list[Any] = self.running.ask("alerts")["rows"]
        return rows


def kill_around_sends(folder: Path, *, kills: int, seed: int) -> Outcome:
    """Kill a collector in ``folder`` so many times, and return what became of its alerts."""
    dice, outcome = random.Random(seed), Outcome()
    spent_at: dict[str, float] = {}
    killed_at: list[float] = []
    with running_slack(*(dice.choice(STEPS) for _ in range(10 * kills))) as slack:
        scene = Scene(folder, slack)
        try:
            for _ in range(kills):
                users = [f"user-{len(spent_at) + more:03}" for more in range(AT_ONCE if dice.random() < 0.25 else 1)]
                scene.spend(users)
                spent_at |= dict.fromkeys(users, time.time())
                outcome.during[_wait_for_a_moment(slack, users[0], dice)] += 1
                killed_at.append(time.time())
                scene.kill()
                outcome.kills += 1
                scene.start()
            slack.play()  # from now on every answer is "ok": each further loss would double the time to the next try
            outcome.alerts = len(spent_at)
            until(lambda: len(scene.alerts()) == outcome.alerts, "an alert was never raised", 60)
            until(lambda: {row["state"] for row in scene.alerts()} == {"delivered"}, "not all were delivered", 60)
        finally:
            scene.process.kill()
            scene.process.communicate()
        _judge(slack, spent_at, killed_at, outcome)
    return outcome


def _wait_for_a_moment(slack: FakeSlack, user: str, dice: random.Random) -> str:
    """Wait for a random moment around the sending of ``user``'s alert, and return which it is."""
    if dice.random() < 0.4:
        time.sleep(dice.uniform(0.0, 0.6))
    else:
        until(lambda: _tries(slack, user), "nothing was sent", 60)
        time.sleep(dice.choice([0.0, dice.uniform(0, 0.01), dice.uniform(0, 1.5 * HOLD_S)]))
    tries = _tries(slack, user)
    if not tries:
        return "before it was sent"
    at, step = tries[-1]
    held_s = HOLD_S if step.startswith("slow") else 0.0
    return "while its answer was due" if time.time() - at < held_s else "after its answer"


def _tries(slack: FakeSlack, user: str) -> list[tuple[float, str]]:
    return [(one.at.timestamp(), one.step) for one in list(slack.tries) if user in json.dumps(one.payload)]


def _judge(slack: FakeSlack, spent_at: dict[str, float], killed_at: Sequence[float], outcome: Outcome) -> None:
    came: dict[str, tuple[float, str]] = {}
    """When each came last, and how it was answered."""
    for one in slack.tries:
        users = sorted(set(re.findall(r"user-\d{3}", json.dumps(one.payload)))) if one.taken else []
        outcome.most = max(outcome.most, len(users))
        for user in users:
            at = one.at.timestamp()
            outcome.arrived[user] += 1
            outcome.waited_s.append(at - spent_at[user])
            if user in came:
                since, step = came[user]
                if MARK not in one.payload["text"]:
                    outcome.unmarked.append(user)
                if step != "lost" and not any(since < killed < at for killed in killed_at):
                    outcome.causeless.append(user)
            came[user] = at, one.step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_around_sends(Path(folder), kills=asked.kills, seed=asked.seed)
    print(outcome.table())
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
