"""`tallystick budget test NAME`: real SDK calls against the loopback provider, until the budget stops them.

A copy of the budget is tried, with a limit that a few calls reach, in a collector and an app of its own, so that
nothing of it is in the real ledger.  The provider's own bill is the judge.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import ROUND_UP, Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from rich.table import Table

from tallystick.budgets import probe
from tallystick.client import Collector
from tallystick.errors import CollectorError, ProofError, SettingsError
from tallystick.mock.serve import MockServer
from tallystick.model.ledger import as_json, budget_of
from tallystick.model.money import show_amount
from tallystick.pricing import upper_bound
from tallystick.report import clean, terminal

MODELS = {"anthropic": ("claude-haiku-4-5", "claude-sonnet-4-5"), "openai": ("gpt-4o-mini", "gpt-4o")}
ROOM = Decimal("2.5")
"""The limit that is tried, in worst cases of a call."""
CALLS = 3
WAIT_S = 3
"""How long a call of the copy may wait; also what a busy machine may take to answer."""
START_S_MAX = 60.0
STORED_S_MAX = 30.0
OURS = ("TALLYSTICK_", "OTEL_", "ANTHROPIC_", "OPENAI_")
OF_THE_APP = ("key", "caller")
"""What of a scope only the user's own app has."""


@dataclass(slots=True)
class Play:
    """What is tried, and how it went."""

    name: str
    unit: str
    action: str
    provider: str
    model: str
    definition: dict[str, Any]
    limit: Decimal
    dimensions: dict[str, str]
    notes: list[str] = field(default_factory=list)
    said: list[dict[str, Any]] = field(default_factory=list)
    """What the app told of each call."""
    billed: Decimal = Decimal(0)
    """By the provider's own books, in the budget's unit."""
    seen: list[str] = field(default_factory=list)
    """The model of each request that reached the provider."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """How the copy stands at the end."""


def run(collector: str, name: str) -> int:
    """Try the budget ``name`` of ``collector``; 0 when it held."""
    rows = Collector(collector).ask("budgets")["rows"]
    found = next((row for row in rows if row["name"] == name), None)
    if found is None:
        known = ", ".join(repr(clean(row["name"])) for row in rows) or "none"
        raise SettingsError(f"there is no budget {name!r} at {collector}; there are: {known}")
    console = terminal()
    if found["action"] == "alert":
        console.print(f"Budget {clean(name)!r} only tells: its action is alert, so it refuses no call.")
        console.print('FAIL: set action = "block" to have it hold.')
        return 1
    play = planned(found)
    _introduce(console, play, found)
    perform(play)
    return _judge(console, play)


def planned(row: Mapping[str, Any]) -> Play:
    """Return what is to be tried of the budget that ``row`` describes."""
    budget = budget_of(row["definition"])
    scope = {key: value for key, value in budget.scope.items() if key not in OF_THE_APP}
    notes = [f"its scope is tried without {key}, which only your app has" for key in budget.scope if key not in scope]
    if budget.wait > WAIT_S:
        notes.append(f"its wait is {WAIT_S} s in the copy, not {budget.wait}")
    provider = _provider(scope, budget.downgrade_to)
    model = scope.get("model") or next(model for model in MODELS[provider] if model != budget.downgrade_to)
    bound = upper_bound(provider, model, probe.request(model), max_retries=0)
    if bound.usd is None:
        raise ProofError(f"the budget's model {model!r} cannot be tried: {bound.reason}")
    needed = {"usd": bound.usd, "tokens": Decimal(bound.input_tokens + bound.output_tokens), "calls": Decimal(1)}
    limit = Decimal(CALLS) if budget.unit == "calls" else needed[budget.unit] * ROOM
    limit = limit.quantize(Decimal("0.000001") if budget.unit == "usd" else Decimal(1), ROUND_UP)
    definition = as_json(budget) | {"scope": scope, "wait": WAIT_S}
    definition[f"limit_{budget.unit}"] = str(limit) if budget.unit == "usd" else int(limit)
    dimensions = {key: "budget-test" for key in budget.group_by if key not in {*OF_THE_APP, "model", "provider"}}
    return Play(
        name=budget.name, unit=budget.unit, action=budget.action, provider=provider, model=model,
        definition=definition, limit=limit, dimensions=dimensions | scope, notes=notes,
    )  # fmt: skip


def perform(play: Play) -> None:
    """Run provider, collector and app, and note what came of it."""
    mock = MockServer()
    mock.start()
    try:
        with tempfile.TemporaryDirectory(prefix="tallystick-budget-") as name, _collector(Path(name)) as url:
            collector = Collector(url)
            collector.order("budgets", play.definition)
            _call(play, mock.url, url, Path(name))
            invoice, requests = _books(mock.url, "invoice")["items"], _books(mock.url, "requests")["requests"]
            play.billed = sum((_billed(item, play.unit) for item in invoice), Decimal(0))
            play.seen = [request["model"] for request in requests]
            _wait_stored(collector, len(play.seen))
            (play.row,) = collector.ask("budgets")["rows"]
    finally:
        mock.stop()


def _provider(scope: Mapping[str, str], downgrade_to: str | None) -> str:
    stated = scope.get("provider")
    if stated and stated not in MODELS:
        raise ProofError(f"the budget is of provider {stated!r}; anthropic and openai can be tried")
    model = downgrade_to or scope.get("model")
    installed = [name for name in MODELS if find_spec(name) is not None]
    if not installed:
        raise ProofError("the proof calls with a real SDK, and none is installed: pip install anthropic, or openai")
    provider = stated or (installed[0] if model is None else "anthropic" if model.startswith("claude") else "openai")
    if provider not in installed:
        raise ProofError(f"the budget is of {provider}, whose SDK is not installed: pip install {provider}")
    return provider


def _call(play: Play, provider_url: str, collector_url: str, folder: Path) -> None:
    dimensions, host = play.dimensions, provider_url.removeprefix("http://")
    tags = {key.removeprefix("tag."): value for key, value in dimensions.items() if value and _is_tag(key)}
    told = {
        "url": provider_url, "provider": play.provider, "model": play.model, "tags": tags,
        "service": dimensions.get("service") or "budget-test", "environment": dimensions.get("environment"),
        "calls_max": probe.CALLS_MAX if play.action == "block" else CALLS * 4,
    }  # fmt: skip
    app = subprocess.run(
        [sys.executable, "-m", "tallystick.budgets.probe"], input=json.dumps(told), text=True, check=False,
        capture_output=True, timeout=300,
        env=_environment(
            TALLYSTICK_COLLECTOR=collector_url,
            TALLYSTICK_SPOOL=str(folder / "spool"),
            TALLYSTICK_PROVIDERS=",".join(f"{host}/{provider}={provider}" for provider in MODELS),
        ), cwd=folder,
    )  # fmt: skip
    if app.returncode:
        raise ProofError(f"the app that was to call ended with {app.returncode}: {app.stderr.strip()[-500:]}")
    play.said = [json.loads(line) for line in app.stdout.splitlines()]


def _is_tag(key: str) -> bool:
    return key in {"feature", "user", "session", "prompt"} or key.startswith("tag.")


@contextmanager
def _collector(folder: Path) -> Iterator[str]:
    config = folder / "collector.toml"
    lines = ("[collector]", f"data = {json.dumps(str(folder / 'data'))}", "port = 0", "group_ms = 5")
    config.write_text("\n".join([*lines, f"spool = {json.dumps(str(folder / 'spool'))}"]), encoding="utf-8")
    command = [sys.executable, "-m", "tallystick", "collect", "--config", str(config)]
    process = subprocess.Popen(  # noqa: S603 -- ourselves
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment(), cwd=folder
    )
    try:
        assert process.stdout is not None, "a pipe was asked for"
        for line in process.stdout:
            if "collector at " in line:
                yield line.split("collector at ")[1].split(",")[0]
                return
        raise ProofError("the temporary collector did not start")
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.communicate()


def _environment(**values: str) -> dict[str, str]:
    """Return our variables without the user's own keys and settings, and with ``values``."""
    return {key: value for key, value in os.environ.items() if not key.startswith(OURS)} | values


def _books(url: str, name: str) -> dict[str, Any]:
    with urlopen(f"{url}/_mock/{name}", timeout=10) as answer:  # noqa: S310 -- our own mock's
        found: dict[str, Any] = json.load(answer)
        return found


def _billed(item: Mapping[str, Any], unit: str) -> Decimal:
    if unit == "calls":
        return Decimal(1)
    if unit == "usd":
        return Decimal(item["usd"] or 0)
    counts = item["counts"]
    return Decimal(counts["input"] + counts["cache_read"] + counts["output"])


def _wait_stored(collector: Collector, calls: int) -> None:
    until = time.monotonic() + STORED_S_MAX
    while time.monotonic() < until:
        with suppress(CollectorError):
            if collector.ask("totals")["attempts"] >= calls and collector.ask("budgets")["rows"][0]["reserved"] == "0":
                return
        time.sleep(0.1)


# Telling


def _introduce(console: Any, play: Play, row: Mapping[str, Any]) -> None:
    real = show_amount(Decimal(row["limit"]), play.unit)
    console.print(f"Budget {clean(play.name)!r}: {real}, {clean(row['window']['kind'])}, action {clean(play.action)}.")
    console.print(
        f"A copy of it is tried with a limit of {_exact(play.limit, play.unit)}, which a few calls reach, "
        "in a collector and an app of its own: nothing of this is in your ledger."
    )
    for note in play.notes:
        console.print(f"Note: {clean(note, 200)}.")
    console.print(f"Provider: the loopback mock; the real {play.provider} SDK asks {clean(play.model)}.\n")


def _judge(console: Any, play: Play) -> int:
    refused = next((said for said in play.said if not said["sent"]), None)
    if refused is not None:
        console.print(f"The app was told: {clean(refused['error'], 400)}\n")
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    checks = list(_checks(play, refused))
    for is_so, told in checks:
        made.add_row("ok" if is_so else "WRONG", told, style="green" if is_so else "red")
    console.print(made)
    passed = all(is_so for is_so, _ in checks)
    console.print(f"\n{'PASS: the budget holds' if passed else 'FAIL: the budget does not hold'}.")
    return 0 if passed else 1


def _checks(play: Play, refused: Mapping[str, Any] | None) -> Iterator[tuple[bool, str]]:
    """Yield what must be so, whether it is, and the figures of it."""
    seen, billed = len(play.seen), _exact(play.billed, play.unit)
    sent = len(play.said) - (refused is not None)
    if play.action == "block":
        limit = _exact(play.limit, play.unit)
        yield seen > 0 and play.billed <= play.limit, f"{seen} calls were sent; the provider billed {billed} of {limit}"
        is_full = refused is not None and refused["is_full"]
        yield is_full, f"call {sent + 1} was {'refused' if is_full else 'not refused'} for want of room"
        yield seen == sent, f"what was refused was never sent: {sent} calls went out, the provider saw {seen}"
    else:
        target = play.action.removeprefix("downgrade:")
        went = sum(model == target for model in play.seen)
        yield 0 < went < seen, f"{seen - went} calls went to {clean(play.model)}, then {went} to {clean(target)}"
    charged, held = Decimal(play.row["spent"]), Decimal(play.row["reserved"])
    yield charged == play.billed, f"the ledger charges {_exact(charged, play.unit)}; the provider billed {billed}"
    yield held == 0, f"{_exact(held, play.unit)} is held for calls in flight; there are none"


def _exact(amount: Decimal, unit: str) -> str:
    text = format(amount, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text} {'USD' if unit == 'usd' else unit}"
