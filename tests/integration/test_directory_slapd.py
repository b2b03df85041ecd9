"""The private slapd as a process: start, stop, crash, and everything that may be in its way."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from statelesskit import doctor
from statelesskit.config import FOLDERS, Site
from statelesskit.directory import Client, conf, listening, open_directory, slapd
from statelesskit.directory.session import connect, disconnect
from statelesskit.errors import (
    ConfigError,
    DirectoryUnavailableError,
    LockedError,
    MissingToolError,
    PermissionNeededError,
    TimedOutError,
)
from statelesskit.fs import remove_tree
from statelesskit.lock import held

pytestmark = pytest.mark.slapd

NOBODY = 65534


@pytest.fixture(autouse=True)
def stopped(site: Site) -> Iterator[None]:
    yield
    slapd.stop(site)


def folders(site: Site) -> Site:
    for name, mode in FOLDERS.items():
        (site.root / name).mkdir(parents=True, mode=mode)
    return site


def processes(site: Site) -> list[int]:
    """Return who has our configuration on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(conf.conf_file(site)) in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_start_and_stop_may_be_repeated(site: Site) -> None:
    assert slapd.status(site).running is False
    first = slapd.start(site)
    assert first.running
    assert slapd.start(site) == first == slapd.status(site)
    assert processes(site) == [first.pid]
    slapd.stop(site)
    assert slapd.status(site) == dataclasses.replace(first, running=False, pid=None, since=None)
    assert processes(site) == []
    slapd.stop(site)
    assert slapd.start(site).running


def test_what_was_written_is_there_after_a_restart(site: Site) -> None:
    slapd.start(site)
    with open_directory(site) as directory:
        directory.bootstrap()
        client = directory.add_client(Client("c1", "live"))
    slapd.stop(site)
    slapd.start(site)
    with open_directory(site) as directory:
        assert directory.clients() == [client]


def test_it_starts_again_after_kill_9(site: Site) -> None:
    first = slapd.start(site)
    assert first.pid
    with open_directory(site) as directory:
        directory.bootstrap()
    os.kill(first.pid, signal.SIGKILL)
    os.waitpid(first.pid, 0)
    assert conf.pid_file(site).exists()
    assert listening.socket_file(site).exists()
    assert slapd.status(site) == dataclasses.replace(first, running=False, pid=None, since=None)
    second = slapd.start(site)
    assert second.pid not in (None, first.pid)
    with open_directory(site) as directory:
        assert directory.clients() == []


def test_two_starts_at_once_start_one(site: Site) -> None:
    code = f"from statelesskit.config import load_site\nfrom statelesskit.directory import slapd\nfrom pathlib import Path\nprint(slapd.start(load_site(Path({str(site.root)!r}))).pid)"  # noqa: E501

    def start(_: int) -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with ThreadPoolExecutor(4) as pool:
        pids = set(pool.map(start, range(4)))
    assert pids == {str(pid) for pid in processes(site)}
    assert len(pids) == 1


def test_it_outlives_who_started_it_and_holds_no_folder(site: Site) -> None:
    pid = slapd.start(site).pid
    assert pid
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert os.getsid(pid) == pid
    assert {str((Path(f"/proc/{pid}/fd") / fd).readlink()) for fd in "012"} == {
        "/dev/null",
        str(conf.log_file(site)),
    }


def test_a_lock_somebody_holds_is_respected(site: Site) -> None:
    with (
        held(site.lock_file("directory"), what="the directory's server", doing="a backup"),
        pytest.raises(LockedError, match="a backup"),
    ):
        slapd.start(site, timeout_s=0)


def test_a_port_in_use_is_named_with_its_holder(site: Site) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", site.port))
        other.listen()
        with pytest.raises(DirectoryUnavailableError) as caught:
            slapd.start(site)
    assert f"port {site.port}" in caught.value.message
    assert f"(process {os.getpid()})" in caught.value.message
    assert "[directory]" in caught.value.hint
    assert "site.toml" in caught.value.hint
    assert processes(site) == []
    assert slapd.start(site).running


def test_what_stops_it_from_starting_is_shown(site: Site) -> None:
    slapd.start(site)
    slapd.stop(site)
    (conf.data_folder(site) / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(DirectoryUnavailableError, match="MDB_INVALID") as caught:
        slapd.start(site)
    assert str(conf.log_file(site)) in caught.value.hint
    assert "slapd starting" not in caught.value.message  # that was the run before


def test_a_configuration_slapd_cannot_read_is_shown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf, "slapd_conf", lambda site: "nonsense here\n")
    with pytest.raises(DirectoryUnavailableError, match="nonsense"):
        slapd.start(site)
    assert processes(site) == []


def test_a_configuration_changed_by_hand_is_made_again(site: Site) -> None:
    slapd.prepare(site)
    good = conf.conf_file(site).read_bytes()
    conf.conf_file(site).write_bytes(b"access to * by * write\n")
    slapd.prepare(site)
    before = conf.conf_file(site).stat().st_mtime_ns
    slapd.prepare(site)
    assert conf.conf_file(site).read_bytes() == good
    assert conf.conf_file(site).stat().st_mtime_ns == before


def test_slaptest_finds_nothing(site: Site) -> None:
    slapd.prepare(site)
    done = subprocess.run(
        ["/usr/sbin/slaptest", "-u", "-f", conf.conf_file(site)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.splitlines() == ["config file testing succeeded"]


@pytest.mark.parametrize(
    ("base", "match"), [("nonsense", "base_dn"), ("ou=a\nrootpw secret", "slapd cannot be told"), ("", "base_dn")]
)
def test_a_base_that_is_none_is_refused(site: Site, base: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        slapd.start(dataclasses.replace(site, base_dn=base))


def test_missing_schemas_name_the_package(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf, "SCHEMAS", site.root)
    with pytest.raises(MissingToolError, match="apt-get install slapd"):
        slapd.start(site)


def test_stop_never_ends_a_foreign_process(site: Site) -> None:
    slapd.start(site)
    slapd.stop(site)
    # Even one that has our configuration among its arguments, such as an editor.
    other = subprocess.Popen(["/bin/sh", "-c", "sleep 60", str(conf.conf_file(site))])
    try:
        for text in (str(other.pid), "1", "0", "-1", "99999999999999999999", "", "x", str(os.getpid())):
            conf.pid_file(site).write_text(text, encoding="ascii")
            assert slapd.status(site).pid is None
            slapd.stop(site)
        assert other.poll() is None
        conf.pid_file(site).write_text(str(other.pid), encoding="ascii")
        assert slapd.start(site).running
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_hung_server_is_no_reason_for_a_second(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slapd, "PROBE_S", 1)
    pid = slapd.start(site).pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    while "State:\tT" not in Path(f"/proc/{pid}/status").read_text():  # on a busy machine a thread may go on a while
        time.sleep(0.01)
    try:
        with pytest.raises(TimedOutError, match="site stop"):
            slapd.start(site, timeout_s=0.1)
        assert slapd.status(site) == dataclasses.replace(slapd.status(site), running=False, pid=pid)
        (found,) = [row for row in doctor.examine(site) if row.check in ("port", "directory")]
        assert (found.state, found.found) == ("wrong", f"slapd (process {pid}) runs but does not answer")
        with pytest.raises(TimedOutError, match=f"process {pid}"):
            slapd.stop(site, timeout_s=0.1)
    finally:
        os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + 10
    while processes(site) and time.monotonic() < deadline:  # the signal of stop() was waiting
        time.sleep(0.05)
        slapd.stop(site)
    assert processes(site) == []


@pytest.mark.parametrize("name", ['with space and "quotes"', "back\\slash", "Größe #1", "x" * 120])
def test_odd_and_long_site_paths(site: Site, name: str) -> None:
    odd = folders(dataclasses.replace(site, root=site.root / name))
    try:
        running = slapd.start(odd)
        assert running.running
        with open_directory(odd) as directory:
            directory.bootstrap()
            assert directory.clients() == []
        subprocess.run(
            ["ldapwhoami", "-Q", "-Y", "EXTERNAL", "-H", running.ldapi_uri], check=True, timeout=60, capture_output=True
        )
        folder = listening.socket_file(odd).parent
        assert len(os.fsencode(listening.socket_file(odd))) <= listening.SOCKET_PATH_LIMIT
        assert (folder.stat().st_mode & 0o777, folder.stat().st_uid) == (0o711, os.geteuid())
        by_another_way = site.root / "link"
        by_another_way.symlink_to(odd.root)
        assert slapd.status(dataclasses.replace(odd, root=by_another_way)) == running
    finally:
        slapd.stop(odd)
        if odd.root not in listening.socket_file(odd).parents:
            remove_tree(listening.socket_file(odd).parent)


@pytest.mark.parametrize("length", [106, 107, 108])
def test_a_socket_path_about_as_long_as_it_may_be(site: Site, length: int) -> None:
    with tempfile.TemporaryDirectory(prefix="sk-") as base:
        root = Path(base, "x" * (length - len(base) - len("//directory/ldapi")))
        long = folders(dataclasses.replace(site, root=root))
        assert len(str(long.directory / "ldapi")) == length
        try:
            assert slapd.start(long).running
        finally:
            slapd.stop(long)


def test_a_path_slapd_cannot_be_told(site: Site) -> None:
    with pytest.raises(ConfigError, match="slapd cannot be told"):
        slapd.start(folders(dataclasses.replace(site, root=site.root / "a\nb")))


def test_a_socket_others_could_have_made_is_refused(site: Site) -> None:
    slapd.start(site)
    site.directory.chmod(0o755)
    with pytest.raises(DirectoryUnavailableError, match="alone"):
        connect(site)
    site.directory.chmod(0o700)
    disconnect(connect(site))


def test_only_the_owner_starts_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    for ask in (slapd.start, slapd.stop, slapd.status):
        with pytest.raises(PermissionNeededError, match="sudo -u"):
            ask(site)
    monkeypatch.undo()


@pytest.fixture
def open_site(site: Site) -> Iterator[Site]:
    """A site whose path any user may walk; pytest's own folders are closed."""
    root = Path(tempfile.mkdtemp(prefix="statelesskit-test-"))
    root.chmod(0o755)
    made = folders(dataclasses.replace(site, root=root / "site"))
    try:
        yield made
    finally:
        slapd.stop(made)
        remove_tree(root)


@pytest.mark.root
def test_another_user_sees_nothing_even_on_the_socket(open_site: Site) -> None:
    slapd.start(open_site)
    with open_directory(open_site) as directory:
        directory.bootstrap()
        directory.add_client(Client("c1", "live"))
    assert open_site.directory.stat().st_mode & 0o777 == 0o711
    argv = ["/usr/bin/ldapsearch", "-Q", "-LLL", "-Y", "EXTERNAL", "-H", conf.ldapi_uri(open_site), "-b"]
    for base in ("", open_site.base_dn, f"cn=c1,ou=clients,{open_site.base_dn}", "cn=Subschema"):
        done = subprocess.run(
            [*argv, base, "-s", "base", "+", "*"], user=NOBODY, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout == ""
        assert ("No such object" in done.stderr) is base.startswith("cn=c1")
        assert ("Insufficient access" in done.stderr) is (base == open_site.base_dn)


def as_nobody(do: Callable[[], object]) -> None:
    """Run it as another user; forked, as the interpreter's own folder may be closed to that user."""
    with warnings.catch_warnings(action="ignore"):  # from Python 3.12 on: our other threads do nothing here
        child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            do()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.root
@pytest.mark.parametrize("name", ["site", "x" * 120])
def test_a_site_of_another_user(open_site: Site, name: str) -> None:
    """Its owner starts and stops it; root may use it, but do neither."""
    theirs = dataclasses.replace(open_site, root=open_site.root / name)
    folders(theirs)
    for path in (theirs.root, *theirs.root.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    with pytest.raises(PermissionNeededError, match=f"sudo -u '#{NOBODY}'"):
        slapd.start(theirs)

    def start() -> None:
        slapd.start(theirs)
        with open_directory(theirs) as directory:
            directory.bootstrap()

    as_nobody(start)
    try:
        pid = slapd.status(theirs).pid
        assert slapd.status(theirs).running
        assert Path(f"/proc/{pid}").stat().st_uid == NOBODY
        with open_directory(theirs) as directory:
            assert directory.clients() == []
        with pytest.raises(PermissionNeededError):
            slapd.stop(theirs)
    finally:
        as_nobody(lambda: slapd.stop(theirs))
    assert not slapd.status(theirs).running
    folder = listening.socket_file(theirs).parent
    if theirs.root not in folder.parents:
        assert folder.stat().st_uid == NOBODY
        folder.rmdir()
        folder.mkdir(mode=0o700)  # ours now, not theirs
        with pytest.raises(DirectoryUnavailableError, match="alone"):
            open_directory(theirs)
        folder.rmdir()


def test_it_keeps_no_pipe_it_was_handed_down(site: Site) -> None:
    """Whoever reads a script's output to its end must not wait for the server that the script started."""
    script = (
        "import os, sys; from pathlib import Path; from statelesskit.config import load_site\n"
        "from statelesskit.directory import slapd\n"
        "os.dup2(1, 9, inheritable=True)\n"
        "slapd.prepare(load_site(Path(sys.argv[1]))); slapd.start(load_site(Path(sys.argv[1])))"
    )
    try:
        subprocess.run([sys.executable, "-c", script, site.root], check=True, stdout=subprocess.PIPE, timeout=30)
    finally:
        slapd.stop(site)
