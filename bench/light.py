"""What instrument() adds to an app that has both SDKs: import and activation, memory, what is installed.

    python bench/light.py [--rounds 5]

Each round is a fresh interpreter; the figure is the best of them, in CPU time.  Memory is what is resident after 300
calls against an in-process transport, beside an app that has the SDKs and OpenTelemetry's.  What is installed is told
by the metadata of this environment: what tallystick needs without extras and neither SDK brings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tallystick

SDKS = ("anthropic", "openai")
IMPORT = """
import time; at = time.process_time()
import tallystick
print((time.process_time() - at) * 1e3)
"""
INSTRUMENT = """
import tempfile, time
import anthropic, openai
spool = tempfile.mkdtemp(); at = time.process_time()
import tallystick; tallystick.instrument(spool=spool, collector="http://127.0.0.1:9")
print((time.process_time() - at) * 1e3)
"""
SDK_IMPORT = """
import time; at = time.process_time()
import anthropic, openai
print((time.process_time() - at) * 1e3)
"""
RESIDENT = """
import gc, os, sys, tempfile
import overhead
oai, ant, _ = overhead.clients()
calls = [call for name, call in overhead.calls(oai, ant).items() if "stream" not in name]
if sys.argv[1] == "tallystick":
    import tallystick; tallystick.instrument(spool=tempfile.mkdtemp(), collector="http://127.0.0.1:9")
for _ in range(150):
    for call in calls: call()
gc.collect()
print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
"""


def best(code: str, rounds: int, *arguments: str) -> float:
    """Return the least that ``code`` prints in so many fresh interpreters."""
    command = [sys.executable, "-c", code, *arguments]
    here = Path(__file__).parent
    return min(
        float(subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout)
        for _ in range(rounds)
    )


def needed_by(names: Iterable[str]) -> dict[str, Distribution]:
    """Return the distributions of ``names`` and all that they need without extras."""
    found: dict[str, Distribution] = {}
    left = list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # needed on other platforms only
            continue
        for line in found[name].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left.append(requirement.name)
    return found


def sizes(one: Distribution) -> Iterator[int]:
    """Yield the size of each file of a distribution, compiled ones left out."""
    ours = Path(tallystick.__file__).parent
    paths = (
        ours.rglob("*")  # an editable install lists nothing of what a wheel holds
        if one.metadata["Name"] == "tallystick"
        else [Path(str(one.locate_file(file))) for file in one.files or ()]
    )
    for path in paths:
        if path.suffix != ".pyc" and path.is_file():
            yield path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    sdk_ms = best(SDK_IMPORT, rounds)
    print(f"CPU ms, best of {rounds} fresh interpreters")
    for name, code in (("import tallystick", IMPORT), ("instrument() after both SDKs", INSTRUMENT)):
        taken = best(code, rounds)
        print(f"  {name:30} {taken:7.1f}  {taken / sdk_ms:6.2%} of importing both SDKs ({sdk_ms:.0f} ms)")
    resident = {kind: best(RESIDENT, rounds, kind) for kind in ("bare", "tallystick")}
    print("MB resident after 300 calls")
    for kind, mb in resident.items():
        print(f"  {kind:30} {mb:7.1f}  {mb - resident['bare']:+.1f}")
    mine, theirs = needed_by(["tallystick"]), needed_by(SDKS)
    added = {name: sum(sizes(one)) / 1e6 for name, one in mine.items() if name not in theirs}
    print(f"installed beside both SDKs: {len(added)} distributions, {sum(added.values()):.1f} MB")
    print(f"  {json.dumps({name: round(mb, 2) for name, mb in sorted(added.items())})}")


if __name__ == "__main__":
    main()
