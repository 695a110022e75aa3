"""Instruments the Python processes that ``tallystick run`` starts: this folder is first on their ``PYTHONPATH``.

Python imports ``sitecustomize`` when it starts.  This one only waits for an LLM library to be imported, and then calls
``instrument()``: a process that uses none pays nothing.  The ``sitecustomize`` that would have been found without it
runs as ever.  Nothing here may fail or be felt, least of all where tallystick is not installed.
"""

from __future__ import annotations

# ruff: noqa: INP001 -- a folder for PYTHONPATH, no package
import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from typing import Any

LIBRARIES = frozenset({"anthropic", "openai", "httpx", "httpx2"})
HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 -- pathlib is not loaded yet


class Awaiting:
    """Instruments when the first of the libraries is imported, then is gone."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Find nothing; see what is looked for."""
        if name not in LIBRARIES:
            return
        sys.meta_path.remove(self)
        try:
            from tallystick.instrumentation.run import instrument_child
        except ImportError:  # an interpreter without tallystick
            return
        instrument_child()


def run_the_other() -> None:
    """Run the ``sitecustomize`` that this one stands before, if there is one."""
    others = [entry for entry in sys.path if os.path.abspath(entry or ".") != HERE]  # noqa: PTH100
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


if "TALLYSTICK_RUN" in os.environ:
    sys.meta_path.insert(0, Awaiting())
run_the_other()
