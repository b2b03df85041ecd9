#!/usr/bin/python3
"""A script, not a module to call: say what this machine runs, to the report door of its site.

    statelesskit-report [report]     say it now, and try again until the door has it
    statelesskit-report enrol        register this machine's key; the token is read from standard input

What is said is read anew before each try, so whatever the door was away for, it gets the newest; a machine that
can't reach it keeps trying, and the timer begins again after that. The format is documented in
statelesskit/reports/message.py, of which this shares no code: it runs where statelesskit is not installed.

Standard library only, for Python 3.10 and newer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

BOOT = "/run/statelesskit/boot.json"  # written when the root was mounted
WRITABLE = "/run/statelesskit/writable"  # the memory that holds what is written over the root
KEY = "/var/lib/statelesskit/report.key"  # worth something where that folder persists
CA = Path("/etc/statelesskit/ca.crt")  # the CA of the door, where it is none of the system's
NAMESPACE = "statelesskit-report"
TIMEOUT_S = 30
FIRST_WAIT_S, LAST_WAIT_S = 2, 300
LATER = (408, 429, 500, 502, 503, 504)  # what passes by itself
STATES = {"running": "ok"}  # what systemd calls it, where we call it otherwise


class RefusedError(Exception):
    """The door will not have it, now or later."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Say what this machine runs, to its site.")
    parser.add_argument("what", nargs="?", choices=("report", "enrol"), default="report")
    parser.add_argument("--boot", default=BOOT, help="what this machine was booted with")
    parser.add_argument("--key", default=KEY, help="its private key")
    parser.add_argument("--patience", type=float, default=1800, metavar="SECONDS", help="how long to try")
    given = parser.parse_args()
    try:
        boot = json.loads(Path(given.boot).read_text())
    except (OSError, ValueError) as error:
        print(f"statelesskit-report: {given.boot} cannot be read: {error}", file=sys.stderr)
        return 1
    if not boot.get("client") or not boot.get("report"):
        print("statelesskit-report: this machine was told no name or no place to report to", file=sys.stderr)
        return 0
    try:
        if given.what == "enrol":
            enrol(boot, Path(given.key), sys.stdin.readline().strip())
        else:
            report(boot, Path(given.key), given.patience)
    except RefusedError as error:
        print(f"statelesskit-report: {error}", file=sys.stderr)
        return 1
    return 0


# --- report -----------------------------------------------------------------------------------


def report(boot: dict[str, object], key: Path, patience_s: float) -> None:
    """Report, and try again until it is taken.

    Raises:
        RefusedError: the door won't have it, or patience has ended.
    """
    until, wait_s, above = time.monotonic() + patience_s, float(FIRST_WAIT_S), 0
    while True:
        counter = above + 1 if above else time.time_ns() // 1_000_000
        code, answer = ask(str(boot["report"]), signed(facts(boot, counter), key))
        if code == 200:
            return
        if code == 409:
            after = number(answer)
            if after == counter:  # it had come before, and only the answer was lost
                return
            if after and after != above:
                above = after
                continue
        elif code and code not in LATER:
            raise RefusedError(f"the door refused the report ({code}): {answer[:200]!r}")
        wait_s = min(wait_s, LAST_WAIT_S) * (1 + random.random())  # noqa: S311 # so that not all come back at once
        if time.monotonic() + wait_s > until:
            raise RefusedError(f"the door did not take the report within {patience_s:g} s ({code}): {answer[:200]!r}")
        time.sleep(wait_s)


def facts(boot: dict[str, object], counter: int) -> bytes:
    """Return the report's one line: how this machine is now."""
    used, limit = overlay()
    said = {
        "format": 1,
        "client": boot["client"],
        "snapshot": boot.get("snapshot"),
        "digest": boot.get("digest"),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "counter": counter,
        "result": result(),
        "overlay_bytes": used,
        "overlay_limit_bytes": limit,
    }
    return json.dumps(said).encode("ascii")


def overlay() -> tuple[int | None, int | None]:
    """Return how much is written over the root, and how much can be."""
    if not os.path.ismount(WRITABLE):
        return None, None
    info = os.statvfs(WRITABLE)
    return (info.f_blocks - info.f_bfree) * info.f_frsize, info.f_blocks * info.f_frsize


def result() -> str:
    """Return how the boot went, in one word: what systemd says, or ``ok`` without it."""
    if not Path("/run/systemd/system").is_dir():
        return "ok"
    done = subprocess.run(["/usr/bin/systemctl", "is-system-running"], capture_output=True, text=True, check=False)
    state = done.stdout.strip()
    return STATES.get(state, state or "unknown")


def signed(line: bytes, key: Path) -> bytes:
    """Return the body: the line, and its signature where this machine has a key."""
    if not key.is_file():
        return line
    argv = [tool("ssh-keygen"), "-q", "-Y", "sign", "-f", str(key), "-n", NAMESPACE]
    done = subprocess.run(argv, input=line, capture_output=True, check=False)
    if done.returncode:
        raise RefusedError(f"ssh-keygen could not sign with {key}: {done.stderr.decode(errors='replace').strip()}")
    return line + b"\n" + done.stdout


# --- enrol ------------------------------------------------------------------------------------


def enrol(boot: dict[str, object], key: Path, token: str) -> None:
    """Register a new key, and use it from now on.

    Raises:
        RefusedError: the door won't have it. The key this machine had stays; one whose answer was lost is offered
            again.
    """
    new = key.with_name(key.name + ".new")
    key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not new.exists():
        made = [tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(new)]
        subprocess.run(made, check=True, stdin=subprocess.DEVNULL)
    public = new.with_name(new.name + ".pub").read_text("ascii").strip()
    body = json.dumps({"format": 1, "client": boot["client"], "token": token, "key": public})
    code, answer = ask(urljoin(str(boot["report"]), "enrol"), body.encode())
    if code != 200:
        raise RefusedError(f"the door did not enrol this machine ({code or 'no answer'}): {answer[:200]!r}")
    os.sync()  # it is registered: no power failure may take it from here
    new.rename(key)
    new.with_name(new.name + ".pub").rename(key.with_name(key.name + ".pub"))


# --- how --------------------------------------------------------------------------------------


def ask(url: str, body: bytes) -> tuple[int, str]:
    """Return the door's status and answer; 0 and why if there is none."""
    context = ssl.create_default_context()
    if CA.is_file():
        context.load_verify_locations(CA)
    request = urllib.request.Request(url, body, {"Content-Type": "application/octet-stream"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:  # noqa: S310
            return answer.status, answer.read(4096).decode("ascii", "replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(4096).decode("ascii", "replace")
    except (OSError, ValueError) as error:
        return 0, str(error)


def number(answer: str) -> int:
    """Return what a report's counter must be above, by the door's answer; 0 if it does not say."""
    try:
        after = json.loads(answer)["after"]
    except (ValueError, KeyError, TypeError):
        return 0
    return after if type(after) is int and after > 0 else 0


def tool(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/bin")
    if not found:
        raise RefusedError(f"{name} is not installed; Debian's package is openssh-client")
    return found


if __name__ == "__main__":
    sys.exit(main())
