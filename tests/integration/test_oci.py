"""OCI images: read by others' programs, layers laid over one another; bad ones leave nothing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from statelesskit.archive.source import parse_source
from statelesskit.config import Site
from statelesskit.errors import DamagedError, FormatError, RefusedError, UsageError
from statelesskit.export.oci import export_oci
from statelesskit.export.tar import export_tar
from statelesskit.snapshot import load_manifest
from statelesskit.snapshot.importing import import_snapshot
from statelesskit.store import Store
from tests.archives import DIR, LINK, SYMLINK, Layout, differences, nothing_left, ordinary, small, taken
from tests.torture import scratch
from tests.witness import look

pytestmark = pytest.mark.root


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as folder:
        yield folder


def test_skopeo_and_umoci_read_the_image(site: Site, place: Path) -> None:
    snapshot, manifest, top = taken(site, ordinary)
    lost = export_oci(snapshot, manifest, Store(site.store), place / "layout")
    assert {finding.finding for finding in lost} == {
        "other tools fill its holes",
        "it is a socket; other tools make an empty file of it",
        "it has an empty attribute, which tools written in Go leave out",
        "of the attribute user.50%=half%25 only GNU tar reads the name as it is",
    }
    copied = f"oci:{place}/copied:{snapshot.name}"
    subprocess.run(["skopeo", "copy", f"oci:{place}/layout:{snapshot.name}", copied], check=True, capture_output=True)
    shown = json.loads(subprocess.run(["skopeo", "inspect", copied], check=True, capture_output=True).stdout)
    assert shown["Labels"]["statelesskit.digest"] == snapshot.digest
    assert shown["Architecture"] == "unknown"
    image = f"{place}/layout:{snapshot.name}"
    subprocess.run(["umoci", "unpack", "--image", image, place / "bundle"], check=True, capture_output=True)
    found = differences(look(top), look(place / "bundle/rootfs"))
    assert found.pop(b"types/socket")
    assert {path for path, keys in found.items() if keys != {"data"}} == {b"attributes/file", b"attributes/folder"}
    again, _ = import_snapshot(site, "desktop", parse_source(copied))
    assert again.digest == snapshot.digest


def test_an_image_tells_what_it_is_built_for(site: Site, place: Path) -> None:
    snapshot, manifest, _ = taken(site, small)
    export_oci(snapshot, manifest, Store(site.store), place / "layout")
    image = json.loads((place / "layout/index.json").read_bytes())["manifests"][0]
    blobs = place / "layout/blobs/sha256"
    config = json.loads((blobs / image["digest"][7:]).read_bytes())["config"]
    config = json.loads((blobs / config["digest"][7:]).read_bytes())
    machine = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout
    others = {"armhf": "arm", "i386": "386", "ppc64el": "ppc64le"}
    assert config["architecture"] == others.get(machine.strip(), machine.strip())


def test_names_that_would_take_files_away_are_refused(site: Site, tmp_path: Path) -> None:
    def build(top: Path) -> None:
        (top / "etc").mkdir(parents=True)
        (top / "etc/.wh.passwd").touch()

    snapshot, manifest, _ = taken(site, build)
    with pytest.raises(RefusedError, match=r"etc/\.wh\.passwd"):
        export_oci(snapshot, manifest, Store(site.store), tmp_path / "layout")
    export_tar(manifest, Store(site.store), tmp_path / "out.tar")
    assert import_snapshot(site, "desktop", parse_source(f"{tmp_path}/out.tar"))[0].digest == snapshot.digest
    assert not (tmp_path / "layout").exists()


# --- images -----------------------------------------------------------------------------------


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def test_layers_lie_over_one_another(site: Site, place: Path, layout: Layout) -> None:
    layout.layer(
        ("./", None, {**DIR, "mode": 0o755}),
        *(
            (f"{name}/", None, {**DIR, "mode": 0o755})
            for name in ("gone", "opaque", "kept", "kept-too", "becomes a file")
        ),
        *((f"{name}/old", b"old", {}) for name in ("gone", "opaque", "kept", "kept-too", "becomes a file")),
        ("file", b"first", {}),
        ("whiteout", b"", {}),
    )
    layout.layer(
        (".wh.gone", b"", {}),
        (".wh.whiteout", b"", {}),
        ("opaque/", None, {**DIR, "mode": 0o700}),
        ("opaque/.wh..wh..opq", b"", {}),
        ("opaque/new", b"new", {}),
        ("becomes a file", b"x", {}),
        ("hard", None, {**LINK, "linkname": "kept/old"}),
        ("file", b"second", {}),
    )
    layout.layer(("kept/", None, {**DIR, "mode": 0o711}), ("gone/", None, {**DIR, "mode": 0o755}))
    snapshot, result = import_snapshot(site, "desktop", parse_source(str(layout.finish())))
    assert result.findings == []
    found = {entry.path: entry for entry in load_manifest(site, snapshot).entries()}
    expected = b",becomes a file,file,gone,hard,kept,kept-too,kept-too/old,kept/old,opaque,opaque/new"
    assert sorted(found) == sorted(expected.split(b","))
    assert found[b"file"].sha256 == hashlib.sha256(b"second").hexdigest()
    assert found[b"kept"].mode == 0o711
    assert found[b"kept/old"].link_to == b"hard"
    # A program that others trust sees the same tree.
    image = f"{layout.top}:x"
    subprocess.run(["umoci", "unpack", "--image", image, place / "bundle"], check=False, capture_output=True)
    if (place / "bundle/rootfs/file").exists():
        assert sorted(look(place / "bundle/rootfs")) == sorted(found)


def altered(layout: Layout, how: str) -> None:
    if how == "a layer altered":
        path = layout.top / "blobs/sha256" / layout.layers[0]["digest"][7:]
        data = bytearray(path.read_bytes())
        data[4] ^= 1  # the time in gzip's header: the archive is the same
        path.write_bytes(data)
    elif how == "a layer longer than said":
        path = layout.top / "blobs/sha256" / layout.layers[0]["digest"][7:]
        path.write_bytes(path.read_bytes() + b"x")
    elif how == "a layer missing":
        (layout.top / "blobs/sha256" / layout.layers[0]["digest"][7:]).unlink()
    elif how == "a layer that is a pipe":
        path = layout.top / "blobs/sha256" / layout.layers[0]["digest"][7:]
        path.unlink()
        os.mkfifo(path)
    elif how == "another image's configuration":
        layout.diff_ids[0] = "sha256:" + "0" * 64
    elif how == "a diff_id too few":
        layout.diff_ids.clear()
    elif how == "a digest that leads out":
        layout.layers[0]["digest"] = "sha256:../../../etc/passwd"
    elif how == "a layer that is encrypted":
        layout.layers[0]["mediaType"] += "+encrypted"
    elif how == "a size that is none":
        layout.layers[0]["size"] = "12"
    elif how == "a size of exabytes":
        layout.layers[0]["size"] = 2**62
    elif how == "a whiteout of nothing":
        layout.layer((".wh.", b"", {}))
    elif how == "a file below another layer's symlink":
        layout.layer(("a", None, {**SYMLINK, "linkname": "/etc"}))
        layout.layer(("a/evil", b"x", {}))
    elif how == "a hard link to what is not there":
        layout.layer(("b", None, {**LINK, "linkname": "c"}))


@pytest.mark.parametrize(
    "how",
    [
        "a layer altered", "a layer longer than said", "a layer missing", "a layer that is a pipe",
        "another image's configuration", "a diff_id too few", "a digest that leads out", "a layer that is encrypted",
        "a size that is none", "a size of exabytes", "a whiteout of nothing", "a file below another layer's symlink",
        "a hard link to what is not there", "a layout of version 2", "an index that is no JSON", "an index of brackets",
    ],
)  # fmt: skip
def test_a_bad_image_is_refused_and_leaves_nothing(site: Site, layout: Layout, how: str) -> None:
    layout.layer(("./", None, {**DIR, "mode": 0o755}), ("file", b"x", {}))
    altered(layout, how)
    layout.finish()
    if how == "a layout of version 2":
        (layout.top / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    elif how == "an index that is no JSON":
        (layout.top / "index.json").write_text("<html>")
    elif how == "an index of brackets":
        (layout.top / "index.json").write_text("[" * 100_000)
    with pytest.raises(DamagedError):
        import_snapshot(site, "desktop", parse_source(f"oci:{layout.top}"))
    assert nothing_left(site)


def test_an_image_must_be_named_when_there_are_several(site: Site, layout: Layout) -> None:
    layout.layer(("./", None, {**DIR, "mode": 0o755}))
    layout.finish("one")
    index = json.loads((layout.top / "index.json").read_text())
    other = {**index["manifests"][0], "annotations": {"org.opencontainers.image.ref.name": "two"}}
    (layout.top / "index.json").write_text(json.dumps({**index, "manifests": [index["manifests"][0], other]}))
    for source in ("", ":three"):
        with pytest.raises(UsageError, match=r"images[\s\S]*one, two"):
            import_snapshot(site, "desktop", parse_source(f"oci:{layout.top}{source}"))
    assert import_snapshot(site, "desktop", parse_source(f"oci:{layout.top}:two"))[0].entries == 1


@pytest.mark.parametrize(("limit", "most"), [("JSON_MAX", 300), ("LAYERS_MAX", 2)])
def test_an_image_beyond_a_limit_is_refused(
    site: Site, layout: Layout, limit: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        layout.layer(("./", None, {**DIR, "mode": 0o755}))
    layout.finish()
    monkeypatch.setattr(f"statelesskit.archive.layout.{limit}", most)
    with pytest.raises(FormatError):
        import_snapshot(site, "desktop", parse_source(f"oci:{layout.top}"))
    assert nothing_left(site)
