"""What the live site has to offer for a parameter; asked by forms and by shell completion."""

from __future__ import annotations

from statelesskit.config import Site


def prototypes(site: Site) -> list[str]:
    from statelesskit.prototype import list_prototypes

    return [prototype.name for prototype in list_prototypes(site)]


def snapshots(site: Site) -> list[str]:
    """The newest first, as that is what is mostly wanted."""
    from statelesskit.snapshot import list_snapshots

    return [snapshot.name for snapshot in reversed(list_snapshots(site))]


def channels(site: Site) -> list[str]:
    from statelesskit.directory import open_directory

    with open_directory(site) as directory:
        return sorted(channel.name for channel in directory.channels())


def clients(site: Site) -> list[str]:
    from statelesskit.directory import open_directory

    with open_directory(site) as directory:
        return [client.name for client in directory.clients()]


def groups(site: Site) -> list[str]:
    from statelesskit.directory import open_directory

    with open_directory(site) as directory:
        return [group.name for group in directory.groups()]


def modes(site: Site) -> list[str]:
    from statelesskit.directory.model import MODES

    return list(MODES)


def states(site: Site) -> list[str]:
    from statelesskit.snapshot import STATES

    return list(STATES)


def accounts(site: Site) -> list[str]:
    from statelesskit.directory import open_directory
    from statelesskit.directory.accounts import accounts as found

    with open_directory(site) as directory:
        return found(directory)
