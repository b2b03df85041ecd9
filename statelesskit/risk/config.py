"""Files that configure: whom the machine lets in and trusts, what it runs by the clock, and the rest of /etc."""

from __future__ import annotations

import re
from collections.abc import Iterator

from statelesskit.risk.model import Risk, Step

# The first that fits a path judges it.
_TABLE = tuple(
    (re.compile(pattern, re.S), severity, kind, reason)
    for pattern, severity, kind, reason in (
        (rb"etc/ld\.so\.preload", "high", "preload", "it is loaded into every program"),
        (rb"(?:root|home/[^/]+)/\.ssh/authorized_keys2?", "high", "login", "it says who may log in"),
        (rb"etc/ssh/ssh_host_.+_key", "high", "identity", "a private key that all machines would share"),
        (rb"etc/machine-id", "medium", "identity", "an identity that all machines would share"),
        (rb"etc/sudoers(?:\.d/.+)?", "high", "sudo", "it says who may act as root"),
        (rb"etc/(?:pam\.d/.+|pam\.conf|security/.+)", "high", "pam", "it says how people are let in"),
        (rb"etc/ssh/sshd_config(?:\.d/.+)?", "medium", "sshd", "it says how people log in from outside"),
        (
            rb"etc/ca-certificates(?:\.conf|/.+)|(?:usr/(?:local/)?share/ca-certificates|etc/pki/ca-trust)/.+",
            "medium",
            "trust",
            "it says which certificates are trusted",
        ),
        (
            rb"(?:etc/(?:apt|apk|yum\.repos\.d|zypp/repos\.d|pki/rpm-gpg)|usr/share/keyrings)/.+",
            "medium",
            "packages",
            "it says where packages come from",
        ),
        (rb"(?:etc|usr/share)/(?:polkit-1|dbus-1/system\.d)/.+", "medium", "policy", "it says who may do what"),
        (rb"etc/nsswitch\.conf|etc/sssd/.+|etc/krb5\.conf.*", "medium", "names", "it says where accounts come from"),
        (rb"etc/(?:cron.+|anacrontab)|var/spool/cron/.+", "medium", "cron", "it says what runs by the clock"),
        (rb"etc/(?:fstab|crypttab)", "medium", "mounts", "it says what is mounted"),
        (rb"etc/(?:passwd|group|shadow|gshadow|subuid|subgid)-", "low", "config", "a copy of the list of accounts"),
        (rb"etc/.+", "low", "config", "configuration"),
    )
)
ELSEWHERE = {b"etc/passwd", b"etc/group", b"etc/shadow", b"etc/gshadow"}  # judged by what is in them


def config(step: Step) -> Iterator[Risk]:
    """Judge files by their places; folders and mere times are nothing."""
    for pair in step.pairs:
        if pair.path in ELSEWHERE or {"dir"} == {entry.type for entry in (pair.before, pair.after) if entry}:
            continue
        for pattern, severity, kind, reason in _TABLE:
            if pattern.fullmatch(pair.path):
                if pair.matters:
                    yield Risk(severity, kind, pair.path, f"{pair.how}: {reason}")
                break
