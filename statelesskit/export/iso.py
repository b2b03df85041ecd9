"""Write a snapshot as a disc that boots: from CD and as a plain disk (a USB stick), by BIOS and by UEFI.

GRUB's two cores are made with all their modules in them. Both look for a file that only this disc has, so another
one in the same machine is not taken for it. The root is an image with its dm-verity tree, and the kernel checks each
block that it reads; ``SHA256SUMS`` tells for all of it at once whether a disc was burnt well (``sha256sum -c``).

Equal snapshots of one name give equal discs: what xorriso and mtools would take from the clock is the first day that
FAT knows, and what they would draw comes from the snapshot's digest. The cores are not signed, so Secure Boot
refuses them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from statelesskit import fs
from statelesskit.boot.arguments import kernel_arguments
from statelesskit.boot.initrd import build_boot_files
from statelesskit.errors import DamagedError, ExistsError, MissingToolError, RefusedError, UsageError
from statelesskit.export.images import Image, losses, make_image
from statelesskit.export.loss import refuse
from statelesskit.export.tree import check_space, check_target
from statelesskit.manifest import Manifest
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress
from statelesskit.run import run
from statelesskit.store import Store
from statelesskit.write_tree import write_tree

MEDIA = {"cd": 737_280_000, "dvd": 4_700_372_992}  # bytes: 80 minutes; DVD-R of one layer
DAWN = "315532800"  # 1980-01-01, in seconds
GRUB = Path("/usr/lib/grub")
MODULES = ["iso9660", "part_gpt", "part_msdos", "search", "search_fs_file", "normal", "linux", "all_video", "gzio"]
ESP_SECTORS = 16384  # of 512 bytes
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"  # UEFI 2.10, 5.3.3
_WORD = re.compile(r"[A-Za-z0-9._=:,/-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Disc:
    """What was made: ``sha256`` and ``bytes`` of the whole disc, its label, the image on it, the kernel's arguments."""

    sha256: str
    bytes: int
    label: str
    image: Image
    arguments: tuple[str, ...]


def medium_bytes(medium: str) -> int:
    """Return how much a medium holds: ``cd``, ``dvd``, or a number of bytes.

    Raises:
        UsageError: it is none of these.
    """
    if medium in MEDIA:
        return MEDIA[medium]
    if not re.fullmatch(r"[1-9]\d{0,14}", medium, re.ASCII):
        raise UsageError(f"{printable(medium)!r} is no medium", hint="say cd, dvd, or how many bytes it holds")
    return int(medium)


def make_iso(
    manifest: Manifest,
    store: Store,
    target: Path,
    snapshot: str,
    kind: str,
    *,
    medium: str = "",
    append: Sequence[str] = (),
    waive: bool = False,
    progress: Progress = SILENT,
) -> Disc:
    """Write the disc to ``target``, which must be free.

    Args:
        kind: of the image on it, as :func:`statelesskit.export.images.make_image`.
        medium: what it must fit on, as :func:`medium_bytes`.
        append: further arguments for the kernel.

    Raises:
        RefusedError: something that matters would be lost, or it does not fit on the medium.
        UsageError: an argument or the medium is none.
        NotFoundError: the snapshot lacks a kernel or what makes its initrd.
        ExistsError, NoSpaceError, PermissionNeededError, DamagedError: as for an image; nothing is left.
    """
    check_target(target)
    if target.exists():
        raise ExistsError(f"{target} is a folder", hint="name the disc's file")
    room = medium_bytes(medium) if medium else 0
    if bad := [word for word in append if not _WORD.fullmatch(word)]:
        raise UsageError(f"{printable(bad[0])!r} can't be a kernel argument", hint="write it without quotes and spaces")
    refuse(losses(manifest, kind), kind, waive=waive)
    check_space(manifest, target, copies=4)  # the image is made of a tree, the disc of the image, and both are read
    seed = manifest.digest.removeprefix("sha256:")
    label = f"SK_{seed[:12].upper()}"
    with fs.work_folder(target) as work:
        content, tree, disc = work / "content", work / "tree", work / "disc"
        for folder in (tree, content / "boot/grub", content / "statelesskit"):
            folder.mkdir(parents=True)
        write_tree(manifest, store, tree, progress)
        build_boot_files(tree, content / "boot", progress)
        fs.remove_tree(tree)
        root = content / f"statelesskit/root.{kind}"
        image = make_image(manifest, store, root, kind, verity=True, waive=waive, progress=progress)
        arguments = kernel_arguments(
            snapshot,
            manifest.digest,
            image_sha256=f"sha256:{image.sha256}",
            verity_root_hash=image.verity_root_hash,
            verity_offset=image.verity_offset,
            root=f"live:{label}",
        )
        arguments += append
        about = {"abi": 1, "snapshot": snapshot, "digest": manifest.digest, "arguments": arguments}
        fs.write_json(content / f"statelesskit/{seed}.json", about)
        (content / "boot/grub/grub.cfg").write_text(_menu(snapshot, arguments), "ascii")
        _write_sums(content)
        progress.stage("writing the disc")
        _write_cores(work, content, seed)
        _write_disc(work, content, disc, label, seed)
        size = disc.stat().st_size
        if room and size > room:
            raise RefusedError(
                f"the disc is {size / 1e6:.0f} MB large, the medium holds {room / 1e6:.0f} MB",
                hint="take a larger medium, or out of the prototype what a live system does not need",
            )
        progress.stage("reading it again")
        _read_again(disc, work / "read")
        with disc.open("rb") as written:
            sha256 = hashlib.file_digest(written, "sha256").hexdigest()
            fs.fsync(written.fileno())
        disc.chmod(0o644)
        fs.rename_durably(disc, target)
    return Disc(sha256, size, label, image, tuple(arguments))


def _menu(snapshot: str, arguments: list[str]) -> str:
    """Return GRUB's menu; names and arguments were checked to hold nothing that GRUB's shell would act on."""
    line = " ".join(arguments)
    return f"""set timeout=3
menuentry '{snapshot}' {{
    linux /boot/vmlinuz {line}
    initrd /boot/initrd.img
}}
"""


def _write_sums(content: Path) -> None:
    """List what the disc holds, but the core of GRUB, into which xorriso writes where it lies."""
    lines = []
    for path in sorted(path for path in content.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(content)}\n")
    (content / "SHA256SUMS").write_text("".join(lines), "ascii")


def _write_cores(work: Path, content: Path, seed: str) -> None:
    """Make GRUB's core for BIOS, and a FAT with that for UEFI in it."""
    for platform, package in (("i386-pc", "grub-pc-bin"), ("x86_64-efi", "grub-efi-amd64-bin")):
        if not (GRUB / platform).is_dir():
            raise MissingToolError(f"GRUB for {platform} is not installed", hint=f"apt-get install {package}")
    search = work / "search.cfg"
    search.write_text(
        f"search --no-floppy --file --set=root /statelesskit/{seed}.json\nset prefix=($root)/boot/grub\nnormal\n"
    )
    efi, fat = work / "bootx64.efi", work / "fat"
    core = ["grub-mkimage", "-p", "/boot/grub", "-c", str(search)]
    run([*core, "-O", "i386-pc-eltorito", "-o", f"{content}/boot/grub/eltorito.img", "biosdisk", *MODULES])
    run([*core, "-O", "x86_64-efi", "-o", str(efi), "fat", *MODULES])
    clock = {"SOURCE_DATE_EPOCH": DAWN}
    geometry = ["-T", str(ESP_SECTORS), "-h", "16", "-s", "32", "-N", seed[:8]]
    run(["mformat", "-C", "-i", fat, *geometry, "::"], env=clock)
    run(["mmd", "-i", fat, "::/EFI", "::/EFI/BOOT"], env=clock)
    run(["mcopy", "-i", fat, efi, "::/EFI/BOOT/BOOTX64.EFI"], env=clock)


def _write_disc(work: Path, content: Path, disc: Path, label: str, seed: str) -> None:
    """Write an ISO 9660 with the BIOS core in its boot record and MBR, and the FAT behind it as a partition."""
    run(
        [
            *["xorriso", "-as", "mkisofs", "-quiet", "-r", "-iso-level", "3", "-V", label, "-o", str(disc)],
            *[
                "--modification-date=1980010100000000",
                "--set_all_file_dates",
                f"={DAWN}",
                "--gpt_disk_guid",
                str(UUID(seed[:32], version=4)),
            ],
            *["--grub2-mbr", f"{GRUB}/i386-pc/boot_hybrid.img", "--protective-msdos-label"],
            *["-partition_cyl_align", "off", "-partition_offset", "16"],
            *["-append_partition", "2", ESP_TYPE, f"{work}/fat", "-appended_part_as_gpt"],
            *["-c", "boot.catalog", "-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4"],
            *["-boot-info-table", "--grub2-boot-info"],
            *["-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot", str(content)],
        ],
        env={"SOURCE_DATE_EPOCH": DAWN},
    )


def _read_again(disc: Path, place: Path) -> None:
    """Have all files read from the disc, and held against its checksums.

    Raises:
        DamagedError: one differs.
    """
    run(["xorriso", "-osirrox", "on", "-indev", disc, "-extract", "/", place])
    done = run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=place, check=False)
    if done.returncode:
        raise DamagedError(f"the disc came out wrong:\n{done.stdout}{done.stderr}".rstrip(), hint="export it again")
    fs.remove_tree(place)
