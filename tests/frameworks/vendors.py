"""How each vendor's instrumentation is started, as its own documentation says, and stopped where it can be.

Each sends its spans to the app's global TracerProvider, which the tests read.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def _instrumentors(*modules: str) -> Callable[[], None]:
    """Start the OpenAI and the Anthropic instrumentor that are in ``modules``; return what stops them."""
    openai, anthropic = (import_module(module) for module in modules)
    started = [openai.OpenAIInstrumentor(), anthropic.AnthropicInstrumentor()]
    for instrumentor in started:
        instrumentor.instrument()

    def stop() -> None:
        for instrumentor in started:
            instrumentor.uninstrument()

    return stop


def otel() -> Callable[[], None]:
    return _instrumentors("opentelemetry.instrumentation.genai.openai", "opentelemetry.instrumentation.genai.anthropic")


def openinference() -> Callable[[], None]:
    return _instrumentors("openinference.instrumentation.openai", "openinference.instrumentation.anthropic")


def openllmetry() -> Callable[[], None]:
    return _instrumentors("opentelemetry.instrumentation.openai", "opentelemetry.instrumentation.anthropic")


def logfire() -> Callable[[], None]:
    logfire: Any = import_module("logfire")
    logfire.configure(send_to_logfire=False, console=False, inspect_arguments=False)
    started = [logfire.instrument_openai(), logfire.instrument_anthropic()]

    def stop() -> None:
        for instrumentation in started:
            with instrumentation:
                """It ends with the block."""

    return stop


def langfuse() -> None:
    """langfuse.openai patches the openai module when it is imported, for good; it has nothing for Anthropic."""
    from opentelemetry import trace

    langfuse: Any = import_module("langfuse")
    provider = trace.get_tracer_provider()
    exporter = import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    langfuse.Langfuse(
        public_key="pk",
        secret_key="sk",
        base_url="http://127.0.0.1:9",
        tracer_provider=provider,
        span_exporter=exporter,
    )
    import_module("langfuse.openai")


VENDORS: dict[str, Callable[[], Callable[[], None] | None]] = {
    "otel": otel,
    "openinference": openinference,
    "openllmetry": openllmetry,
    "logfire": logfire,
    "langfuse": langfuse,
}
