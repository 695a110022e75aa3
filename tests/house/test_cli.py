from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def tallystick(*arguments: str, cwd: Path | None = None, code: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tallystick"] if code is None else [sys.executable, "-c", code]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=60, cwd=cwd)


def complaint(ran: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a failing command may say."""
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    [line] = ran.stderr.strip().splitlines()
    assert line.startswith("tallystick: ")
    return line


def test_run_runs_a_program_with_its_arguments_and_its_exit_code(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text("import sys, helper\nprint(__name__, sys.argv[1:], helper.WORD)\nsys.exit(3)\n")
    (tmp_path / "helper.py").write_text("WORD = 'beside'\n")

    ran = tallystick("run", str(script), "--flag", "x")

    assert ran.stdout == "__main__ ['--flag', 'x'] beside\n"
    assert (ran.returncode, ran.stderr) == (3, "")


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word() -> None:
    shown = subprocess.Popen(
        [sys.executable, "-u", "-m", "tallystick", "prices", "show", "gpt-4o"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert shown.stdout is not None
    shown.stdout.close()
    _, said = shown.communicate(timeout=60)

    assert (shown.returncode, said) == (141, b"")


def test_run_runs_a_module(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__main__.py").write_text("import sys\nprint(__name__, sys.argv[1:])\n")

    ran = tallystick("run", "-m", "pkg", "a", cwd=tmp_path)

    assert ran.stdout == "__main__ ['a']\n"


@pytest.mark.parametrize("arguments", [["run"], ["run", "-m"], ["run", "nowhere.py"]])
def test_run_says_what_it_can_run(arguments: list[str]) -> None:
    assert "tallystick run app.py [args]" in complaint(tallystick(*arguments))


def test_a_missing_extra_is_named_with_the_line_that_installs_it() -> None:
    code = """
import sys
sys.modules["duckdb"] = sys.modules["starlette"] = sys.modules["uvicorn"] = None
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"duckdb", "starlette", "uvicorn", "pydantic_settings", "pydantic"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
for name in ("duckdb", "starlette", "uvicorn"): del sys.modules[name]
sys.meta_path.insert(0, Missing())
from tallystick.cli import main
main(["collect"])
"""
    assert 'pip install "tallystick[collector]"' in complaint(tallystick(code=code))


def test_an_unreachable_collector_is_named_with_what_to_do() -> None:
    line = complaint(tallystick("report", "--collector", "http://127.0.0.1:9"))

    assert "http://127.0.0.1:9" in line
    assert "tallystick up" in line


def test_a_port_that_is_none_is_refused() -> None:
    ran = tallystick("mock", "--port", "99999")

    assert ran.returncode == 2
    assert "'99999' is not a port" in ran.stderr
