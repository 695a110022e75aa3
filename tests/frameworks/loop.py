"""One event loop for all shapes: frameworks keep their async HTTP clients, which cannot outlive their loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

_runner = asyncio.Runner()


def run_async(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end, in the one loop."""
    return _runner.run(coroutine)
