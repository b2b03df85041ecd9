"""The auditor's page: everything is there, nothing runs, nothing is fetched."""

from __future__ import annotations

import re

import nbformat

from statelesskit.page import render_page

HOSTILE = (
    "<script>alert(1)</script><img src='https://evil.example/x'><table onclick='x()'><tr><th>name</th></tr></table>"
    "<a href='javascript:alert(1)'>a</a><iframe src='https://evil.example'></iframe><style>@import 'https://e'</style>"
)


def page(html: str, record: str = "r") -> str:
    notebook = nbformat.v4.new_notebook()
    output = nbformat.v4.new_output("execute_result", {"text/html": html, "text/plain": "x"}, execution_count=1)
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# Title\n\n- a **point**"),
        nbformat.v4.new_code_cell("book.plan()", outputs=[output]),
    ]
    notebook.metadata["statelesskit"] = {"state": "completed"}
    return render_page(notebook, record)


def test_titles_tables_and_source_are_shown() -> None:
    shown = page("<table><thead><tr><th>client</th></tr></thead><tbody><tr><td>pc</td></tr></tbody></table>")
    assert "<h1>Title</h1>" in shown
    assert "<th>client</th>" in shown
    assert "<td>pc</td>" in shown
    assert "plan" in shown
    assert "completed" in shown


def test_hostile_output_does_nothing() -> None:
    shown = page(HOSTILE, "<script>record</script>")
    assert not re.search(r"<(?:script|img|iframe|link|object|embed|form)\b", shown)
    assert not re.search(r"\son\w+=", shown)
    assert "javascript:" not in shown
    assert not re.search(r"(?:src|href)=", shown)
    assert "<th>name</th>" in shown
    assert "default-src &#39;none&#39;" in shown or "default-src 'none'" in shown
