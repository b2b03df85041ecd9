"""Forms for JupyterLab, made from actions."""

from __future__ import annotations

from statelesskit.runbook.cells import Book


def show_form(book: Book) -> None:
    """Show the runbook's form to a person; under papermill, where nobody could use it, show nothing."""
    if not book.interactive:
        return
    from statelesskit_widgets.form import ActionForm

    ActionForm(book).show()
