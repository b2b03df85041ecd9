"""What a step between two trees risks: each rule finds its own, says why, and keeps silent otherwise."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from statelesskit.manifest import Entry
from statelesskit.risk import accounts, model, risks
from tests.trees import Made, tree

CAPABILITY = (b"security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
SUID: dict[str, Any] = {"mode": 0o4755}
PASSWD = b"root:x:0:0:root:/root:/bin/bash\nwww:x:33:33:www:/var/www:/usr/sbin/nologin\n"
GROUP = b"root:x:0:\nsudo:x:27:ann\nwww:x:33:\n"


def found(before: dict[str, Made], after: dict[str, Made]) -> list[tuple[str, str, str]]:
    return [
        (risk.severity, risk.kind, risk.path.decode("utf-8", "replace")) for risk in risks(tree(before), tree(after))
    ]


def reasons(before: dict[str, Made], after: dict[str, Made]) -> list[str]:
    return [f"{risk.severity}: {risk.reason}" for risk in risks(tree(before), tree(after))]


def test_equal_trees_have_none() -> None:
    files: dict[str, Made] = {"bin/su": (b"x", SUID), "etc/passwd": PASSWD, "boot/vmlinuz-6": b"k", "tmp/x": b""}
    assert found(files, files) == []


def test_times_alone_are_nothing() -> None:
    assert found({"etc/a": b"x"}, {"etc/a": (b"x", {"mtime_ns": 5})}) == []
    assert found({"bin/su": (b"x", SUID)}, {"bin/su": (b"x", SUID | {"mtime_ns": 5})}) == []


class TestRights:
    @pytest.mark.parametrize(
        ("before", "after", "severity"),
        [
            (None, (b"x", SUID), "high"),
            (b"x", (b"x", SUID), "high"),
            ((b"x", SUID), (b"x", {"mode": 0o6755}), "high"),
            ((b"x", SUID | {"uid": 5}), (b"x", SUID), "high"),
            ((b"x", SUID), (b"y", SUID), "medium"),
            (None, (b"x", {"mode": 0o2755, "gid": 42}), "high"),
        ],
    )
    def test_set_id(self, before: Made | None, after: Made, severity: str) -> None:
        assert found({"p/su": before} if before else {"p/x": b""}, {"p/su": after, "p/x": b""}) == [
            (severity, "setuid", "p/su")
        ]

    def test_who_it_acts_as(self) -> None:
        (reason,) = reasons({}, {"p": (b"x", {"mode": 0o6755, "gid": 42})})
        assert reason == "high: new: whoever runs it acts as user 0 and group 42"

    def test_a_hard_link_to_a_setuid_file(self) -> None:
        before: dict[str, Made] = {"bin/su": (b"x", SUID)}
        after: dict[str, Made] = before | {"home/su": Entry(b"", "link", link_to=b"bin/su")}
        assert found(before, after) == [("high", "setuid", "home/su")]
        # When the first name goes, the same file has another first name: nothing is new.
        assert found(after, {"home/su": (b"x", SUID)}) == []

    def test_losing_rights_is_no_risk(self) -> None:
        assert found({"p": (b"x", SUID)}, {"p": b"x"}) == []
        assert found({"p": (b"x", SUID)}, {}) == []
        assert found({}, {"folder": Entry(b"", "dir", mode=0o2755)}) == []

    def test_capabilities(self) -> None:
        able: Made = (b"x", {"xattrs": (CAPABILITY,)})
        assert found({"p": b"x"}, {"p": able}) == [("high", "capability", "p")]
        assert found({"p": (b"y", {"xattrs": (CAPABILITY,)})}, {"p": able}) == [("medium", "capability", "p")]
        assert found({"p": able}, {"p": able}) == found({"p": able}, {"p": b"x"}) == []

    @pytest.mark.parametrize(
        ("path", "after", "severity"),
        [
            ("usr/x", (b"", {"mode": 0o666}), "high"),
            ("srv/x", (b"", {"mode": 0o666}), "medium"),
            ("srv/x", Entry(b"", "dir", mode=0o777), "medium"),
            ("dev/sda", Entry(b"", "block", mode=0o666, major=8), "medium"),
        ],
    )
    def test_what_everybody_may_write(self, path: str, after: Made, severity: str) -> None:
        assert found({}, {path: after}) == [(severity, "world-writable", path)]

    def test_what_everybody_may_write_as_it_should_be(self) -> None:
        fine: dict[str, Made] = {
            "tmp": Entry(b"", "dir", mode=0o1777),
            "l": "x",
            "dev/null": Entry(b"", "char", mode=0o666, major=1, minor=3),
            "s": Entry(b"", "socket", mode=0o777),
        }
        assert found({}, fine) == []

    def test_devices(self) -> None:
        assert found({}, {"srv/disk": Entry(b"", "block", mode=0o600, major=8)}) == [("medium", "device", "srv/disk")]


class TestAccounts:
    @pytest.mark.parametrize(
        ("after", "reason"),
        [
            (PASSWD + b"eve:x:0:0::/:/bin/sh\n", "high: eve is another root: its uid is 0"),
            (PASSWD + b"eve:x:00:0::/:/bin/sh\n", "high: eve is another root: its uid is 00"),
            (PASSWD + b"bob:x:1000:100::/:/bin/sh\n", "medium: new: bob with the uid 1000"),
            (PASSWD.replace(b":33:33:", b":34:33:"), "high: the uid of www moved from 33 to 34; files kept on clients"),
            (PASSWD.replace(b"/usr/sbin/nologin", b"/bin/sh"), "medium: www may now log in, with /bin/sh"),
            (PASSWD.partition(b"\n")[0] + b"\n", "medium: removed: www"),
            (PASSWD + b"\x1b[31m:x:7:7::/:/x\n", "medium: new: \\x1b[31m with the uid 7"),
        ],
    )
    def test_passwd(self, after: bytes, reason: str) -> None:
        (told,) = reasons({"etc/passwd": PASSWD}, {"etc/passwd": after})
        assert told.startswith(reason)

    @pytest.mark.parametrize(
        ("after", "reason"),
        [
            (GROUP.replace(b"ann", b"ann,bob"), "high: in the group sudo now: bob"),
            (GROUP.replace(b":33:", b":33:bob"), "low: in the group www now: bob"),
            (GROUP.replace(b":33:", b":34:"), "medium: the gid of www moved from 33 to 34"),
            (GROUP + b"docker:x:5:eve\n", "high: in the group docker now: eve"),
        ],
    )
    def test_group(self, after: bytes, reason: str) -> None:
        assert reasons({"etc/group": GROUP}, {"etc/group": after}) == [reason]

    def test_shadow_tells_no_hash(self) -> None:
        rest = b":1:0:9:7:::\n"
        before = b"root:!" + rest + b"ann:$y$secret1" + rest
        after = b"root:" + rest + b"ann:$y$secret2" + rest + b"new:*" + rest
        told = reasons({"etc/shadow": before}, {"etc/shadow": after})
        assert told == ["high: root needs no password", "medium: ann has a new password"]

    def test_garbage_is_passed_over(self) -> None:
        assert reasons({"etc/passwd": PASSWD}, {"etc/passwd": PASSWD + b"\0\xff:::\n" * 50 + b":" * 10_000}) == []

    def test_too_large_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(accounts, "TEXT_MAX", 10)
        (told,) = reasons({"etc/passwd": PASSWD}, {"etc/passwd": PASSWD + b"x"})
        assert told.startswith("medium: not judged: etc/passwd is longer than 10 bytes")


SSH = b"[Socket]\nListenStream=22\nAccept=yes\n"
WANTS = "etc/systemd/system/sockets.target.wants/ssh.socket"
UNIT = "usr/lib/systemd/system/ssh.socket"


class TestBoot:
    def test_units(self) -> None:
        wants = "etc/systemd/system/multi-user.target.wants/x.service"
        target = "/usr/lib/systemd/system/x.service"
        assert reasons({"etc/x": b""}, {"etc/x": b"", wants: target})[0] == (
            "medium: new: x.service is started by multi-user.target"
        )
        told = reasons({"etc/x": b"", wants: target}, {"etc/x": b""})
        assert "low: x.service is no longer started by multi-user.target" in told

    def test_masks(self) -> None:
        told = reasons({"etc/systemd/system/x.service": "/dev/null"}, {"etc/systemd/system": Entry(b"", "dir")})
        assert told[0] == "medium: x.service is no longer masked"

    def test_sockets(self) -> None:
        assert ("medium", "listens", UNIT) in found({}, {UNIT: SSH})
        assert ("high", "listens", UNIT) in found({}, {UNIT: SSH, WANTS: "x"})
        assert ("high", "listens", UNIT) in found({UNIT: SSH}, {UNIT: SSH, WANTS: "x"})
        assert found({UNIT: SSH}, {UNIT: SSH + b"# more\n"}) == []
        assert reasons({UNIT: SSH}, {UNIT: SSH + b"ListenDatagram = 0.0.0.0:53\n"}) == [
            "medium: changed: it listens on 0.0.0.0:53"
        ]
        assert found({}, {UNIT: b"ListenStream=/run/x\nListenStream=127.0.0.1:5\n"}) == [("low", "listens", UNIT)] * 2
        dropped = f"etc/systemd/system/{UNIT.rpartition('/')[2]}.d/more.conf"
        assert ("medium", "listens", dropped) in found({}, {dropped: b"[Socket]\nListenStream=[::]:80\n"})

    def test_kernels(self) -> None:
        old: dict[str, Made] = {"boot/vmlinuz-6.1": b"k", "lib": "usr/lib", "usr/lib/modules/6.1/modules.dep": b""}
        new: dict[str, Made] = {"boot/vmlinuz-6.2": b"k", "lib": "usr/lib", "usr/lib/modules/6.2/modules.dep": b""}
        assert reasons(old, new) == ["medium: removed: the kernel 6.1", "medium: new: the kernel 6.2"]
        assert reasons(old, {"lib": "usr/lib"})[0].startswith("high: there is no kernel left")
        assert found(old, old | {"boot/vmlinuz-6.1": b"other"}) == [("medium", "kernel", "boot/vmlinuz-6.1")]
        initrd: dict[str, Made] = {"boot/initrd.img-6.1": b"1"}
        assert found(initrd, {"boot/initrd.img-6.1": b"2"}) == [("low", "initrd", "boot/initrd.img-6.1")]


@pytest.mark.parametrize(
    ("path", "severity", "kind"),
    [
        ("etc/ld.so.preload", "high", "preload"),
        ("root/.ssh/authorized_keys", "high", "login"),
        ("etc/sudoers.d/x", "high", "sudo"),
        ("etc/pam.d/login", "high", "pam"),
        ("etc/ssh/ssh_host_ed25519_key", "high", "identity"),
        ("etc/ssh/sshd_config.d/a.conf", "medium", "sshd"),
        ("etc/ca-certificates.conf", "medium", "trust"),
        ("usr/local/share/ca-certificates/x.crt", "medium", "trust"),
        ("etc/apt/sources.list.d/x.list", "medium", "packages"),
        ("etc/cron.d/x", "medium", "cron"),
        ("etc/fstab", "medium", "mounts"),
        ("etc/motd", "low", "config"),
        ("etc/a\nb\udc80", "low", "config"),
    ],
)
def test_configuration(path: str, severity: str, kind: str) -> None:
    shown = path.replace("\udc80", "\N{REPLACEMENT CHARACTER}")
    for before, after in (({}, {path: b"1"}), ({path: b"1"}, {path: b"2"}), ({path: b"1"}, {path: "x"})):
        assert found(dict(before), dict(after)) == [(severity, kind, shown)]
    assert found({path: b"1"}, {path: (b"1", {"xattrs": ((b"user.x", b""),)})}) == [(severity, kind, shown)]


def test_the_worst_comes_first() -> None:
    after: dict[str, Made] = {"etc/a": b"", "etc/cron.d/x": b"", "usr/su": (b"", SUID), "bin/su": (b"", SUID)}
    told = risks(tree({}), tree(after))
    assert [risk.path for risk in told] == [b"bin/su", b"usr/su", b"etc/cron.d/x", b"etc/a"]
    assert told[0].as_json().keys() == {"severity", "kind", "path", "reason"}
    assert {risk.severity for risk in told} == set(model.SEVERITIES)
