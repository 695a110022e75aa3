"""Sets the stage: provider, Slack, collector, dashboard and the shop, each a real process or server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tallystick.client import Collector
from tallystick.demo.check import Verdict, compare, read_ledger
from tallystick.demo.show import Screen
from tallystick.demo.slack import SlackReceiver
from tallystick.errors import CollectorError, PortTakenError, TallystickError
from tallystick.mock.serve import MockServer
from tallystick.model.places import DEFAULT_DASHBOARD_PORT
from tallystick.supervise import Interrupts, Part, Supervisor, free_port, house

LIMIT_USD = "0.28"
CONFIG = """\
[alerts]
slack_webhook_url = "{slack}"

[[budget]]
name = "{name}"
scope = {scope}
limit_usd = {limit_usd}
window = "day"
reset_at = "{reset_at}"
thresholds = [0.5, 0.8, 1.0]
"""
HEALTHY_S_MAX = 60.0
SHOP_S_MAX = 90.0
SLACK_S_MAX = 30.0
LEDGER_S_MAX = 30.0
ACTS = (
    "morning: chats, search, product texts, an agent",
    "afternoon: an outage, a fallback, failures, cut streams, a report",
)
ALERTS = ("50 %", "80 %")
OURS = ("TALLYSTICK_", "OTEL_", "ANTHROPIC_", "OPENAI_")


class DemoError(TallystickError):
    """The demo could not go on."""


@dataclass(kw_only=True)
class Stage:
    """Everything that runs."""

    screen: Screen
    mock: MockServer
    slack: SlackReceiver
    supervisor: Supervisor
    collector: Part
    dashboard: Part
    spool: Path
    environment: str
    """``deployment.environment.name`` of the shop; a round's own in a folder that may hold earlier rounds."""
    interrupts: Interrupts
    started_at: str

    @classmethod
    @contextmanager
    def set(cls, data: Path | None, port: int | None, dashboard_port: int | None) -> Iterator[Stage]:
        """Start what the play needs; end all of it, and remove what was temporary, when the block ends."""
        with ExitStack() as stack:
            stack.enter_context(_clean_environment())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tallystick-demo-")))
            mock = MockServer()
            mock.start()
            stack.callback(mock.stop)
            slack = SlackReceiver()
            slack.start()
            stack.callback(slack.stop)
            config = folder / "tallystick.toml"
            now = datetime.now(UTC)
            environment = "demo" if data is None else now.strftime("demo-%H%M%S")
            config.write_text(settings(slack.url, environment, now), encoding="utf-8")
            spool = folder / "spool"
            collector, dashboard = house(data or folder / "data", port or 0, _dashboard_port(dashboard_port), config)
            collector = replace(collector, variables={**collector.variables, "TALLYSTICK_SPOOL": str(spool)})
            screen = Screen()
            supervisor = Supervisor((collector, dashboard), screen.line)
            interrupts = stack.enter_context(Interrupts().installed())
            stack.callback(supervisor.stop, lambda: interrupts.count > 1)
            supervisor.start()
            yield cls(
                screen=screen,
                mock=mock,
                slack=slack,
                supervisor=supervisor,
                collector=collector,
                dashboard=dashboard,
                spool=spool,
                environment=environment,
                interrupts=interrupts,
                started_at=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            )

    def play(self, *, once: bool) -> int:
        """Play both acts, compare ledger and invoice; then light traffic until Ctrl-C, unless ``once``."""
        try:
            self._open()
            with Shop(self) as shop:
                for number, title in enumerate(ACTS, start=1):
                    self._act(shop, number, title)
                verdict = self._report(shop.calls)
                if once:
                    return self._close(verdict)
                return self._stay_open(shop)
        except _InterruptedError:
            return 130 if once else 0

    def _open(self) -> None:
        self.screen.line()
        self.screen.line("tallystick demo: no key, no network; everything is on 127.0.0.1", "bold")
        self.screen.line()
        with self.screen.status("starting collector and dashboard"):
            self.until(self.supervisor.is_healthy, HEALTHY_S_MAX, "collector and dashboard did not get healthy")
        self.screen.places({
            "provider": (self.mock.url, "plays Anthropic and OpenAI, bills by itself"),
            "collector": (self.collector.url, "journal, ledger, prices, alerts"),
            "dashboard": (self.dashboard.url, "spend, failures, calls, budgets"),
        })  # fmt: skip

    def _act(self, shop: Shop, number: int, title: str) -> None:
        self.screen.line()
        with self.screen.status(f"the shop is at work, {title}"):
            shop.begin()
            self.until(lambda: shop.acts == number, SHOP_S_MAX, f"the shop did not get through act {number}")
        self.screen.line(f"  ▸ {title} ({shop.calls} calls)")
        with self.screen.status("waiting for Slack"):
            due = f"no alert at {ALERTS[number - 1]} of the budget came to Slack"
            self.until(lambda: len(self.slack.messages) >= number, SLACK_S_MAX, due)
        self.screen.slack(self.slack.messages[number - 1])

    def _report(self, calls: int) -> Verdict:
        collector = Collector(self.collector.url)
        with self.screen.status("waiting for the ledger to catch up"):
            since = {"start": self.started_at}

            def caught_up() -> bool:
                try:
                    behind: int = collector.ask("ledger")["journal"]["behind_bytes"]
                    return not behind and int(collector.ask("totals", since)["calls"]) >= calls
                except CollectorError:  # it crashed, and is being started again
                    return False

            # A ledger that never catches up is not an error of the demo's: the comparison says what is missing.
            self.until(caught_up, LEDGER_S_MAX, None)
        books = self.mock.state.books
        ledger, invoice = read_ledger(collector, self.started_at), books.invoice()
        verdict = compare(ledger, invoice, list(books.requests), calls)
        told = [json.dumps(message) for message in self.slack.messages]
        verdict.say(
            [sum(f"passed {share} of its limit" in message for message in told) for share in ALERTS] == [1, 1],
            f"budget of ${LIMIT_USD} a day: the alerts at {' and '.join(ALERTS)} reached Slack, once each",
            [f"{len(told)} messages came to Slack"],
        )
        self.screen.table(ledger, invoice)
        self.screen.failures(collector.ask("failures", since)["rows"], ledger.totals["wasted_usd"])
        self.screen.verdict(verdict)
        self.screen.line()
        return verdict

    def _close(self, verdict: Verdict) -> int:
        if verdict.is_equal:
            self.screen.line(
                "  The ledger equals the invoice wherever the provider said what it counted.", "bold green"
            )
            return 0
        self.screen.line("  The ledger differs from the invoice; every difference is listed above.", "bold red")
        return 1

    def _stay_open(self, shop: Shop) -> int:
        shown = len(self.slack.messages)
        shop.begin()
        self.screen.line(f"  Look around: {self.dashboard.url}", "bold")
        self.screen.line(f"  Or ask: tallystick report --by feature --collector {self.collector.url}")
        self.screen.line("  Light traffic goes on; Ctrl-C ends everything.")
        while True:
            self.pause(0.3)
            for message in self.slack.messages[shown:]:
                self.screen.slack(message)
                shown += 1
            if not shop.is_running:
                raise DemoError("the shop ended unasked; its output is above")

    def until(self, condition: Callable[[], bool], seconds: float, otherwise: str | None) -> None:
        """Wait for ``condition``; raise DemoError with ``otherwise``, if given, when it is not met in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                if otherwise is None:
                    return
                raise DemoError(f"{otherwise} within {seconds:.0f} s")
            self.pause(0.1)

    def pause(self, seconds: float) -> None:
        """Look after the parts and wait; raise what ends the demo."""
        self.supervisor.tick()
        if self.interrupts.wait(seconds):
            raise _InterruptedError

    @property
    def shop_environment(self) -> dict[str, str]:
        """What any app would be given: addresses and keys of the providers, and where the collector is."""
        place = f"127.0.0.1:{self.mock.port}"
        return os.environ | {
            "ANTHROPIC_API_KEY": "sk-ant-loopback",
            "ANTHROPIC_BASE_URL": self.mock.anthropic_url,
            "OPENAI_API_KEY": "sk-loopback",
            "OPENAI_BASE_URL": self.mock.openai_url,
            "NO_PROXY": "127.0.0.1",
            "TALLYSTICK_COLLECTOR": self.collector.url,
            "TALLYSTICK_ENVIRONMENT": self.environment,
            "TALLYSTICK_SPOOL": str(self.spool),
            "TALLYSTICK_PROVIDERS": f"{place}/anthropic=anthropic,{place}/openai=openai",
        }


class Shop:
    """The app's process: told by a line to go on, tells by a line how many calls it made."""

    def __init__(self, stage: Stage) -> None:
        self.acts = 0
        self.calls = 0
        self._begun = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tallystick.demo.app"],
            env=stage.shop_environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Have the shop end by the end of its input; kill it when it does not."""
        assert self._process.stdin is not None, "a pipe was asked for"
        self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5.0)

    @property
    def is_running(self) -> bool:
        """Tell whether the process is there."""
        return self._process.poll() is None

    def begin(self) -> None:
        """Let the shop go on; it begins its first act by itself."""
        if self._begun:
            assert self._process.stdin is not None, "a pipe was asked for"
            self._process.stdin.write("go on\n")
            self._process.stdin.flush()
        self._begun = True

    def _read(self) -> None:
        assert self._process.stdout is not None, "a pipe was asked for"
        with self._process.stdout as output:
            for line in output:
                told: dict[str, Any] = json.loads(line)
                self.calls = told["calls"]
                self.acts = told["act"]


class _InterruptedError(Exception):
    """Ctrl-C or SIGTERM."""


def settings(slack_url: str, environment: str, now: datetime) -> str:
    """Return the demo's tallystick.toml: one budget a day, which counts this round alone.

    In a folder of its own every call is of this round.  Near midnight UTC the day begins at noon, so that no round
    spends in two days.
    """
    is_alone = environment == "demo"
    return CONFIG.format(
        slack=slack_url,
        name="shop" if is_alone else f"shop {environment}",
        scope="{}" if is_alone else f'{{ environment = "{environment}" }}',
        limit_usd=LIMIT_USD,
        reset_at="12:00" if now.hour == 23 else "00:00",
    )


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Keep the user's own keys, webhooks and settings out of the play while the block lasts."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(OURS)}
    try:
        yield
    finally:
        os.environ.update(kept)


def _dashboard_port(wanted: int | None) -> int:
    """Return ``wanted``, else the usual port when it is free, else 0 for any."""
    if wanted is not None:
        return wanted
    try:
        return free_port("127.0.0.1", DEFAULT_DASHBOARD_PORT, "--dashboard-port")
    except PortTakenError:
        return 0
