"""A person at work: the push runbook in a real JupyterLab, in a real browser, on a real site."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from statelesskit.audit.listing import state_of
from tests.conftest import free_port
from tests.widgets.small_site import CHANNEL, MOVED, Small, slow_runbook, small_site

pytestmark = [pytest.mark.browser, pytest.mark.kernel, pytest.mark.slapd]

RUNBOOK = "71-push-snapshot"
SCREENSHOTS = os.environ.get("STATELESSKIT_SCREENSHOTS")  # before the tests' clean environment takes it away
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_S, STEP_MS = 60, 60_000


@dataclass(frozen=True)
class Lab:
    """A JupyterLab that runs, and the folder it shows."""

    url: str
    token: str
    folder: Path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    with small_site(tmp_path_factory.mktemp("small")) as made:
        yield made


@pytest.fixture(scope="module")
def lab(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("lab")
    made = Lab(f"http://127.0.0.1:{free_port()}", secrets.token_hex(16), home / "runbooks")
    environment = os.environ | {
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "STATELESSKIT_SITE": str(small.site.root),
    }
    # No news: neither a pop-up over the form nor a call to another host.
    news = home / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    subprocess.run([sys.executable, "-m", "statelesskit", "runbook", "copy", made.folder], check=True)
    words = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    words += [f"--ServerApp.port={made.url.rpartition(':')[2]}", "--ServerApp.port_retries=0"]
    words += [f"--IdentityProvider.token={made.token}", "--KernelManager.transport=ipc"]
    with (home / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            words, cwd=made.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        _wait_until_up(made, server, home / "lab.log")
        yield made
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_up(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{lab.url}/api/status?token={lab.token}", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    pytest.fail(f"JupyterLab does not come up:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def page(lab: Lab) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(STEP_MS)
            expect.set_options(timeout=STEP_MS)
            yield page
        finally:
            browser.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = Path(SCREENSHOTS) if SCREENSHOTS else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_and_run(page: Page, lab: Lab, notebook: str) -> Locator:
    """Open a notebook, run all its cells, and return its form."""
    page.goto(f"{lab.url}/doc/tree/{notebook}?token={lab.token}&reset")
    wait_for_kernel(page)
    choose(page, "Run", "Run All Cells")
    return form_of(page)


def form_of(page: Page) -> Locator:
    form = page.locator(".jp-OutputArea .sk-form")
    form.wait_for()
    wait_for_kernel(page)
    return form


def choose(page: Page, menu: str, item: str) -> None:
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.get_by_role("menuitem", name=item, exact=True).click()


def wait_for_kernel(page: Page) -> None:
    # The notebook's own indicator reads idle before there is a kernel, and what is run then is dropped.
    page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(state="attached")


def plan(form: Locator, **values: str) -> Locator:
    """Fill a form in, ask for the plan, and return the button that confirms it."""
    for label, value in values.items():
        form.get_by_label(label).select_option(value)
    form.get_by_role("button", name="Review plan").click()
    expect(form.get_by_text("plan digest: sha256:")).to_be_visible()
    expect(form.get_by_role("alert")).to_have_count(0)
    return form.locator("button.mod-primary")


def test_a_person_pushes_a_snapshot(page: Page, lab: Lab, small: Small, pictures: Path) -> None:
    form = open_and_run(page, lab, f"{RUNBOOK}.ipynb")
    confirm = form.get_by_role("button", name="Push")
    expect(confirm).to_be_disabled()

    form.get_by_role("button", name="Review plan").click()
    expect(form.get_by_role("alert")).to_contain_text("channel is missing")
    form.screenshot(path=pictures / "missing.png")

    confirm = plan(form, Channel=CHANNEL, Snapshot=small.second)
    expect(confirm).to_be_enabled()
    expect(confirm).to_have_text("Push: 3 clients change")
    for name in MOVED:
        row = form.get_by_role("row", name=re.compile(rf"^{name}\b"))
        expect(row).to_contain_text(re.compile(rf"{small.first}\s.*{small.second}"))
    form.screenshot(path=pictures / "planned.png")
    page.screenshot(path=pictures / "planned-page.png")

    # As fast as only a program can click: all three are on their way before the kernel has seen the first.
    confirm.evaluate("button => { button.click(); button.click(); button.click() }")
    expect(form.get_by_role("status")).to_contain_text("Running")
    form.screenshot(path=pictures / "running.png")
    expect(form.get_by_role("status")).to_contain_text("Completed")
    result = page.locator(".sk-told")
    expect(result.get_by_role("row", name="serial 2", exact=True)).to_be_visible()
    expect(result.get_by_role("row", name=re.compile(f"^hall-01 .*{small.second}"))).to_be_visible()
    form.screenshot(path=pictures / "completed.png")
    result.screenshot(path=pictures / "result.png")

    [record] = small.records(RUNBOOK)
    channel = small.channel()
    assert (channel.serial, channel.snapshot, channel.previous) == (2, small.second, small.first)
    assert channel.record == record.name
    check_saved(page, lab.folder / f"{RUNBOOK}.ipynb", record.name)


def check_saved(page: Page, path: Path, record: str) -> None:
    """The saved notebook tells the result without a kernel, and holds no state of widgets."""
    with page.expect_response(lambda answer: answer.request.method == "PUT" and "/api/contents/" in answer.url):
        page.locator("[data-jp-item-name=save] jp-button").click()
    notebook = json.loads(path.read_text())
    assert "widgets" not in notebook["metadata"]
    texts = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs_of(notebook)]
    assert any(record in text and "completed" in text for text in texts)


def outputs_of(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def test_a_run_outlives_the_kernel_and_is_cancelled(page: Page, lab: Lab, small: Small, pictures: Path) -> None:
    slow_runbook(lab.folder / "90-slow.ipynb")
    form = open_and_run(page, lab, "90-slow.ipynb")
    plan(form, Prototype="desktop").click()
    expect(form.get_by_role("status")).to_contain_text("Running: applying")

    choose(page, "Kernel", "Restart Kernel and Run All Cells…")
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    form = form_of(page)
    expect(form.get_by_role("status")).to_contain_text("followed again")
    form.screenshot(path=pictures / "found-again.png")
    form.get_by_role("button", name="Cancel the run").click()
    expect(form.get_by_role("alert")).to_contain_text("Cancelled")
    form.screenshot(path=pictures / "cancelled.png")
    [record] = small.records("90-slow")
    assert state_of(record) == "cancelled"
