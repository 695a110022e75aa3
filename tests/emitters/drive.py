"""Makes four billed calls in an environment with one emitter in it; run by record.py, in that environment.

    python drive.py NAME

Anthropic and OpenAI, each whole and as a stream, against what ``ANTHROPIC_BASE_URL`` and ``OPENAI_BASE_URL`` name;
spans go where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

CLAUDE, GPT = "claude-sonnet-4-5", "gpt-4o-mini"
SAID: Any = [{"role": "user", "content": "How many angels?"}]


def with_sdks() -> None:
    """Ask with the providers' own SDKs."""
    ask_anthropic()
    import openai

    ask_openai(openai.OpenAI(api_key="any"))


def ask_anthropic() -> None:
    import anthropic

    claude = anthropic.Anthropic(api_key="any")
    claude.messages.create(model=CLAUDE, max_tokens=500, messages=SAID)
    for _ in claude.messages.create(model=CLAUDE, max_tokens=500, messages=SAID, stream=True):
        pass


def ask_openai(client: Any) -> None:
    client.chat.completions.create(model=GPT, messages=SAID)
    for _ in client.chat.completions.create(
        model=GPT, messages=SAID, stream=True, stream_options={"include_usage": True}
    ):
        pass


def provider() -> Any:
    """Return a global TracerProvider that exports at once."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    made = TracerProvider()
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(made)
    return made


def anthropic_native() -> None:
    made = provider()
    ask_anthropic()
    made.shutdown()


def openllmetry() -> None:
    from opentelemetry.instrumentation.anthropic import AnthropicInstrumentor
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    made = provider()
    AnthropicInstrumentor().instrument()
    OpenAIInstrumentor().instrument()
    with_sdks()
    made.shutdown()


def openinference() -> None:
    from openinference.instrumentation.anthropic import AnthropicInstrumentor
    from openinference.instrumentation.openai import OpenAIInstrumentor

    made = provider()
    AnthropicInstrumentor().instrument()
    OpenAIInstrumentor().instrument()
    with_sdks()
    made.shutdown()


def otel() -> None:
    """The contrib instrumentation of 2025, OpenAI only."""
    import openai
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

    made = provider()
    OpenAIInstrumentor().instrument()
    ask_openai(openai.OpenAI(api_key="any"))
    made.shutdown()


def otel_genai() -> None:
    from opentelemetry.instrumentation.genai.anthropic import AnthropicInstrumentor
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

    made = provider()
    AnthropicInstrumentor().instrument()
    OpenAIInstrumentor().instrument()
    with_sdks()
    made.shutdown()


def logfire() -> None:
    import logfire as vendor

    vendor.configure(send_to_logfire=False, console=False, inspect_arguments=False)
    vendor.instrument_anthropic()
    vendor.instrument_openai()
    with_sdks()
    vendor.shutdown()


def pydantic_ai() -> None:
    """An agent: its own span and the chat span in it tell of the same tokens."""
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.models.openai import OpenAIChatModel

    made = provider()
    Agent.instrument_all()
    for model in (AnthropicModel(CLAUDE), OpenAIChatModel(GPT)):
        agent = Agent(model)
        agent.run_sync("How many angels?")
        asyncio.run(_stream_of(agent))
    made.shutdown()


async def _stream_of(agent: Any) -> None:
    async with agent.run_stream("How many angels?") as streamed:
        async for _ in streamed.stream_text():
            pass


def openlit() -> None:
    import openlit as vendor

    vendor.init(otlp_endpoint=os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"], disable_metrics=True, disable_batch=True)
    with_sdks()


def litellm() -> None:
    import litellm as vendor

    vendor.callbacks = ["otel"]
    for model, base in ((f"anthropic/{CLAUDE}", "ANTHROPIC"), (f"openai/{GPT}", "OPENAI")):
        where = {"model": model, "api_base": os.environ[f"{base}_BASE_URL"], "api_key": "any", "messages": SAID}
        vendor.completion(**where)
        for _ in vendor.completion(**where, stream=True, stream_options={"include_usage": True}):
            pass
    _wait_for_litellm()


def _wait_for_litellm() -> None:
    """Its callbacks run in threads of their own; what they have not ended is not exported."""
    import time

    from opentelemetry import trace

    time.sleep(3)
    found: Any = trace.get_tracer_provider()
    if hasattr(found, "force_flush"):
        found.force_flush()


def langfuse() -> None:
    from langfuse import get_client
    from langfuse.openai import OpenAI

    ask_openai(OpenAI(api_key="any"))
    _tell_langfuse_of_claude(get_client())
    get_client().shutdown()


def _tell_langfuse_of_claude(client: Any) -> None:
    """Langfuse has no wrapper for Anthropic; its docs have the app hand over the usage."""
    import anthropic

    with client.start_as_current_observation(as_type="generation", name="claude", model=CLAUDE) as generation:
        said = anthropic.Anthropic(api_key="any").messages.create(model=CLAUDE, max_tokens=500, messages=SAID)
        names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        generation.update(usage_details={name: getattr(said.usage, name) for name in names})


EMITTERS: dict[str, Callable[[], None]] = {
    "anthropic-native": anthropic_native, "openllmetry": openllmetry, "openinference": openinference, "otel": otel,
    "otel-genai": otel_genai, "logfire": logfire, "pydantic-ai": pydantic_ai, "openlit": openlit, "litellm": litellm,
    "langfuse": langfuse,
}  # fmt: skip

if __name__ == "__main__":
    EMITTERS[sys.argv[1]]()
