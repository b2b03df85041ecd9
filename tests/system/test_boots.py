"""A snapshot of a real Debian boots over each transport, is what it says it is, and nothing else boots in its place."""

from __future__ import annotations

import filecmp
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from statelesskit.boot.arguments import kernel_arguments
from statelesskit.boot.initrd import BootFiles, build_boot_files
from statelesskit.config import FOLDERS, TEMPLATE, Site, load_site
from statelesskit.errors import NoSpaceError, NotFoundError
from statelesskit.export import images
from statelesskit.export.iso import Disc, make_iso
from statelesskit.export.snapshot_tree import export_snapshot
from statelesskit.fs import mounts_below
from statelesskit.prototype.create import create
from statelesskit.prototype.sandbox import run_in
from statelesskit.snapshot import Snapshot, load_manifest
from statelesskit.snapshot.taking import take
from statelesskit.store import Store
from tests.conftest import free_port
from tests.system.boots import (
    CONSOLE,
    Console,
    Image,
    boot,
    http_server,
    make_image,
    make_medium,
    nbd_server,
    nfs_server,
    say_what_is_seen,
    start,
)
from tests.witness import look

pytestmark = [pytest.mark.boots, pytest.mark.root, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

PACKAGES = [
    "linux-image-cloud-amd64", "initramfs-tools", "busybox", "systemd-sysv", "udev", "kmod", "nbd-client",
    "cryptsetup-bin", "libcap2-bin", "zstd",
]  # fmt: skip


@dataclass(frozen=True)
class Booted:
    """A snapshot, ready to be booted: its tree, an image of it by the plain tools, its kernel and initrd."""

    site: Site
    snapshot: Snapshot
    tree: Path
    image: Image
    files: BootFiles
    capability: bytes

    def arguments(self, root: str, **others: str) -> list[str]:
        given = {
            "image_sha256": self.image.sha256,
            "verity_root_hash": self.image.root_hash,
            "client": "kiosk-1",
            "report": "https://door.example:8443/report",
            **others,
        }
        offset = self.image.offset
        return kernel_arguments(self.snapshot.name, self.snapshot.digest, root=root, verity_offset=offset, **given)

    def boot(self, place: Path, arguments: list[str], *devices: str) -> Console:
        return boot(place, self.files.kernel, self.files.initrd, arguments, *devices)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    base = tmp_path_factory.mktemp("boots")
    root = base / "site"
    for name, mode in FOLDERS.items():
        (root / name).mkdir(parents=True, mode=mode)
    (root / "site.toml").write_text(TEMPLATE.format(format=1, name="test", base_dn="ou=stateless", port=free_port()))
    site = load_site(root)
    suite = subprocess.run(
        ["sh", "-c", '. /etc/os-release && echo "$VERSION_CODENAME"'], check=True, capture_output=True, text=True
    ).stdout.strip()
    prototype = create(site, "desktop", f"debootstrap:{suite}")
    assert run_in(prototype, ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *PACKAGES], site=site) == 0
    say_what_is_seen(prototype.tree)
    snapshot, _ = take(site, "desktop")
    tree = site.exports / snapshot.name
    export_snapshot(site, snapshot, tree)
    before = look(tree)
    files = build_boot_files(tree, base)
    assert look(tree) == before
    manifest = load_manifest(site, snapshot)
    (capable,) = [entry for entry in manifest.entries() if entry.path == b"usr/local/bin/capable"]
    capability = dict(capable.xattrs)[b"security.capability"]
    yield Booted(site, snapshot, tree, make_image(tree, base / "root.squashfs"), files, capability)
    shutil.rmtree(base)


def check_seen(console: Console, debian: Booted, root: str, *, capability: bool = True) -> None:
    """What every booted client shows from inside, whatever its root came over."""
    seen = console.seen()
    assert "end" in seen, console.text[-3000:]
    told = json.loads(seen["boot.json"])
    assert told == {
        "abi": 1,
        "snapshot": debian.snapshot.name,
        "digest": debian.snapshot.digest,
        "root": root,
        "client": "kiosk-1",
        "report": "https://door.example:8443/report",
        "image": debian.image.sha256,
        "verity": f"{debian.image.root_hash}:{debian.image.offset}",
    }
    assert "Read-only file system" in seen["usr"]
    assert "Read-only file system" in seen["root"]
    assert (seen["etc"], seen["tmp"], seen["srv"]) == ("/etc/x", "/tmp/x", "")
    assert {"/etc=overlay:rw", "/tmp=tmpfs:rw"} < set(seen["mounts"].split())
    assert seen["modes"].split() == ["755:0:0", "700:0:0", "755:0:0"]
    assert seen["hostname"] == "kiosk-1"
    assert ("nameserver 10.0.2.3" in seen["resolv.conf"]) == (not root.startswith("live:"))
    assert debian.capability[:4] == b"\x01\0\0\2"  # version 2, effective: capability.h
    assert seen["capability"] == ("/usr/local/bin/capable cap_net_raw=ep" if capability else "")


def check_refused(console: Console, why: str) -> None:
    refusals = [line for line in console.text.splitlines() if line.startswith("statelesskit: REFUSED: ")]
    assert len(refusals) == 1, console.text[-3000:]
    assert why in refusals[0]
    assert console.seen() == {}


def flipped(image: Image, place: Path, at: int) -> Path:
    """Return a copy of an image with one bit of one byte turned over."""
    copy = place / "flipped"
    shutil.copyfile(image.path, copy)
    with copy.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    return copy


@pytest.fixture(scope="module")
def other(debian: Booted, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """A sound image, of something else."""
    base = tmp_path_factory.mktemp("other")
    (base / "tree/etc").mkdir(parents=True)
    return make_image(base / "tree", base / "root.squashfs")


def test_an_image_in_memory(debian: Booted, tmp_path: Path) -> None:
    with http_server(debian.image.path.parent) as address:
        root = f"ram:{address}/root.squashfs"
        console = debian.boot(tmp_path, debian.arguments(root))
    check_seen(console, debian, root)
    assert "/=squashfs:ro" in console.seen()["mounts"].split()


def test_an_image_by_blocks_each_checked(debian: Booted, tmp_path: Path) -> None:
    path = tmp_path / "root.erofs"
    manifest, store = load_manifest(debian.site, debian.snapshot), Store(debian.site.store)
    made = images.make_image(manifest, store, path, "erofs", verity=True)
    erofs = replace(debian, image=Image(path, f"sha256:{made.sha256}", made.verity_root_hash, made.verity_offset))
    with nbd_server(path, free_port()) as address:
        console = debian.boot(tmp_path, erofs.arguments(f"nbd:{address}"))
    check_seen(console, erofs, f"nbd:{address}")
    assert "/=erofs:ro" in console.seen()["mounts"].split()


def test_a_tree_over_nfs(debian: Booted, tmp_path: Path) -> None:
    with nfs_server(debian.tree, tmp_path, free_port()) as address:
        console = debian.boot(tmp_path, debian.arguments(f"nfs:{address}"))
    check_seen(console, debian, f"nfs:{address}", capability=False)  # NFS carries none: DESIGN says so before
    assert "/=nfs4:ro" in console.seen()["mounts"].split()


def test_a_tree_whose_owners_would_all_be_nobody_is_not_booted(debian: Booted, tmp_path: Path) -> None:
    with nfs_server(debian.tree, tmp_path, free_port(), numeric=False) as address:
        console = debian.boot(tmp_path, debian.arguments(f"nfs:{address}"))
    assert re.search(r"^statelesskit: FAILED: nfs:\S+ says that 4294967294 owns /", console.text, re.M), console.text
    assert console.seen() == {}


def test_an_image_on_a_medium(debian: Booted, tmp_path: Path) -> None:
    disc = make_medium(debian.image.path, tmp_path)
    drive = f"file={disc},format=raw,if=virtio,readonly=on"
    check_seen(debian.boot(tmp_path, debian.arguments("live:SKLIVE"), "-drive", drive), debian, "live:SKLIVE")


@pytest.fixture(scope="module")
def live(debian: Booted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Disc]]:
    """A disc of the snapshot, as `export iso` makes it."""
    base = tmp_path_factory.mktemp("live")
    site = load_site(debian.tree.parent.parent)
    manifest = load_manifest(site, debian.snapshot)
    path = base / "live.iso"
    kind = images.best_kind(manifest)
    yield path, make_iso(manifest, Store(site.store), path, debian.snapshot.name, kind, append=CONSOLE)
    shutil.rmtree(base)


FIRMWARE = Path("/usr/share/OVMF")


@pytest.mark.parametrize(("firmware", "as_disk"), [("BIOS", False), ("BIOS", True), ("UEFI", False)])
def test_a_live_disc(debian: Booted, live: tuple[Path, Disc], tmp_path: Path, firmware: str, as_disk: bool) -> None:
    path, disc = live
    words = ["-M", "pc", "-vga", "std"]  # Debian's kernel for clouds knows the CD drive of this machine alone
    if firmware == "UEFI":
        variables = tmp_path / "variables"
        shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", variables)
        words += ["-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE}/OVMF_CODE_4M.fd"]
        words += ["-drive", f"if=pflash,format=raw,file={variables}"]
    words += ["-drive", f"if=virtio,format=raw,readonly=on,file={path}"] if as_disk else ["-cdrom", str(path)]
    console = start(tmp_path, *words)
    seen = console.seen()
    assert "end" in seen, console.text[-3000:]
    told = json.loads(seen["boot.json"])
    assert (told["snapshot"], told["digest"]) == (debian.snapshot.name, debian.snapshot.digest)
    assert told["root"] == f"live:{disc.label}"
    assert told["verity"] == f"{disc.image.verity_root_hash}:{disc.image.verity_offset}"
    assert f"/={disc.image.kind}:ro" in seen["mounts"].split()
    assert "Read-only file system" in seen["usr"]
    assert seen["etc"] == "/etc/x"
    assert seen["capability"] == "/usr/local/bin/capable cap_net_raw=ep"


def test_a_flipped_byte_of_an_image_in_memory_is_refused(debian: Booted, tmp_path: Path) -> None:
    flipped(debian.image, tmp_path, debian.image.path.stat().st_size // 2)
    with http_server(tmp_path) as address:
        console = debian.boot(tmp_path, debian.arguments(f"ram:{address}/flipped"))
    check_refused(console, f"expected is {debian.image.sha256}")


@pytest.mark.parametrize("where", ["data", "hashes"])
def test_a_flipped_byte_of_an_image_by_blocks_is_refused(debian: Booted, tmp_path: Path, where: str) -> None:
    # the first block of the data, and the block of the hash tree that the root hash is of
    image = flipped(debian.image, tmp_path, 100 if where == "data" else debian.image.offset + 4096 + 10)
    with nbd_server(image, free_port()) as address:
        console = debian.boot(tmp_path, debian.arguments(f"nbd:{address}"))
    check_refused(console, debian.image.root_hash)


def test_the_image_of_another_snapshot_is_refused(debian: Booted, other: Image, tmp_path: Path) -> None:
    with nbd_server(other.path, free_port()) as address:
        mixed = replace(debian, image=replace(debian.image, offset=other.offset))
        check_refused(debian.boot(tmp_path, mixed.arguments(f"nbd:{address}")), debian.image.root_hash)


def test_an_image_by_blocks_without_a_root_hash_is_refused(debian: Booted, tmp_path: Path) -> None:
    with nbd_server(debian.image.path, free_port()) as address:
        console = debian.boot(tmp_path, debian.arguments(f"nbd:{address}", verity_root_hash=""))
    check_refused(console, "needs sk.verity")


def test_the_same_tree_gives_the_same_boot_files_in_another_folder(debian: Booted, tmp_path: Path) -> None:
    copy = tmp_path / "another/tree"
    copy.parent.mkdir()
    subprocess.run(["cp", "-a", debian.tree, copy], check=True)
    again = build_boot_files(copy, tmp_path)
    assert filecmp.cmp(debian.files.kernel, again.kernel, shallow=False)
    assert filecmp.cmp(debian.files.initrd, again.initrd, shallow=False)
    assert again.kernel_release == debian.files.kernel_release
    assert {path.name for path in tmp_path.iterdir()} == {"another", "initrd.img", "vmlinuz"}


BUILD = (
    "import sys, pathlib; from statelesskit.boot.initrd import *; build_boot_files(*map(pathlib.Path, sys.argv[1:]))"
)


def test_a_killed_build_leaves_the_tree_as_it_was(debian: Booted, tmp_path: Path) -> None:
    before = look(debian.tree)
    with subprocess.Popen([sys.executable, "-c", BUILD, debian.tree, tmp_path]) as building:
        while not list(tmp_path.glob(".initrd.img*")):
            time.sleep(0.1)
        time.sleep(2)  # into mkinitramfs
        assert building.poll() is None
        building.kill()
    assert look(debian.tree) == before
    assert mounts_below(debian.tree) == set()
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    build_boot_files(debian.tree, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"initrd.img", "vmlinuz"}


def test_a_full_disk_is_said_and_earlier_files_stay(debian: Booted, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", tmp_path], check=True)
    try:
        (tmp_path / "vmlinuz").write_text("earlier")
        with pytest.raises(NoSpaceError, match="initrd"):
            build_boot_files(debian.tree, tmp_path)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        ("boot", "no kernel"),
        ("usr/lib/modules", "no kernel"),
        ("usr/sbin/mkinitramfs", "no initramfs-tools"),
        ("usr/bin/busybox", "no busybox"),
    ],
)
def test_what_a_snapshot_lacks_is_said_with_what_to_install(
    debian: Booted, tmp_path: Path, gone: str, why: str
) -> None:
    tree = tmp_path / "tree"
    subprocess.run(["cp", "-a", "--link", debian.tree, tree], check=True)
    subprocess.run(["rm", "-r", tree / gone], check=True)
    with pytest.raises(NotFoundError, match=why) as caught:
        build_boot_files(tree, tmp_path)
    assert "apt-get install" in caught.value.hint
    assert list(tmp_path.iterdir()) == [tree]
