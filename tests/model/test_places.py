import os
import tempfile
from pathlib import Path

import pytest

from tallystick.model.places import collector_url, data_dir, spool_dir

HOME = {"HOME": "/home/me"}
NOWHERE = Path(tempfile.gettempdir()) / f"tallystick-{os.getuid()}"


AT_HOME = ("/home/me/.local/share/tallystick", "/home/me/.local/state/tallystick/spool")


@pytest.mark.parametrize(
    ("environ", "data", "spool"),
    [
        pytest.param(HOME, *AT_HOME, id="home"),
        pytest.param(
            {**HOME, "XDG_DATA_HOME": "/d", "XDG_STATE_HOME": "/s"}, "/d/tallystick", "/s/tallystick/spool", id="xdg"
        ),
        pytest.param({**HOME, "TALLYSTICK_DATA": "/mine", "TALLYSTICK_SPOOL": "/spool"}, "/mine", "/spool", id="ours"),
        pytest.param(
            {**HOME, "XDG_DATA_HOME": "", "XDG_STATE_HOME": "", "TALLYSTICK_DATA": "", "TALLYSTICK_SPOOL": ""},
            *AT_HOME,
            id="empty-is-not-set",
        ),
        pytest.param(
            {**HOME, "XDG_DATA_HOME": "here", "XDG_STATE_HOME": "./here"},
            *AT_HOME,
            id="relative-xdg-is-passed-by",
        ),
        pytest.param({}, NOWHERE, NOWHERE / "spool", id="no-home"),
        pytest.param({"HOME": "relative"}, NOWHERE, NOWHERE / "spool", id="relative-home"),
    ],
)
def test_app_and_collector_find_the_same_folders(environ: dict[str, str], data: str, spool: str) -> None:
    assert data_dir(environ) == Path(data)
    assert spool_dir(environ) == Path(spool)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:4318"),
        ({"TALLYSTICK_COLLECTOR": ""}, "http://127.0.0.1:4318"),
        ({"TALLYSTICK_COLLECTOR": "http://collector:4318/"}, "http://collector:4318"),
    ],
)
def test_the_collector_is_on_loopback_unless_named(environ: dict[str, str], url: str) -> None:
    assert collector_url(environ) == url
