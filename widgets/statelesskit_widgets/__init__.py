"""Forms for JupyterLab, made from actions."""

from __future__ import annotations

from typing import Any

from statelesskit.runbook.cells import Book


def show_form(book: Book) -> Any:
    """Show the runbook's form to a person; under papermill say that there is none."""
    if not book.interactive:
        return None
    from statelesskit_widgets.form import ActionForm

    return ActionForm(book)
