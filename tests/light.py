"""What a light install can do: the wheel without extras, in an environment that holds nothing else.

    python tests/light.py dist/light/bin/tallystick

Exits 1 when a command that needs no extra fails, or one that needs an extra does not say which.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HEAVY = ("duckdb", "streamlit", "pydantic", "genai_prices", "pyarrow", "starlette", "rich", "google")
USE = f"""
import sys
import tallystick
from tallystick.pricing import price
tallystick.instrument(spool={{spool!r}})
assert price("openai", "gpt-4o", {{{{"prompt_tokens": 1, "completion_tokens": 1}}}}).cost_usd
tallystick.uninstrument()
assert not set({HEAVY!r}) & {{{{name.partition(".")[0] for name in sys.modules}}}}
print("used")
"""
EXTRA_OF = {
    "collect": "collector", "dashboard": "dashboard", "up": "all", "demo": "all", "report": "collector",
    "mock": "collector",
}  # fmt: skip


def main() -> None:
    command = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "app.py"
        script.write_text(USE.format(spool=folder))
        used = subprocess.run([command, "run", script], capture_output=True, text=True, check=False)
        assert (used.returncode, used.stdout) == (0, "used\n"), used
    shown = subprocess.run([command, "prices", "show", "gpt-4o"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown
    for name, extra in EXTRA_OF.items():
        refused = subprocess.run([command, name], capture_output=True, text=True, check=False)
        assert refused.returncode == 1, refused
        [line] = refused.stderr.strip().splitlines()
        assert line.endswith(f'pip install "tallystick[{extra}]"'), line
        print(line)


if __name__ == "__main__":
    main()
