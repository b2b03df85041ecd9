"""One field of a form for one parameter of an action."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from statelesskit import service
from statelesskit.action import Action, Parameter
from statelesskit.config import Site
from statelesskit.names import printable
from statelesskit_widgets import markup


class Field(widgets.VBox):  # type: ignore[misc] # ipywidgets has no types
    """A labelled input and a line of help.

    Attributes:
        item: the parameter it is made from.
        input: the widget that holds the value.
    """

    def __init__(self, item: Parameter, given: Any) -> None:
        self.item = item
        # A value of another type can only come from an edited parameters cell; the plan would refuse it.
        self.input = _input(item, given if type(given) is item.kind else item.default)
        need = "Required" if item.required else "Optional"
        self._help = widgets.HTML(f'<div class="sk-help">{need}: {markup.escaped(item.help)}</div>')
        super().__init__([self.input, self._help])
        self.layout.margin = "0 0 8px"

    @property
    def label(self) -> str:
        return str(self.input.description)

    @property
    def value(self) -> str | int | bool:
        found: str | int | bool = self.input.value
        return found

    def align(self, characters: int) -> None:
        """Give the label the room of the form's longest one, and begin the help where the input begins."""
        room = f"{0.62 * characters:.1f}em"
        self.input.style.description_width = room
        self._help.layout.margin = f"0 0 0 calc({room} + 10px)"

    def offer(self, site: Site, kind: type[Action]) -> None:
        """Ask the live site what there is to choose from for an action. A value not among it stays, and says so.

        Raises:
            StatelessError: it can't be asked; the field offers what it did before.
        """
        if self.item.choices is None:
            return
        choices = service.choices(site, kind, self.item.name)
        options = _options(self.item, choices, str(self.value))
        if options != list(self.input.options):
            value = self.input.value
            self.input.options = options
            self.input.value = value


def _input(item: Parameter, value: Any) -> Any:
    label = item.name.replace("_", " ").capitalize()
    if item.kind is bool:
        return widgets.Checkbox(value=value, description=label, indent=True)
    layout = widgets.Layout(width="100%", max_width="46rem")
    # The value is told when the field is left; until then it would be planned with half a word.
    options = {"description": label, "layout": layout, "continuous_update": False}
    if item.kind is int:
        return widgets.IntText(value=value, **options)
    if item.choices is None:
        return widgets.Text(value=value, **options)
    del options["continuous_update"]
    return widgets.Dropdown(options=_options(item, [value] if value else [], value), value=value, **options)


def _options(item: Parameter, choices: list[str], value: str) -> list[tuple[str, str]]:
    """Return pairs of what is shown and what is meant."""
    name = item.name.replace("_", " ")
    options = [(f"choose the {name}…" if item.required else "none", "")]
    options += [(printable(choice), choice) for choice in choices]
    if value and value not in choices:
        options.append((f"{printable(value)} (not there)", value))
    return options
