"""``tallystick run app.py``: a Python program as it is, with `instrument()` already called."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from tallystick.errors import SettingsError
from tallystick.instrumentation._install import instrument


def run(command: Sequence[str]) -> int:
    """Run ``app.py [args]`` or ``-m module [args]`` in this process, as ``python`` would.

    What the program raises and how it exits is its own.  Raises SettingsError when there is nothing to run.
    """
    words = list(command)
    if words[:1] == ["--"]:
        words = words[1:]
    if not words or words == ["-m"]:
        raise SettingsError("nothing to run; write `tallystick run app.py [args]` or `tallystick run -m module [args]`")
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, str(Path.cwd()))
        instrument(service=os.environ.get("OTEL_SERVICE_NAME") or words[1])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return 0
    script = Path(words[0])
    if not script.is_file():
        raise SettingsError(f"there is no file {words[0]!r} to run; write `tallystick run app.py [args]`")
    sys.argv = words
    sys.path.insert(0, str(script.resolve().parent))
    instrument(service=os.environ.get("OTEL_SERVICE_NAME") or script.stem)
    runpy.run_path(str(script), run_name="__main__")
    return 0
