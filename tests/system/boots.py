"""Real machines, emulated in software: boot a kernel in QEMU, serve it a root, and return what its console said.

KVM is not looked for: a /dev/kvm that opens may still not run a kernel. A guest that panics ends QEMU with
status 0 too, so tests look at what was said alone. The host is 10.0.2.2 to a guest.
"""

from __future__ import annotations

import http.server
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HOST = "10.0.2.2"
BOOT_S = 240  # a boot takes 20 to 60 s; on a busy machine twice that
# panic=1: what is refused or panics reboots, and -no-reboot ends QEMU there.
CONSOLE = ["console=ttyS0", "panic=1", "quiet", "loglevel=3", "systemd.show_status=false"]

# Inside the snapshot: says on the console what a user of the machine would see, and switches it off.
SAYING = r"""#!/bin/sh
exec >/dev/ttyS0 2>&1
say() { echo; echo "seen $1: $2"; }
say boot.json "$(cat /run/statelesskit/boot.json)"
say usr "$(touch /usr/x 2>&1)"
say root "$(touch /x 2>&1)"
say etc "$(touch /etc/x && ls /etc/x)"
say tmp "$(touch /tmp/x && ls /tmp/x)"
say srv "$(touch /srv/x 2>&1)"
say mounts "$(awk '{print $2 "=" $3 ":" substr($4, 1, 2)}' /proc/mounts | tr '\n' ' ')"
say modes "$(stat -c %a:%u:%g /etc /root /var | tr '\n' ' ')"
say capability "$(getcap /usr/local/bin/capable)"
say hostname "$(hostname)"
say resolv.conf "$(cat /etc/resolv.conf)"
say end .
sync
poweroff --force --force
"""
UNIT = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/saying
"""


def say_what_is_seen(tree: Path) -> None:
    """Have a tree tell of itself when it has booted, and make a file whose capability can be looked for."""
    saying = tree / "usr/local/sbin/saying"
    saying.write_text(SAYING)
    saying.chmod(0o755)
    units = tree / "etc/systemd/system"
    (units / "multi-user.target.wants").mkdir(parents=True, exist_ok=True)
    (units / "saying.service").write_text(UNIT)
    (units / "multi-user.target.wants/saying.service").symlink_to("../saying.service")
    (units / "serial-getty@ttyS0.service").symlink_to("/dev/null")  # it would hang up on whoever talks there
    capable = tree / "usr/local/bin/capable"
    capable.write_bytes((tree / "usr/bin/true").read_bytes())
    capable.chmod(0o755)
    subprocess.run(["setcap", "cap_net_raw+ep", capable], check=True)


@dataclass(frozen=True)
class Console:
    """What a machine said until it was off."""

    text: str

    def seen(self) -> dict[str, str]:
        """Return what :data:`SAYING` said, by name; {} if the system was never up."""
        found = {}
        for line in self.text.splitlines():
            if line.startswith("seen "):
                name, _, value = line.removeprefix("seen ").partition(": ")
                found[name] = value.strip()
        return found


def boot(place: Path, kernel: Path, initrd: Path, arguments: list[str], *devices: str) -> Console:
    """Boot once, until the machine is off or wants to boot again; one that does neither is switched off.

    Args:
        devices: QEMU's own words for more of them.
    """
    words = ["-kernel", str(kernel), "-initrd", str(initrd), "-append", " ".join([*CONSOLE, *arguments])]
    return start(place, *words, *devices)


def start(place: Path, *words: str) -> Console:
    """Start a machine from what QEMU's words name, and wait as :func:`boot` does."""
    said = place / "console"
    argv = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-smp", "2", "-m", "1536",
        "-display", "none", "-nodefaults", "-no-reboot", "-serial", f"file:{said}",
        "-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci", *words,
    ]  # fmt: skip
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as machine:
        try:
            machine.wait(timeout=BOOT_S)
        except subprocess.TimeoutExpired:
            machine.kill()
    return Console(said.read_text(errors="replace").replace("\r", ""))


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@contextmanager
def http_server(folder: Path) -> Iterator[str]:
    """Serve a folder; yield the address as a guest sees it."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}"
        finally:
            server.shutdown()


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"{process.args} does not listen on {port}")


@contextmanager
def serving(argv: list[str], port: int) -> Iterator[None]:
    """Run a server in the foreground while the block runs."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port, process)
            yield
        finally:
            process.kill()


def make_medium(image: Path, place: Path) -> Path:
    """Return a disc that holds the image where a live client looks for it; it starts by no firmware."""
    content = place / "medium/statelesskit"
    content.mkdir(parents=True)
    (content / "root.squashfs").hardlink_to(image)
    disc = place / "disc.iso"
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-V", "SKLIVE", "-o", disc, content.parent], check=True
    )
    return disc


@contextmanager
def nbd_server(image: Path, port: int) -> Iterator[str]:
    """Serve one image read-only; yield HOST:PORT as a guest sees it."""
    with serving(["nbdkit", "-f", "-r", "-i", "127.0.0.1", "-p", str(port), "file", str(image)], port):
        yield f"{HOST}:{port}"


GANESHA = """
NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1; Enable_RQUOTA = false; }}
NFSV4 {{ Graceless = true; Only_Numeric_Owners = {numeric}; RecoveryBackend = fs; }}
EXPORT {{ Export_Id = 1; Path = "{tree}"; Pseudo = "/root"; Access_Type = RO; Squash = No_Root_Squash;
  SecType = sys; Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }} }}
LOG {{ Default_Log_Level = WARN; }}
"""


@contextmanager
def nfs_server(tree: Path, place: Path, port: int, *, numeric: bool = True) -> Iterator[str]:
    """Export one tree read-only; yield ADDRESS:/PATH,port=N as a guest sees it.

    Args:
        numeric: send owners as numbers, not as names.
    """
    conf = place / "ganesha.conf"
    conf.write_text(GANESHA.format(port=port, tree=tree, numeric=str(numeric).lower()))
    argv = ["ganesha.nfsd", "-F", "-f", str(conf), "-L", str(place / "ganesha.log"), "-p", str(place / "ganesha.pid")]
    with serving(argv, port):
        yield f"{HOST}:/root,port={port}"


@dataclass(frozen=True)
class Image:
    """An image with its hash tree at the end, made by the plain tools.

    Attributes:
        offset: where the hash tree begins, in bytes.
    """

    path: Path
    sha256: str
    root_hash: str
    offset: int


def make_image(tree: Path, path: Path) -> Image:
    words = ["-comp", "zstd", "-Xcompression-level", "3", "-quiet", "-no-progress"]
    subprocess.run(["mksquashfs", tree, path, *words], check=True, capture_output=True)
    offset = -(-path.stat().st_size // 4096) * 4096
    with path.open("r+b") as file:
        file.truncate(offset)
    done = subprocess.run(
        ["veritysetup", "format", f"--hash-offset={offset}", path, path], check=True, capture_output=True, text=True
    )
    (root_hash,) = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("Root hash")]
    digest = subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout.split()[0]
    return Image(path, f"sha256:{digest}", root_hash, offset)
