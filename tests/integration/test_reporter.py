"""What runs on clients, against a real door; and the package it comes in, held against dpkg."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from statelesskit import __version__, client_package
from statelesskit.actions import ACTIONS
from statelesskit.client import report
from statelesskit.config import Site
from statelesskit.errors import StatelessError
from statelesskit.reports.judging import milliseconds
from statelesskit.reports.writer import Writer
from statelesskit.service import AT_ONCE, perform
from statelesskit.site import init_site
from tests.conftest import free_port
from tests.integration.test_prototype_create import small_root
from tests.integration.test_reports import DIGEST, SNAPSHOT, body, codes, listening, made, site, status

__all__ = ["made", "site"]  # fixtures
pytestmark = pytest.mark.slapd

Run = Callable[..., Awaitable[tuple[int, str]]]


def booted(folder: Path, url: str, client: str | None = "c1") -> Path:
    """Write what the boot leaves of itself."""
    told = {"abi": 1, "snapshot": SNAPSHOT, "digest": DIGEST, "root": "ram:x", "client": client, "report": url}
    path = folder / "boot.json"
    path.write_text(json.dumps(told))
    return path


async def reporter(boot: Path, *words: str, stdin: str = "") -> tuple[int, str]:
    """Run the script as a client does, with nothing of ours to import."""
    argv = ["/usr/bin/python3", "-I", report.__file__, *words, "--boot", str(boot), "--key", f"{boot.parent}/own/key"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
    return process.returncode or 0, (out + err).decode()


def with_door(site: Site, use: Callable[[str], Awaitable[None]]) -> None:
    async def run() -> None:
        async with listening(writer) as url:
            await use(url)

    writer = Writer(site)
    try:
        asyncio.run(run())
    finally:
        writer.close()


def token_for(site: Site, client: str) -> str:
    return str(perform(site, ACTIONS["client enrol"].check({"name": client}), AT_ONCE).result["token"])


@pytest.mark.root
def test_how_full_the_memory_over_the_root_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "WRITABLE", str(tmp_path))
    assert report.overlay() == (None, None)  # a folder, as where no hook made one
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=True)
    try:
        (tmp_path / "written").write_bytes(b"x" * 300_000)
        used, limit = report.overlay()
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert limit == 1 << 20
    assert 300_000 <= (used or 0) < 400_000


def test_it_reports_and_enrols_and_signs_from_then_on(site: Site, tmp_path: Path) -> None:
    async def use(url: str) -> None:
        boot = booted(tmp_path, f"{url}report")
        assert await reporter(boot) == (0, "")
        assert status(site, "c1")["skLevel"] == ["network"]
        code, said = await reporter(boot, "enrol", stdin="wrong\n")
        assert (code, "403" in said) == (1, True)
        assert await reporter(boot, "enrol", stdin=token_for(site, "c1") + "\n") == (0, "")
        assert await reporter(boot) == (0, "")
        entry = status(site, "c1")
        assert (entry["skLevel"], entry["skManifestDigest"]) == (["token"], [DIGEST])
        assert (tmp_path / "own/key").stat().st_mode & 0o077 == 0
        key = " ".join((tmp_path / "own/key.pub").read_text().split()[:2])
        assert entry["skKey"] == [key]

    with_door(site, use)


def test_a_clock_that_is_wrong_does_not_silence_it(site: Site, tmp_path: Path) -> None:
    ahead = milliseconds(datetime.now(UTC)) + 3_600_000
    assert codes(site, body("c1", counter=ahead)) == [200]

    async def use(url: str) -> None:
        assert await reporter(booted(tmp_path, f"{url}report")) == (0, "")

    with_door(site, use)
    assert status(site, "c1")["skSerial"] == [str(ahead + 1)]


def test_it_tries_until_the_door_is_there(site: Site, tmp_path: Path) -> None:
    port = free_port()

    async def run() -> None:
        waiting = asyncio.ensure_future(reporter(booted(tmp_path, f"http://127.0.0.1:{port}/report")))
        await asyncio.sleep(1)
        async with listening(writer, port):
            assert await waiting == (0, "")

    writer = Writer(site)
    try:
        asyncio.run(run())
    finally:
        writer.close()
    assert status(site, "c1")["skLastResult"]


def test_it_gives_up_where_trying_again_is_in_vain(site: Site, tmp_path: Path) -> None:
    async def use(url: str) -> None:
        code, said = await reporter(booted(tmp_path, f"{url}report", "nobody"))
        assert (code, "403" in said) == (1, True)
        assert (await reporter(booted(tmp_path, f"{url}report", None)))[0] == 0

    with_door(site, use)
    code, said = asyncio.run(reporter(booted(tmp_path, "http://127.0.0.1:9/report"), "--patience", "0"))
    assert (code, "did not take" in said) == (1, True)


def test_the_package_is_one_that_dpkg_takes_and_the_same_twice(tmp_path: Path) -> None:
    one = tmp_path / "one.deb"
    one.write_bytes(client_package.debian_package())
    assert client_package.debian_package() == one.read_bytes()

    def told(*argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout

    assert told("dpkg-deb", "--field", str(one), "Package", "Depends").splitlines() == [
        "Package: statelesskit-client",
        "Depends: python3 (>= 3.10)",
    ]
    told("dpkg-deb", "--extract", str(one), str(tmp_path / "tree"))
    program = tmp_path / "tree/usr/bin/statelesskit-report"
    assert program.read_bytes() == Path(report.__file__).read_bytes()
    assert os.access(program, os.X_OK)
    units = tmp_path / "tree/usr/lib/systemd/system"
    assert (units / "timers.target.wants/statelesskit-report.timer").resolve() == units / "statelesskit-report.timer"
    assert f"ExecStart=/{program.relative_to(tmp_path / 'tree')}" in (units / "statelesskit-report.service").read_text()
    told("dpkg-deb", "--control", str(one), str(tmp_path / "control"))
    done = subprocess.run(["md5sum", "-c", str(tmp_path / "control/md5sums")], cwd=tmp_path / "tree", check=False)
    assert done.returncode == 0


def test_dpkg_installs_it_into_a_root_and_removes_it_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "one.deb").write_bytes(client_package.debian_package())
    root = tmp_path / "root"
    for folder in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"):
        (root / folder).mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text("")
    argv = [
        "dpkg",
        f"--root={root}",
        "--force-depends",
        "--force-not-root",
        "--force-script-chrootless",
        "--log=/dev/null",
    ]
    subprocess.run([*argv, "--install", str(tmp_path / "one.deb")], check=True, capture_output=True, timeout=60)
    assert (root / "usr/bin/statelesskit-report").is_file()
    subprocess.run([*argv, "--purge", client_package.NAME], check=True, capture_output=True, timeout=60)
    assert not (root / "usr").exists()


@pytest.mark.root
def test_it_is_installed_in_a_prototype_once(tmp_path: Path) -> None:
    """With dpkg itself, in a tree just big enough for that."""
    tree = tiny_debian(tmp_path / "tree")
    site, _ = init_site(tmp_path / "site", name="test", port=free_port())
    perform(site, ACTIONS["prototype create"].check({"name": "desktop", "source": f"at:{tree}"}), AT_ONCE)
    action = ACTIONS["prototype prepare client"].check({"name": "desktop"})
    outcome = perform(site, action, AT_ONCE)
    assert [row["found"] for row in outcome.checks] == ["this version"]
    assert (tree / client_package.PROGRAM).read_bytes() == Path(report.__file__).read_bytes()
    assert "Package: statelesskit-client\nStatus: install ok installed" in (tree / "var/lib/dpkg/status").read_text()
    assert list((tree / "tmp").iterdir()) == []
    assert not perform(site, action, AT_ONCE).plan.changes
    (tree / "var/lib/dpkg/status").write_text("")  # no Python, and no apt to bring it
    (tree / client_package.PROGRAM).unlink()
    with pytest.raises(StatelessError, match="could not be installed"):
        perform(site, action, AT_ONCE)


def tiny_debian(tree: Path) -> Path:
    small_root(tree)
    names = ("sh", "cat", "rm", "tar", "dpkg", "dpkg-deb", "dpkg-split")
    programs = {name: Path(shutil.which(name) or name).resolve() for name in names}
    programs |= dict.fromkeys(("diff", "ldconfig", "start-stop-daemon"), Path("/bin/true"))
    linked = subprocess.run(["ldd", *programs.values()], check=True, capture_output=True, text=True).stdout
    for library in set(re.findall(r"(/\S+) \(0x", linked)):
        place = tree / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)
    for name, program in programs.items():
        shutil.copy(program, tree / "usr/bin" / name)
    for folder in ("info", "updates", "triggers"):
        (tree / "var/lib/dpkg" / folder).mkdir(parents=True)
    python = {"Status": "install ok installed", "Maintainer": "x", "Architecture": "all", "Version": "3.11"}
    lines = [f"{name}: {value}\n" for name, value in {"Package": "python3", **python, "Description": "x"}.items()]
    (tree / "var/lib/dpkg/status").write_text("".join(lines) + "\n")
    return tree


def test_the_rpm_holds_what_the_debian_package_holds(tmp_path: Path) -> None:
    ours = Path(client_package.__file__).parent
    for source in (*(ours / "resources/client").iterdir(), Path(report.__file__)):
        shutil.copy(source, tmp_path)
    folders = {"_topdir": tmp_path / "made", "_sourcedir": tmp_path, "_rpmdir": tmp_path / "made"}
    defines = [word for name, path in folders.items() for word in ("--define", f"{name} {path}")]
    spec = str(tmp_path / "statelesskit-client.spec")
    subprocess.run(["rpmbuild", "-bb", *defines, spec], check=True, capture_output=True, timeout=60)
    [made] = (tmp_path / "made").rglob("*.rpm")
    query = ["rpm", "-qp", "--qf", "%{VERSION}\\n[%{FILENAMES} %{FILEMODES:perms}\\n]", str(made)]
    version, *held = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert version == __version__
    (tmp_path / "one.deb").write_bytes(client_package.debian_package())
    listed = subprocess.run(["dpkg-deb", "-c", tmp_path / "one.deb"], capture_output=True, text=True, check=True).stdout
    lines = [line.partition(" -> ")[0].split() for line in listed.splitlines() if not line.startswith("d")]
    assert set(held) == {f"{words[-1][1:]} {words[0]}" for words in lines if "/doc/" not in words[-1]}
