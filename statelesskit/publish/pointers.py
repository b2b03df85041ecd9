"""The scripts below ``publish/boot``: what the directory wants them to be, and making them so.

A script is written only when what it leads to is published. Until then the old one stays, as long as that leads
to something machines may still run: they keep booting what they booted, and ``publish status`` says what waits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.directory.authorship import Change
from statelesskit.directory.fleet import Directory
from statelesskit.directory.lookup import look_up
from statelesskit.directory.model import Channel, Client, Group, SnapshotEntry
from statelesskit.directory.resolution import decided_by, groups_by_client, resolve
from statelesskit.errors import NameInvalidError
from statelesskit.lock import held
from statelesskit.names import printable
from statelesskit.publish import scripts
from statelesskit.publish.artefacts import is_published

AT_ONCE = 200  # clients looked up by one search
WAIT_S = 60


@dataclass(frozen=True, slots=True)
class Pointer:
    """One script as the directory wants it.

    Attributes:
        snapshot: what it leads to by itself, if it is a snapshot.
        instead: the script for as long as that is not published, and there is no older one that will do.
    """

    text: str
    snapshot: str | None = None
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Scripts there shall be, by their paths below ``publish/boot``.

    Attributes:
        runnable: the snapshots machines may be told to run.
    """

    pointers: dict[str, Pointer]
    runnable: frozenset[str]


@dataclass(frozen=True, slots=True)
class Difference:
    """A script that is not as the directory wants it.

    Attributes:
        path: below ``publish/boot``.
        what: ``missing``, ``other``, ``left over``, or ``waits for`` a snapshot to be published.
        text: what it shall be now; None is removed, or left as it is while it waits.
    """

    path: str
    what: str
    text: str | None
    waits: bool = False


def publishes(site: Site) -> bool:
    """Say whether a site has a publication at all."""
    return (_boot(site) / "start.ipxe").exists()


def all_wanted(site: Site, directory: Directory) -> Wanted:
    """Return every script there shall be."""
    channels = {one.name: one for one in directory.channels()}
    snapshots = {one.name: one for one in directory.snapshots()}
    found = {
        "start.ipxe": Pointer(scripts.start(site.publish_url)),
        "unknown.ipxe": Pointer(scripts.UNKNOWN),
    }
    found |= _of_channels(channels.values(), snapshots)
    found |= _of_clients(site, directory.clients(), channels, directory.groups(), snapshots)
    return Wanted(found, _runnable(snapshots))


def differences(site: Site, wanted: Wanted, present: Collection[str]) -> Iterator[Difference]:
    """Yield what is not as it shall be.

    Args:
        present: those that are there and are looked at; what is not wanted of them is left over.
    """
    for path, pointer in sorted(wanted.pointers.items()):
        text = read(site, path)
        if pointer.snapshot and not is_published(site, pointer.snapshot):
            stays = text == pointer.instead or (text is not None and _will_do(site, text, wanted.runnable))
            yield Difference(path, f"waits for {pointer.snapshot}", None if stays else pointer.instead, waits=True)
        elif text != pointer.text:
            yield Difference(path, "missing" if text is None else "other", pointer.text)
    for path in sorted(set(present) - wanted.pointers.keys()):
        yield Difference(path, "left over", None)


def present(site: Site) -> list[str]:
    """Return the scripts of clients and channels that are there."""
    boot = _boot(site)
    return [str(path.relative_to(boot)) for top in ("by-mac", "channel") for path in (boot / top).rglob("*.ipxe")]


def make_so(site: Site, found: Iterable[Difference]) -> list[str]:
    """Write and remove scripts; return the paths of those that changed."""
    changed = []
    for one in found:
        path = _boot(site) / one.path
        if one.text is not None:
            fs.make_folders(path.parent)
            fs.write_file(path, one.text.encode("ascii"))
        elif not one.waits:
            fs.remove_tree(path)
        else:
            continue
        changed.append(one.path)
    return changed


def refresh(site: Site, directory: Directory) -> list[str]:
    """Make every script what the directory wants it to be; return the paths of those that changed."""
    with _alone(site):
        return make_so(site, list(differences(site, all_wanted(site, directory), present(site))))


def follow(site: Site, directory: Directory, changes: Iterable[Change]) -> list[str]:
    """Make those scripts right that some changes of the directory touch; return the paths of those that changed.

    A channel that moved costs one script, however many follow it. A change of a group, of a snapshot's state, or
    of many clients at once has every script looked at.
    """
    channels: set[str] = set()
    clients: set[str] = set()
    for change in changes:
        if name := directory.layout.client_at(change.dn):
            clients.add(name)
        elif directory.layout.snapshot_at(change.dn):
            if change.how != "add":  # nobody is told to run what has just been entered
                return refresh(site, directory)
        elif name := directory.layout.channel_at(change.dn):
            channels.add(name)
        elif not change.dn or directory.layout.group_at(change.dn):
            return refresh(site, directory)
    found: list[str] = []
    with _alone(site):
        if channels:
            found += _follow_channels(site, directory, channels)
        if clients:
            found += _follow_clients(site, directory, clients)
    return found


def _follow_channels(site: Site, directory: Directory, names: Collection[str]) -> list[str]:
    there = [one for one in directory.channels() if one.name in names]
    snapshots = {one.name: one for one in directory.snapshots()}
    paths = {path for name in names if (path := _path_of(name)) and read(site, path) is not None}
    wanted = Wanted(_of_channels(there, snapshots), _runnable(snapshots))
    return make_so(site, list(differences(site, wanted, paths)))


def _follow_clients(site: Site, directory: Directory, names: set[str]) -> list[str]:
    # A machine may have had another card, or be gone: only its old scripts know of that, and who else is in them.
    owners = {path: scripts.clients_of(read(site, path) or "") for path in present(site)}
    old = [path for path, clients in owners.items() if not names.isdisjoint(clients)]
    wanted, ordered = Wanted({}, frozenset()), sorted(names.union(*(owners[path] for path in old)))
    for begin in range(0, len(ordered), AT_ONCE):
        at_once = look_up(directory, ordered[begin : begin + AT_ONCE])
        pointers = _of_clients(site, at_once.clients.values(), at_once.channels, at_once.groups, at_once.snapshots)
        wanted = Wanted(wanted.pointers | pointers, _runnable(at_once.snapshots))
    return make_so(site, list(differences(site, wanted, old)))


def _of_channels(channels: Iterable[Channel], snapshots: Mapping[str, SnapshotEntry]) -> dict[str, Pointer]:
    found = {}
    for channel in channels:
        if not (path := _path_of(channel.name)):
            continue
        entry = snapshots.get(channel.snapshot or "")
        start, name = "../../start.ipxe", printable(channel.name)
        if not channel.snapshot:
            found[path] = Pointer(scripts.to_nothing(f"channel {name} points at nothing", start))
        elif entry is None or entry.state == "revoked":
            why = "is revoked" if entry else "is not in the directory"
            text = scripts.to_nothing(f"channel {name} points at {channel.snapshot}, which {why}", start)
            found[path] = Pointer(text)
        else:
            waiting = scripts.to_nothing(_not_published(entry.name), start)
            found[path] = Pointer(scripts.of_channel(entry.name), entry.name, waiting)
    return found


def _of_clients(
    site: Site,
    clients: Iterable[Client],
    channels: Mapping[str, Channel],
    groups: Sequence[Group],
    snapshots: Mapping[str, SnapshotEntry],
) -> dict[str, Pointer]:
    groups_of = groups_by_client(groups)
    by_path: defaultdict[str, list[Client]] = defaultdict(list)
    for client in clients:
        for mac in client.macs:
            try:
                by_path[scripts.client_path(mac)].append(client)
            except NameInvalidError:  # whoever wrote that into the directory: no machine asks with it
                continue
    found = {}
    for path, sharing in by_path.items():
        if len(sharing) > 1:
            names = sorted(client.name for client in sharing)
            why = f"{' and '.join(map(printable, names))} have the same address in the directory"
            found[path] = Pointer(scripts.to_nothing(why, _START, names))
        else:
            found[path] = _of_client(site, sharing[0], channels, groups_of(sharing[0].name), snapshots)
    return found


_START = "../start.ipxe"


def _of_client(
    site: Site,
    client: Client,
    channels: Mapping[str, Channel],
    groups: Sequence[Group],
    snapshots: Mapping[str, SnapshotEntry],
) -> Pointer:
    if client.mode != "diskless":
        return Pointer(scripts.to_own_disk(client.name, client.mode))
    deciding, _ = decided_by(client, groups)
    channel = deciding[0].channel if len(deciding) == 1 and not deciding[0].pin else None
    told = resolve(client, channels, groups, snapshots)
    try:
        if channel and channel in channels:
            return Pointer(scripts.to_channel(client.name, channel, site.report_url))
        if told.snapshot:
            waiting = scripts.to_nothing(_not_published(told.snapshot), _START, [client.name])
            return Pointer(scripts.to_snapshot(client.name, told.snapshot, site.report_url), told.snapshot, waiting)
    except NameInvalidError as error:
        return Pointer(scripts.to_nothing(error.message, _START, [client.name]))
    return Pointer(scripts.to_nothing(told.because[-1], _START, [client.name]))


def _not_published(snapshot: str) -> str:
    return f"{snapshot} is not published yet: statelesskit publish refresh"


def _runnable(snapshots: Mapping[str, SnapshotEntry]) -> frozenset[str]:
    return frozenset(name for name, entry in snapshots.items() if entry.state != "revoked")


def _will_do(site: Site, text: str, runnable: Collection[str]) -> bool:
    """Say whether a script leads to something that may be booted, now that what it shall lead to can't be."""
    kind, _, name = scripts.leads_to(text).partition("/")
    return kind == "channel" or (kind == "snapshots" and name in runnable and is_published(site, name))


def _path_of(channel: str) -> str:
    try:
        return scripts.channel_path(channel)
    except NameInvalidError:  # nobody can follow it by a script
        return ""


def read(site: Site, path: str) -> str | None:
    """Return a script's text; None if it is not there."""
    try:
        return (_boot(site) / path).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None


def _boot(site: Site) -> Path:
    return site.publish / "boot"


@contextmanager
def _alone(site: Site) -> Iterator[None]:
    """Have nobody else read the directory and write scripts meanwhile: the later reading is the one to stay."""
    with held(site.lock_file("boot-scripts"), what="the boot scripts", doing="writing them", wait_s=WAIT_S):
        yield
