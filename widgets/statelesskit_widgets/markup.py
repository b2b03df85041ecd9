"""The HTML of a form. Whatever comes from the site goes through :func:`escaped` or :class:`Shown`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from statelesskit.action import Plan
from statelesskit.errors import StatelessError
from statelesskit.frames import Shown
from statelesskit.names import printable

ROWS = 200  # of a plan's table; a browser can't scroll through a hundred thousand

# Of a table that stays in the notebook; JupyterLab would put text to the right, as if it were numbers.
LEFT = "<style>.sk-told th, .sk-told td { text-align: left !important }</style>"

STYLE = """<style>
.sk-form { border: 1px solid var(--jp-border-color2, #ddd); border-radius: 4px; padding: 14px 18px 16px;
  margin: 6px 0; max-width: 76rem; color: var(--jp-content-font-color1, #222) }
.sk-form, .sk-form .widget-box { overflow: visible }
.sk-form .widget-html, .sk-form .widget-html-content { height: auto; line-height: 1.45; overflow: visible }
.sk-form h3, .sk-form h4 { margin: 0; font-weight: 600 }
.sk-form h3 { font-size: 17px; margin-bottom: 10px } .sk-form h4 { font-size: 14px; margin: 4px 0 8px }
.sk-form .widget-label { font-weight: 600; text-align: left }
.sk-form .sk-help { color: var(--jp-content-font-color2, #555); font-size: 12px }
.sk-form .sk-table { overflow-x: auto; max-height: 26rem; overflow-y: auto }
.sk-form table { border-collapse: collapse; font-size: 12.5px; margin: 0 }
.sk-form th, .sk-form td { padding: 4px 18px 4px 0; text-align: left; white-space: nowrap }
.sk-form th { border-bottom: 1px solid var(--jp-border-color0, #888); font-weight: 600; position: sticky; top: 0;
  background: var(--jp-layout-color0, #fff) }
.sk-form td { border-bottom: 1px solid var(--jp-border-color2, #ddd) }
.sk-form ul { margin: 8px 0 0; padding-left: 18px; font-size: 12.5px } .sk-form p { margin: 2px 0 }
.sk-form code { font-size: 12px; overflow-wrap: anywhere }
.sk-form .sk-box { border-left: 4px solid var(--jp-info-color1, #26c); padding: 8px 12px; margin: 6px 0;
  background: var(--jp-layout-color2, #f3f3f3) }
.sk-form .sk-box.sk-error { border-left-color: var(--jp-error-color1, #c22) }
.sk-form .sk-box.sk-warning { border-left-color: var(--jp-warn-color1, #c80) }
.sk-form .sk-box.sk-success { border-left-color: var(--jp-success-color1, #282) }
.sk-form .widget-button:disabled { opacity: .55 }
.sk-form .widget-button { padding: 0 16px }
</style>"""


def escaped(text: object) -> str:
    """Return text safe in HTML, with what a terminal would act on made visible; each line stays one."""
    return "<br>".join(html.escape(printable(line)) for line in str(text).splitlines())


def box(kind: str, head: str, lines: Iterable[str] = (), *, role: str = "status") -> str:
    """Return a framed message. ``kind`` gives it a colour; ``head`` says the same in words.

    Args:
        role: ``alert`` is read out at once by a screen reader, ``status`` when it has a moment.
    """
    body = "".join(f"<p>{escaped(line)}</p>" for line in lines if line)
    return f'<div class="sk-box sk-{kind}" role="{role}"><strong>{escaped(head)}</strong>{body}</div>'


def alert(error: Exception) -> str:
    """Return what went wrong, and what to do about it where that is known."""
    if isinstance(error, StatelessError):
        return box("error", "Error", [error.message, error.hint and f"Hint: {error.hint}"], role="alert")
    return box("error", "Unexpected error", [f"{type(error).__name__}: {error}"], role="alert")


def plan_page(plan: Plan) -> str:
    """Return a plan as a person reads it before confirming."""
    notes = [*plan.notes, f"plan digest: {plan.digest}"]
    if plan.guard:
        notes.insert(0, f"not on its own: {plan.guard}")
    return table(plan.summary, plan.rows, notes)


def table(title: str, rows: Iterable[Mapping[str, Any]], notes: Iterable[str] = ()) -> str:
    """Return a table that says so when it does not show all rows."""
    return f'<div class="sk-table">{capped(title, rows, notes)._repr_html_()}</div>'


def capped(title: str, rows: Iterable[Mapping[str, Any]], notes: Iterable[str] = ()) -> Shown:
    """Return rows to show, and a note of how many are left out."""
    rows, notes = list(rows), list(notes)
    if len(rows) > ROWS:
        notes.insert(0, f"the first {ROWS} of {len(rows)} rows; the command line's --plan shows all")
    return Shown(title, rows[:ROWS], notes)
