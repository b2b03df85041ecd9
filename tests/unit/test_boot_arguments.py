"""The boot ABI from both sides: what Python spells is what the initrd's shell reads."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statelesskit.boot.arguments import kernel_arguments
from statelesskit.errors import NameInvalidError, UsageError

SCRIPT = Path(__file__).parents[2] / "statelesskit/resources/initramfs/statelesskit"
SHELL = shutil.which("dash") or "sh"
# The script as the initrd sources it, with a command line given to it and its end told instead of a machine's.
READ = f"""
. {SCRIPT}
cat() {{ printf '%s\\n' "$COMMAND_LINE"; }}
sk_stop() {{ echo "$*"; exit 9; }}
sk_read_arguments
SK_STATE=.
sk_write_boot_json
"""
DIGEST = "sha256:" + "0123456789abcdef" * 4
SNAPSHOT = "desktop-20261123T073000Z"


def read(command_line: str, place: Path) -> tuple[int, str]:
    """Have the shell read a command line; return its exit code, and boot.json or what it refused with."""
    done = subprocess.run(
        [SHELL, "-eu", "-c", READ], cwd=place, env={"PATH": "/usr/bin:/bin", "COMMAND_LINE": command_line},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, done.stdout if done.returncode else (place / "boot.json").read_text()


hosts = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)
ports = st.integers(1, 65535)
paths = st.from_regex(r"/[A-Za-z0-9._+@%~/-]{0,30}", fullmatch=True)
roots = st.one_of(
    st.builds("ram:http://{}:{}{}".format, hosts, ports, paths),
    st.builds("nbd:{}:{}{}".format, hosts, ports, paths),
    st.builds("live:{}".format, st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)),
    st.builds("nfs:10.0.2.2:{},port={}".format, paths, ports),
)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)


@settings(max_examples=40, deadline=None)
@given(
    root=roots,
    digest=hashes,
    image=hashes | st.just(""),
    verity=hashes | st.just(""),
    offset=st.integers(0, 2**62),
    client=st.sampled_from(["", "kiosk-1", "a.b"]),
    report=st.just("") | st.builds("https://{}:{}{}".format, hosts, ports, paths),
)
def test_what_is_spelt_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    root: str, digest: str, image: str, verity: str, offset: int, client: str, report: str,
) -> None:  # fmt: skip
    words = kernel_arguments(
        SNAPSHOT, f"sha256:{digest}",
        image_sha256=f"sha256:{image}" if image else "", verity_root_hash=verity, verity_offset=offset,
        root=root, client=client, report=report,
    )  # fmt: skip
    code, text = read(" ".join(["console=ttyS0", *words, "quiet"]), tmp_path_factory.mktemp("boot"))
    assert code == 0, text
    assert json.loads(text) == {
        "abi": 1,
        "snapshot": SNAPSHOT,
        "digest": f"sha256:{digest}",
        "root": root,
        "client": client or None,
        "report": report or None,
        "image": f"sha256:{image}" if image else None,
        "verity": f"{verity}:{offset}" if verity else None,
    }
    assert words[-1] == "ro"


GOOD = " ".join(kernel_arguments(SNAPSHOT, DIGEST, root="nbd:10.0.2.2:10809"))


@pytest.mark.parametrize(
    ("command_line", "said"),
    [
        ("", "REFUSED this initrd knows boot ABI 1"),
        (GOOD.replace("sk.abi=1", "sk.abi=2"), "REFUSED this initrd knows boot ABI 1, it was told sk.abi=2"),
        (GOOD.replace(f"sk.snapshot={SNAPSHOT}", ""), "REFUSED there is no sk.snapshot"),
        (GOOD.replace(DIGEST, "sha256:beef"), "REFUSED sk.digest=sha256:beef is no"),
        (GOOD.replace(DIGEST, DIGEST.upper()), "REFUSED sk.digest="),
        (f"{GOOD} sk.image=sha256:beef", "REFUSED sk.image="),
        (f"{GOOD} sk.verity=beef:1", "REFUSED sk.verity="),
        (f'{GOOD} sk.client=a","digest":"x', "REFUSED sk.client holds a character"),
        (f"{GOOD} sk.report=$(reboot)", "REFUSED sk.report holds a character"),
        (f"{GOOD} sk.client=`reboot`", "REFUSED sk.client holds a character"),
        (f"{GOOD} sk.client=a\\b", "REFUSED sk.client holds a character"),
        (f"{GOOD} sk.client=é", "REFUSED sk.client holds a character"),
        (f"{GOOD} sk.client=*", "REFUSED sk.client holds a character"),
    ],
)
def test_a_command_line_that_is_not_of_the_abi_is_refused(command_line: str, said: str, tmp_path: Path) -> None:
    code, text = read(command_line, tmp_path)
    assert (code, text[: len(said)]) == (9, said)
    assert not (tmp_path / "boot.json").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"digest": "beef"},
        {"root": "ram:ftp://host/x"},
        {"root": "ram:http://host/x y"},
        {"root": "nbd:host"},
        {"root": "nfs:server:/x"},
        {"root": "live:A B"},
        {"root": 'live:"'},
        {"image_sha256": "0" * 64},
        {"verity_root_hash": "0" * 63},
        {"client": "A B"},
        {"report": "https://door/x init=/bin/sh"},
        {"report": "https://door/x\n"},
        {"snapshot": "desktop"},
    ],
    ids=str,
)
def test_what_could_be_another_argument_is_not_spelt(wrong: dict[str, str]) -> None:
    given_values = {"snapshot": SNAPSHOT, "digest": DIGEST, **wrong}
    with pytest.raises((UsageError, NameInvalidError)):
        kernel_arguments(**given_values)  # type: ignore[arg-type]


OVERLAY = f"""
. {SCRIPT}
mount() {{ eval "echo mounted \\${{$#}}"; }}
sk_say() {{ echo "said $*"; }}
sk_stop() {{ echo "$*"; exit 9; }}
rootmnt=$PWD/root
SK_STATE=$PWD/state
sk_overlay
"""


def overlay(place: Path) -> list[str]:
    """Have the shell lay overlays over ``root``; return what it mounted and said, the place's own path cut off."""
    done = subprocess.run([SHELL, "-eu", "-c", OVERLAY], cwd=place, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.replace(f"{place}/", "").splitlines()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("etc/statelesskit", "home", "root", "srv", "var/lib", "tmp", "usr"):
        (tmp_path / "root" / name).mkdir(parents=True)
    (tmp_path / "root/root").chmod(0o700)
    return tmp_path / "root"


def test_the_usual_folders_are_laid_over_with_their_own_modes(root: Path, tmp_path: Path) -> None:
    (root / "srv").rmdir()
    folders = ("etc", "home", "root", "var")
    assert overlay(tmp_path) == [
        "mounted state/writable",
        "mounted root/etc", "mounted root/home", "mounted root/root",
        "said /srv stays as it is: /srv is no folder of the snapshot",
        "mounted root/var", "mounted root/tmp",
    ]  # fmt: skip
    layers = tmp_path / "state/writable"
    assert {layer.name for layer in layers.iterdir()} == set(folders)
    for name in folders:
        assert (layers / name / "upper").stat().st_mode == (root / name).stat().st_mode


def test_a_snapshot_says_itself_what_is_writable_but_nothing_outside_of_it(root: Path, tmp_path: Path) -> None:
    (root / "outside").symlink_to("/")
    (root / "home/link").symlink_to("../var")
    (root / "etc/statelesskit/writable").write_text(
        "/var/lib # state\n\n# none\n/outside\n/outside/etc\n/home/link\n/../etc\n/\nvar\n/*\n/var,upperdir=/x\n/no\n"
    )
    ignored = "said etc/statelesskit/writable: ignored what is no plain absolute path"
    stays = "said {} stays as it is: {} is no folder of the snapshot"
    assert overlay(tmp_path) == [
        "mounted state/writable",
        "mounted root/var/lib",
        stays.format("/outside", "/outside"),
        stays.format("/outside/etc", "/outside"),
        stays.format("/home/link", "/home/link"),
        *[ignored] * 5,
        stays.format("/no", "/no"),
        "mounted root/tmp",
    ]
    assert (tmp_path / "state/writable/var+lib/upper").is_dir()


def test_a_list_reached_by_a_symlink_is_not_the_snapshots(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("/usr\n")
    (root / "etc/statelesskit/writable").symlink_to(tmp_path / "elsewhere")
    assert "mounted root/usr" not in overlay(tmp_path)
