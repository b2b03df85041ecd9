"""An earlier state put back: what it takes, and how it is done whole or not at all.

The server is stopped. A new database and a new change log, which tells of the restore as of any other
change, are built beside the old ones, and take their place in one step: the folder ``restored`` appears.
Whoever starts the server next completes the exchange, so a crash leaves the old state or the new one.

What differs gets a new change sequence number, so that replicas see it too; what does not is left alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.directory import authorship, ldif
from statelesskit.directory.changelog import ADD, DELETE, MODIFY, Change, log_entry, time_of
from statelesskit.directory.conf import CHANGELOG, changelog_folder, conf_file, data_folder, slapd_conf
from statelesskit.directory.layout import Layout, split_dn
from statelesskit.directory.mapping import Entry
from statelesskit.directory.past import Held, State, Values, held
from statelesskit.run import run

# What each change of an entry writes anew.
STAMP = frozenset({"entryCSN", "modifiersName", "modifyTimestamp"})
MOVED = frozenset({"skSerial", "skMovedBy", "skMovedAt", "skRecord"})
POINTERS = ("skSnapshotDN", "skPreviousSnapshotDN")
# What happened since stays told: pushes that were made, and what clients reported.
KEPT = frozenset({"skpush", "skclientstatus"})


def restored_folder(site: Site) -> Path:
    return site.directory / "restored"


# --- what it takes ------------------------------------------------------------------------------


def wanted_state(backup: State, now: State, serials: Mapping[str, int], layout: Layout, moved: Values) -> State:
    """Return the state a restore leads to.

    A channel that comes to point elsewhere gets a serial above all that were given out, because clients never
    go back. A snapshot that is revoked now stays revoked.

    Args:
        serials: the highest serial each channel was given, as far as is known.
        moved: what channels that are moved say of who did it.
    """
    entries = {number: Held(one.dn, dict(one.values)) for number, one in backup.entries.items()}
    present = {place(one.dn): one for one in now.entries.values()}
    for one in entries.values():
        there, classes = present.get(place(one.dn)), _classes(one)
        if "sksnapshot" in classes and there and there.values.get("skSnapshotState") == (b"revoked",):
            one.values["skSnapshotState"] = (b"revoked",)
        if "skchannel" in classes:
            if there and all(there.values.get(name) == one.values.get(name) for name in POINTERS):
                kept = {name: there.values[name] for name in MOVED if name in there.values}
            else:
                highest = max(serials.get(layout.channel_at(one.dn) or "", 0), serial_of(one), serial_of(there))
                kept = {**moved, "skSerial": (str(highest + 1).encode(),)}
            one.values = {name: values for name, values in one.values.items() if name not in MOVED} | kept
    places = {place(one.dn): number for number, one in entries.items()}
    for number, one in now.entries.items():
        if KEPT & _classes(one) and place(one.dn)[1:] in places:
            entries.pop(places.get(place(one.dn), ""), None)
            entries[number] = one
    return State(now.at, entries)


def serial_of(one: Held | None) -> int:
    """Return a channel's serial, 0 if there is none that counts."""
    text = next(iter(one.values.get("skSerial", ())), b"") if one else b""
    return int(text) if text.isdigit() else 0


def fingerprint(state: State, *, exact: bool) -> str:
    """Return the SHA-256 of a state: of its change sequence numbers, or else of what it says but for who and when.

    Lines of the history of pushes are only written, never changed, and the restore writes its own at the end.
    """
    told = hashlib.sha256()
    for number in sorted(state.entries):
        one = state.entries[number]
        if not exact and "skpush" in _classes(one):
            continue
        left_out = STAMP | {"skMovedBy", "skMovedAt", "skRecord"}
        values = sorted((name, sorted(values)) for name, values in one.values.items() if name not in left_out)
        told.update(repr((number, one.csn) if exact else (number, place(one.dn), values)).encode())
    return told.hexdigest()


def changes_to(now: State, wanted: State, at: datetime, by: str) -> list[Change]:
    """Return the changes that lead from one state to another, and stamp the entries they touch.

    What did not change keeps even its change sequence number.
    """
    newest = max((one.csn for one in now.entries.values()), default="")
    stamps = _stamps(max(at, time_of(newest) + timedelta(microseconds=1)) if newest else at, by)
    gone, made, changed = [], [], []
    for number, one in wanted.entries.items():
        there = now.entries.get(number)
        if there and place(there.dn) == place(one.dn):
            if names := _differing(there.values, one.values):
                changed.append((number, there, one, names))
            else:
                wanted.entries[number] = there
        else:
            made.append((number, one))
            if there:
                gone.append((number, there))
    gone += [(number, one) for number, one in now.entries.items() if number not in wanted.entries]
    found = []
    for number, one in sorted(gone, key=lambda pair: -_depth(pair[1])):
        csn = _text(next(stamps)["entryCSN"])
        found.append(Change(csn, DELETE, one.dn, number, old=dict(one.values)))
    for number, there, one, names in changed:
        stamp = next(stamps)
        one.values = {**one.values, **stamp}
        touched = [*names, *stamp]
        mods = tuple((name, "=", value) for name in touched for value in one.values.get(name, (b"",)))
        old = {name: there.values[name] for name in touched if name in there.values}
        found.append(Change(_text(stamp["entryCSN"]), MODIFY, one.dn, number, mods=mods, old=old))
    for number, one in sorted(made, key=lambda pair: _depth(pair[1])):
        stamp = next(stamps)
        one.values = {**one.values, **stamp}
        mods = tuple((name, "+", value) for name, values in one.values.items() for value in values)
        found.append(Change(_text(stamp["entryCSN"]), ADD, one.dn, number, mods=mods))
    return found


def _differing(old: Values, new: Values) -> list[str]:
    return [
        name
        for name in sorted((old.keys() | new.keys()) - STAMP)
        if sorted(old.get(name, ())) != sorted(new.get(name, ()))
    ]


def _stamps(at: datetime, by: str) -> Iterator[Values]:
    count = 0
    while True:
        yield {
            "entryCSN": (f"{at:%Y%m%d%H%M%S.%f}Z#{count:06x}#000#000000".encode(),),
            "modifiersName": (by.encode(),),
            "modifyTimestamp": (f"{at:%Y%m%d%H%M%SZ}".encode(),),
        }
        count += 1


# --- doing it, with the server stopped -----------------------------------------------------------


def stored_state(site: Site) -> State:
    """Return all entries as they are on the disk; the server must not run."""
    done = run(["slapcat", "-f", conf_file(site), "-b", site.base_dn, "-o", "ldif-wrap=no"])
    entries = ldif.read(done.stdout.encode())
    return State(datetime.now(UTC), {entry.text("entryUUID"): held(entry) for entry in entries})


def build_restored(site: Site, wanted: State, made: Sequence[Change], by: str) -> None:
    """Build the new databases; when this returns they are what the server will start with.

    Raises:
        CommandError: slapadd refuses an entry; nothing was changed.
        NoSpaceError: the disk is full; nothing was changed.
    """
    author = authorship.current()
    with fs.disk_full_named(site.directory), fs.new_folder(restored_folder(site), mode=0o700) as folder:
        for name in (data_folder(site).name, changelog_folder(site).name):
            fs.make_folder(folder / name, 0o700)
        conf = folder / "slapd.conf"
        fs.write_file(conf, slapd_conf(site, folder).encode(), mode=0o600)
        _load(conf, site.base_dn, _loadable(wanted, made), folder)
        log = changelog_folder(site)
        run(["cp", "--sparse=always", "--reflink=auto", log / "data.mdb", folder / log.name / "data.mdb"])
        entries = (
            log_entry(change, by, [author.control(authorship.Change("", ""))] if author else [], n)
            for n, change in enumerate(made)
        )
        _load(conf, CHANGELOG, entries, folder)
        fs.unlink(conf)
        for path in folder.glob("*/data.mdb"):
            with path.open("rb") as file:
                fs.fsync(file.fileno())
            fs.fsync_folder(path.parent)


def _loadable(wanted: State, made: Sequence[Change]) -> Iterator[Entry]:
    """Return the entries, those that hold others first; the first tells replicas how far they have to come."""
    first = True
    for one in sorted(wanted.entries.values(), key=_depth):
        last: Values = {"contextCSN": (made[-1].csn.encode(),)} if first and made else {}
        yield Entry(one.dn, one.values | last)
        first = False


def finish_restore(site: Site) -> None:
    """Complete an exchange that was begun; the server must not run."""
    folder = restored_folder(site)
    if not folder.exists():
        return
    for target in (data_folder(site), changelog_folder(site)):
        if (folder / target.name).exists():
            fs.remove_tree(target)
            fs.rename_durably(folder / target.name, target)
    fs.remove_tree(folder)
    fs.fsync_folder(folder.parent)


def _load(conf: Path, suffix: str, entries: Iterable[Entry], folder: Path) -> None:
    text = folder / "load.ldif"
    fs.write_file(text, b"".join(map(ldif.written, entries)), mode=0o600)
    # Not the quick mode (-q), which makes the file as large as it may ever become.
    run(["slapadd", "-f", conf, "-b", suffix, "-l", text])
    fs.unlink(text)


def place(dn: str) -> tuple[str, ...]:
    """Return where an entry stands, so that two spellings of one DN are equal."""
    return tuple(rdn.casefold() for rdn in split_dn(dn))


def _depth(one: Held) -> int:
    return len(split_dn(one.dn))


def _classes(one: Held) -> set[str]:
    return {value.decode("ascii", "replace").lower() for value in one.values.get("objectClass", ())}


def _text(values: Sequence[bytes]) -> str:
    return values[0].decode("ascii")
