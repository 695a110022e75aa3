"""The app of `tallystick budget test`: real SDK calls until one is refused, each told as a line of JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

CALLS_MAX = 100
OUTPUT_TOKENS = 300
PATIENCE = 10
PROMPT = "Say in one sentence what a budget is."


HEADERS = {"x-mock-script": f"200:output={OUTPUT_TOKENS}"}
"""Has the mock answer at full length, so that a few calls fill the limit."""


def request(model: str) -> dict[str, Any]:
    """Return the body that is sent, again and again."""
    return {"model": model, "max_tokens": OUTPUT_TOKENS, "messages": [{"role": "user", "content": PROMPT}]}


def main() -> None:
    """Read what to do from stdin, then call."""
    import tallystick

    told = json.load(sys.stdin)
    tallystick.instrument(service=told["service"], environment=told["environment"])
    call = _anthropic(told) if told["provider"] == "anthropic" else _openai(told)
    patience = PATIENCE
    with tallystick.tags(**told["tags"]):
        for _ in range(told["calls_max"]):
            try:
                _say(sent=True, model=call())
            except tallystick.BudgetExceededError as error:
                is_full = error.spent is not None
                if is_full or not patience:
                    _say(sent=False, error=str(error), is_full=is_full)
                    break
                patience -= 1  # the collector was slow to answer, which is no verdict
                time.sleep(0.2)
    tallystick.flush()


def _anthropic(told: dict[str, Any]) -> Any:
    import anthropic

    client = anthropic.Anthropic(base_url=f"{told['url']}/anthropic", api_key="sk-ant-test", max_retries=0)
    asked = request(told["model"])
    return lambda: client.messages.create(**asked, extra_headers=HEADERS).model


def _openai(told: dict[str, Any]) -> Any:
    import openai

    client = openai.OpenAI(base_url=f"{told['url']}/openai/v1", api_key="sk-test", max_retries=0)
    asked = request(told["model"])
    return lambda: client.chat.completions.create(**asked, extra_headers=HEADERS).model


def _say(**told: Any) -> None:
    print(json.dumps(told), flush=True)  # noqa: T201 -- read by who started this


if __name__ == "__main__":
    main()
