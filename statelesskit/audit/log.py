"""The log of records: one line for each record that ended, in a hash tree whose root is signed again with each.

``records/log/entries`` is what ``sha256sum -c`` reads, run in the folder of the records: a line is an entry of the
tree and names the digest of one record's statement. ``checkpoint`` says how many there are, with the tree's root,
and ``checkpoint.sig`` is ``ssh-keygen``'s signature of that file. Lines are only ever added. ``handover-1`` and so on
are there when the key was rotated; see :mod:`handover`.

Killed between two steps, a writer leaves lines that are not signed yet, or a signature of the checkpoint before;
whoever enters a record next makes up for it, and until then `audit verify` names it.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from statelesskit import fs, lock
from statelesskit.audit import files, handover, keys, merkle, sshsig
from statelesskit.audit.checkpoint import MAX_CHECKPOINT, Checkpoint
from statelesskit.audit.handover import Handover, Keys, read_keys
from statelesskit.audit.statement import STATEMENT
from statelesskit.errors import AuditError, RefusedError

LOG = "log"  # the folder's name, among the records
ENTRIES, CHECKPOINT, SIGNATURE = "entries", "checkpoint", "checkpoint.sig"
NAMESPACE = "statelesskit-log"  # ssh-keygen -Y verify -n
MAX_ENTRIES = 1 << 30  # bytes
NEXT = ".next"  # how the name of a key's file ends that is not in use yet
RECORD_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[a-z0-9-]+-[0-9a-f]{8}", re.ASCII)
_LINE = re.compile(
    rf"(?P<sha256>[0-9a-f]{{64}})  (?P<record>{RECORD_NAME.pattern})/{re.escape(STATEMENT)}".encode(), re.ASCII
)
_WAIT_S, _MOMENT_S = 60, 0.1


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: the SHA-256 of a record's statement, in hex, and the record's name."""

    sha256: str
    record: str

    def encode(self) -> bytes:
        """Return the line, without its newline; this is what the tree's leaf is the hash of."""
        return f"{self.sha256}  {self.record}/{STATEMENT}".encode()


@dataclass(frozen=True, slots=True)
class Log:
    """A log as it was read.

    Attributes:
        checkpoint: none where it can't be believed.
        faults: the file's name, and what is wrong with it.
        keys: those that sealed its records.
    """

    entries: list[Entry]
    checkpoint: Checkpoint | None
    faults: list[tuple[str, str]]
    keys: Keys

    def leaves(self) -> list[bytes]:
        return [merkle.leaf_hash(entry.encode()) for entry in self.entries]


def read(folder: Path, public: str) -> Log:
    """Read a log and hold it against its checkpoint; whatever is there becomes a fault, never an exception.

    Args:
        public: one of the keys it has had; the others follow from that one.

    Raises:
        UsageError: ``public`` is no public key.
    """
    for _ in range(10):
        before = _seen(folder)
        log = _read(folder, public)
        if not log.faults:
            break
        time.sleep(_MOMENT_S)  # what looks like a writer that was killed may be one at work: then something moves
        if _seen(folder) == before:
            break
    return log


def _seen(folder: Path) -> list[tuple[int, int, int]]:
    found = []
    for path in (folder, *(folder / name for name in (ENTRIES, CHECKPOINT, SIGNATURE))):
        with suppress(OSError):
            info = os.lstat(path)
            found.append((info.st_ino, info.st_size, info.st_mtime_ns))
    return found


def _read(folder: Path, public: str) -> Log:
    sealers = read_keys(folder, public)
    faults: list[tuple[str, str]] = []
    note, signature, data = (
        _bytes(folder / name, limit, faults)
        for name, limit in ((CHECKPOINT, MAX_CHECKPOINT), (SIGNATURE, MAX_CHECKPOINT), (ENTRIES, MAX_ENTRIES))
    )
    checkpoint = None
    for name, check in (
        (CHECKPOINT, lambda: Checkpoint.verify(note, sealers.last)),
        (SIGNATURE, lambda: sshsig.verify(signature, note, NAMESPACE, sealers.last)),
    ):
        try:
            checkpoint = check() or checkpoint
        except AuditError as error:
            if name not in dict(faults):
                faults.append((name, error.message))
    entries, rest = decode(data)
    if rest:
        torn = "torn; its writer was killed (then the next record completes it), or the file was cut"
        what = "is no entry, nor can what follows be believed" if b"\n" in rest else torn
        faults.append((ENTRIES, f"line {len(entries) + 1}: {what}"))
    faults += _repeated(entries)
    if checkpoint and ENTRIES not in dict(faults):
        faults += _against(checkpoint, entries)
    faults += sealers.faults
    for number, one in enumerate(sealers.handovers, 1):
        faults += ((handover.place(folder, number).name, fault) for fault in _handed_over(one, entries, checkpoint))
    return Log(entries, checkpoint, faults, sealers)


def _handed_over(one: Handover, entries: list[Entry], checkpoint: Checkpoint | None) -> Iterator[str]:
    if checkpoint and one.origin != checkpoint.origin:
        yield f"is of another log, {one.origin}"
    if one.size > len(entries) or hashlib.sha256(_encoded(entries[: one.size])).hexdigest() != one.entries_sha256:
        yield f"the log's first {one.size} entries are not those that were handed over"


def sealer_of(records_dir: Path, public: str) -> Callable[[str], str]:
    """Return what says which key must have sealed a record, by its name, to who trusts one of the keys.

    What is not in the log can have been sealed with the last only.

    Raises:
        UsageError: ``public`` is no public key.
    """
    sealers = read_keys(records_dir / LOG, public)
    if not sealers.handovers:
        return lambda name: public
    data = b""
    with suppress(AuditError):
        data = files.read_small(records_dir / LOG / ENTRIES, MAX_ENTRIES)
    numbers = {entry.record: number for number, entry in enumerate(decode(data)[0])}
    return lambda name: sealers.at(numbers.get(name, MAX_ENTRIES))


def _bytes(path: Path, limit: int, faults: list[tuple[str, str]]) -> bytes:
    try:
        return files.read_small(path, limit)
    except AuditError as error:
        faults.append((path.name, error.message))
        return b""


def decode(data: bytes) -> tuple[list[Entry], bytes]:
    """Return the entries of a log's file, and what comes after the last that is one."""
    entries, at = [], 0
    while (end := data.find(b"\n", at)) >= 0:
        match = _LINE.fullmatch(data, at, end)
        if not match:
            break
        entries.append(Entry(match["sha256"].decode(), match["record"].decode()))
        at = end + 1
    return entries, data[at:]


def _encoded(entries: Iterable[Entry]) -> bytes:
    return b"".join(entry.encode() + b"\n" for entry in entries)


def _repeated(entries: Iterable[Entry]) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for number, entry in enumerate(entries, 1):
        if entry.record in seen:
            yield ENTRIES, f"line {number}: names {entry.record} a second time"
        seen.add(entry.record)


def _against(checkpoint: Checkpoint, entries: list[Entry]) -> Iterator[tuple[str, str]]:
    signed = entries[: checkpoint.size]
    if len(entries) < checkpoint.size:
        yield ENTRIES, f"was cut: it holds {len(entries)} entries, {checkpoint.size} were signed"
    elif (
        hashlib.sha256(_encoded(signed)).hexdigest() != checkpoint.entries_sha256 or root_of(signed) != checkpoint.root
    ):
        yield ENTRIES, f"was altered: its first {checkpoint.size} entries are not those that were signed"
    elif extra := len(entries) - checkpoint.size:
        killed = "or a writer was killed (then the next record completes it)"
        old = f"an old one was put back, {extra} were added without the key, {killed}"
        yield CHECKPOINT, f"covers {checkpoint.size} of {len(entries)} entries: {old}"


def root_of(entries: Iterable[Entry]) -> bytes:
    """Return the root of the tree of some entries."""
    return merkle.root_hash([merkle.leaf_hash(entry.encode()) for entry in entries])


def older_faults(log: Log, other: Checkpoint) -> list[str]:
    """Say what is wrong if ``other`` is a checkpoint of this log that was seen before, or elsewhere."""
    if log.checkpoint and log.checkpoint.origin != other.origin:
        return [f"is the log {log.checkpoint.origin}, another was seen: {other.origin}"]
    if other.size > len(log.entries):
        return [f"was cut: it holds {len(log.entries)} entries, a checkpoint of {other.size} was seen"]
    if root_of(log.entries[: other.size]) != other.root:
        return [f"was written anew: its first {other.size} entries are not those of the checkpoint that was seen"]
    return []


@contextmanager
def held(records_dir: Path, key: Path) -> Iterator[Writer]:
    """Hold a log, made if it is not there, so that nobody else adds to it.

    Raises:
        AuditError: it is damaged; nothing is signed then.
        LockedError: another process has held it for a minute.
    """
    folder = records_dir / LOG
    fs.make_folders(folder)
    with lock.held(folder / ".lock", what="the log of records", doing="entering a record", wait_s=_WAIT_S):
        if known := handover.claimed(folder):
            _take_over(known[-1], key)
        yield Writer(folder, key)


def _take_over(last: Handover, key: Path) -> None:
    """Put the new key in its place, if whoever handed over to it did not come to that."""
    new, public = key.with_suffix(NEXT), key.with_suffix(".pub")
    if _is_private(new, last.new) and _is_private(key, last.old):
        fs.rename_durably(new, key)
    shown = public.read_text("ascii", "replace") if public.exists() else ""
    if shown and keys.blob(shown) == keys.blob(last.old) and _is_private(key, last.new):
        fs.write_file(public, last.new.encode() + b"\n")


def _is_private(path: Path, public: str) -> bool:
    return path.exists() and keys.load_private(path).public_key().public_bytes_raw() == keys.raw(public)


class Writer:
    """A log while this process holds it.

    Attributes:
        entries: what it holds, signed or not.
        public: the key that signs it.
        handovers: how it came to that one.
    """

    def __init__(self, folder: Path, key: Path) -> None:
        self._folder, self._key = folder, key
        self.public = keys.public_line(keys.load_private(key).public_key())
        self.handovers = handover.claimed(folder)
        self._note, self._signed = b"", Checkpoint(_new_origin(), 0, merkle.root_hash([]), hashlib.sha256().hexdigest())
        try:
            if (folder / CHECKPOINT).exists():
                self._note = files.read_small(folder / CHECKPOINT, MAX_CHECKPOINT)
                self._signed = self._checked(self._note)
            data = files.read_small(folder / ENTRIES, MAX_ENTRIES) if (folder / ENTRIES).exists() else b""
        except AuditError as error:
            raise _damaged(folder, error.message) from None
        self.entries, self._torn = decode(data)
        whole = _encoded(self.entries[: self._signed.size])
        right = hashlib.sha256(whole).hexdigest() == self._signed.entries_sha256
        if not right or len(self.entries) < self._signed.size or b"\n" in self._torn:
            raise _damaged(folder, "its entries are not those that were signed")

    def _checked(self, note: bytes) -> Checkpoint:
        """Return what the checkpoint says, signed again if a key signed it that has handed over since."""
        sealers = read_keys(self._folder, self.public)
        if sealers.faults or sealers.last != self.public:
            what = sealers.faults[0] if sealers.faults else ("the key", "is not the one it was handed over to")
            raise AuditError(" ".join(what))
        found = sealers.checkpoint(note)
        with suppress(AuditError):
            Checkpoint.verify(note, self.public)
            return found
        self._note = found.sign(self._key)
        fs.write_file(self._folder / CHECKPOINT, self._note)
        return found

    def hand_over(self) -> Handover:
        """Have a new key follow the one that signs; when this returns the new one is in its place.

        Killed before, the old one is still in use, or the next writer puts the new one into its place.

        Raises:
            RefusedError: nothing is in the log, so that nobody can know the old one.
        """
        self.add({})
        if not self.entries:
            raise RefusedError("no record is sealed yet, so there is nothing to hand over", hint="keep this key")
        new = self._key.with_suffix(NEXT)
        public = keys.write_private(new)
        one = Handover(self._signed.origin, self._signed.size, self._signed.entries_sha256, self.public, public)
        handover.write(self._folder, len(self.handovers) + 1, one, self._key, new)
        _take_over(one, self._key)
        self.public, self.handovers = public, [*self.handovers, one]
        self._checked(self._note)
        self._sign()
        return one

    def add(self, found: Mapping[str, str]) -> None:
        """Enter records, each with its statement's digest, and sign what the log holds then.

        Raises:
            NoSpaceError: the disk is full; what was there is there, and the next writer completes it.
        """
        new = [Entry(sha256, record) for record, sha256 in found.items()]
        path = self._folder / ENTRIES
        if new or self._torn:
            fd = fs.open_log(path, 0o644)
            try:
                with fs.disk_full_named(path):
                    self._append(fd, new)
                fs.fsync_folder(self._folder)
            finally:
                os.close(fd)
            self.entries += new
        self._sign()

    def _append(self, fd: int, new: list[Entry]) -> None:
        size = os.fstat(fd).st_size - len(self._torn)
        if self._torn:  # a part of a line, which its writer never got to sign
            fs.truncate(fd, size)
            self._torn = b""
        try:
            fs.write_all(fd, _encoded(new))
            fs.fsync(fd)
        except OSError:
            with suppress(OSError):
                fs.truncate(fd, size)
            raise

    def _sign(self) -> None:
        if len(self.entries) > self._signed.size:
            digest = hashlib.sha256(_encoded(self.entries)).hexdigest()
            self._signed = Checkpoint(self._signed.origin, len(self.entries), root_of(self.entries), digest)
            self._note = self._signed.sign(self._key)
            fs.write_file(self._folder / CHECKPOINT, self._note)
        if self._note:
            signature = sshsig.sign(self._note, NAMESPACE, self._key)  # the same each time: Ed25519 draws nothing
            path = self._folder / SIGNATURE
            if not path.exists() or path.read_bytes() != signature:
                fs.write_file(path, signature)


def _new_origin() -> str:
    host = re.sub("[^a-z0-9.-]", "", os.uname().nodename.lower()) or "host"
    return f"{host}/statelesskit-records/{os.urandom(4).hex()}"


def _damaged(folder: Path, why: str) -> AuditError:
    return AuditError(
        f"the log {folder} is damaged, nothing more is entered: {why}",
        hint="`statelesskit audit verify` says more; restore the folder from the backup, what is missing comes in then",
    )
