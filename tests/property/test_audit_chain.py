from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from statelesskit.audit import events

TEXTS = st.text(st.characters())  # lone surrogates, controls and all
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
FACTS = st.dictionaries(TEXTS, JSON, max_size=5)
ENTRIES = st.lists(st.tuples(TEXTS.filter(lambda kind: kind not in (events.END, events.TORN)), FACTS), max_size=8)


@settings(deadline=None, max_examples=100)
@given(ENTRIES.filter(bool))
def test_what_was_appended_is_read(entries: list[tuple[str, dict[str, object]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "events.jsonl"
        written = [events.append(log, kind, facts) for kind, facts in entries]
        assert events.read(log) == (written, [])
        assert [(event.kind, event.facts) for event in written] == entries
        assert events.first_and_last(log) == (written[0], written[-1])


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_change_to_a_log_but_to_its_last_line_is_unnoticed(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "events.jsonl"
        for number in range(data.draw(st.integers(2, 5))):
            events.append(log, "step", {"number": number})
        lines = log.read_bytes().splitlines(keepends=True)
        body = b"".join(lines[:-1])
        at = data.draw(st.integers(0, len(body) - 1))
        upto = data.draw(st.integers(at, len(body)))
        changed = body[:at] + data.draw(st.binary(max_size=40) | st.sampled_from(lines)) + body[upto:]
        log.write_bytes(changed + lines[-1])
        assert bool(events.read(log)[1]) == (changed != body)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400), st.integers(0, 400))
def test_any_bytes_can_be_read_and_gone_on_with(garbage: bytes, cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "events.jsonl"
        events.append(log, "step", {})
        log.write_bytes(log.read_bytes()[:cut] + garbage)
        before = log.read_bytes()
        events.read(log)
        last = events.append(log, "next", {"on": 1})
        assert log.read_bytes().startswith(before), "nothing that was there goes away"
        read, _ = events.read(log)
        assert read[-1] == last
