"""The form of a runbook: fields, the plan they lead to, and the button that starts just that plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from statelesskit import service
from statelesskit.action import Plan
from statelesskit.errors import RefusedError
from statelesskit.frames import Shown
from statelesskit.runbook import launch
from statelesskit.runbook.cells import Book
from statelesskit.runbook.find import find_runbook
from statelesskit.runbook.parameters import CONFIRM
from statelesskit_widgets import markup
from statelesskit_widgets.fields import Field
from statelesskit_widgets.following import Run, Sight
from statelesskit_widgets.run_view import RunView, Told, told


class ActionForm(widgets.VBox):  # type: ignore[misc] # ipywidgets has no types
    """Made from an action's parameters. It plans in the kernel; the work is done by a run of its own.

    Attributes:
        fields: by the parameter's name.
        review, confirm, refresh: the buttons.
        alert: where errors are shown.
        page: where the plan is shown.
        run: how the run goes.
        result: what is left in the notebook.
    """

    def __init__(self, book: Book) -> None:
        self.book = book
        self._runbook = find_runbook(book.runbook)
        self.fields = {item.name: Field(item, book.parameters.get(item.name)) for item in book.kind.parameters()}
        self.review = self._button("Review plan", self._review, style="info")
        self.refresh = self._button("Refresh choices", self._refresh)
        self.confirm = self._button("", self._start, style="primary")
        self.confirm.layout.margin = "10px 2px 6px"
        self.alert, self.page = widgets.HTML(), widgets.HTML()
        self.run = RunView(self._guarded, self._over)
        self.result = Told()
        self._handle: Any = None
        self._armed: tuple[dict[str, Any], str] | None = None
        heading = widgets.HTML(f"{markup.STYLE}<h3>{markup.escaped(book.kind.title)}</h3>")
        buttons = widgets.HBox([self.review, self.refresh])
        inputs = list(self.fields.values())
        super().__init__([heading, *inputs, buttons, self.alert, self.page, self.confirm, self.run])
        self.add_class("sk-form")
        for field in inputs:
            field.align(max(len(other.label) for other in inputs) + 2)
            field.input.observe(self._edited, "value")
        self._disarm("")
        self._refresh_choices()

    def show(self) -> None:
        """Display the form and, below it, the place for the result; take up a run that still goes on."""
        display(self)
        self._handle = display(self.result, display_id=True)
        with self._guarded():
            self._attach()

    def _attach(self) -> None:
        run = None if self.run.busy else Run.find(self.book.site, self._runbook)
        if run is not None:
            self.run.follow(run)

    def _review(self) -> None:
        """Plan with what is in the fields, and arm the last button with just that plan."""
        self._disarm("Working out the plan…")
        parameters = {name: field.value for name, field in self.fields.items()}
        try:
            plan = service.plan(self.book.site, self.book.kind.check(parameters))
        except BaseException:
            self._disarm("")
            raise
        self.page.value = markup.plan_page(plan)
        if plan.changes:
            self._armed = parameters, plan.digest
            self.confirm.description, self.confirm.disabled = self._promise(plan), False

    def _promise(self, plan: Plan) -> str:
        """Say what the last button will do, and to how many."""
        clients = plan.facts.get("clients")
        if clients is None:
            return self.book.kind.button
        return f"{self.book.kind.button}: {len(clients)} client{' changes' if len(clients) == 1 else 's change'}"

    def _edited(self, _: Any) -> None:
        if self.page.value:
            self._disarm("A field, or what it offers, has changed. Review the plan again.")

    def _disarm(self, why: str) -> None:
        self._armed = None
        self.confirm.description, self.confirm.disabled = self.book.kind.button, True
        self.page.value = markup.box("info", why) if why else ""

    def _start(self) -> None:
        """Start the run that was confirmed; returns at once."""
        # Consumed before anything else: clicks that queued up meanwhile find nothing to start.
        armed, self._armed = self._armed, None
        if armed is None:
            return
        self._disarm("")
        if self.run.busy:
            raise RefusedError("a run of this runbook goes on", hint="wait for it or cancel it, then review again")
        parameters, digest = armed
        site, run_id = self.book.site, launch.new_run_id()
        process = launch.start_detached(site, self.book.runbook, {**parameters, CONFIRM: digest}, run_id)
        run = Run(site, run_id, self._runbook, process)
        self.run.follow(run)
        self._leave(told(self.book.kind, run, run.look()))

    def _over(self, run: Run, sight: Sight) -> None:
        """Leave the result in the notebook, and how things stand after it."""
        parts = [told(self.book.kind, run, sight)]
        if sight.checks:
            parts.append(markup.capped("Verified", sight.checks))
        self._leave(*parts)
        title, rows = service.survey(self.book.site, self.book.kind)
        self._leave(*parts, markup.capped(f"{title}, after it", rows))
        self._refresh_choices()

    def _leave(self, *parts: Shown) -> None:
        self.result = Told(*parts)
        if self._handle is not None:
            self._handle.update(self.result)

    def _refresh(self) -> None:
        self._refresh_choices()
        self._attach()

    def _refresh_choices(self) -> None:
        for field in self.fields.values():
            with self._guarded():
                field.offer(self.book.site, self.book.kind)

    def _button(self, text: str, work: Callable[[], None], style: str = "") -> Any:
        button = widgets.Button(description=text, button_style=style, layout=widgets.Layout(width="max-content"))

        def clicked(_: Any) -> None:
            self.alert.value = ""
            with self._guarded():
                work()

        button.on_click(clicked)
        return button

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Show whatever goes wrong in the block; a kernel would only count it in a corner of the screen."""
        try:
            yield
        except Exception as error:
            self.alert.value = markup.alert(error)
