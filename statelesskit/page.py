"""An executed notebook as one page for an auditor: no network, no scripts, whatever the outputs hold."""

from __future__ import annotations

import html
from typing import Any

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
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{html.escape(record)}</title><style>{STYLE}</style></head><body>"
        f'<header><h1>{html.escape(record)}</h1><p><span class="state">{html.escape(str(state))}</span>, '
        f"{html.escape(facts)}</p></header>{body}</body></html>\n"
    )


def _cleaned(element: object) -> str:
    import bleach

    text = element.decode() if isinstance(element, bytes) else str(element)
    return str(
        bleach.clean(
            text, tags=TEXT_TAGS | BLOCK_TAGS | TABLE_TAGS, attributes=ATTRIBUTES, protocols=["https"], strip=True
        )
    )
