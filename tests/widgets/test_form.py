"""Forms without a browser: values are set, buttons clicked, and what would be shown is read."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets
import pytest

from statelesskit import service
from statelesskit.action import Action, Parameter, Plan, Work, parameter
from statelesskit.actions import ACTIONS, CreatePrototype, PushSnapshot, TakeSnapshot
from statelesskit.audit.keys import PRIVATE, create_record_key
from statelesskit.audit.listing import find_record, summary_of
from statelesskit.audit.records import Record
from statelesskit.config import Site
from statelesskit.errors import ConflictError
from statelesskit.runbook import launch
from statelesskit.runbook.cells import Book, FileProgress
from statelesskit.runbook.find import find_runbook
from statelesskit.site import start_site, stop_site
from statelesskit_widgets import show_form
from statelesskit_widgets.following import Run, Sight
from statelesskit_widgets.form import ActionForm
from statelesskit_widgets.markup import ROWS
from statelesskit_widgets.run_view import Told, ended_page, told
from tests.widgets.small_site import CHANNEL, MOVED, Small, slow_runbook, small_site

PUSH = "71-push-snapshot"
HOSTILE = "<script>alert(1)</script>\x1b[31m&\u202e"
WAIT_S = 60


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    with small_site(tmp_path) as made:
        yield made


@dataclass(frozen=True)
class Sample(Action):
    """An action with a parameter of every kind; its plan is as hostile as a plan can be."""

    verb: ClassVar[str] = "sample do"
    title: ClassVar[str] = "Do a sample"
    button: ClassVar[str] = "Do it"

    what: str = parameter("what <b>to</b> do")
    how_often: int = parameter("how often", default=3)
    at_night: bool = parameter("only at night", default=True)
    where: str = parameter("where", default="", choices=lambda site: [HOSTILE, "here"])

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return HOSTILE, [{"is": HOSTILE}]

    def objects(self) -> list[str]:
        return []

    def plan(self, site: Site) -> Plan:
        rows = [{"is": f"{HOSTILE} {number}"} for number in range(self.how_often)]
        return Plan(self.verb, self.as_parameters(), HOSTILE, rows, {}, notes=[HOSTILE], guard=HOSTILE)

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        return {}


def form_of(site: Site, kind: type[Action], runbook: str = PUSH, **given: Any) -> ActionForm:
    """Make the form as the runbook's cell does, with these values in the parameters cell."""
    parameters = {item.name: item.default for item in kind.parameters()} | given
    return ActionForm(Book(site, kind, runbook, parameters, ""))


def push_form(small: Small) -> ActionForm:
    """Make the form of a push that is filled in and planned."""
    form = form_of(small.site, PushSnapshot, channel=CHANNEL, snapshot=small.second)
    form.review.click()
    assert not form.confirm.disabled, form.alert.value
    return form


def see_through(form: ActionForm, start: Callable[[], object]) -> None:
    """Start a run and wait until the form says it is over."""

    async def started() -> None:
        start()
        assert form.run.task is not None, form.alert.value
        await asyncio.wait_for(form.run.task, WAIT_S)

    asyncio.run(started())


def check_harmless(text: str) -> None:
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text


# --- fields -------------------------------------------------------------------------------------------


@pytest.mark.slapd
@pytest.mark.parametrize("kind", ACTIONS.values(), ids=lambda kind: kind.verb)
def test_every_action_has_its_form(small: Small, kind: type[Action]) -> None:
    form = form_of(small.site, kind)
    assert form.alert.value == ""
    assert list(form.fields) == [item.name for item in kind.parameters()]
    assert len({field.label for field in form.fields.values()}) == len(form.fields)
    for field in form.fields.values():
        check_field(small.site, field.item, field.input)
    assert (form.confirm.description, form.confirm.disabled) == (kind.button, True)


KINDS = {str: widgets.Text, int: widgets.IntText, bool: widgets.Checkbox}


def check_field(site: Site, item: Parameter, shown: Any) -> None:
    assert shown.value == item.default
    if item.choices:
        assert [value for _, value in shown.options] == ["", *item.choices(site)]
    assert type(shown) is (widgets.Dropdown if item.choices else KINDS[item.kind])


def test_a_field_is_what_its_type_asks_for_and_holds_what_was_given(site: Site) -> None:
    form = form_of(site, Sample, what="x", how_often=7, at_night=False, where="here")
    kinds = {name: type(field.input) for name, field in form.fields.items()}
    assert kinds == {
        "what": KINDS[str],
        "how_often": KINDS[int],
        "at_night": KINDS[bool],
        "where": widgets.Dropdown,
    }
    assert {name: field.value for name, field in form.fields.items()} == {
        "what": "x",
        "how_often": 7,
        "at_night": False,
        "where": "here",
    }
    assert [field.label for field in form.fields.values()] == ["What", "How often", "At night", "Where"]


def test_a_value_of_another_type_is_not_taken_over(site: Site) -> None:
    form = form_of(site, Sample, what=5, how_often="7", at_night=1, where=None)
    assert [field.value for field in form.fields.values()] == ["", 3, True, ""]


@pytest.mark.slapd
def test_a_choice_that_is_gone_stays_and_says_so(small: Small) -> None:
    form = form_of(small.site, PushSnapshot, channel=CHANNEL, snapshot="desktop-20200101T000000Z")
    assert form.fields["snapshot"].input.options[-1][0] == "desktop-20200101T000000Z (not there)"
    form.review.click()
    assert "there is no snapshot desktop-20200101T000000Z" in form.alert.value
    assert form.confirm.disabled


@pytest.mark.slapd
def test_with_the_directory_down_the_form_says_so_and_recovers(small: Small) -> None:
    stop_site(small.site)
    form = form_of(small.site, PushSnapshot, channel=CHANNEL, snapshot=small.second)
    assert 'role="alert"' in form.alert.value
    assert "Hint: " in form.alert.value
    assert (form.fields["channel"].value, form.fields["snapshot"].value) == (CHANNEL, small.second)
    form.review.click()
    assert 'role="alert"' in form.alert.value
    assert form.confirm.disabled
    start_site(small.site)
    form.refresh.click()
    assert form.alert.value == ""
    assert [value for _, value in form.fields["channel"].input.options] == ["", CHANNEL]


# --- the plan -----------------------------------------------------------------------------------------


@pytest.mark.slapd
def test_a_missing_parameter_is_named(small: Small) -> None:
    form = form_of(small.site, PushSnapshot, channel=CHANNEL)
    form.review.click()
    assert re.search('role="alert">.*snapshot is missing', form.alert.value)
    assert form.confirm.disabled


def test_a_name_that_cannot_be_is_named(site: Site) -> None:
    form = form_of(site, CreatePrototype, name="../x", source="dir:/etc")
    form.review.click()
    assert "&#x27;../x&#x27; is no name for a prototype" in form.alert.value
    assert form.confirm.disabled


@pytest.mark.slapd
def test_the_plan_is_shown_and_an_edit_disarms_it(small: Small) -> None:
    form = push_form(small)
    for expected in (*MOVED, small.first, small.second, "plan digest: sha256:", "thick"):
        assert expected in form.page.value
    assert form.confirm.description == "Push: 3 clients change"
    form.fields["snapshot"].input.value = small.first
    assert (form.confirm.description, form.confirm.disabled) == ("Push", True)
    assert "Review the plan again" in form.page.value
    form.confirm.click()
    assert small.records(PUSH) == []


@pytest.mark.slapd
def test_with_nothing_to_do_there_is_nothing_to_confirm(small: Small) -> None:
    form = form_of(small.site, PushSnapshot, channel=CHANNEL, snapshot=small.first)
    form.review.click()
    assert "there is nothing to do" in form.page.value
    assert form.confirm.disabled


def test_a_long_plan_is_cut_and_says_so(site: Site) -> None:
    form = form_of(site, Sample, what="x", how_often=1000)
    form.review.click()
    assert form.page.value.count("<tr>") == ROWS
    assert f"the first {ROWS} of 1000 rows" in form.page.value


def test_an_unexpected_error_is_shown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Plan:
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr(service, "plan", fail)
    form = form_of(site, Sample, what="x")
    form.review.click()
    assert 'role="alert"><strong>Unexpected error</strong><p>RuntimeError: &lt;script' in form.alert.value
    assert form.confirm.disabled


# --- hostile text -------------------------------------------------------------------------------------


def test_hostile_text_is_harmless_wherever_it_is_shown(site: Site) -> None:
    form = form_of(site, Sample, what="x")
    form.review.click()
    assert "&lt;script&gt;" in form.page.value
    check_harmless(form.page.value)
    check_harmless("".join(child.value for child in form.children if isinstance(child, widgets.HTML)))
    check_harmless("".join(label.replace("<script>", "") for label, _ in form.fields["where"].input.options))
    assert "<b>" not in "".join(field.children[1].value for field in form.fields.values())


def test_a_run_that_says_hostile_things_is_harmless(site: Site) -> None:
    run = Run(site, "0" * 8, find_runbook(PUSH))
    record = site.records / HOSTILE.replace("/", "")
    said = {"changes": HOSTILE, "error": f"{HOSTILE}\n  hint: {HOSTILE}", "result": {HOSTILE: HOSTILE}}
    sight = Sight(HOSTILE, over=True, record=record, **said)
    result = Told(told(Sample, run, sight))
    check_harmless(ended_page(run, sight))
    check_harmless(result._repr_html_())
    assert "\x1b" not in repr(result)


# --- runs ---------------------------------------------------------------------------------------------


@pytest.mark.slapd
@pytest.mark.kernel
def test_three_clicks_make_one_run(small: Small) -> None:
    form = push_form(small)

    def clicks() -> None:
        for _ in range(3):
            form.confirm.click()
        assert form.run.cancel.description == "Cancel the run"
        assert not form.run.cancel.disabled

    see_through(form, clicks)
    assert form.alert.value == ""
    [record] = small.records(PUSH)
    assert "<strong>Completed</strong>" in form.run.state.value
    assert form.run.cancel.disabled
    channel = small.channel()
    assert (channel.serial, channel.snapshot, channel.record) == (2, small.second, record.name)
    for shown in (repr(form.result), form.result._repr_html_()):
        for expected in ("completed", record.name, "record.html", "Verified", "The fleet, after it", *MOVED):
            assert expected in shown


@pytest.mark.slapd
@pytest.mark.kernel
def test_a_plan_overtaken_by_another_push_is_refused(small: Small) -> None:
    form = push_form(small)
    service.perform(small.site, PushSnapshot(CHANNEL, small.second), service.AT_ONCE)
    service.perform(small.site, PushSnapshot(CHANNEL, small.first), service.AT_ONCE)
    see_through(form, form.confirm.click)
    assert 'role="alert"><strong>Refused</strong>' in form.run.state.value
    assert "no longer the one that was confirmed" in form.run.state.value
    assert "hint: read the new plan" in form.run.state.value
    assert (small.channel().serial, small.channel().snapshot) == (3, small.first)


@pytest.mark.slapd
@pytest.mark.kernel
def test_a_run_is_found_again_and_cancelled(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runbook = str(slow_runbook(tmp_path / "90-slow.ipynb"))
    form = form_of(small.site, TakeSnapshot, runbook, prototype="desktop")
    run_id = launch.new_run_id()
    started = launch.start_detached(small.site, runbook, {"prototype": "desktop", "confirm": "auto"}, run_id)

    async def reload_and_cancel() -> None:
        run = Run(small.site, run_id, find_runbook(runbook))
        while "applying" not in run.look().doing:
            await asyncio.sleep(0.1)
        form.show()
        assert form.run.task is not None, form.alert.value
        await asyncio.sleep(0)
        assert "followed again" in form.run.state.value
        form.refresh.click()  # does not follow it twice
        form.run.cancel.click()
        form.run.cancel.click()
        assert (form.run.cancel.description, form.run.cancel.disabled) == ("Cancelling…", True)
        await asyncio.wait_for(form.run.task, WAIT_S)

    asyncio.run(reload_and_cancel())
    assert started.wait(WAIT_S) == 143
    assert form.alert.value == ""
    assert summary_of(find_record(small.site.records, run_id)).state == "cancelled"
    assert "<strong>Cancelled</strong>" in form.run.state.value
    assert "cancelled" in repr(form.result)
    assert Run.find(small.site, find_runbook(runbook)) is None
    form.run.cancel.click()
    assert form.alert.value == ""


@pytest.mark.parametrize(
    ("ending", "how"), [("sys.exit(7)", "exit code 7"), ("signal.pause()", "signal 15")], ids=["itself", "cancelled"]
)
def test_a_run_without_a_record_says_its_last_words(site: Site, ending: str, how: str) -> None:
    log = launch.run_log(site, "0" * 8)
    code = f"import signal, sys; print('no room', flush=True); {ending}"
    with log.open("wb") as output:
        started = subprocess.Popen([sys.executable, "-c", code], stdout=output, start_new_session=True)
    run = Run(site, "0" * 8, find_runbook(PUSH), started)
    while not log.stat().st_size:
        assert not run.look().over
    if "pause" in ending:
        run.cancel()
    started.wait(WAIT_S)
    sight = run.look()
    assert (sight.state, sight.over) == ("not begun", True)
    assert sight.error == f"it ended before its record began, with {how}\nno room"
    with pytest.raises(ConflictError, match="the run has ended"):
        run.cancel()


@pytest.mark.parametrize(
    ("state", "code"),
    [("failed", 1), ("timed-out", 5), ("kernel-died", 6), ("cancelled", 143), ("refused", 3), ("completed", 0)],
)
def test_every_end_is_told(site: Site, state: str, code: int) -> None:
    record = begun(site)
    create_record_key(site.keys)
    record.end(state, code, key=site.keys / PRIVATE, error=f"{HOSTILE} happened\n  hint: mend it")
    run = Run(site, record.run_id, find_runbook(PUSH))
    sight = run.look()
    assert (sight.state, sight.over, sight.record) == (state, True, record.path)
    page = ended_page(run, sight)
    assert f"<strong>{state.capitalize()}</strong>" in page
    assert "<p>  hint: mend it</p>" in page
    check_harmless(page)
    assert Run.find(site, find_runbook(PUSH)) is None


def begun(site: Site, **facts: Any) -> Record:
    return Record.begin(site.records, PUSH, facts=facts)


def test_a_run_that_vanished_is_lost(site: Site) -> None:
    record = begun(site, process_started=1)
    sight = Run(site, record.run_id, find_runbook(PUSH)).look()
    assert (sight.state, sight.over) == ("lost", True)
    assert sight.error == "its process is gone, and did not say how it ended"


def test_progress_is_told_with_amounts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileProgress, "EVERY_S", 0)
    record = begun(site)  # by this process, so it is alive
    run = Run.find(site, find_runbook(PUSH))
    assert run is not None
    assert run.look().doing == "starting"
    for _ in range(3):
        record.event("cell", index=0)
    progress = FileProgress(launch.progress_file(site, record.run_id))
    progress.stage("copying", total=4_000_000, unit="bytes")
    assert run.look().doing == "looking at how things stand: copying, 0.0 of 4.0 MB"
    progress.advance(1_500_000)
    progress.say(HOSTILE)
    sight = run.look()
    assert (sight.done, sight.total) == (1_500_000, 4_000_000)
    assert sight.doing.startswith("looking at how things stand: copying, 1.5 of 4.0 MB\n")


def test_progress_that_is_no_progress_is_left_out(site: Site) -> None:
    record = begun(site)
    run = Run(site, record.run_id, find_runbook(PUSH))
    for text in ("", "[]", "{}", json.dumps({"what": 1, "done": "x", "total": None, "unit": "", "line": ""})):
        launch.progress_file(site, record.run_id).write_text(text)
        assert run.look().doing == "starting"


def test_under_papermill_there_is_no_form(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(launch.RECORD_VARIABLE, str(begun(site).path))
    parameters: Mapping[str, Any] = {"channel": "", "snapshot": ""}
    show_form(Book(site, PushSnapshot, PUSH, parameters, ""))
    assert capsys.readouterr().out == ""
