"""Prototypes made of archives and images: what went in comes out, and what is hostile never becomes a tree."""

from __future__ import annotations

import http.server
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from statelesskit import fs, service
from statelesskit.actions.create_prototype import CreatePrototype
from statelesskit.audit.keys import create_record_key
from statelesskit.config import Site
from statelesskit.errors import (
    ConflictError,
    DamagedError,
    FormatError,
    MissingToolError,
    NoSpaceError,
    StatelessError,
    UsageError,
)
from statelesskit.export.oci import export_oci
from statelesskit.export.tar import export_tar
from statelesskit.prototype.create import check_source, create
from statelesskit.snapshot import Snapshot, load_manifest
from statelesskit.snapshot.taking import take
from statelesskit.store import Store
from statelesskit.tree import Finding
from tests import torture
from tests.archives import DIR, LINK, SYMLINK, Layout, Made, archive, small
from tests.torture import add_prototype, statelesskit

pytestmark = pytest.mark.root
ROOT: tuple[Made, ...] = (("./", None, {**DIR, "mode": 0o755}), ("etc", None, DIR), ("usr", None, DIR))


@pytest.fixture
def snapshot(site: Site) -> Snapshot:
    """Of a root tree with one of everything."""
    top = add_prototype(site)
    torture.build(top)
    for name in ("etc", "usr"):
        (top / name).mkdir()
    found, _ = take(site, "desktop")
    fs.remove_tree(top)  # pytest could not: it is too deep
    return found


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def left(site: Site) -> list[str]:
    return [path.name for path in site.prototypes.iterdir() if path.name != "desktop"]


@pytest.mark.parametrize("how", ["tar", "tar.gz", "tar.zst", "oci", "oci in a tar"])
def test_a_prototype_of_our_own_export_gives_the_same_digest(
    site: Site, snapshot: Snapshot, tmp_path: Path, how: str
) -> None:
    manifest, out = load_manifest(site, snapshot), tmp_path / f"out.{how}"
    if how.startswith("oci"):
        export_oci(snapshot, manifest, Store(site.store), out)
        if how != "oci":
            subprocess.run(["tar", "--create", "--file", f"{out}.tar", "-C", out, "."], check=True)
            out = Path(f"{out}.tar")
        source = f"oci:{out}:{snapshot.name}"
    else:
        export_tar(manifest, Store(site.store), out)
        source = f"tar:{out}"
    findings: list[Finding] = []
    made = create(site, "again", source, findings=findings)
    assert (made.source, findings) == (source, [])
    again, taken = take(site, "again")
    assert (again.digest, taken.findings) == (snapshot.digest, [])
    assert sorted(path.name for path in (site.prototypes / "again").iterdir() if path.name != "take.memory") == [
        "prototype.json",
        "tree",
    ]
    fs.remove_tree(made.tree)


def test_layers_lie_over_one_another(site: Site, layout: Layout) -> None:
    layout.layer(*ROOT, ("etc/gone", b"x", {}), ("etc/kept", b"first", {}), ("usr/old", b"x", {}))
    layout.layer(
        ("etc/.wh.gone", b"", {}),
        ("etc/hard", None, {**LINK, "linkname": "etc/kept"}),
        ("usr/.wh..wh..opq", b"", {}),
        ("usr/new", b"new", {}),
        ("var/lib/deep", b"x", {}),
    )
    findings: list[Finding] = []
    tree = create(site, "image", f"oci:{layout.finish()}", findings=findings).tree
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*")) == [
        "etc", "etc/hard", "etc/kept", "usr", "usr/new", "var", "var/lib", "var/lib/deep",
    ]  # fmt: skip
    assert (tree / "etc/hard").samefile(tree / "etc/kept")
    assert {finding.path for finding in findings} == {b"var", b"var/lib"}  # which the layer did not name


def test_the_command_says_what_could_not_be_kept(site: Site, layout: Layout) -> None:
    layout.layer(*ROOT, ("var/deep", b"x", {}))
    layout.finish("1.0")
    create_record_key(site.root / "keys")
    argv = statelesskit(site, "prototype", "create", "image", "--from", f"oci:{layout.top}:1.0")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "finding: var: the folder is not in the archive" in done.stderr
    shown = subprocess.run(
        [*statelesskit(site, "prototype", "show", "image"), "--json"], capture_output=True, check=True
    )
    assert json.loads(shown.stdout)["source"] == f"oci:{layout.top}:1.0"


@pytest.mark.parametrize("how", ["tar", "oci"])
def test_what_was_changed_since_the_plan_is_not_taken(site: Site, layout: Layout, tmp_path: Path, how: str) -> None:
    create_record_key(site.root / "keys")
    layout.layer(*ROOT)
    source = {"tar": f"tar:{archive(tmp_path, *ROOT)}", "oci": f"oci:{layout.finish()}"}[how]
    action = CreatePrototype.check({"name": "image", "source": source})
    planned = service.plan(site, action).digest
    archive(tmp_path, *ROOT, ("etc/evil", b"x", {}))
    layout.layer(("etc/evil", b"x", {}))
    layout.finish()
    with pytest.raises(ConflictError):
        service.perform(site, action, planned)
    assert left(site) == []


HOSTILE: dict[str, list[Made]] = {
    "a name that leads out": [("../evil", b"x", {})],
    "an absolute name": [("/evil", b"x", {})],
    "a file below a symlink": [("way", None, {**SYMLINK, "linkname": "/"}), ("way/evil", b"x", {})],
    "a hard link out": [("hard", None, {**LINK, "linkname": "../../../../etc/passwd"})],
    "a symlink in place of a folder that is needed": [("etc/x", b"x", {}), ("etc", None, {**SYMLINK, "linkname": "/"})],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_never_becomes_a_tree(
    site: Site, layout: Layout, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statelesskit.prototype.unpacking.write_tree", pytest.fail)
    layout.layer(*ROOT)
    layout.layer(*HOSTILE[name])
    with pytest.raises(FormatError):
        create(site, "image", f"oci:{layout.finish()}")
    assert left(site) == []


def test_a_symlink_in_an_image_leads_nowhere_while_it_is_written(site: Site, layout: Layout, tmp_path: Path) -> None:
    """What a layer puts behind another's symlink is refused; what replaces it is written in its place."""
    outside = tmp_path / "outside"
    outside.mkdir()
    layout.layer(*ROOT, ("etc/way", None, {**SYMLINK, "linkname": str(outside)}))
    layout.layer(("etc/way", None, {**DIR, "mode": 0o755}), ("etc/way/file", b"x", {}))
    tree = create(site, "image", f"oci:{layout.finish()}").tree
    assert (tree / "etc/way/file").read_bytes() == b"x"
    assert list(outside.iterdir()) == []


def test_what_was_altered_on_the_way_is_refused(site: Site, snapshot: Snapshot, tmp_path: Path) -> None:
    export_tar(load_manifest(site, snapshot), Store(site.store), tmp_path / "out.tar")
    data = bytearray((tmp_path / "out.tar").read_bytes())
    place = data.index(b"\x7fELF") if b"\x7fELF" in data else len(data) // 2
    data[place + 100] ^= 1
    (tmp_path / "out.tar").write_bytes(data)
    with pytest.raises(DamagedError):
        create(site, "again", f"tar:{tmp_path}/out.tar")
    assert left(site) == []


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("oci:", UsageError), ("oci:/nowhere", UsageError), ("oci:{layout}:other", UsageError),
        ("oci:{layout}/blobs", FormatError), ("oci:docker://", UsageError), ("oci:docker://--help", UsageError),
        ("oci:docker://a b", UsageError), ("oci:docker://a\nb", UsageError),
    ],
)  # fmt: skip
def test_sources_that_can_not_be(site: Site, layout: Layout, source: str, error: type[StatelessError]) -> None:
    layout.layer(*ROOT)
    layout.finish()
    with pytest.raises(error):
        check_source(site, source.format(layout=layout.top))


def test_an_image_without_a_root_tree_leaves_nothing(site: Site, layout: Layout) -> None:
    layout.layer(("program", b"x", {}))
    with pytest.raises(UsageError, match="is no root tree: looked for etc/"):
        create(site, "image", f"oci:{layout.finish()}")
    assert left(site) == []


@pytest.mark.parametrize("size", ["1m", "5m"], ids=["while it is read", "while it is written"])
def test_a_full_disk_leaves_nothing(site: Site, layout: Layout, size: str) -> None:
    layout.layer(*ROOT, ("etc/noise", os.urandom(3 * 2**20), {}))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", site.prototypes], check=True)
    try:
        with pytest.raises(NoSpaceError, match="no space left"):
            create(site, "image", f"oci:{layout.finish()}")
        assert left(site) == []
    finally:
        subprocess.run(["umount", site.prototypes], check=True)


# --- from a registry --------------------------------------------------------------------------


class _Registry(http.server.BaseHTTPRequestHandler):
    """As much of the distribution specification as a pull needs, serving one layout."""

    def __init__(self, layout: Path, *words: Any) -> None:
        self._layout = layout
        super().__init__(*words)

    def do_GET(self) -> None:
        kind, _, name = self.path.removeprefix("/v2/test/").partition("/")
        index = json.loads((self._layout / "index.json").read_bytes())
        image: dict[str, Any] = index["manifests"][0]
        if self.path == "/v2/":
            self._answer(b"{}", "application/json")
        elif kind == "manifests" and name in ("1.0", image["digest"]):
            self._answer(self._blob(image["digest"]), "application/vnd.oci.image.manifest.v1+json")
        elif kind == "blobs" and (self._layout / "blobs" / name.replace(":", "/")).is_file():
            self._answer(self._blob(name), "application/octet-stream")
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def _blob(self, digest: str) -> bytes:
        return (self._layout / "blobs" / digest.replace(":", "/")).read_bytes()

    def _answer(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def registry(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the layout by TLS on the loopback; the host trusts its certificate."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
         "-out", certificate, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Registry, layout.top)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        yield f"localhost:{server.server_port}/test:1.0"
        server.shutdown()


def test_an_image_is_fetched_from_a_registry(site: Site, layout: Layout, registry: str) -> None:
    small(layout.top.parent / "top")
    layout.layer(*ROOT, ("etc/hostname", b"x", {}), ("etc/gone", b"x", {}))
    layout.layer(("etc/.wh.gone", b"", {}))
    layout.finish("1.0")
    made = create(site, "image", f"oci:docker://{registry}")
    digest = json.loads((layout.top / "index.json").read_bytes())["manifests"][0]["digest"]
    assert made.source == f"oci:docker://{registry.removesuffix(':1.0')}@{digest}"
    assert check_source(site, made.source) == made.source
    assert [path.name for path in (made.tree / "etc").iterdir()] == ["hostname"]
    assert sorted(path.name for path in made.tree.parent.iterdir()) == ["prototype.json", "tree"]


def test_what_a_registry_does_not_have_or_alters_is_said(site: Site, layout: Layout, registry: str) -> None:
    layer = layout.layer(*ROOT, ("etc/hostname", b"x", {}))
    layout.finish("1.0")
    with pytest.raises(StatelessError, match="skopeo"):
        create(site, "image", f"oci:docker://{registry}.1")
    path = layout.top / "blobs" / layer["digest"].replace(":", "/")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(StatelessError, match="skopeo"):
        create(site, "image", f"oci:docker://{registry}")
    assert left(site) == []


def test_without_skopeo_it_says_how_to_get_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statelesskit.run.SYSTEM_PATH", "/nowhere")
    with pytest.raises(MissingToolError) as refused:
        check_source(site, "oci:docker://debian:bookworm")
    assert refused.value.hint == "apt-get install skopeo"
