"""What is still open when the interpreter ends: it has emptied the modules by then, and nobody wants a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.spool.kit import environment

_ENDING = """
import os, sys
import walspool
{begin}
for name, module in list(sys.modules.items()):
    if name.startswith("walspool"):
        vars(module).update({{each: None for each in vars(module) if not each.startswith("__")}})
{end}
sys.stderr.flush()
os._exit(0)
"""
_WHAT = {
    "bell": (
        "from walspool.spool.bell import Bell; held = Bell(); fd = held.wait_fd",
        "held.__del__(); assert os.dup(0) == fd",
    ),
    "file": (
        "from walspool.core.pure.file import File; fd = os.open(os.devnull, os.O_RDONLY); held = File(fd, 'x')",
        "del held; assert os.dup(0) == fd",
    ),
    "log": ("held = walspool.open(sys.argv[1] + '/a')", "held.__del__(lambda: True); assert held.closed"),
    "follower": (
        "from walspool.net import Follower; held = Follower('http://[::1]', 'a', sys.argv[1] + '/a')",
        "held._running = True; held.__del__(lambda: True)",
    ),
}


@pytest.mark.parametrize("what", _WHAT)
def test_what_is_open_at_the_end_goes_without_a_traceback(core: ModuleType, tmp_path: Path, what: str) -> None:
    begin, end = _WHAT[what]
    line = [sys.executable, "-W", "ignore::ResourceWarning", "-c", _ENDING.format(begin=begin, end=end), str(tmp_path)]
    run = subprocess.run(line, env=environment(core.name), capture_output=True, text=True, check=True)
    assert run.stderr == ""
