"""The boot ABI: what the kernel's command line tells the initrd, and what the initrd leaves for the system.

This is version 1. The hook in a snapshot's initrd refuses a version it does not know, so an older snapshot goes
on being booted with the version it was built for.

| argument | meaning |
|---|---|
| `boot=statelesskit` | initramfs-tools runs our boot script |
| `sk.abi=1` | the version |
| `sk.snapshot=NAME`, `sk.digest=sha256:HEX` | what is to run; the digest is the manifest's |
| `sk.root=KIND:WHERE` | where the root is, see below |
| `sk.image=sha256:HEX` | the digest of the whole image file |
| `sk.verity=HEX:OFFSET` | dm-verity's root hash, and the byte in the image file where its hash tree begins |
| `sk.client=NAME` | who boots; becomes the host name |
| `sk.report=URL` | where the system reports what it runs |
| `ro` | the root is never mounted writable |

| root | how it is had | checked by |
|---|---|---|
| `ram:http://HOST[:PORT]/PATH` | the image is fetched whole into memory | `sk.image`, before it is mounted |
| `nbd:HOST:PORT[/EXPORT]` | blocks are fetched when they are read | `sk.verity`, by the kernel at every read |
| `live:LABEL` | `statelesskit/root.squashfs` (or `.erofs`) on a medium; LABEL is for people | `sk.verity` |
| `nfs:ADDRESS:/PATH[,port=N]` | an exported tree, over NFS 4.2 | nothing: the server and the network are trusted |

An image is a squashfs or an EROFS file, with the hash tree of `veritysetup format` appended where `sk.verity` is.
An NFS server has to send owners as numbers, as Linux's own does.

A root that needs a check and has none in the arguments, or fails it, is refused: the console says
`statelesskit: REFUSED: …` and the machine stops there. What can't be had is tried for five minutes; then the console
says `statelesskit: FAILED: …`, and after a minute the machine starts anew. With `panic=N` both start anew after N
seconds. No other root is tried, and no shell is opened.

The root is mounted read-only at `/`. Over `/etc /home /root /srv /var` lie overlays in memory, together up to half
of it; `/tmp` is in memory too. A snapshot with `/etc/statelesskit/writable` (absolute paths, one a line, `#`
comments) says itself which folders are laid over; folders that are not there and symlinks are left as they are.
What is written into the overlay of `/a/b` lies in `/run/statelesskit/writable/a+b/upper`, so
`df /run/statelesskit/writable` tells how full it is.

The system finds what it runs in `/run/statelesskit/boot.json`: `abi`, `snapshot`, `digest`, `root`, `client`,
`report`, `image`, `verity`, as in the arguments, `null` for those not given. If the snapshot's `/etc/resolv.conf`
is an empty file, the name servers of the network that it booted from are written over it.
"""

from __future__ import annotations

import re

from statelesskit.errors import UsageError
from statelesskit.names import check_name, printable, prototype_of

ABI = 1
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HOST = r"[A-Za-z0-9][A-Za-z0-9.-]*"
_PATH = r"/[A-Za-z0-9._+@%~/-]*"
_ROOT = re.compile(
    rf"ram:http://{_HOST}(?::\d{{1,5}})?{_PATH}"
    rf"|nbd:{_HOST}:\d{{1,5}}(?:{_PATH})?"
    r"|live:[A-Za-z0-9_-]{1,32}"
    rf"|nfs:[0-9.]+:{_PATH}(?:,port=\d{{1,5}})?",
    re.ASCII,
)
_URL = re.compile(rf"https?://{_HOST}(?::\d{{1,5}})?(?:{_PATH})?", re.ASCII)


def kernel_arguments(
    snapshot: str,
    digest: str,
    *,
    image_sha256: str = "",
    verity_root_hash: str = "",
    verity_offset: int = 0,
    root: str = "",
    client: str = "",
    report: str = "",
) -> list[str]:
    """Spell the arguments; what is "" is left out, for whoever boots to add.

    Args:
        digest: ``sha256:HEX`` of the manifest.
        image_sha256: ``sha256:HEX`` of the image file.
        verity_root_hash: HEX.
        verity_offset: in bytes.
        root: ``KIND:WHERE``.

    Raises:
        NameInvalidError: the snapshot's or the client's name is none.
        UsageError: another value is not of its form. (A kernel argument cannot be quoted safely.)
    """
    prototype_of(snapshot)
    words = ["boot=statelesskit", f"sk.abi={ABI}", f"sk.snapshot={snapshot}"]
    words.append(f"sk.digest={_checked(_SHA256, digest, 'a digest is sha256: and 64 hexadecimal digits')}")
    if root:
        words.append(f"sk.root={_checked(_ROOT, root, ROOTS)}")
    if image_sha256:
        words.append(f"sk.image={_checked(_SHA256, image_sha256, 'a digest is sha256: and 64 hexadecimal digits')}")
    if verity_root_hash:
        words.append(f"sk.verity={_checked(_HASH, verity_root_hash, '64 hexadecimal digits')}:{verity_offset:d}")
    if client:
        words.append(f"sk.client={check_name(client, 'client')}")
    if report:
        words.append(f"sk.report={_checked(_URL, report, 'write it as https://HOST:PORT/PATH')}")
    return [*words, "ro"]


ROOTS = "a root is ram:http://HOST/PATH, nbd:HOST:PORT/EXPORT, live:LABEL or nfs:ADDRESS:/PATH,port=N"


def _checked(form: re.Pattern[str], value: str, hint: str) -> str:
    if not form.fullmatch(value):
        raise UsageError(f"{printable(value)!r} can't be a kernel argument", hint=hint)
    return value
