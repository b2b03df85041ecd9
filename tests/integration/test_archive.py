"""Archives and images: written, and imported again with the same digest; killed and full they leave nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from statelesskit import fs
from statelesskit.archive.source import parse_source
from statelesskit.config import Site
from statelesskit.errors import ExistsError, NoSpaceError, NotFoundError, StatelessError, UsageError
from statelesskit.export.oci import export_oci
from statelesskit.export.tar import export_tar
from statelesskit.snapshot import list_snapshots
from statelesskit.snapshot.importing import import_snapshot
from statelesskit.snapshot.verify import verify
from statelesskit.store import Store
from tests import torture
from tests.archives import small, taken
from tests.torture import scratch, statelesskit

pytestmark = pytest.mark.root


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as folder:
        yield folder


# --- there and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["tar", "tar.zst", "tar.gz", "oci", "oci in a tar"])
def test_all_that_can_be_comes_back_with_the_same_digest(
    site: Site, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, manifest, top = taken(site, torture.build)
    fs.remove_tree(top)  # pytest could not: it is too deep
    out = tmp_path / f"out.{how}"
    if how.startswith("oci"):
        export_oci(snapshot, manifest, Store(site.store), out)
        if how != "oci":
            subprocess.run(["tar", "--create", "--file", f"{out}.tar", "-C", out, "."], check=True)
            out = Path(f"{out}.tar")
        source = f"oci:{out}:{snapshot.name}"
    else:
        export_tar(manifest, Store(site.store), out)
        source = f"tar:{out}"
    shutil.rmtree(site.store)
    site.store.mkdir()
    for text in (source, str(out)):
        again, result = import_snapshot(site, "desktop", parse_source(text))
        assert again.digest == snapshot.digest
        assert result.findings == []
        assert (again.entries, again.files, again.bytes) == (snapshot.entries, snapshot.files, snapshot.bytes)
    assert (again.sequence, again.parent) == (3, list_snapshots(site)[1].name)
    assert list(verify(site, again)) == []


@pytest.mark.parametrize("ending", ["tar", "tar.zst", "tar.gz"])
def test_the_same_snapshot_gives_the_same_bytes(site: Site, tmp_path: Path, ending: str) -> None:
    snapshot, manifest, _ = taken(site, small)
    for name in ("a", "b"):
        export_tar(manifest, Store(site.store), tmp_path / f"{name}.{ending}")
        export_oci(snapshot, manifest, Store(site.store), tmp_path / f"{name} oci")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    one, other = ({p.relative_to(t): p.read_bytes() for p in t.rglob("*") if p.is_file()}
                  for t in (tmp_path / "a oci", tmp_path / "b oci"))  # fmt: skip
    assert one == other


# --- the command line -------------------------------------------------------------------------


def test_the_command_line_exports_and_imports(site: Site, tmp_path: Path) -> None:
    snapshot, _, _ = taken(site, small)

    def run(*words: str | Path) -> dict[str, Any]:
        done = subprocess.run([*statelesskit(site, *words), "--json"], capture_output=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    made = run("export", "tar", snapshot.name, tmp_path / "out.tar.gz")
    assert (made["digest"], made["findings"]) == (snapshot.digest, [])
    assert made["bytes"] == (tmp_path / "out.tar.gz").stat().st_size
    made = run("export", "oci", snapshot.name, tmp_path / "layout")
    assert [one["path"] for one in made["findings"]] == ["etc/hostname"]
    for source in (f"tar:{tmp_path}/out.tar.gz", f"oci:{tmp_path}/layout", f"{tmp_path}/layout:{snapshot.name}"):
        plan = run("snapshot", "import", "elsewhere", source, "--plan")
        result = run("snapshot", "import", "elsewhere", source, "--plan-digest", plan["plan_digest"])
        assert result["digest"] == snapshot.digest
        assert result["new_bytes"] == 0
    # A prototype that has no tree here has snapshots all the same.
    shown = subprocess.run(statelesskit(site, "snapshot", "list", "elsewhere"), capture_output=True, check=True)
    assert shown.stdout.count(b"elsewhere-") == 3
    assert list_snapshots(site, "elsewhere")[0].parent == ""
    again = subprocess.run(statelesskit(site, "export", "tar", snapshot.name, tmp_path / "out.tar.gz"), check=False)
    assert again.returncode == 2


@pytest.mark.parametrize(
    ("target", "error"),
    [("out.zip", UsageError), (".tar", UsageError), ("gone/out.tar", NotFoundError), ("folder.tar", ExistsError)],
)
def test_targets_that_can_not_be(site: Site, tmp_path: Path, target: str, error: type[StatelessError]) -> None:
    _, manifest, _ = taken(site, small)
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(error):
        export_tar(manifest, Store(site.store), tmp_path / target)


@pytest.mark.parametrize(
    "source", ["", "tar:", "oci:", "tar:/", "/nowhere", "tar:/nowhere", "oci:/nowhere:x", "/dev/null"]
)
def test_sources_that_can_not_be(source: str) -> None:
    with pytest.raises(UsageError):
        parse_source(source)


# --- killed, and full -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tar", "oci", "import"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_is_stopped_in_the_middle_leaves_nothing_half_made(
    site: Site, tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    def build(top: Path) -> None:
        top.mkdir()
        for name in range(40):
            (top / f"noise{name}").write_bytes(os.urandom(2 * 2**20))

    snapshot, manifest, _ = taken(site, build)
    out = tmp_path / "in" / ("out" if kind == "oci" else "out.tar")
    out.parent.mkdir()
    watched, words = out.parent, ["export", kind, snapshot.name, str(out)]
    if kind == "import":
        export_tar(manifest, Store(site.store), out)
        fs.remove_tree(site.store)
        site.store.mkdir()
        watched, words = site.store, ["snapshot", "import", "other", str(out)]
    before = {path.name for path in out.parent.iterdir()}
    argv = statelesskit(site, *words)
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if sum(path.stat().st_size for path in watched.rglob("*") if path.is_file()) > 8 * 2**20:
            break
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, 143)
    assert b"Traceback" not in err
    assert [one.name for one in list_snapshots(site)] == [snapshot.name]
    if number == signal.SIGINT:
        assert {path.name for path in out.parent.iterdir()} == before
        assert [path.name for path in site.store.rglob("*.pack*")] == [] or kind != "import"
    # What was killed is cleaned up by the next one.
    subprocess.run(argv, check=True, capture_output=True)
    assert {path.name for path in out.parent.iterdir()} == {out.name}
    assert [path.name for path in (*site.store.rglob("*"), *site.snapshots.iterdir()) if fs.PARTIAL in path.name] == []


@pytest.mark.parametrize("kind", ["tar", "oci", "import"])
def test_a_full_disk_is_said_and_nothing_is_left(site: Site, place: Path, kind: str) -> None:
    def build(top: Path) -> None:
        top.mkdir()
        (top / "noise").write_bytes(os.urandom(6 * 2**20))

    snapshot, manifest, _ = taken(site, build)
    export_tar(manifest, Store(site.store), place / "whole.tar")
    full = place / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", full], check=True)
    if kind == "import":
        fs.remove_tree(site.store)
        site.store.symlink_to(full)
    fill = {
        "tar": lambda: export_tar(manifest, Store(site.store), full / "out.tar"),
        "oci": lambda: export_oci(snapshot, manifest, Store(site.store), full / "out"),
        "import": lambda: import_snapshot(site, "desktop", parse_source(f"{place}/whole.tar")),
    }
    with pytest.raises(NoSpaceError):
        fill[kind]()
    assert [path for path in full.rglob("*") if path.is_file()] == []
    assert len(list_snapshots(site)) == 1
