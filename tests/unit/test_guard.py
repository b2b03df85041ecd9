"""The guard of a kernel: whoever dies, nothing it started lives on, for root and for an ordinary user."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import papermill  # noqa: F401 # it loads the engine, and must be loaded first
import pytest

from statelesskit.engine import guard

SYSTEM_PYTHON = "/usr/bin/python3"  # one that an ordinary user can run wherever our own is
NOBODY = 65534
# It starts the guard, as a run does. The guarded command leaves a child behind, in a session of its own.
RUNNER = """
import os, subprocess, sys
script, told, command = sys.argv[1:]
guarded = [sys.executable, "-I", "-S", script, str(os.getpid()), told, "sh", "-c", command]
print(subprocess.Popen(guarded, start_new_session=True).wait())
"""


def alive(token: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if token.encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


def gone(token: str) -> bool:
    deadline = time.monotonic() + 2
    while alive(token) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(token)


@pytest.mark.root
@pytest.mark.parametrize("forced", ["", "subreaper"])
@pytest.mark.parametrize("user", [0, NOBODY], ids=["root", "nobody"])
@pytest.mark.parametrize("dies", ["the runner", "the guard", "its group", "the command", "nobody"])
def test_nothing_lives_on(tmp_path: Path, forced: str, user: int, dies: str) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:  # pytest's folders, of which each worker has one more
            folder.chmod(0o755)
    script = Path(shutil.copy(guard.__file__, tmp_path / "guard.py"))
    script.chmod(0o644)
    told, there, token = tmp_path / "told", tmp_path / "there", secrets.token_hex(8)
    for path in (told, there):
        path.touch()
        path.chmod(0o666)
    last = "exit 7" if dies == "nobody" else "kill -9 $$" if dies == "the command" else "sleep 60"
    command = f"setsid sh -c 'echo > {there}; sleep 60' & while [ ! -s {there} ]; do sleep 0.05; done; {last}"
    with subprocess.Popen(
        [SYSTEM_PYTHON, "-c", RUNNER, script, told, command],
        env={"PATH": "/usr/bin:/bin", "TOKEN": token, guard.FORCED: forced},
        cwd="/", stdout=subprocess.PIPE, text=True, user=user, group=user, extra_groups=[],
    ) as runner:  # fmt: skip
        deadline = time.monotonic() + 20
        while not there.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.02)
        children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children")
        if dies == "the runner":
            runner.kill()
        elif dies == "the guard":
            os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
        elif dies == "its group":
            os.killpg(int(children.read_text().split()[0]), signal.SIGKILL)
        out = runner.communicate(timeout=20)[0]
    assert gone(token)
    assert out == {"the command": "137\n", "nobody": "7\n", "the runner": ""}.get(dies, "-9\n")
    expected = guard.SUBREAPER if forced else guard.NAMESPACE if user == 0 else guard.USER_NAMESPACE
    assert told.read_text().startswith(expected)
