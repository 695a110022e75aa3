"""`tallystick budget test`: a copy of a budget is tried with a real SDK, and judged by the provider's bill."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import collector_process
from tallystick.budgets import prove
from tallystick.errors import ProofError
from tallystick.model.budgets import Budget
from tallystick.model.ledger import as_json

BUDGET = """
[[budget]]
name = "chat"
limit_calls = 500
scope = { feature = "chat" }
group_by = ["user"]
action = "block"

[[budget]]
name = "soft"
limit_usd = 5
"""


def budget_test(url: str, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tallystick", "budget", "test", name, "--collector", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_a_budget_is_proved_from_end_to_end_and_the_real_ledger_sees_nothing_of_it(tmp_path: Path) -> None:
    with collector_process(tmp_path, BUDGET) as running:
        ran = budget_test(running.url, "chat")
        only_tells, unknown = budget_test(running.url, "soft"), budget_test(running.url, "nope")
        [chat, _] = running.ask("budgets")["rows"]
        calls = running.ask("totals")["calls"]

    said = " ".join(ran.stdout.split())
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 spent + 0 reserved + 1 at most for this call = 4 of 3 calls; it was not sent" in said
    assert "3 calls went out, the provider saw 3" in said
    assert "the ledger charges 3 calls; the provider billed 3 calls" in said
    assert "PASS" in said
    assert (chat["spent"], chat["refused"], calls) == ("0", 0, 0)

    assert (only_tells.returncode, "only tells" in only_tells.stdout) == (1, True)
    assert unknown.returncode == 1
    assert "there is no budget 'nope'" in unknown.stderr


def planned(**values: Any) -> prove.Play:
    budget = Budget(**{"name": "b", "limit_usd": Decimal(500), "action": "block", **values})
    return prove.planned({"definition": as_json(budget)})


def test_a_copy_has_a_limit_that_a_few_calls_reach_and_the_rest_as_it_was() -> None:
    play = planned(scope={"feature": "chat", "caller": "shop:f"}, group_by=("user",), window="rolling 24h")

    assert 0 < play.limit < Decimal("0.1")
    assert (play.definition["window"], play.definition["group_by"]) == ("rolling 24h", ["user"])
    assert (play.provider, play.dimensions) == ("anthropic", {"feature": "chat", "user": "budget-test"})
    assert play.notes == ["its scope is tried without caller, which only your app has"]


def test_a_downgrade_is_tried_from_another_model_of_its_provider() -> None:
    assert planned(action="downgrade:gpt-4o-mini").model == "gpt-4o"
    assert planned(action="downgrade:claude-haiku-4-5").model == "claude-sonnet-4-5"


def test_what_cannot_be_tried_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProofError, match="cannot be tried"):
        planned(scope={"model": "claude-of-nobody"})
    monkeypatch.setattr(prove, "find_spec", {"openai": True}.get)
    assert planned().provider == "openai"
    with pytest.raises(ProofError, match="pip install anthropic"):
        planned(scope={"provider": "anthropic"})


def judged(**values: Any) -> bool:
    play = planned()
    play.said = [{"sent": True, "model": "m"}] * 3 + [{"sent": False, "error": "full", "is_full": True}]
    play.seen = ["m"] * 3
    play.billed, play.row = play.limit, {"spent": str(play.limit), "reserved": "0"}
    for name, value in values.items():
        setattr(play, name, value)
    refused = next((said for said in play.said if not said["sent"]), None)
    return all(is_so for is_so, _ in prove._checks(play, refused))


def test_the_judge_passes_only_a_budget_that_held() -> None:
    full = {"sent": False, "error": "full", "is_full": True}

    assert judged()
    assert not judged(billed=Decimal(1), row={"spent": "1", "reserved": "0"}), "more was billed than the limit"
    assert not judged(said=[{"sent": True, "model": "m"}] * 3), "nothing was refused"
    assert not judged(seen=["m"] * 4), "the refused call was sent"
    assert not judged(row={"spent": "0", "reserved": "0"}), "the ledger charges something else"
    assert not judged(row={"spent": "0.0047", "reserved": "0.1"}), "something is held still"
    assert not judged(seen=[], said=[full], billed=Decimal(0), row={"spent": "0", "reserved": "0"}), "no call went"
    unreachable = {"sent": False, "error": "no answer", "is_full": False}
    assert not judged(said=[{"sent": True, "model": "m"}] * 3 + [unreachable]), "it was refused for another reason"
