"""``tallystick run``: a program as it is, with `instrument()` already called, in it and in the Pythons it starts."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import sys
from collections.abc import MutableMapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from tallystick.errors import SettingsError
from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._install import instrument
from tallystick.instrumentation._settings import read_settings

HOOK = Path(__file__).with_name("hook")
"""On the ``PYTHONPATH`` of what is run: its ``sitecustomize`` instruments the processes that the program starts."""
SERVICE = "TALLYSTICK_RUN"
"""The service's name, for those processes."""
USAGE = "write `tallystick run app.py [args]`, `tallystick run -m module [args]` or `tallystick run uvicorn app:app`"
_SHEBANG_BYTES_MAX = 512
_APP = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(?:\(\))?")


def run(command: Sequence[str]) -> int:
    """Run ``app.py [args]``, ``-m module [args]`` or a command on ``PATH`` as it would run without us.

    A Python program runs in this process, as ``python`` would run it; any other command replaces this process, and
    the Pythons that it starts are instrumented.  What the program raises and how it exits is its own.  Raises
    SettingsError when there is nothing to run.
    """
    words = list(command)
    if words[:1] == ["--"]:
        words = words[1:]
    if not words or words == ["-m"]:
        raise SettingsError(f"nothing to run; {USAGE}")
    if words[0] == "-m":
        _run_module(words[1:])
    elif Path(words[0]).is_file():
        _run_file(words)
    else:
        _run_command(words)
    return 0


def instrument_child() -> None:
    """Instrument a process that an instrumented program started; whatever is wrong, the process goes on."""
    with guard("the instrumentation of a child process"):
        instrument(service=os.environ.get("OTEL_SERVICE_NAME") or os.environ.get(SERVICE))


def with_hook(environ: MutableMapping[str, str], service: str) -> None:
    """Set what makes the Pythons that are started with ``environ`` instrument themselves."""
    before = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != str(HOOK)]
    environ["PYTHONPATH"] = os.pathsep.join([str(HOOK), *before])
    environ[SERVICE] = service


def _begin(service: str) -> None:
    name = os.environ.get("OTEL_SERVICE_NAME") or service
    instrument(service=name)
    with_hook(os.environ, name)


def _run_module(words: list[str]) -> None:
    sys.argv = words
    sys.path.insert(0, str(Path.cwd()))
    _begin(words[0])
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def _run_file(words: list[str]) -> None:
    path = Path(words[0])
    if os.access(path, os.X_OK) and not _is_python(path, own=False):
        _replace(str(path), words)
    sys.argv = words
    sys.path.insert(0, str(path.resolve().parent))
    _begin(path.stem)
    runpy.run_path(str(path), run_name="__main__")


def _run_command(words: list[str]) -> None:
    found = shutil.which(words[0])
    if found is None:
        raise SettingsError(f"there is no file and no command {words[0]!r} to run; {USAGE}")
    if not _is_python(Path(found), own=True):
        _replace(found, words)
    sys.argv = [found, *words[1:]]
    # As the console script's own interpreter would: the folder of the script, not the working directory, comes first.
    sys.path.insert(0, str(Path(found).resolve().parent))
    _begin(_service_of(words))
    runpy.run_path(found, run_name="__main__")


def _replace(found: str, words: list[str]) -> NoReturn:
    """Become another program, whose Pythons are instrumented by the hook."""
    service = _service_of(words)
    read_settings(os.environ, service=service)  # what is wrong is told here, where somebody reads it
    with_hook(os.environ, service)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(found, [found, *words[1:]])  # noqa: S606 -- the command is the user's


def _service_of(words: list[str]) -> str:
    """Return a service's name: the app that a server is to run (``shop.main:app``, ``-A shop``), else the command's."""
    for before, word in pairwise(words):
        if before in {"-A", "--app"} or _APP.fullmatch(word):
            return word.partition(":")[0]
    return Path(words[0]).stem


def _is_python(path: Path, *, own: bool) -> bool:
    """Tell whether a file is a Python program by its name or first line; ``own``: of this very interpreter."""
    with path.open("rb") as file:
        first = file.readline(_SHEBANG_BYTES_MAX)
        second = file.readline(_SHEBANG_BYTES_MAX)
    if path.suffix == ".py" and not own:
        return True
    if not first.startswith(b"#!"):
        return False
    # An interpreter whose path is too long or has a space stands on the second line, behind /bin/sh (pip, uv).
    line = second if first.rstrip() == b"#!/bin/sh" and second.startswith(b"'''exec'") else first[2:]
    words = line.decode(errors="replace").replace("'''exec'", "").replace('"', "").split()
    interpreter = next((word for word in words if "python" in word), None)
    if interpreter is None:
        return False
    return not own or _is_same(interpreter)


def _is_same(interpreter: str) -> bool:
    """Tell whether an interpreter is ours: its environment's, for the packages are there, not where it links to."""
    path = shutil.which(interpreter) or interpreter
    ours = {Path(sys.executable).parent.resolve(), Path(sys.prefix, "bin").resolve()}
    return Path(path).parent.resolve() in ours
