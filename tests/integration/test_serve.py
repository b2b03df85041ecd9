"""`site serve` as machines see it: asked by clients that are not ours, with no directory anywhere."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from statelesskit.clients.discovered import listed
from statelesskit.config import Site, load_site
from statelesskit.serve import SMALL, open_below
from tests.conftest import free_port

LARGE = os.urandom(3_000_000)


@pytest.fixture
def published(site: Site) -> Site:
    """A publication, and beside it what nobody shall get."""
    boot, snapshot = site.publish / "boot", site.publish / "snapshots/desktop-20261123T073000Z"
    (boot / "by-mac").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (boot / "start.ipxe").write_text("#!ipxe\n")
    (boot / "by-mac/52-54-00-00-00-01.ipxe").write_text("#!ipxe\n# known\n")
    (boot / ".start.ipxe.partial-00000000").write_text("half")
    (snapshot / "root.erofs").write_bytes(LARGE)
    (site.keys / "record.key").write_text("SECRET")
    (boot / "link.ipxe").symlink_to(site.keys / "record.key")
    (site.publish / "out").symlink_to(site.keys)
    os.mkfifo(boot / "pipe.ipxe")
    return site


@contextmanager
def served(site: Site, *options: str, log: Path | None = None) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "statelesskit", "--site", str(site.root), "site", "serve"]
    with (log or Path(os.devnull)).open("wb") as err:
        process = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}", *options], stderr=err)
    try:
        answering(port, process)
        yield port, process
    finally:
        process.kill()
        process.wait()


def answering(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None
        time.sleep(0.1)


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


IMAGE = "/snapshots/desktop-20261123T073000Z/root.erofs"
OUTSIDE = [
    "/../keys/record.key", "/boot/../../keys/record.key", "/%2e%2e/keys/record.key", "/..%2fkeys/record.key",
    "/boot/%2e%2e/%2e%2e/keys/record.key", "/boot/link.ipxe", "/out/record.key", "//etc/passwd", "/boot//start.ipxe",
    "/boot", "/boot/", "/", "/boot/.start.ipxe.partial-00000000", "/boot/pipe.ipxe", "/boot/start.ipxe%00",
    "/boot/start.ipxe/", "/boot/" + "a" * 5000, "/%ff%fe",
]  # fmt: skip


def test_files_come_whole_in_ranges_and_as_headers(published: Site) -> None:
    with served(published) as (port, _):
        status, headers, body = ask(port, "/boot/start.ipxe")
        assert (status, body, headers["content-type"]) == (200, b"#!ipxe\n", "text/plain; charset=utf-8")
        assert ask(port, IMAGE)[2] == LARGE
        status, headers, body = ask(port, IMAGE, "HEAD")
        assert (status, headers["content-length"], body) == (200, str(len(LARGE)), b"")
        assert ask(port, "/boot/start.ipxe", "HEAD")[1]["content-length"] == "7"
        status, headers, body = ask(port, IMAGE, Range="bytes=1000000-1000099")
        assert (status, body) == (206, LARGE[1_000_000:1_000_100])
        assert headers["content-range"] == f"bytes 1000000-1000099/{len(LARGE)}"
        assert ask(port, IMAGE, Range="bytes=-5")[2] == LARGE[-5:]
        assert ask(port, IMAGE, Range="bytes=9000000-")[0] == 416
        assert ask(port, "/boot/start.ipxe", Range="bytes=2-5")[2] == b"ipxe"
        for method in ("PUT", "DELETE", "POST"):
            assert ask(port, "/boot/start.ipxe", method)[0] == 405
        for path in OUTSIDE:
            status, _, body = ask(port, path)
            assert status in (400, 404), path
            assert b"SECRET" not in body
            assert b"root:" not in body


def test_a_file_at_the_edge_of_small_is_whole(published: Site) -> None:
    for size in (0, SMALL - 1, SMALL, SMALL + 1):
        (published.publish / f"boot/{size}").write_bytes(LARGE[:size])
    with served(published) as (port, _):
        for size in (0, SMALL - 1, SMALL, SMALL + 1):
            assert ask(port, f"/boot/{size}")[2] == LARGE[:size]


def test_a_link_is_not_followed_wherever_it_is(published: Site) -> None:
    for path in ("boot/link.ipxe", "out/record.key", "boot/../boot/start.ipxe", "boot", "", "boot/pipe.ipxe"):
        with pytest.raises((OSError, ValueError)):
            open_below(published.publish, path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        with pytest.raises((OSError, ValueError)):
            open_below(published.publish, "boot/link.ipxe")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_unknown_machines_are_noted_once(published: Site) -> None:
    with served(published) as (port, _):
        assert ask(port, "/boot/by-mac/52-54-00-00-00-01.ipxe")[0] == 200
        for _ in range(20):
            assert ask(port, "/boot/by-mac/52-54-00-00-00-99.ipxe")[0] == 404
        for path in ("zz-54-00-00-00-99", "01-00-5e-00-00-01", "00-00-00-00-00-00", "52:54:00:00:00:98"):
            assert ask(port, f"/boot/by-mac/{path}.ipxe")[0] == 404
        until = time.monotonic() + 20
        while not listed(published) and time.monotonic() < until:
            time.sleep(0.1)
        assert ask(port, "/boot/start.ipxe")[0] == 200
    (one,) = listed(published)
    assert (one.mac, one.address, one.asked) == ("52:54:00:00:00:99", "127.0.0.1", 1)


def test_what_is_asked_can_not_write_the_log(published: Site, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with served(published, log=log) as (port, _):
        ask(port, "/boot/%1b%5b31mred%0aGET")
        ask(port, "/boot/start.ipxe?x=%0d%0a")
        until = time.monotonic() + 20  # a line is written when the answer has gone out
        while log.read_bytes().count(b" GET ") < 2 and time.monotonic() < until:
            time.sleep(0.05)
    text = log.read_bytes()
    assert b"GET /boot/start.ipxe" in text
    assert b"\x1b" not in text
    lines = [line for line in text.splitlines() if b" GET " in line]
    assert len(lines) == 2


def test_it_ends_what_it_sends_when_it_is_stopped(published: Site) -> None:
    (published.publish / "boot/big").write_bytes(LARGE * 10)
    with served(published) as (port, process), socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /boot/big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        got = connection.recv(1000)  # it has begun
        process.send_signal(signal.SIGTERM)
        while part := connection.recv(1 << 20):
            got += part
        assert got.partition(b"\r\n\r\n")[2] == LARGE * 10
        assert process.wait(20) == 0


def test_it_serves_with_tls(published: Site, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    with served(published, "--tls", str(certificate), str(key)) as (port, _):
        context = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=20)
        connection.request("GET", IMAGE)
        assert connection.getresponse().read() == LARGE
        connection.close()


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--listen", "127.0.0.1:x"], 2, "expected HOST:PORT"),
        (["--listen", "8080"], 2, "expected HOST:PORT"),
        (["--listen", "192.0.2.1:8080"], 7, "can't listen at 192.0.2.1:8080"),
        (["--tls", "/etc/hostname", "/etc/hostname"], 7, "can't be used for TLS"),
    ],
)
def test_what_can_not_be_served_is_said(published: Site, options: list[str], code: int, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "statelesskit", "--site", published.root, "site", "serve", *options],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr


@pytest.fixture
def open_to_all(published: Site) -> Iterator[Path]:
    """The same site, where other users reach it; pytest closes its own folders."""
    (published.publish / "boot/pipe.ipxe").unlink()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(shutil.copytree(published.root, Path(folder) / "site", symlinks=True))


@pytest.mark.root
def test_an_ordinary_user_serves(open_to_all: Path, tmp_path: Path) -> None:
    """And says so when it may not note who asked."""
    code = (
        "import os, sys; from pathlib import Path; import concurrent.futures.thread, statelesskit.reports.door; "
        "from statelesskit.config import load_site; from statelesskit.serve import serve; "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        "serve(load_site(Path(sys.argv[1])), '127.0.0.1', int(sys.argv[2]))"
    )
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as err:
        process = subprocess.Popen([sys.executable, "-c", code, open_to_all, str(port)], stderr=err)
    try:
        answering(port, process)
        assert ask(port, "/boot/start.ipxe")[0] == 200
        assert ask(port, "/boot/by-mac/52-54-00-00-00-99.ipxe")[0] == 404
        until = time.monotonic() + 20
        while b"could not be noted" not in log.read_bytes() and time.monotonic() < until:
            time.sleep(0.1)
        assert ask(port, "/boot/start.ipxe")[0] == 200
    finally:
        process.kill()
        process.wait()
    assert b"52-54-00-00-00-99 from 127.0.0.1 could not be noted: [Errno 13]" in log.read_bytes()


@pytest.mark.parametrize(("url", "taken"), [("https://here.example.org/report", False), ("http://here/report", True)])
def test_reports_are_taken_where_they_are_sent(published: Site, tmp_path: Path, url: str, taken: bool) -> None:
    toml = published.root / "site.toml"
    toml.write_text(toml.read_text().replace('report_url = ""', f'report_url = "{url}"'))
    log = tmp_path / "log"
    with served(load_site(published.root), log=log):
        pass
    assert (f"no reports are taken here: they go to {url}" not in log.read_text()) == taken
