"""Whatever comes to the report door: what is no report is refused as one, and no report is taken twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statelesskit.config import Site
from statelesskit.directory.reported import Standing
from statelesskit.errors import FormatError
from statelesskit.reports.judging import (
    AHEAD,
    VALID,
    Received,
    enrolment_text,
    judge,
    may_enrol,
    milliseconds,
)
from statelesskit.reports.limits import ADDRESSES, Limit
from statelesskit.reports.message import Enrolment, parse_enrolment, parse_report
from statelesskit.reports.spool import Spool

AT = datetime(2026, 11, 24, 16, 0, tzinfo=UTC)
GOOD = {
    "format": 1,
    "client": "c1",
    "snapshot": "desktop-20261121T073000Z",
    "digest": "sha256:" + "b" * 64,
    "boot_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
    "counter": 7,
    "result": "ok",
    "overlay_bytes": 1,
    "overlay_limit_bytes": 2,
}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def message(**fields: object) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


def received(at: datetime = AT, **fields: object) -> Received:
    return Received(parse_report(message(**fields)), at)


def only_refused(body: bytes) -> None:
    """Nothing but FormatError comes of it, with a text that is harmless on a terminal."""
    for parse in (parse_report, parse_enrolment):
        why = ""
        try:
            parse(body)
        except FormatError as error:
            why = error.message
        assert why.isprintable()


@given(st.binary(max_size=300))
def test_garbage_is_refused(body: bytes) -> None:
    only_refused(body)


@given(st.dictionaries(st.sampled_from([*GOOD, "token", "key", "more"]), values))
def test_fields_of_any_kind_are_refused_or_are_right(fields: Mapping[str, object]) -> None:
    only_refused(message(**fields))
    only_refused(json.dumps(fields).encode())


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_another_report_or_none(place: int, byte: int) -> None:
    body = message()
    changed = body[: place % len(body)] + bytes([byte]) + body[place % len(body) + 1 :]
    only_refused(changed)


def test_deep_and_large_things_are_refused() -> None:
    for body in (b"[" * 16_000, b'{"a":' * 3000, b'{"format": 1' + b"0" * 5000 + b"}", message(counter=10**30)):
        with pytest.raises(FormatError):
            parse_report(body)


@given(st.lists(st.integers(1, 12), max_size=20), st.integers(0, 6))
def test_of_one_client_each_counter_is_taken_once_and_only_upwards(counters: list[int], before: int) -> None:
    batch = [received(counter=counter) for counter in counters]
    made = judge(batch, {"c1": Standing("c1", counter=before)})
    taken = [counters[place] for place in sorted(made.good)]
    assert taken == sorted(set(taken))
    assert all(counter > before for counter in taken)
    assert {*made.good, *made.late, *made.refused} == set(range(len(batch)))
    if taken:
        assert made.write["c1"][1] == taken[-1] == max([before, *counters])
    # What was taken in one batch is late in the next.
    again = judge(batch, {"c1": Standing("c1", counter=max([before, *taken]))})
    assert not again.good


def test_no_counter_runs_away_from_the_clock() -> None:
    limit = milliseconds(AT) + AHEAD // timedelta(milliseconds=1)
    assert judge([received(counter=limit)], {"c1": Standing("c1")}).good
    assert judge([received(counter=limit + 1)], {"c1": Standing("c1")}).late[0].after == 0


def test_one_with_a_key_is_not_heard_unsigned_and_one_that_is_unknown_not_at_all() -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtaZxbyRUVmZbJHHHRrKpFDAvRBVBkHzmdTdO8MDuzB"
    assert judge([received()], {"c1": Standing("c1", key=key)}).refused == {0}
    assert judge([received()], {"c1": Standing("c1", key="no key at all")}).refused == {0}
    assert judge([received()], {}).refused == {0}
    assert judge([received()], {"c1": Standing("c1")}).write["c1"][0].level == "network"


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_token_is_good_as_it_is_and_until_it_ends(token: str, other: str) -> None:
    client = Standing("c1", enrolment=enrolment_text(token, AT))
    asked = Enrolment("c1", token, "key")
    assert may_enrol(asked, client, AT)
    assert may_enrol(asked, client, AT + VALID - timedelta(seconds=1))
    assert not may_enrol(asked, client, AT + VALID)
    assert may_enrol(replace(asked, token=other), client, AT) == (other == token)
    assert not may_enrol(asked, None, AT)
    assert token not in repr(asked) or token in "Enrolment('c1')"


@given(st.text(max_size=100))
def test_whatever_the_directory_says_of_a_token_lets_nobody_in(kept: str) -> None:
    assert not may_enrol(Enrolment("c1", "t", "key"), Standing("c1", enrolment=kept), AT)


def test_an_address_has_its_limit_and_gets_it_back_with_time() -> None:
    now = 0.0
    limit = Limit(3, 0.5, clock=lambda: now)
    assert [limit.allows("192.0.2.1") for _ in range(5)] == [True] * 3 + [False] * 2
    assert limit.allows("192.0.2.2")
    assert [limit.allows(f"2001:db8::{number}") for number in range(5)] == [True] * 3 + [False] * 2
    now = 2.0
    assert [limit.allows("192.0.2.1") for _ in range(2)] == [True, False]
    for number in range(ADDRESSES + 10):
        limit.allows(f"10.0.{number // 250}.{number % 250}")
    assert len(limit._buckets) == ADDRESSES


# --- what waits on the disk -------------------------------------------------------------------


def test_what_is_kept_comes_back_and_what_a_crash_tore_does_not(site: Site) -> None:
    spool = Spool(site)
    assert not spool
    assert list(spool.waiting()) == []
    some = [received(counter=number) for number in range(1, 4)]
    spool.keep(some)
    whole = spool.path.read_bytes()
    for cut in range(len(whole)):
        spool.path.write_bytes(whole[:cut])
        found = list(spool.waiting())
        assert found == some[: len(found)]
        assert len(found) >= whole[:cut].count(b"\n")
        spool.keep(some[:1])
        assert list(spool.waiting())[-1] == some[0]
        assert len(list(spool.waiting())) >= len(found) + 1 - (len(found) > whole[:cut].count(b"\n"))
    spool.empty()
    assert not spool


@given(st.binary(max_size=200))
def test_a_file_of_garbage_holds_no_report(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        spool = Spool(SimpleNamespace(root=Path(folder)))  # type: ignore[arg-type] # all it asks of a site
        spool.path.parent.mkdir()
        spool.path.write_bytes(data)
        assert list(spool.waiting()) == []
