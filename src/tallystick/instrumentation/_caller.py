"""Who made a call, when no tag says so: the nearest function outside the SDKs, what stands on them, and ourselves."""

from __future__ import annotations

import sys
from types import CodeType, FrameType

# Frameworks and other vendors' wrappers stand between the app and the SDKs; openai-agents is not here, because its
# package is called ``agents``, as many an app's own.
_LIBRARIES = frozenset({
    "tallystick", "anthropic", "openai", "httpx", "httpx2", "wrapt", "contextlib", "asyncio", "functools", "concurrent",
    "threading", "anyio", "langchain", "langchain_core", "langchain_openai", "langchain_anthropic", "langgraph",
    "litellm", "instructor", "pydantic_ai", "pydantic_graph", "tenacity", "opentelemetry", "openinference", "logfire",
    "langfuse",
})  # fmt: skip
DEPTH_MAX = 60
KNOWN_MAX = 4096

_known: set[CodeType] = set()
"""The functions of libraries that were met."""


def caller() -> str | None:
    """Return ``module:function`` of the app's code that is making the call."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 -- inspect.stack() reads source files
    for _ in range(DEPTH_MAX):
        if frame is None:
            return None
        code = frame.f_code
        if code not in _known:
            module = frame.f_globals.get("__name__", "")
            if module.partition(".")[0] not in _LIBRARIES:
                return f"{module}:{code.co_qualname}"
            if len(_known) < KNOWN_MAX:
                _known.add(code)
        frame = frame.f_back
    return None
