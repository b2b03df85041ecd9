"""An executed notebook as one page for an auditor: no network, no scripts, whatever the outputs hold."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # W3C Content Security Policy 3
STYLE = """
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a }
pre { background: #f6f6f4; border-left: 3px solid #c8c8c0; padding: .5rem .8rem; overflow-x: auto; font-size: 13px }
table { border-collapse: collapse; margin: .5rem 0 } th, td { padding: .2rem .8rem .2rem 0; text-align: left }
th { border-bottom: 1px solid #888 } td { border-bottom: 1px solid #e4e4e0; vertical-align: top }
header { border-bottom: 2px solid #1a1a1a; margin-bottom: 1rem } .jp-InputPrompt, .jp-OutputPrompt { color: #777 }
.state { font-weight: 600 } .highlight .c1 { color: #666 } .highlight .s2 { color: #065 } .highlight .k { color: #048 }
"""


# What a page may hold: text and tables. bleach takes everything else away.
TEXT_TAGS = frozenset(
    ("a", "b", "blockquote", "br", "code", "em", "i", "p", "pre", "s", "span", "strong", "sub", "sup")
)
BLOCK_TAGS = frozenset(("div", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "ul"))
TABLE_TAGS = frozenset(("caption", "table", "tbody", "td", "tfoot", "th", "thead", "tr"))
ATTRIBUTES = {"*": ["class", "colspan", "rowspan", "scope"]}


def render_page(nb: Any, record: str) -> str:
    """Return the page. HTML in outputs is sanitised, and the page's policy forbids what might be left."""
    from nbconvert import HTMLExporter

    exporter: Any = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="basic", sanitize_html=True, embed_images=True, exclude_anchor_links=True
    )
    exporter.register_filter("clean_html", _cleaned)
    body, _ = exporter.from_notebook_node(nb)
    head = nb.metadata.get("papermill", {})
    state = nb.metadata.get("statelesskit", {}).get("state", "")
    facts = f"from {head.get('start_time', '')} to {head.get('end_time', '')}"
    return _page(
        record,
        f'<header><h1>{html.escape(record)}</h1><p><span class="state">{html.escape(str(state))}</span>, '
        f"{html.escape(facts)}</p></header>{body}",
    )


FILTER = """
const filters = document.querySelectorAll("[data-filter]");
function apply() {
  let shown = 0;
  for (const row of document.querySelectorAll("tbody tr")) {
    let fits = true;
    for (const one of filters) {
      const cell = one.dataset.filter === "" ? row : row.cells[Number(one.dataset.filter)];
      const text = cell.textContent.toLowerCase(), wanted = one.value.toLowerCase();
      fits = fits && (one.tagName === "SELECT" ? wanted === "" || text === wanted : text.includes(wanted));
    }
    row.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").textContent = shown;
}
for (const one of filters) one.addEventListener("input", apply);
apply();
"""
_SCRIPT = "sha256-" + base64.b64encode(hashlib.sha256(FILTER.encode()).digest()).decode()


def render_list(title: str, rows: Sequence[Mapping[str, object]], link: str, choose: Sequence[str]) -> str:
    """Return a page with a table that can be filtered, by text and by the values of some columns.

    Its one script only hides rows; the page's policy names its digest and forbids all others.

    Args:
        link: the column whose values name pages in the folder ``pages``.
        choose: the columns that get a list of their values.
    """
    columns = list(rows[0]) if rows else [link]
    search = '<input data-filter="" placeholder="any text" aria-label="any text">'
    for name in choose if rows else ():
        values = sorted({str(row[name]) for row in rows})
        options = "".join(f"<option>{html.escape(value)}</option>" for value in values)
        label = f'aria-label="{html.escape(name)}" data-filter="{columns.index(name)}"'
        search += f' <select {label}><option value="">{html.escape(name)}: all</option>{options}</select>'
    body = (
        f'<p>{search} <span id="shown">{len(rows)}</span> of {len(rows)}</p><table><thead>'
        f"{_row('th', columns)}</thead><tbody>"
        + "".join(_row("td", row.values(), columns.index(link)) for row in rows)
        + f"</tbody></table><script>{FILTER}</script>"
    )
    return _page(title, f"<header><h1>{html.escape(title)}</h1></header>{body}", f"; script-src '{_SCRIPT}'")


def render_record(title: str, facts: Mapping[str, object], rows: Sequence[Mapping[str, object]], folder: str) -> str:
    """Return a page about one record: facts, events, and where its files are. No scripts."""
    told = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(one))}</td></tr>" for name, one in facts.items()
    )
    events = f"<table><thead>{_row('th', rows[0])}</thead><tbody>" if rows else "<table><tbody>"
    events += "".join(_row("td", row.values()) for row in rows) + "</tbody></table>"
    there = f'<p><a href="../records/{quote(folder)}/">files</a> · <a href="../index.html">all records</a></p>'
    return _page(title, f"<header><h1>{html.escape(title)}</h1></header><table>{told}</table>{there}{events}")


def _row(kind: str, values: Iterable[object], link: int = -1) -> str:
    cells = [html.escape(str(value)) for value in values]
    if link >= 0:
        cells[link] = f'<a href="pages/{quote(cells[link])}.html">{cells[link]}</a>'
    return "<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>"


def _page(title: str, body: str, policy: str = "") -> str:
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{POLICY}{policy}"><title>{html.escape(title)}</title><style>{STYLE}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def _cleaned(element: object) -> str:
    import bleach

    text = element.decode() if isinstance(element, bytes) else str(element)
    return str(
        bleach.clean(
            text, tags=TEXT_TAGS | BLOCK_TAGS | TABLE_TAGS, attributes=ATTRIBUTES, protocols=["https"], strip=True
        )
    )
