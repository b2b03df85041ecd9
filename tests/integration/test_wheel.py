"""The wheel, installed in an environment that has its dependencies and nothing of this checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ``bin`` folder of an environment with the wheel."""
    base = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(base)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    environment = base / "env"
    venv.create(environment, with_pip=True)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # The dependencies are seen by path, which leaves out this checkout: its own .pth file is not followed.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (wheel,) = base.glob("*.whl")
    subprocess.run(
        [environment / "bin/python", "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", str(wheel)],
        check=True,
    )
    return environment / "bin"


def test_the_command_runs_and_brings_the_runbooks(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run([installed / "statelesskit", "runbook", "copy", "books"], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert {path.name for path in (tmp_path / "books").iterdir()} == {
        path.name for path in (ROOT / "runbooks").glob("*.ipynb")
    }


def test_everything_comes_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    script = (
        "import statelesskit, statelesskit_widgets, papermill.engines\n"
        "from statelesskit_widgets.form import ActionForm\n"
        "from papermill.engines import papermill_engines\n"
        "print(statelesskit.__file__, statelesskit_widgets.__file__)\n"
        "print(papermill_engines.get_engine('statelesskit').__module__)\n"
        "from importlib.resources import files\n"
        "print(*sorted(file.name for file in (files('statelesskit') / 'resources/initramfs').iterdir()))\n"
    )
    done = subprocess.run(
        [installed / "python", "-c", script],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout
    assert "statelesskit.engine" in done.stdout
    assert done.stdout.splitlines()[-1] == "build conf hook statelesskit"


def test_a_site_is_made_with_it(installed: Path, tmp_path: Path) -> None:
    words = ["--site", str(tmp_path / "site"), "site", "init", "--name", "wheel"]
    done = subprocess.run([installed / "statelesskit", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/directory/slapd.conf").exists()
