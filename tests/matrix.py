"""The version matrix: the instrumentation tests over lines of SDK versions, each in an environment of its own.

    python tests/matrix.py            all lines (`make matrix`)
    python tests/matrix.py L1         the oldest alone, as CI does beside the newest, which `make test` has

Prints surface x version: `ok`, `absent` (that SDK does not have it), or `FAILED`; exits 1 if anything failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = ROOT / ".matrix"
LINES = {
    "L1": ["anthropic==0.40.0", "openai==1.40.8", "httpx==0.27.2"],
    "L2": ["anthropic==0.62.0", "openai==1.109.1", "httpx==0.28.1"],
    "L3": ["anthropic==0.125.0", "openai==2.0.1", "httpx==0.28.1"],
    "L4": ["anthropic==1.17.0", "openai==2.54.0", "httpx==0.28.1"],
    "L5": ["anthropic==2.0.0", "openai==3.0.0"],
    "L6": ["anthropic", "openai"],
}
TOOLS = [
    "pytest>=8.4",
    "pytest-asyncio",
    "pytest-xdist",
    "hypothesis",
    "opentelemetry-instrumentation-httpx",
    "opentelemetry-proto",
    "opentelemetry-sdk",
    "starlette",
    "uvicorn",
    "backports.zstd",
    "boto3",  # anthropic signs with it for Bedrock
    "brotli",
    "google-auth",  # anthropic's Vertex client imports it in its first versions
    "websockets",
    "zstandard",
]
SURFACES = [
    "test_calls.py",
    "test_streams.py",
    "test_failures.py",
    "test_coexistence.py",
    "test_foreign.py",
    "test_jobs.py",
    "test_mend.py",
    "test_surfaces.py",
    "test_units.py",
    "test_websockets.py",
]


def python_of(line: str) -> Path:
    """Return the interpreter of a line's environment, made on first use and when what it needs has changed."""
    folder = HOME / line
    python = folder / "bin" / "python"
    installed, wanted = folder / ".installed", "\n".join([*LINES[line], *TOOLS])
    if not installed.exists() or installed.read_text() != wanted:
        uv = shutil.which("uv")
        make = (
            [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable]
            if uv
            else [sys.executable, "-m", "venv"]
        )
        subprocess.run([*make, folder], check=True)
        install = (
            [uv, "pip", "install", "--quiet", "--python", python] if uv else [python, "-m", "pip", "install", "-q"]
        )
        subprocess.run([*install, "-e", ROOT, *LINES[line], *TOOLS], check=True)
        installed.write_text(wanted)
    return python


def run(line: str) -> dict[str, str]:
    """Run the tests of one line and return what became of each."""
    report = HOME / f"{line}.xml"
    report.unlink(missing_ok=True)
    tests = [str(ROOT / "tests" / "instrumentation" / name) for name in SURFACES]
    options = [
        "-q",
        "-n",
        "2",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
        f"--junitxml={report}",
        "-o",
        "junit_family=xunit1",
    ]
    subprocess.run(
        [python_of(line), "-m", "pytest", *options, *tests],
        env=os.environ | {"TALLYSTICK_MATRIX": line},
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        check=False,
    )
    if not report.exists():
        raise SystemExit(f"{line}: pytest made no report")
    cases = ET.parse(report).iter("testcase")  # our own file
    return {f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}": verdict(case) for case in cases}


def verdict(case: ET.Element) -> str:
    """Return what became of a test."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "FAILED"
    return "absent" if case.find("skipped") is not None else "ok"


def main() -> None:
    lines = sys.argv[1:] or list(LINES)
    if unknown := set(lines) - set(LINES):
        raise SystemExit(f"unknown lines {sorted(unknown)}; known: {', '.join(LINES)}")
    HOME.mkdir(exist_ok=True)
    found = {line: run(line) for line in lines}
    tests = sorted({test for results in found.values() for test in results})
    print(f"{'':100} " + " ".join(f"{line:>6}" for line in lines))
    for test in tests:
        print(f"{test[:100]:100} " + " ".join(f"{found[line].get(test, '-'):>6}" for line in lines))
    for line in lines:
        verdicts = list(found[line].values())
        counts = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in ("ok", "absent", "FAILED"))
        print(f"{line} ({', '.join(LINES[line])}): {counts}")
    sys.exit(any("FAILED" in results.values() for results in found.values()))


if __name__ == "__main__":
    main()
