"""One record key handing over to the next, so that who knows one of a log's keys can follow to all the others.

``records/log/handover-1/`` holds ``handover``, a few lines of text that say after which entry of the log which key
follows which, and ``ssh-keygen``'s signatures of them: ``old.sig`` by the key that goes, ``new.sig`` by the one that
comes. The second is for who knows only the new key: it vouches for what the old one sealed.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

from statelesskit import fs
from statelesskit.audit import files, keys, sshsig
from statelesskit.audit.checkpoint import Checkpoint
from statelesskit.errors import AuditError, UsageError

TEXT, OLD, NEW = "handover", "old.sig", "new.sig"
NAMESPACE = "statelesskit-key"  # ssh-keygen -Y verify -n
MAX_TEXT = 4096  # bytes
_KEY = r"ssh-ed25519 [A-Za-z0-9+/]+=* [!-~]+"
_TEXT = re.compile(
    rf"statelesskit hands over its record key\nlog (?P<origin>[!-~]+)\nentries (?P<size>[1-9][0-9]{{0,17}}) "
    rf"sha256:(?P<sha256>[0-9a-f]{{64}})\nfrom (?P<old>{_KEY})\nto (?P<new>{_KEY})\n",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Handover:
    """What the text says.

    Attributes:
        size: how many entries the log had; what follows them is sealed with the new key.
        entries_sha256: digest of those entries in the log's file, in hex.
        old: the key that goes, as its OpenSSH line; ``new`` the one that comes.
    """

    origin: str
    size: int
    entries_sha256: str
    old: str
    new: str

    def encode(self) -> bytes:
        """Return the text, which is what is signed."""
        log = f"log {self.origin}\nentries {self.size} sha256:{self.entries_sha256}\n"
        return f"statelesskit hands over its record key\n{log}from {self.old}\nto {self.new}\n".encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the text; nothing is said of the signatures.

        Raises:
            AuditError: it is none.
        """
        match = _TEXT.fullmatch(data.decode("ascii", "replace"))
        try:
            if match and keys.blob(match["old"]) != keys.blob(match["new"]):
                return cls(match["origin"], int(match["size"]), match["sha256"], match["old"], match["new"])
        except UsageError:  # one of them is no key
            pass
        raise AuditError("is no hand-over of a key, or altered")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a log in their order, proven from the one that is trusted.

    Attributes:
        publics: OpenSSH lines; the last is the one that seals now.
        faults: where the log keeps it, and what is wrong with it.
    """

    publics: tuple[str, ...]
    handovers: tuple[Handover, ...] = ()
    faults: tuple[tuple[str, str], ...] = ()

    @property
    def last(self) -> str:
        return self.publics[-1]

    def at(self, index: int) -> str:
        """Return the key that must have sealed the entry with that index, counted from 0."""
        return self.publics[bisect_right([one.size for one in self.handovers], index)]

    def checkpoint(self, note: bytes) -> Checkpoint:
        """Return what a checkpoint says that one of the keys signed while it was in use.

        Raises:
            AuditError: none did, or one that had been replaced.
        """
        for number, public in reversed([*enumerate(self.publics)]):
            try:
                found = Checkpoint.verify(note, public)
            except AuditError as error:
                fault = error
                continue
            if number < len(self.handovers) and found.size > self.handovers[number].size:
                raise AuditError(
                    f"covers {found.size} entries and is signed with {keys.fingerprint(public)}, which was replaced "
                    f"after {self.handovers[number].size}"
                )
            return found
        raise fault


def place(folder: Path, number: int) -> Path:
    """Return where a log keeps its hand-over with that number, counted from 1."""
    return folder / f"handover-{number}"


def write(folder: Path, number: int, one: Handover, old: Path, new: Path) -> None:
    """Sign a hand-over with both private keys, and put it into a log; it is there whole or not at all."""
    text = one.encode()
    with fs.new_folder(place(folder, number)) as target:
        fs.write_file(target / TEXT, text)
        fs.write_file(target / OLD, sshsig.sign(text, NAMESPACE, old))
        fs.write_file(target / NEW, sshsig.sign(text, NAMESPACE, new))


def claimed(folder: Path) -> list[Handover]:
    """Return the hand-overs of a log as their texts have them, up to the first that can't be read; proven is nothing.

    Whoever has the fingerprint of one of the keys finds the key here.
    """
    found: list[Handover] = []
    try:
        while True:
            found.append(Handover.decode(files.read_small(place(folder, len(found) + 1) / TEXT, MAX_TEXT)))
    except AuditError:
        return found


def read_keys(folder: Path, trusted: str) -> Keys:
    """Return the keys of a log whose folder is ``folder``, for who trusts one of them; where nothing is, that one.

    Raises:
        UsageError: ``trusted`` is no public key.
    """
    wanted = keys.blob(trusted)
    found: list[Handover] = []
    faults: list[tuple[str, str]] = []
    there = {path.name for path in folder.glob("handover-*")}
    for number in count(1):
        path = place(folder, number)
        if path.name not in there:
            break
        there.remove(path.name)
        try:
            found.append(_proven(path, found[-1].new if found else ""))
        except AuditError as error:
            faults.append((path.name, error.message))
            break
    if not faults:
        faults += [(name, "follows no other: one before it was removed") for name in sorted(there)]
    publics = (found[0].old, *(one.new for one in found)) if found else (trusted,)
    if wanted not in map(keys.blob, publics):
        faults.append((place(folder, 1).name, f"leads to no key {keys.fingerprint(trusted)}, which was given"))
        return Keys((trusted,), faults=tuple(faults))
    return Keys(publics, tuple(found), tuple(faults))


def _proven(path: Path, before: str) -> Handover:
    data = files.read_small(path / TEXT, MAX_TEXT)
    one = Handover.decode(data)
    if before and one.old != before:
        raise AuditError(f"is by the key {keys.fingerprint(one.old)}, expected {keys.fingerprint(before)}")
    for name, public in ((OLD, one.old), (NEW, one.new)):
        try:
            sshsig.verify(files.read_small(path / name, MAX_TEXT), data, NAMESPACE, public)
        except AuditError as error:
            raise AuditError(f"{name} {error.message}") from None
    return one
