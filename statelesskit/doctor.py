"""Look at everything a site needs, and say what is wrong and how to mend it."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from statelesskit import fs
from statelesskit.config import FOLDERS, Site
from statelesskit.errors import NotFoundError, StatelessError
from statelesskit.run import PACKAGE_OF, SYSTEM_PATH
from statelesskit.service import is_served

TOOLS = {  # program: what needs it
    "slapd": "the directory",
    "ldapsearch": "looking into the directory by hand",
    "mmdebstrap": "prototypes from Debian packages",
    "mkfs.erofs": "erofs exports",
    "mksquashfs": "squashfs exports",
    "unsquashfs": "checking squashfs exports",
    "tar": "prototypes from archives",
    "unshare": "working in a prototype",
    "veritysetup": "images that are checked block by block",
}
FREE_LEAST, FREE_GOOD = 0.5e9, 5e9  # bytes
FULL = 0.8  # of what the directory's database may take
LATE_S = 60  # a replica that is further behind does not follow


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing looked at; ``state`` is ``ok``, ``warning`` or ``wrong``."""

    check: str
    state: str
    found: str
    fix: str = ""


def examine(site: Site) -> Iterator[Diagnosis]:
    """Yield one diagnosis after the other. Changes nothing, raises nothing."""
    yield _python()
    yield _service(site)
    if is_served(site):  # the rest is the service's to need
        yield _kernel()
        return
    yield from _tools()
    yield _user(site)
    yield from _folders(site)
    yield _space(site)
    yield _key(site.keys / "record.key")
    yield _witness(site)
    yield from _directory(site)
    yield from _publication(site)
    yield _kernel()
    yield _apparmor()


def _python() -> Diagnosis:
    version = ".".join(map(str, sys.version_info[:3]))
    return Diagnosis("Python", "ok" if sys.version_info >= (3, 11) else "wrong", version, "3.11 or newer is needed")


def _tools() -> Iterator[Diagnosis]:
    for tool, purpose in TOOLS.items():
        path = shutil.which(tool, path=SYSTEM_PATH)
        if path:
            yield Diagnosis(f"program {tool}", "ok", path)
        else:
            yield Diagnosis(
                f"program {tool}", "wrong", f"missing; for {purpose}", f"apt-get install {PACKAGE_OF[tool]}"
            )


def _user(site: Site) -> Diagnosis:
    if os.geteuid() == 0:
        return Diagnosis("user", "ok", "root")
    return Diagnosis(
        "user", "warning", f"uid {os.geteuid()}", "owners, devices and prototypes need root; run it with sudo"
    )


def _service(site: Site) -> Diagnosis:
    from statelesskit.service.client import connected

    name = "service"
    if not site.service.enabled:
        return Diagnosis(name, "ok", "none: actions run in their caller's process")
    rules = site.service.allow
    try:
        with connected(site):
            return Diagnosis(name, "ok", f"answers; rules that say who else than root may do what: {len(rules)}")
    except StatelessError as error:
        return Diagnosis(name, "wrong", error.message, error.hint)


def _folders(site: Site) -> Iterator[Diagnosis]:
    for name, mode in FOLDERS.items():
        path = site.root / name
        if not path.is_dir():
            yield Diagnosis(f"folder {name}", "wrong", "missing", f"statelesskit --site {site.root} site init")
        elif not os.access(path, os.W_OK):
            yield Diagnosis(f"folder {name}", "wrong", "not writable by this user", "use the user it belongs to")
        elif (found := stat.S_IMODE(path.stat().st_mode)) & ~mode:
            yield Diagnosis(f"folder {name}", "wrong", f"mode {found:o}", f"chmod {mode:o} {path}")
        else:
            yield Diagnosis(f"folder {name}", "ok", f"mode {found:o}")


def _space(site: Site) -> Diagnosis:
    free = fs.free_bytes(site.store)
    state = "wrong" if free < FREE_LEAST else "warning" if free < FREE_GOOD else "ok"
    return Diagnosis("free space", state, f"{free / 1e9:.1f} GB", "a snapshot of a desktop needs some GB")


def _key(path: Path) -> Diagnosis:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return Diagnosis(
            "record key",
            "wrong",
            f"{path}: {error.strerror}",
            "restore it from the backup; statelesskit site init makes a first one",
        )
    if mode & 0o077:
        return Diagnosis("record key", "wrong", f"others may read it (mode {mode:o})", f"chmod 600 {path}")
    return Diagnosis("record key", "ok", f"mode {mode:o}")


def _witness(site: Site) -> Diagnosis:
    from statelesskit.witness import checkpoint_of, told

    name = "record checkpoint"
    try:
        _, checkpoint = checkpoint_of(site)
    except NotFoundError:
        return Diagnosis(name, "ok", "no run has ended yet")
    except StatelessError as error:
        return Diagnosis(name, "wrong", error.message, error.hint or "statelesskit audit verify")
    last = told(site) if site.witness else None
    if last and not last.error:
        return Diagnosis(name, "ok", f"the witness knows of {last.size} of {checkpoint.size} records, at {last.at}")
    if last:
        return Diagnosis(name, "wrong", f"the witness could not be told at {last.at}: {last.error}", "mend its command")
    if not site.server.is_private or site.server.replicas:
        return Diagnosis(name, "ok", "kept by the directory, when it is published", "statelesskit audit publish")
    fix = "set [audit] witness in site.toml"
    return Diagnosis(name, "warning", "kept on this host only, whose owner could write the past anew", fix)


def _directory(site: Site) -> Iterator[Diagnosis]:
    from statelesskit.directory import slapd
    from statelesskit.directory.replica import lags
    from statelesskit.site import port_in_use, server_rows

    if site.server.is_private:
        status = slapd.status(site)
        if status.pid and not status.running:
            fix = f"statelesskit --site {site.root} site stop, then site start"
            yield Diagnosis("directory", "wrong", f"slapd (process {status.pid}) runs but does not answer", fix)
            return
        if not status.running:
            if port_in_use(site.port):
                yield Diagnosis(
                    "port", "wrong", f"{site.port} is used by another program", "change directory.port in site.toml"
                )
            yield Diagnosis("directory", "wrong", "not running", f"statelesskit --site {site.root} site start")
            return
    yield _tried("directory", lambda: _clients(site))
    try:
        for row in server_rows(site):
            yield Diagnosis(f"directory {row['check']}", row["state"], row["found"], row["fix"])
    except StatelessError as error:
        yield Diagnosis("directory server", "wrong", error.message, error.hint)
    if site.server.is_private:
        yield _filled(site)
    for lag in lags(site):
        late = lag.note or lag.ends_soon or (lag.behind_s or 0) > LATE_S
        yield Diagnosis(
            "replica", "warning" if late else "ok", str(lag), "start it again; the certificate: directory replica init"
        )


def _publication(site: Site) -> Iterator[Diagnosis]:
    from statelesskit.directory import open_directory
    from statelesskit.publish.pointers import all_wanted, differences, present, publishes

    if not publishes(site):
        return
    name, fix = "boot scripts", "statelesskit publish refresh; statelesskit publish status names them"
    try:
        with open_directory(site, or_replica=True) as directory:
            found = list(differences(site, all_wanted(site, directory), present(site)))
    except StatelessError as error:  # said above, with what mends it
        yield Diagnosis(name, "warning", f"nobody knows whether they are right: {error.message}", error.hint)
        return
    stale = [one for one in found if not one.waits]
    if found:
        text = f"{len(stale)} are not as the directory says, {len(found) - len(stale)} wait for a snapshot"
        yield Diagnosis(name, "wrong" if stale else "warning", text, fix)
    else:
        yield Diagnosis(name, "ok", "as the directory says")


def _filled(site: Site) -> Diagnosis:
    from statelesskit.directory.conf import filled

    used, most = filled(site)
    found = f"{used / 1e6:.1f} MB of at most {most / 1e6:.0f} MB"
    return Diagnosis(
        "directory size",
        "warning" if used > most * FULL else "ok",
        found,
        "statelesskit directory check names what nobody needs",
    )


def _clients(site: Site) -> str:
    from statelesskit.directory import open_directory

    with open_directory(site, or_replica=True) as directory:
        return f"{len(directory.clients())} clients; whether it is sound says `statelesskit directory check`"


def _tried(name: str, attempt: Callable[[], str]) -> Diagnosis:
    try:
        return Diagnosis(name, "ok", attempt())
    except StatelessError as error:
        return Diagnosis(name, "wrong", error.message, error.hint)


def _kernel() -> Diagnosis:
    from jupyter_client.kernelspec import KernelSpecManager

    if "python3" in KernelSpecManager().find_kernel_specs():
        return Diagnosis("notebook kernel", "ok", "python3")
    return Diagnosis("notebook kernel", "wrong", "there is no python3 kernel", "pip install ipykernel")


def _apparmor() -> Diagnosis:
    # Ubuntu confines slapd to /var/lib/ldap; a private one must be let into the site.
    profile = Path("/etc/apparmor.d/usr.sbin.slapd")
    enforced = Path("/sys/module/apparmor/parameters/enabled")
    if profile.exists() and enforced.exists() and enforced.read_text().startswith("Y"):
        return Diagnosis(
            "AppArmor", "warning", "confines slapd", f"allow the site's folder in /etc/apparmor.d/local/{profile.name}"
        )
    return Diagnosis("AppArmor", "ok", "does not confine slapd")
