"""The house rules, as tests: linters, import directions, start-up cost, size of modules, shape of runbooks."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "statelesskit").rglob("*.py"), *(ROOT / "widgets").rglob("*.py")])
RUNBOOKS = sorted((ROOT / "runbooks").glob("*.ipynb"))
LINES_MAX = 600
# Where nothing is written that a crash could take from a site, so not through fs.py: locks (courtesy text),
# folders of a site before it is one, what is built in a folder that appears when it is whole and flushed, what
# runs inside a prototype or on a client by itself, temporary and derived files, and what the directory's own
# server keeps.
NOT_DURABLE = (
    "audit_folder.py", "client/", "lock.py", "site.py", "text_diff.py", "cli/", "directory/", "engine/", "export/",
    "packages/", "prototype/", "runbook/", "write_tree.py",
)  # fmt: skip
CHANGES_A_DISK = {
    "fsync", "ftruncate", "hardlink_to", "link", "makedirs", "mkdir", "mknod", "pwrite", "rename",
    "rmdir", "symlink_to", "touch", "truncate", "unlink", "write_bytes", "write_text",
}  # fmt: skip
HEAVY = {"cryptography", "IPython", "ipywidgets", "jupyter_client", "ldap3", "nbclient", "numpy", "pandas", "papermill"}


def run(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"


def test_ruff_finds_nothing() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")


def test_everything_is_formatted() -> None:
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_types_hold() -> None:
    run(sys.executable, "-m", "mypy")


def test_imports_go_one_way() -> None:
    run(str(Path(sys.executable).with_name("lint-imports")))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize(
    ("library", "home"), [("ldap3", "statelesskit/directory"), ("pandas", "statelesskit/frames.py")]
)
def test_a_library_has_one_home(library: str, home: str) -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if library in [name.partition(".")[0] for name in names]:
                assert str(path.relative_to(ROOT)).startswith(home)


def disk_changes(tree: ast.AST) -> list[str]:
    """Return the calls of a module that change a disk by another way than fs.py's."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        text = ast.unparse(node.func)
        owner, _, name = text.rpartition(".")
        words = ast.unparse(node)
        if (
            (name in CHANGES_A_DISK and owner != "fs")
            or text in {"os.replace", "os.remove", "os.write", "os.symlink", "os.sync", "shutil.rmtree"}
            or (name == "replace" and len(node.args) == 1 and not node.keywords)  # of a path; of a text it has two
            or (name == "open" and re.search(r"O_(CREAT|WRONLY|RDWR|TRUNC)|'[rwaxb]*[wax+][b+]*'", words))
        ):
            found.append(f"{words} in line {node.lineno}")
    return found


def test_durable_writes_go_through_one_door() -> None:
    """So a test can record them all and rebuild every state a crash could leave: tests/crash.py."""
    beside = []
    for path in SOURCES:
        name = str(path.relative_to(ROOT / "statelesskit")) if "widgets" not in path.parts else ""
        if name and name != "fs.py" and not name.startswith(NOT_DURABLE):
            beside += [f"{name}: {call}" for call in disk_changes(ast.parse(path.read_text()))]
    assert beside == []


def test_the_door_has_no_second_one_beside_it() -> None:
    """In fs.py itself only the primitives at the top, which a test can record, change a disk."""
    tree = ast.parse((ROOT / "statelesskit/fs.py").read_text())
    door = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    primitives = {name for name, node in door.items() if any(call.startswith("os.") for call in disk_changes(node))}
    assert primitives == {
        "create", "open_log", "write_all", "truncate", "fsync", "make_folder", "rename", "unlink", "remove_folder",
    }  # fmt: skip


@pytest.mark.parametrize(
    "call",
    [
        "os.rename(a, b)", "path.rename(b)", "path.unlink(missing_ok=True)", "path.replace(b)", "os.replace(a, b)",
        "os.open(a, os.O_WRONLY | os.O_CREAT)", "path.open('wb')", "open(a, 'r+b')", "open(a, mode='a')",
        "path.write_text('')", "os.fsync(fd)", "os.ftruncate(fd, 0)", "shutil.rmtree(a)", "path.mkdir()",
    ],
)  # fmt: skip
def test_another_way_to_a_disk_would_be_seen(call: str) -> None:
    assert disk_changes(ast.parse(call))


@pytest.mark.parametrize(
    "call", ["text.replace('a', 'b')", "replace(entry, holes=())", "path.open('rb')", "os.open(a, os.O_RDONLY)",
             "fs.rename(a, b)", "found.remove(x)", "datetime.now().replace(microsecond=0)"],
)  # fmt: skip
def test_what_changes_no_disk_is_allowed(call: str) -> None:
    assert disk_changes(ast.parse(call)) == []


def test_every_module_says_what_it_is() -> None:
    bare = [path for path in SOURCES if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))]
    assert bare == []


@pytest.mark.parametrize(
    "words",
    [["--help"], ["push", "--help"], ["push", "apply", "--help"], ["run", "--help"], ["audit", "verify", "--help"]],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    """The budget for start-up is 120 ms; a count of imports is its stable proxy."""
    script = (
        "import sys; sys.argv[1:] = sys.argv[1:]\n"
        "from statelesskit.cli import cli\n"
        "try:\n    cli.main(sys.argv[1:], prog_name='statelesskit')\n"
        "except SystemExit:\n    pass\n"
        "print('MODULES', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("MODULES")[2].split())
    assert not loaded & HEAVY, f"{words} loads {loaded & HEAVY}"


def test_no_registry_and_no_path_of_a_machine_is_named() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    words = re.compile(r"\b(?:deb|security|snapshot)\.debian\.org|\bpypi\.org|\bfiles\.pythonhosted\.org|/root/")
    named = []
    for name in listed:
        path = ROOT / name
        if path.suffix in {".png"} or name == "tests/unit/test_house.py" or not path.is_file():
            continue
        named += [f"{name}: {found}" for found in words.findall(path.read_text(errors="replace"))]
    assert named == []


def code_cells(path: Path) -> list[tuple[list[str], str]]:
    notebook = json.loads(path.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [(cell["metadata"].get("tags", []), "".join(cell["source"])) for cell in cells]


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
class TestRunbooks:
    def test_has_no_outputs_and_a_kernel(self, path: Path) -> None:
        notebook = json.loads(path.read_text())
        assert notebook["metadata"]["kernelspec"]["name"] == "python3"
        for cell in notebook["cells"]:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None

    def test_has_one_cell_of_plain_parameters(self, path: Path) -> None:
        from statelesskit.runbook.find import read_runbook
        from statelesskit.runbook.parameters import CONFIRM, declared

        runbook = read_runbook(path)
        named = declared(runbook.notebook)
        assert set(named) == {item.name for item in runbook.action.parameters()} | {CONFIRM}
        assert named[CONFIRM] == ""

    def test_cells_are_thin(self, path: Path) -> None:
        forbidden = (
            ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.If, ast.Try, ast.With, ast.Lambda, ast.ListComp
        )  # fmt: skip
        for _, source in code_cells(path):
            tree = ast.parse(source)
            assert len(tree.body) <= 5, source
            assert not any(isinstance(node, forbidden) for node in ast.walk(tree)), source
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom):
                    assert (node.module or "").split(".")[0] in {"statelesskit", "statelesskit_widgets"}
                assert not isinstance(node, ast.Import), source

    def test_goes_through_the_steps_in_order(self, path: Path) -> None:
        steps = [tag for tags, _ in code_cells(path) for tag in tags if tag.startswith("sk:") or tag == "parameters"]
        order = ["parameters", "sk:check", "sk:plan", "sk:act", "sk:verify"]
        assert sorted(steps, key=order.index) == steps
        assert set(steps) == set(order)
