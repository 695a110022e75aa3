"""Exact cost tracking and observability for apps that call LLM APIs.

    import tallystick

    tallystick.instrument()

Everything public is here; each name is loaded when it is first used, so that ``import tallystick`` loads no third-party
module.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing's own would load typing, which takes longer than all the rest
if TYPE_CHECKING:
    from typing import Any

    from tallystick.errors import (
        BudgetExceededError,
        RequestLoopError,
        RequestTooLargeError,
        SettingsError,
        TallystickError,
    )
    from tallystick.instrumentation import (
        bad_output,
        budget,
        cache_hit,
        degraded,
        flush,
        instrument,
        tags,
        uninstrument,
    )

_HOMES = {
    "BudgetExceededError": "tallystick.errors",
    "RequestLoopError": "tallystick.errors",
    "RequestTooLargeError": "tallystick.errors",
    "SettingsError": "tallystick.errors",
    "TallystickError": "tallystick.errors",
    "bad_output": "tallystick.instrumentation",
    "budget": "tallystick.instrumentation",
    "cache_hit": "tallystick.instrumentation",
    "degraded": "tallystick.instrumentation",
    "flush": "tallystick.instrumentation",
    "instrument": "tallystick.instrumentation",
    "tags": "tallystick.instrumentation",
    "uninstrument": "tallystick.instrumentation",
}

__all__ = [
    "BudgetExceededError",
    "RequestLoopError",
    "RequestTooLargeError",
    "SettingsError",
    "TallystickError",
    "bad_output",
    "budget",
    "cache_hit",
    "degraded",
    "flush",
    "instrument",
    "tags",
    "uninstrument",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tallystick' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
