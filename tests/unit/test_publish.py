"""The publication's scripts and snippets, each read by somebody else: a reader of iPXE's syntax, and DHCP servers."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statelesskit import names
from statelesskit.config import Site, parse_site
from statelesskit.directory.model import Channel, Client, Group, SnapshotEntry
from statelesskit.errors import ConfigError, NameInvalidError, StatelessError, UsageError
from statelesskit.progress import Progress
from statelesskit.publish import artefacts, pointers, scripts
from statelesskit.publish.snippets import SERVERS, snippet
from statelesskit.snapshot import Snapshot
from tests.ipxe import commands

S1, S2 = "desktop-20261123T073000Z", "desktop-20261124T073000Z"
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", fullmatch=True).filter(lambda name: ".." not in name)
MACS = st.binary(min_size=6, max_size=6).map(lambda b: bytes([b[0] & 0xFE, *b[1:5], b[5] | 1]).hex(":"))


@given(NAMES, NAMES, NAMES, st.sampled_from(["", "https://h.example:8443/report"]))
def test_a_script_says_what_it_was_made_of(client: str, prototype: str, channel: str, report: str) -> None:
    text = scripts.to_channel(client, f"{prototype}/{channel}", report)
    told = commands(text)
    assert told[0] == ["set", "sk-client", client]
    assert told[1] == ["set", "sk-arguments", f"sk.client={client}", *([f"sk.report={report}"] if report else [])]
    assert told[2][:4] == ["chain", "--autofree", "--replace", f"../channel/{prototype}/{channel}.ipxe"]
    assert scripts.leads_to(text) == f"channel/{prototype}/{channel}"
    assert scripts.clients_of(text) == [client]


@given(MACS, st.sampled_from([":", "-", ""]))
def test_an_address_has_one_path(mac: str, between: str) -> None:
    # What iPXE makes of it by ${netX/mac:hexhyp}.
    assert scripts.client_path(mac.replace(":", between).upper()) == f"by-mac/{mac.replace(':', '-')}.ipxe"


@given(st.text())
def test_a_name_that_is_none_gets_no_script(name: str) -> None:
    try:
        names.check_name(name, "client")
    except NameInvalidError:
        with pytest.raises(NameInvalidError):
            scripts.to_channel(name, "desktop/stable")
        with pytest.raises(NameInvalidError):
            scripts.to_channel("pc", f"desktop/{name}")
        with pytest.raises(NameInvalidError):
            scripts.to_snapshot("pc", name)


@given(st.text())
def test_any_text_is_only_shown(why: str) -> None:
    for text in (scripts.to_nothing(why, "../start.ipxe"), scripts.to_own_disk(why, why)):
        assert text.isascii()
        kinds = [words[0] for words in commands(text)]
        assert kinds in (["echo", "sleep", "chain"], ["echo", "exit"])
        assert "${" not in text


def test_a_snapshot_boots_from_its_own_folder() -> None:
    told = commands(scripts.of_snapshot(S1, "root.erofs", ["boot=statelesskit", "sk.abi=1", f"sk.snapshot={S1}", "ro"]))
    assert told[0] == ["isset", "${sk-url}", "&&", "set", "sk-here", f"${{sk-url}}/snapshots/{S1}/", "||",
                       "set", "sk-here", "${cwduri}"]  # fmt: skip
    kernel = next(words for words in told if words[0] == "kernel")
    assert kernel[1:3] == ["vmlinuz", "initrd=initrd.img"]  # the stub of UEFI needs to be told of the initrd
    assert "sk.root=ram:${sk-here}root.erofs" in kernel
    assert "${sk-arguments}" in kernel


# --- what the directory wants ------------------------------------------------------------------------


def channel(snapshot: str | None) -> Channel:
    return Channel("desktop/stable", "desktop", snapshot, None, 1, "", None, None)


def entries(**states: str) -> dict[str, SnapshotEntry]:
    from datetime import UTC, datetime

    at = datetime(2026, 11, 23, tzinfo=UTC)
    return {
        name: SnapshotEntry(name, "desktop", "sha256:" + "0" * 64, state, at)
        for name, state in ((S1, states.get("one", "released")), (S2, states.get("two", "released")))
    }


def put(site: Site, name: str) -> None:
    """Publish a snapshot of which only the script matters."""

    def make(site: Site, snapshot: Snapshot, folder: Path, progress: Progress) -> artefacts.Made:
        for file in ("vmlinuz", "initrd.img", "root.erofs"):
            (folder / file).write_bytes(b"it is " + file.encode())
        return artefacts.Made("6.1.0", "root.erofs", "erofs", "ab" * 32, 4096, ["boot=statelesskit", "ro"])

    assert artefacts.publish(site, described(name), make, Progress())


def described(name: str) -> Snapshot:
    from datetime import UTC, datetime

    return Snapshot(
        name=name, prototype="desktop", sequence=1, taken_at=datetime(2026, 11, 23, tzinfo=UTC), taken_by="me",
        parent="", digest="sha256:" + "0" * 64, entries=1, files=1, bytes=1, note="",
    )  # fmt: skip


def of_clients(site: Site, *clients: Client, groups: list[Group] | None = None) -> dict[str, str]:
    found = pointers._of_clients(site, clients, {"desktop/stable": channel(S1)}, groups or [], entries())
    return {path: pointer.text for path, pointer in found.items()}


DISKLESS = Client("pc", "diskless", ("52:54:00:00:00:01",), channel="desktop/stable")


def test_each_kind_of_client_gets_its_script(site: Site) -> None:
    pin = replace(DISKLESS, name="pinned", macs=("52:54:00:00:00:02",), pin=S2)
    nobody = replace(DISKLESS, name="nobody", macs=("52:54:00:00:00:03", "52:54:00:00:00:04"), channel=None)
    caching = replace(DISKLESS, name="caching", macs=("52:54:00:00:00:05",), mode="caching")
    grouped = replace(DISKLESS, name="grouped", macs=("52:54:00:00:00:06",), channel=None)
    group = Group("lab", frozenset({"grouped"}), channel="desktop/stable")
    strange = replace(DISKLESS, name="a b;${x}", macs=("52:54:00:00:00:07",))
    broken = replace(DISKLESS, name="broken", macs=("../../etc/passwd",))
    found = of_clients(site, DISKLESS, pin, nobody, caching, grouped, strange, broken, groups=[group])
    led = {path.removeprefix("by-mac/52-54-00-00-00-"): scripts.leads_to(text) for path, text in found.items()}
    assert led == {
        "01.ipxe": "channel/desktop/stable", "02.ipxe": f"snapshots/{S2}", "03.ipxe": "", "04.ipxe": "",
        "05.ipxe": "", "06.ipxe": "channel/desktop/stable", "07.ipxe": "",
    }  # fmt: skip
    assert "is in no group with one" in found["by-mac/52-54-00-00-00-03.ipxe"]
    assert found["by-mac/52-54-00-00-00-05.ipxe"].endswith("exit\n")
    assert "${x}" not in found["by-mac/52-54-00-00-00-07.ipxe"]


def test_an_address_two_clients_have_leads_nowhere(site: Site) -> None:
    found = of_clients(site, DISKLESS, replace(DISKLESS, name="other"))
    (text,) = found.values()
    assert scripts.leads_to(text) == ""
    assert "other and pc have the same address" in text


@pytest.mark.parametrize(
    ("there", "state", "published", "leads"),
    [
        (None, "released", [S2], f"snapshots/{S2}"),
        (S1, "released", [S1, S2], f"snapshots/{S2}"),
        (S1, "released", [S1], f"snapshots/{S1}"),  # goes on with what can be booted
        (S1, "released", [], ""),
        (None, "released", [S1], ""),
        (S1, "revoked", [S1, S2], ""),  # never again, though it is published
    ],
)
def test_what_can_not_be_booted_is_not_pointed_at(
    site: Site, there: str | None, state: str, published: list[str], leads: str
) -> None:
    for name in published:
        put(site, name)
    path = "channel/desktop/stable.ipxe"
    if there:
        target = site.publish / "boot" / path
        target.parent.mkdir(parents=True)
        target.write_text(scripts.of_channel(there))
    known = entries(two=state)
    wanted = pointers.Wanted(pointers._of_channels([channel(S2)], known), pointers._runnable(known))
    pointers.make_so(site, pointers.differences(site, wanted, []))
    text = pointers.read(site, path)
    assert text is not None
    assert scripts.leads_to(text) == leads
    left = list(pointers.differences(site, wanted, [path]))
    assert [one.what for one in left] == ([f"waits for {S2}"] if state == "released" and S2 not in published else [])
    assert pointers.make_so(site, left) == []


def test_an_old_script_whose_snapshot_was_revoked_does_not_stay(site: Site) -> None:
    put(site, S1)
    target = site.publish / "boot/channel/desktop/stable.ipxe"
    target.parent.mkdir(parents=True)
    target.write_text(scripts.of_channel(S1))
    known = entries(one="revoked")
    wanted = pointers.Wanted(pointers._of_channels([channel(S2)], known), pointers._runnable(known))
    pointers.make_so(site, pointers.differences(site, wanted, []))
    assert scripts.leads_to(target.read_text()) == ""


# --- published snapshots -----------------------------------------------------------------------------


def test_a_snapshot_is_published_whole_or_not_at_all(site: Site) -> None:
    def fails(site: Site, snapshot: Snapshot, folder: Path, progress: Progress) -> artefacts.Made:
        (folder / "vmlinuz").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    with pytest.raises(StatelessError, match="no space left"):
        artefacts.publish(site, described(S1), fails, Progress())
    assert list((site.publish / "snapshots").iterdir()) == []
    put(site, S1)
    assert not artefacts.publish(site, described(S1), fails, Progress())  # is not made again
    assert artefacts.published(site) == [S1]
    said = json.loads((site.publish / "snapshots" / S1 / "boot.json").read_text())
    assert (said["abi"], said["snapshot"], said["digest"]) == (1, S1, "sha256:" + "0" * 64)
    found = subprocess.run(
        ["sha256sum", site.publish / "snapshots" / S1 / said["image"]["file"]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.split()[0] == said["image"]["sha256"]
    assert artefacts.damaged(site, S1, read=True) == []
    (site.publish / "snapshots" / S1 / "root.erofs").write_bytes(b"it is root.erofz")
    assert artefacts.damaged(site, S1, read=True) == ["root.erofs is not what was published"]
    assert artefacts.damaged(site, S1, read=False) == []
    (site.publish / "snapshots" / S1 / "vmlinuz").unlink()
    assert artefacts.damaged(site, S1, read=False) == ["vmlinuz is not what was published"]
    (site.publish / "snapshots" / S1 / "boot.json").write_bytes(b"[")
    assert "publish refresh" in artefacts.damaged(site, S1, read=True)[0]


@pytest.mark.parametrize(
    "text",
    ['url = "https://x"', 'url = "http://x y"', 'url = "http://x/${y}"', 'report_url = "ftp://x"', "url = 1", "x = 1"],
)
def test_an_address_that_could_not_be_written_into_a_script_is_refused(site: Site, text: str) -> None:
    toml = (site.root / "site.toml").read_text()
    head, _, _ = toml.partition("[publish]")
    assert (
        parse_site(site.root, head + '[publish]\nurl = "http://x.example:80/y/"\n').publish_url
        == "http://x.example:80/y"
    )
    with pytest.raises(ConfigError, match="publish"):
        parse_site(site.root, f"{head}[publish]\n{text}\n")


# --- DHCP servers ------------------------------------------------------------------------------------


def test_dnsmasq_takes_its_snippet(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text(snippet("dnsmasq", "http://192.0.2.1:8080", "192.0.2.0/24"))
    done = subprocess.run(
        [shutil.which("dnsmasq", path="/usr/sbin") or "dnsmasq", "--test", f"--conf-file={tmp_path}/conf"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.strip()) == (0, "dnsmasq: syntax check OK.")


def test_kea_takes_its_snippet(tmp_path: Path) -> None:
    conf = json.loads(snippet("kea", "http://192.0.2.1:8080", "192.0.2.0/24"))
    conf["Dhcp4"] |= {"interfaces-config": {"interfaces": []}, "lease-database": {"type": "memfile", "persist": False}}
    (tmp_path / "conf").write_text(json.dumps(conf))
    done = subprocess.run(
        [shutil.which("kea-dhcp4", path="/usr/sbin") or "kea-dhcp4", "-t", tmp_path / "conf"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_isc_takes_its_snippet(tmp_path: Path) -> None:
    subnet = "subnet 192.0.2.0 netmask 255.255.255.0 { range 192.0.2.10 192.0.2.20; }\n"
    (tmp_path / "conf").write_text(snippet("isc", "http://192.0.2.1:8080", "192.0.2.0/24") + subnet)
    done = subprocess.run(
        [shutil.which("dhcpd", path="/usr/sbin") or "dhcpd", "-t", "-cf", tmp_path / "conf"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("server", SERVERS)
def test_every_snippet_names_every_loader(server: str) -> None:
    text = snippet(server, "http://192.0.2.1:8080/sk/", "192.0.2.0/24")
    assert "http://192.0.2.1:8080/sk/boot/start.ipxe" in text
    assert "http://192.0.2.1:8080/sk/boot/ipxe-arm64.efi" in text
    for loader in ("undionly.kpxe", "ipxe.efi", "ipxe-arm64.efi", "HTTPClient"):
        assert loader in text


@pytest.mark.parametrize("url", ["", "192.0.2.1", "http://x\ny", 'http://x"', "http://x/$(y)", "ftp://x", "http://x'"])
def test_what_is_no_address_is_refused(url: str) -> None:
    for server in SERVERS:
        with pytest.raises(UsageError):
            snippet(server, url, "192.0.2.0/24")
    with pytest.raises(UsageError, match="no IPv4 network"):
        snippet("isc", "http://x", "192.0.2.1/24")
    with pytest.raises(UsageError, match="IPv4 address for TFTP"):
        snippet("kea", "http://x", "192.0.2.0/24")
