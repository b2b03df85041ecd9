"""Names to DNs and back, entries to values and back, for whatever text comes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ldap3.utils.dn import escape_rdn

from statelesskit.directory import Channel, Client, Group, SnapshotEntry, resolve
from statelesskit.directory.layout import Layout
from statelesskit.directory.mapping import TEXT_LIMIT, Entry, client_attributes, client_from, text_values, time_values
from statelesskit.directory.model import MODES
from statelesskit.errors import ConfigError, NameInvalidError, ParameterError

BASES = ("ou=stateless", "dc=example,dc=org", "o=Größe\\, Ltd,c=DE")
names = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,40}[a-z0-9])?", fullmatch=True).filter(lambda name: ".." not in name)
stamps = st.datetimes(datetime(1000, 1, 1), datetime(9999, 1, 1)).map(lambda at: f"{at:%Y%m%dT%H%M%SZ}")  # noqa: DTZ001
snapshots = st.builds(lambda name, at, again: f"{name[:30]}0-{at}{again}", names, stamps, st.sampled_from(["", "-2"]))
layouts = st.sampled_from(BASES).map(Layout)
times = st.datetimes(datetime(1001, 1, 1), datetime(9998, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))  # noqa: DTZ001


def spellings(dn: str, how: int) -> str:
    """Return the same DN as another tool might write it."""
    if how == 1:
        return dn.upper()
    if how == 2:
        return dn.replace(",", " , ").replace("=", " = ") if "\\" not in dn else dn
    if how == 3:  # every letter of the first value as hex
        kind, _, rest = dn.partition("=")
        value, comma, tail = rest.partition(",")
        return kind + "=" + "".join(f"\\{byte:02x}" for byte in value.encode()) + comma + tail
    return dn


hows = st.integers(0, 3)


@given(layouts, names, names, snapshots, hows)
def test_names_survive_the_way_there_and_back(layout: Layout, one: str, two: str, snapshot: str, how: int) -> None:
    assert layout.client_at(spellings(layout.client(one), how)) == one
    assert layout.prototype_at(spellings(layout.prototype(one), how)) == one
    assert layout.channel_at(spellings(layout.channel(f"{one}/{two}"), how)) == f"{one}/{two}"
    assert layout.snapshot_at(spellings(layout.snapshot(snapshot), how)) == snapshot


@given(layouts, st.text(min_size=1), names)
def test_a_dn_is_only_what_it_says(layout: Layout, text: str, name: str) -> None:
    """Whatever somebody put into an RDN, it never reads as another object of ours."""
    dn = f"cn={escape_rdn(text)},{layout.folder('clients')}"
    assert layout.client_at(dn) in (None, text.casefold(), text.strip().casefold())
    assert layout.group_at(dn) is layout.prototype_at(dn) is layout.channel_at(dn) is layout.snapshot_at(dn) is None
    assert layout.client_at(layout.client(name) + ",ou=elsewhere") is None


@given(layouts, st.text())
def test_any_text_as_a_dn_is_borne(layout: Layout, text: str) -> None:
    for read in (layout.client_at, layout.group_at, layout.prototype_at, layout.channel_at, layout.snapshot_at):
        assert read(text) is None


@given(layouts, st.text())
def test_what_is_no_name_makes_no_dn(layout: Layout, text: str) -> None:
    for make in (layout.client, layout.prototype, layout.channel, layout.snapshot):
        try:
            dn = make(text)
        except NameInvalidError:
            continue
        assert text.isascii()
        assert dn.count(",") == layout.base.count(",") + (2 if make in (layout.client, layout.prototype) else 3)


@pytest.mark.parametrize("base", ["", "stateless", "ou=", "uid=x,ou=y", "ou=a+cn=b,ou=x"])
def test_a_base_that_is_none_is_refused(base: str) -> None:
    with pytest.raises(ConfigError, match="base_dn"):
        Layout(base)


@given(
    layouts,
    st.builds(
        Client,
        names,
        st.sampled_from(MODES),
        st.just(("52:54:00:00:00:01", "52:54:00:00:00:02")),
        st.none() | st.builds("{}/{}".format, names, names),
        st.none() | snapshots,
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
)
def test_a_client_survives_the_way_there_and_back(layout: Layout, client: Client) -> None:
    values = {kind: [text.encode() for text in texts] for kind, texts in client_attributes(client, layout).items()}
    assert client_from(Entry(layout.client(client.name), values), layout) == client


@given(times, st.integers(-12, 12))
def test_times_survive_to_the_second(at: datetime, hours: int) -> None:
    there = at.astimezone(timezone(timedelta(hours=hours)))
    entry = Entry("", {"skMovedAt": [time_values(there)[0].encode()]})
    assert entry.time("skMovedAt") == at.replace(microsecond=0)


@given(st.text(st.characters()))
def test_text_is_kept_or_refused(text: str) -> None:
    try:
        kept = text_values(text, "the note")
    except ParameterError:
        assert len(text) > TEXT_LIMIT or any("\ud800" <= c <= "\udfff" for c in text)
    else:
        assert kept == ([text] if text else [])


any_text = st.text(max_size=8)
pointers = st.none() | st.sampled_from(["a/b", "a-20260101T000000Z"]) | any_text


@given(
    st.builds(Client, any_text, st.sampled_from(MODES) | any_text, st.just(()), pointers, pointers),
    st.dictionaries(
        st.sampled_from(["a/b"]),
        st.builds(
            Channel, any_text, any_text, pointers, pointers, st.integers(), any_text, st.none() | times, pointers
        ),
    ),
    st.lists(st.builds(Group, any_text, st.frozensets(any_text), pointers, pointers, st.integers())),
    st.dictionaries(
        st.sampled_from(["a-20260101T000000Z"]),
        st.builds(SnapshotEntry, any_text, any_text, any_text, st.sampled_from(["released", "revoked"]), times),
    ),
)
def test_resolution_never_raises_and_always_says_why(
    client: Client, channels: dict[str, Channel], groups: list[Group], known: dict[str, SnapshotEntry]
) -> None:
    found = resolve(client, channels, groups, known)
    assert found.because
    assert (found.snapshot is None) == (found.digest is None)
