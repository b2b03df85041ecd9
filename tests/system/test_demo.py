"""The demo, as a newcomer runs it: a real Debian root, a real slapd, papermill, and a record that is altered."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.slapd, pytest.mark.slow]


def test_the_demo_does_the_main_job(tmp_path: Path) -> None:
    place = tmp_path / "demo"
    try:
        done = subprocess.run(
            [ROOT / "script/demo"],
            env={**os.environ, "DEMO_DIR": str(place)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        said = done.stdout
        assert done.returncode == 0, said[-3000:] + done.stderr[-3000:]
        assert re.search(r"^hello\b.* added ", said, re.MULTILINE), said
        assert "usr/bin/hello" in said
        assert "3 clients to change" in said
        assert "71-push-snapshot: completed" in said
        two = re.findall(r"^reception: (\S+)$", said, re.MULTILINE)[-1]
        for client in ("laptop", "kiosk"):
            assert f"{client}: {two}\n" in said
        assert "workshop: nothing\n" in said
        assert f"skSnapshotDN: cn={two},cn=desktop,ou=prototypes,ou=stateless" in said
        assert "records, nothing altered" in said
        assert re.search(r"record\.ipynb +cell \d+: output altered", said)
        assert re.search(r"equal +yes", said)
        assert "jupyter lab" in said
        assert (place / "tree/usr/bin/hello").exists()
    finally:
        stop = [sys.executable, "-m", "statelesskit", "--site", str(place / "site"), "site", "stop"]
        subprocess.run(stop, check=False, capture_output=True)
