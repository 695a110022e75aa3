"""`tallystick mock`, as a person starts it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from tallystick.errors import PortTakenError
from tallystick.mock.serve import MockServer

HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_how_to_use_it_serves_and_ends_well(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tallystick", "mock", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    assert process.stdout is not None
    with process.stdout as output:
        said = ""
        while "Ctrl-C ends it." not in said:
            line = output.readline()
            assert line, said
            said += line
        urls = dict(re.findall(r"(ANTHROPIC|OPENAI)_BASE_URL=(\S+)", said))
        with (
            Anthropic(base_url=urls["ANTHROPIC"], api_key="any") as claude,
            OpenAI(base_url=urls["OPENAI"], api_key="any") as gpt,
        ):
            assert claude.messages.create(model="claude-sonnet-5-5", max_tokens=9, messages=HELLO).content
            assert gpt.chat.completions.create(model="gpt-5-mini", messages=HELLO).choices
        process.send_signal(number)
        assert output.read() == ""
    assert process.wait(60) == 0
    watchdog.cancel()


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        with pytest.raises(PortTakenError, match=str(taken.getsockname()[1])):
            MockServer(taken.getsockname()[1])
