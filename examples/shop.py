"""A small app on the ledger: one line in, tags where they help.

It runs without a key against the loopback provider.  In three terminals:

    tallystick up
    tallystick mock
    TALLYSTICK_PROVIDERS=127.0.0.1:4319/anthropic=anthropic,127.0.0.1:4319/openai=openai \\
    ANTHROPIC_BASE_URL=http://127.0.0.1:4319/anthropic ANTHROPIC_API_KEY=any \\
    OPENAI_BASE_URL=http://127.0.0.1:4319/openai/v1 OPENAI_API_KEY=any \\
    python examples/shop.py

With your own keys and none of these variables it asks the real providers.  Then: tallystick report --by feature
"""

from __future__ import annotations

import asyncio

import tallystick

tallystick.instrument(service="shop")

import anthropic  # noqa: E402 -- before or after instrument(): both work
import openai  # noqa: E402


@tallystick.tags(feature="product-text")
def describe(product: str) -> str:
    """Tags may be a decorator; retries, failures and cost of the call are on the ledger."""
    answer = openai.OpenAI().chat.completions.create(
        model="gpt-5-mini", messages=[{"role": "user", "content": f"Describe {product} in one sentence."}]
    )
    return answer.choices[0].message.content or ""


async def support(user: str, question: str) -> str:
    """Tags may be a block; they follow threads and tasks, and streams count until their last event."""
    text = ""
    with tallystick.tags(feature="support-chat", user=user):
        async with (
            anthropic.AsyncAnthropic() as claude,
            claude.messages.stream(
                model="claude-sonnet-5-5", max_tokens=300, messages=[{"role": "user", "content": question}]
            ) as stream,
        ):
            async for piece in stream.text_stream:
                text += piece
    return text


async def main() -> None:
    print("socks:", describe("warm socks"))
    answers = await asyncio.gather(support("ada", "Where is my parcel?"), support("ben", "May I return it?"))
    print("ada:", answers[0], "\nben:", answers[1])


if __name__ == "__main__":
    asyncio.run(main())
