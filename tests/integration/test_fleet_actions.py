"""Groups, pins, channels and their history as an admin manages them, and the check of it all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from statelesskit import service
from statelesskit.actions import ACTIONS
from statelesskit.actions.consequences import FOLLOWERS
from statelesskit.config import Site
from statelesskit.directory import Directory, open_directory
from statelesskit.directory.operations import Operations
from statelesskit.directory.pushes import pushes
from statelesskit.errors import ConflictError, LockedError, NotFoundError, RefusedError, StatelessError, UsageError
from statelesskit.lock import held
from statelesskit.register import register
from statelesskit.site import init_site, start_site, stop_site
from tests.conftest import free_port
from tests.fleet import Fleet, perform, small_root
from tests.integration.test_collect_actions import report
from tests.integration.test_directory import look_up, tool

pytestmark = [pytest.mark.slapd, pytest.mark.root]
CLIENTS = "ou=clients,ou=stateless"
STABLE = "cn=stable,cn=desktop,ou=prototypes,ou=stateless"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, list[str]]]:
    """A running site with four released snapshots."""
    base = tmp_path_factory.mktemp("fleet")
    tree = small_root(base / "tree")
    site, _ = init_site(base / "site", name="test", port=free_port())
    start_site(site)
    try:
        perform(site, "prototype create", name="desktop", source=f"at:{tree}")
        found = []
        for number in range(4):
            (tree / "etc/motd").write_text(f"{number}\n")
            found.append(str(perform(site, "snapshot take", prototype="desktop")["snapshot"]))
            for state in ("tested", "released"):
                perform(site, "snapshot state", snapshot=found[-1], state=state)
        yield Fleet(site, found[0], found[1]), found
    finally:
        stop_site(site)


@pytest.fixture
def fleet(made: tuple[Fleet, list[str]]) -> Fleet:
    """Four clients and two channels, made anew; the history begins where it ended."""
    fleet, names = made
    rule = "|(objectClass=groupOfNames)(objectClass=skChannel)(objectClass=skPush)(objectClass=skClientStatus)"
    with service.recorded_if_changed(fleet.site, "begin anew"), open_directory(fleet.site) as directory:
        for entry in directory.ldap.search("ou=stateless", rule):
            directory.ldap.delete(entry.dn)
        for entry in directory.ldap.search("ou=stateless", "objectClass=skClient"):
            directory.ldap.delete(entry.dn)
        for name, snapshot in (("desktop/stable", names[0]), ("desktop/testing", names[2])):
            perform(fleet.site, "channel create", channel=name, snapshot=snapshot)
    for number, (name, mode) in enumerate({"c1": "diskless", "c2": "caching", "c3": "live", "t1": "thick"}.items()):
        perform(fleet.site, "client add", name=name, mode=mode, mac=f"52:54:00:00:00:{number:02x}")
    return fleet


def told(fleet: Fleet, name: str) -> dict[str, object]:
    (found,) = fleet.json("client", "explain", name)
    return found


def runs(site: Site) -> dict[str, str | None]:
    from statelesskit.directory import assignments

    with open_directory(site) as directory:
        return {client.name: assignment.snapshot for client, assignment in assignments(directory)}


# --- clients -----------------------------------------------------------------------------------------


def test_a_client_is_pinned_and_unpinned(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    _, names = made
    perform(fleet.site, "client change", name="c1", channel="desktop/stable", note="in the hall")
    assert runs(fleet.site)["c1"] == names[0]
    (pinned,) = fleet.json("client", "pin", "c1", names[1])
    assert pinned["pin"] == names[1]
    assert (fleet.site.records / str(pinned["record"]) / "statement.dsse.json").exists()
    found = told(fleet, "c1")
    assert found["snapshot"] == names[1]
    assert f"without its pin (statelesskit client unpin c1) it would run {names[0]}" in found["otherwise"]  # type: ignore[operator]
    assert perform(fleet.site, "client pin", name="c1", snapshot=names[1])["changed"] is False
    perform(fleet.site, "client unpin", name="c1")
    assert runs(fleet.site)["c1"] == names[0]
    (shown,) = fleet.json("client", "show", "c1")
    assert (shown["channel"], shown["pin"], shown["note"]) == ("desktop/stable", None, "in the hall")
    perform(fleet.site, "client change", name="c1", clear="channel, note")
    (shown,) = fleet.json("client", "show", "c1")
    assert (shown["channel"], shown["note"]) == (None, "")


CANNOT_BE: list[tuple[str, dict[str, str], type[StatelessError], str]] = [
    ("client pin", {"name": "c9", "snapshot": "{0}"}, NotFoundError, "no client c9"),
    ("client pin", {"name": "c1", "snapshot": "desktop-20200101T000000Z"}, NotFoundError, "no snapshot"),
    ("client pin", {"name": "t1", "snapshot": "{0}"}, UsageError, "t1 is thick"),
    ("client change", {"name": "t1", "channel": "desktop/stable"}, UsageError, "t1 is thick"),
    ("client change", {"name": "c1", "channel": "desktop/stabel"}, NotFoundError, "did you mean desktop/stable"),
    ("client change", {"name": "c1", "mode": "fat"}, UsageError, "no mode 'fat'"),
    ("client change", {"name": "c1", "mac": "52:54:00:00:00:01"}, UsageError, "belongs to client c2"),
    ("client change", {"name": "c1", "mac": "zz"}, UsageError, "is no MAC address"),
    ("client change", {"name": "c1", "clear": "pin"}, UsageError, "'pin' can't be emptied"),
    ("client change", {"name": "c1", "clear": "note", "note": "x"}, UsageError, "both given and emptied"),
    ("client change", {"name": "c1", "reference": "{0}"}, UsageError, "only a thick client has a reference"),
    ("client add", {"name": "c8", "mode": "live", "reference": "{0}"}, UsageError, "only a thick client"),
    ("group create", {"name": "lab", "channel": "desktop/stable", "pin": "{0}"}, UsageError, "give one of them"),
    ("group create", {"name": "lab", "channel": "desktop/none"}, NotFoundError, "no channel desktop/none"),
    ("group create", {"name": "a,b"}, UsageError, "is no name for a group"),
    ("group add", {"name": "lab", "clients": "c1"}, NotFoundError, "no group lab"),
    ("group delete", {"name": "lab"}, NotFoundError, "no group lab"),
    ("channel remove", {"channel": "desktop/none"}, NotFoundError, "no channel"),
]


def test_what_cannot_be_changes_nothing(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    _, names = made
    before = tool(fleet.site, "ldapsearch", "-LLL", "-b", "ou=stateless")
    for verb, parameters, error, says in CANNOT_BE:
        with pytest.raises(error, match=says):
            perform(fleet.site, verb, **{name: value.format(*names) for name, value in parameters.items()})
    assert tool(fleet.site, "ldapsearch", "-LLL", "-b", "ou=stateless") == before


def test_a_thick_client_is_compared_and_never_told(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    _, names = made
    perform(fleet.site, "client change", name="t1", reference=names[1])
    assert look_up(fleet.site, f"cn=t1,{CLIENTS}", "skReferenceSnapshotDN") != []
    report(fleet.site, "t1", names[0], datetime(2026, 11, 24, tzinfo=UTC))
    found = told(fleet, "t1")
    assert found["snapshot"] is None
    drifted = f"runs {names[0]} (said at 2026-11-24T00:00:00Z); its reference is {names[1]}"
    assert drifted in found["because"]  # type: ignore[operator]
    assert {row["client"]: row["drift"] for row in fleet.json("client", "list")} == {
        "c1": "", "c2": "", "c3": "", "t1": drifted,
    }  # fmt: skip
    with pytest.raises(RefusedError, match="client t1 is compared with it"):
        perform(fleet.site, "snapshot delete", snapshot=names[1])
    perform(fleet.site, "client change", name="t1", reference=names[0])
    assert fleet.json("client", "show", "t1")[0]["drift"] == ""


def test_a_removed_client_is_gone_with_its_places(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    _, names = made
    perform(fleet.site, "group create", name="lab", channel="desktop/stable")
    perform(fleet.site, "group add", name="lab", clients="c1 c2")
    report(fleet.site, "c1", names[0], datetime.now(UTC))
    plan = fleet.run("client", "remove", "c1", "--plan")
    assert f"it said that it runs {names[0]}" in plan.stdout
    assert fleet.json("client", "remove", "c1")[0]["groups"] == ["lab"]
    assert fleet.json("group", "show", "lab")[0]["clients"] == ["c2"]
    assert fleet.run("client", "show", "c1").returncode == 2


# --- groups ------------------------------------------------------------------------------------------


def test_a_group_tells_its_clients(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    _, names = made
    fleet.json("group", "create", "lab", "--channel", "desktop/stable", "--priority", "10")
    (plan,) = fleet.json("group", "add", "lab", "c1", "c2", "--plan")
    assert [(row["client"], row["to"]) for row in plan["clients"]] == [("c1", names[0]), ("c2", names[0])]  # type: ignore[attr-defined]
    fleet.json("group", "add", "lab", "c1", "c2", "--plan-digest", str(plan["plan_digest"]))
    assert runs(fleet.site) == {"c1": names[0], "c2": names[0], "c3": None, "t1": None}
    assert perform(fleet.site, "group change", name="lab", clear="channel", pin=names[1])["clients_changed"] == 2
    assert runs(fleet.site)["c2"] == names[1]
    perform(fleet.site, "group remove", name="lab", clients="c2")
    assert runs(fleet.site)["c2"] is None
    assert fleet.json("group", "list")[0]["clients"] == 1
    assert perform(fleet.site, "group delete", name="lab")["clients_changed"] == 1
    assert fleet.json("group", "list") == []


def test_a_tie_is_said_with_the_way_out(fleet: Fleet) -> None:
    for name, channel in (("lab", "desktop/stable"), ("hall", "desktop/testing")):
        perform(fleet.site, "group create", name=name, channel=channel, priority=10)
    perform(fleet.site, "group add", name="lab", clients="c1")
    (plan,) = fleet.json("group", "add", "hall", "c1", "--plan")
    assert [row["to"] for row in plan["clients"]] == ["nothing"]  # type: ignore[attr-defined]
    perform(fleet.site, "group add", name="hall", clients="c1")
    found = told(fleet, "c1")
    assert found["snapshot"] is None
    ways = [str(way) for way in found["otherwise"]]  # type: ignore[attr-defined]
    assert any("statelesskit group change hall --priority 9" in way for way in ways)
    perform(fleet.site, "group change", name="hall", priority="9")
    assert told(fleet, "c1")["snapshot"] is not None


def test_a_group_in_a_group_is_refused_and_found(fleet: Fleet) -> None:
    for name in ("inner", "outer"):
        perform(fleet.site, "group create", name=name)
    with pytest.raises(RefusedError, match="inner is a group, and nested groups are not followed"):
        perform(fleet.site, "group add", name="outer", clients="inner")
    perform(fleet.site, "group add", name="inner", clients="c1")
    perform(fleet.site, "group change", name="outer", channel="desktop/stable")
    change = "changetype: modify\nadd: member\nmember: cn=inner,ou=groups,ou=stateless\n"
    tool(fleet.site, "ldapmodify", stdin=f"dn: cn=outer,ou=groups,ou=stateless\n{change}")
    assert "nested groups are not followed" in str(told(fleet, "c1")["because"])
    rows = check(fleet)
    assert ("group outer", "has the group inner as a member, but nested groups are not followed") in rows
    perform(fleet.site, "group remove", name="outer", clients="inner")
    assert not any("nested" in text for _, text in check(fleet))


def test_a_group_that_changes_many_is_for_a_person(fleet: Fleet) -> None:
    import dataclasses

    perform(fleet.site, "group create", name="lab", channel="desktop/stable")
    action = ACTIONS["group add"].check({"name": "lab", "clients": "c1 c2"})
    site = dataclasses.replace(fleet.site, auto_max_clients=1)
    with pytest.raises(RefusedError, match="2 clients would change"):
        service.perform(site, action, service.AUTO)
    assert runs(fleet.site)["c1"] is None


# --- channels and their history ------------------------------------------------------------------------


def test_the_history_says_who_from_what_to_what(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    _, names = made
    (pushed,) = fleet.json("push", "apply", "desktop/stable", names[1])
    last, first = fleet.json("push", "status", "desktop/stable")
    assert (last["serial"], last["from"], last["to"], last["record"]) == (2, names[0], names[1], pushed["record"])
    assert (first["serial"], first["from"], first["to"]) == (1, None, names[0])
    perform(fleet.site, "client change", name="c1", channel="desktop/stable")
    perform(fleet.site, "group create", name="lab", channel="desktop/stable")
    perform(fleet.site, "group add", name="lab", clients="c2")
    (shown,) = fleet.json("channel", "show", "desktop/stable")
    assert (shown["clients"], shown["groups"], shown["earlier"]) == (2, ["lab"], [names[0]])
    assert fleet.run("push", "status", "desktop/none").returncode == 2


def test_a_rollback_passes_by_what_is_revoked(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    _, names = made
    perform(fleet.site, "push apply", channel="desktop/testing", snapshot=names[0])
    perform(fleet.site, "push apply", channel="desktop/testing", snapshot=names[1])
    assert perform(fleet.site, "push rollback", channel="desktop/testing")["snapshot"] == names[0]
    perform(fleet.site, "push apply", channel="desktop/testing", snapshot=names[1])
    snapshot = str(perform(fleet.site, "snapshot take", prototype="desktop")["snapshot"])
    perform(fleet.site, "push apply", channel="desktop/testing", snapshot=snapshot)
    perform(fleet.site, "push apply", channel="desktop/testing", snapshot=names[3])
    perform(fleet.site, "client pin", name="c1", snapshot=snapshot)
    plan = fleet.run("snapshot", "state", snapshot, "revoked", "--plan")
    assert "c1 is told to run it, and will have nothing to run" in plan.stdout
    perform(fleet.site, "snapshot state", snapshot=snapshot, state="revoked")
    with pytest.raises(RefusedError, match=f"{snapshot} before, which is revoked") as caught:
        perform(fleet.site, "push rollback", channel="desktop/testing")
    assert f"push apply desktop/testing {names[1]}" in caught.value.hint
    with pytest.raises(RefusedError, match="desktop/stable has never pointed at another"):
        perform(fleet.site, "push rollback", channel="desktop/stable")


def test_a_channel_that_is_followed_stays(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    _, names = made
    perform(fleet.site, "client change", name="c1", channel="desktop/stable")
    perform(fleet.site, "group create", name="lab", channel="desktop/stable")
    with pytest.raises(RefusedError, match="followed by 2: group lab, client c1"):
        perform(fleet.site, "channel remove", channel="desktop/stable")
    perform(fleet.site, "client change", name="c1", clear="channel")
    perform(fleet.site, "group delete", name="lab")
    lock = fleet.site.lock_file(FOLLOWERS)
    with held(lock, what="it", doing="following it", shared=True), pytest.raises(LockedError):
        perform(fleet.site, "channel remove", channel="desktop/stable")
    table = fleet.site.root / "table.csv"
    table.write_text("name,mode,channel\nc9,live,desktop/stable\n")
    followers: list[tuple[str, dict[str, str]]] = [
        ("client add", {"name": "c9", "mode": "live", "channel": "desktop/stable"}),
        ("client change", {"name": "c1", "channel": "desktop/stable"}),
        ("client import", {"table": str(table)}),
        ("group create", {"name": "lab", "channel": "desktop/stable"}),
    ]
    with held(lock, what="it", doing="removing a channel"):
        for verb, given in followers:
            with pytest.raises(LockedError):
                perform(fleet.site, verb, **given)
    (removed,) = fleet.json("channel", "remove", "desktop/stable")
    assert look_up(fleet.site, "ou=stateless", "dn", "sub", "cn=stable") == []
    assert fleet.json("push", "status", "desktop/stable")[0]["record"] == removed["record"]
    assert perform(fleet.site, "channel create", channel="desktop/stable", snapshot=names[1])["serial"] == 3
    assert check(fleet, "channel") == []


def test_a_lost_line_of_the_history_is_named_and_written_by_the_next_contact(
    made: tuple[Fleet, list[str]], fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, names = made
    add = Operations.add

    def lose(self: Operations, dn: str, *rest: object) -> None:
        if "ou=pushes" in dn:
            raise StatelessError("lost")
        add(self, dn, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Operations, "add", lose)
        result = perform(fleet.site, "push apply", channel="desktop/stable", snapshot=names[1])
    assert fleet.pointed_at() == (names[1], 2)
    assert ("channel desktop/stable", "has no line in its history for serial 2") in check(fleet)
    with open_directory(fleet.site) as directory:
        register(fleet.site, directory)
        assert pushes(directory, "desktop/stable")[-1].record == result["record"]
    assert check(fleet, "channel") == []


def test_who_pushes_too_late_is_told_by_whom_from_what_to_what(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    _, names = made
    action = ACTIONS["push apply"].check({"channel": "desktop/stable", "snapshot": names[1]})
    plan = service.plan(fleet.site, action)
    perform(fleet.site, "push apply", channel="desktop/stable", snapshot=names[3])
    with pytest.raises(ConflictError):
        service.perform(fleet.site, action, plan.digest)
    assert [one["to"] for one in fleet.json("push", "status", "desktop/stable")] == [names[3], names[0]]


def test_a_removal_that_is_cut_off_is_ended_by_the_next(
    made: tuple[Fleet, list[str]], fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a channel, and of a client: after each change the directory makes of it."""
    site = fleet.site
    perform(site, "group create", name="lab")
    perform(site, "group add", name="lab", clients="c1")
    report(site, "c1", made[1][0], datetime.now(UTC))
    delete, left = Operations.delete, [0]

    def stop(self: Operations, dn: str) -> bool:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return delete(self, dn)

    for verb, words, count in (
        ("client remove", {"name": "c1"}, 2),
        ("channel remove", {"channel": "desktop/stable"}, 1),
    ):
        for left[0] in range(count):
            with monkeypatch.context() as patch:
                patch.setattr(Operations, "delete", stop)
                with pytest.raises(KeyboardInterrupt):
                    perform(site, verb, **words)
            assert runs(site)["c1"] is None
        perform(site, verb, **words)
        if verb == "client remove":
            perform(site, "client add", name="c1", mode="live")
    assert fleet.json("group", "show", "lab")[0]["clients"] == []
    assert [one["to"] for one in fleet.json("push", "status", "desktop/stable")] == [None, None, made[1][0]]


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("runbook", "words", "client", "number"),
    [
        ("42-pin-client", ["name=c2", "snapshot={1}"], "c2", 1),
        ("43-add-to-group", ["name=lab", "clients=c1 c3"], "c3", 0),
    ],
)
def test_the_runbooks_do_it_with_nobody_there(
    made: tuple[Fleet, list[str]], fleet: Fleet, runbook: str, words: list[str], client: str, number: int
) -> None:
    _, names = made
    perform(fleet.site, "group create", name="lab", channel="desktop/stable")
    given = [part for word in [*words, "confirm=auto"] for part in ("-p", word.format(*names))]
    done = fleet.run("run", runbook, *given)
    assert done.returncode == 0, done.stderr
    assert runs(fleet.site)[client] == names[number]


# --- the check -----------------------------------------------------------------------------------------


def check(fleet: Fleet, kind: str = "") -> list[tuple[str, str]]:
    """Return the findings of ``directory check``, all or those about one kind of object.

    Not those about the change log, which tells of every change that a test before made past the product.
    """
    done = fleet.run("directory", "check", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == (1 if rows else 0), done.stderr
    assert all(row.keys() == {"object", "finding", "hint"} for row in rows)
    return [
        (row["object"], row["finding"])
        for row in rows
        if row["object"].startswith(kind) and "no record made it" not in row["finding"]
    ]


def test_a_sound_directory_is_silent(fleet: Fleet) -> None:
    for name in ("c1", "c2", "c3"):
        perform(fleet.site, "client change", name=name, channel="desktop/stable")
    perform(fleet.site, "directory acknowledge", reason="the tests before this one")
    assert check(fleet) == []


def test_history_and_findings_come_as_frames(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    from statelesskit import frames

    _, names = made
    perform(fleet.site, "push apply", channel="desktop/stable", snapshot=names[1])
    history = frames.push_history(fleet.site).set_index(["channel", "serial"])
    assert history.loc[("desktop/stable", 2), "before"] == names[0]
    assert history.loc[("desktop/stable", 2), "after"] == names[1]
    assert {"client c1", "client c2", "client c3"} == set(frames.directory_findings(fleet.site)["object"])


def test_a_borrowed_record_is_named(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    """Somebody moves a channel by ldapmodify, as a push would, and names the record of another push."""
    _, names = made
    other = perform(fleet.site, "push apply", channel="desktop/testing", snapshot=names[0])
    change = (
        f"changetype: modify\nreplace: skSerial\nskSerial: 2\n-\nreplace: skSnapshotDN\nskSnapshotDN: cn={names[1]},"
        f"cn=desktop,ou=prototypes,ou=stateless\n-\nreplace: skRecord\nskRecord: {other['record']}\n"
    )
    tool(fleet.site, "ldapmodify", stdin=f"dn: {STABLE}\n{change}")
    text = f"names the record {other['record']} of the push to serial 2, which tells of no such push"
    assert ("channel desktop/stable", text) in check(fleet)
    with open_directory(fleet.site) as directory:
        register(fleet.site, directory)  # which gives it a line in the history, and no record
    assert check(fleet, "channel") == [("channel desktop/stable", text)]


def test_a_restored_channel_has_its_line_and_its_record(
    tmp_path: Path, made: tuple[Fleet, list[str]], fleet: Fleet
) -> None:
    _, names = made
    backup = tmp_path / "backup.ldif"
    assert fleet.run("site", "backup", str(backup)).returncode == 0
    for snapshot in (names[1], names[3]):
        perform(fleet.site, "push apply", channel="desktop/stable", snapshot=snapshot)
    done = fleet.run("site", "restore", str(backup), "--json")
    assert done.returncode == 0, done.stderr
    assert fleet.pointed_at() == (names[0], 4)
    lines = fleet.json("push", "status", "desktop/stable")
    assert [(one["serial"], one["to"]) for one in lines][:2] == [(4, names[0]), (3, names[3])]
    assert lines[0]["record"] == json.loads(done.stdout)["record"]
    assert check(fleet, "channel") == []
    assert perform(fleet.site, "push rollback", channel="desktop/stable")["snapshot"] == names[3]


def test_what_nobody_needs_and_what_is_partial_is_named(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    import dataclasses

    from statelesskit.config import Retention
    from statelesskit.directory_check import check_directory
    from statelesskit.snapshot.whole import mark_of

    _, names = made
    site = dataclasses.replace(fleet.site, retention=Retention(last=1))
    perform(site, "client pin", name="c1", snapshot=names[0])
    mark_of(site, names[0]).write_text("{}")
    try:
        with open_directory(site) as directory:
            found = {one.object: one.finding for one in check_directory(site, directory)}
    finally:
        mark_of(site, names[0]).unlink()
    assert found[f"snapshot {names[0]}"] == "is partial, and channel desktop/stable points at it, as do 1 more"
    assert found[f"snapshot {names[1]}"] == "is needed by nobody, and no rule keeps it"
    assert f"snapshot {names[2]}" not in found


def test_all_that_others_broke_is_named(made: tuple[Fleet, list[str]], fleet: Fleet) -> None:
    """Each by ldapmodify, past the product."""
    _, names = made
    site = fleet.site
    gone = "cn=desktop-20200101T000000Z,cn=desktop,ou=prototypes,ou=stateless"
    where = f"cn={names[3]},cn=desktop,ou=prototypes,ou=stateless"
    perform(site, "client change", name="c3", channel="desktop/stable")
    broken = {
        f"cn=c1,{CLIENTS}": f"add: skSnapshotDN\nskSnapshotDN: {gone}\n",
        f"cn=c2,{CLIENTS}": "add: skChannelDN\nskChannelDN: cn=none,cn=desktop,ou=prototypes,ou=stateless\n",
        f"cn=t1,{CLIENTS}": f"add: skReferenceSnapshotDN\nskReferenceSnapshotDN: {gone}\n",
        STABLE: f"replace: skSnapshotDN\nskSnapshotDN: {gone}\n-\nreplace: skRecord\nskRecord: made-up\n",
        STABLE.replace("stable", "testing"): "replace: skSerial\nskSerial: 7\n",
        where: f"replace: skManifestDigest\nskManifestDigest: sha256:{'0' * 64}\n-\n"
        f"replace: skSnapshotState\nskSnapshotState: revoked\n",
    }
    tool(
        site, "ldapmodify", stdin="\n".join(f"dn: {dn}\nchangetype: modify\n{change}" for dn, change in broken.items())
    )
    tool(
        site,
        "ldapadd",
        stdin=f"dn: cn=lab,ou=groups,ou=stateless\nobjectClass: groupOfNames\nobjectClass: skAssignment\n"
        f"member: cn=ghost,{CLIENTS}\nmember: cn=anna,ou=people\nskSnapshotDN: {gone}\n\n"
        f"dn: cn=extra,cn=desktop,ou=prototypes,ou=stateless\nobjectClass: skChannel\nskSerial: 1\n\n"
        f"dn: cn=Gr\\C3\\B6\\1B[2J,{CLIENTS}\nobjectClass: device\nobjectClass: skClient\nskClientMode: live\n\n"
        f"dn: cn=desktop-20200102T000000Z,cn=desktop,ou=prototypes,ou=stateless\nobjectClass: skSnapshot\n"
        f"skManifestDigest: sha256:{'0' * 64}\nskCreated: 20200102000000Z\nskSnapshotState: staged\n"
        f"skParentSnapshotDN: {gone}\n",
    )
    rows = check(fleet)
    for about, says in (
        ("client c1", "is pinned to desktop-20200101T000000Z, which is not there"),
        ("client c1", "has nothing to run: there is no snapshot desktop-20200101T000000Z"),
        ("client c2", "follows desktop/none, which is no channel here"),
        ("client c3", "has nothing to run"),
        ("client t1", "is compared with desktop-20200101T000000Z, which is not there"),
        ("channel desktop/stable", "points at desktop-20200101T000000Z, which is not there"),
        ("channel desktop/stable", f"where its history says {names[0]}"),
        ("channel desktop/stable", "names the record made-up of the push to serial 1, which is not there"),
        ("channel desktop/testing", "has no line in its history for serial 7"),
        ("channel desktop/extra", "points at no snapshot"),
        ("channel desktop/extra", "has no record of the push to serial 1"),
        ("group lab", "has the member ghost, which is no client"),
        ("group lab", "has the member cn=anna,ou=people, which is neither client nor group"),
        ("group lab", "is pinned to desktop-20200101T000000Z"),
        ("client grö", "has a name that none of ours can be"),
        (f"snapshot {names[3]}", "has the digest sha256:000"),
        (f"snapshot {names[3]}", "is revoked in the directory, and released in the site"),
        ("snapshot desktop-20200102T000000Z", "is in the directory, but not in the site"),
        ("snapshot desktop-20200102T000000Z", "was taken after desktop-20200101T000000Z, which is not there"),
    ):
        assert any(row[0].startswith(about) and says in row[1] for row in rows), (about, says, rows)
    assert all(text.isprintable() for row in rows for text in row)
    # Made whole again for those who come after.
    with open_directory(site) as directory:
        directory.ldap.delete("cn=desktop-20200102T000000Z,cn=desktop,ou=prototypes,ou=stateless")
        directory.ldap.delete(where)
        register(site, directory)


def test_a_snapshot_that_is_deleted_meanwhile_is_not_entered_again(
    made: tuple[Fleet, list[str]], fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion falls right before, or right after, the entry is written."""
    site = fleet.site
    add = Directory.add_snapshot

    for early in (True, False):
        snapshot = str(perform(site, "snapshot take", prototype="desktop")["snapshot"])
        with open_directory(site) as directory:
            directory.remove_snapshot(snapshot)

        def slowly(self: Directory, entry: object, early: bool = early, name: str = snapshot) -> None:
            if not early:
                add(self, entry)  # type: ignore[arg-type]
            perform(site, "snapshot delete", snapshot=name)
            if early:
                add(self, entry)  # type: ignore[arg-type]

        with monkeypatch.context() as patch, open_directory(site) as directory:
            patch.setattr(Directory, "add_snapshot", slowly)
            assert register(site, directory) == []
        assert look_up(site, "ou=stateless", "dn", "sub", f"cn={snapshot}") == []


def test_what_came_to_be_needed_during_a_collection_stays(
    made: tuple[Fleet, list[str]], fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from statelesskit.actions import needed

    site, look = fleet.site, needed.look_at_fleet
    snapshot = str(perform(site, "snapshot take", prototype="desktop")["snapshot"])
    newest = str(perform(site, "snapshot take", prototype="desktop")["snapshot"])
    calls: list[int] = []

    def look_and_pin(site: Site) -> needed.Fleet:
        found = look(site)
        calls.append(1)
        if len(calls) == 2:  # between the look of the deletions and the first of them
            with open_directory(site) as directory:
                before = directory.client("c2")
                import dataclasses

                directory.change_client(before, dataclasses.replace(before, pin=snapshot))
        return found

    monkeypatch.setattr(needed, "look_at_fleet", look_and_pin)
    plan = service.plan(site, ACTIONS["snapshot collect"].check({"keep": "last=1"}))
    assert snapshot in plan.facts["delete"]
    calls.clear()
    result = perform(site, "snapshot collect", keep="last=1")
    assert result["skipped"] == {snapshot: "client c2 is pinned to it"}
    assert len(calls) == 2  # however many were deleted
    assert {snapshot, newest} <= {path.name for path in site.snapshots.iterdir()}


def test_collecting_says_how_far_a_channel_can_go_back(
    tmp_path: Path, made: tuple[Fleet, list[str]], fleet: Fleet
) -> None:
    site = fleet.site
    taken = [str(perform(site, "snapshot take", prototype="desktop")["snapshot"]) for _ in range(3)]
    for snapshot in taken:
        perform(site, "push apply", channel="desktop/stable", snapshot=snapshot)
    plan = service.plan(site, ACTIONS["snapshot collect"].check({"keep": "last=1"}))
    assert any("desktop/stable can go back to" in note for note in plan.notes), plan.notes
    assert (site.snapshots / taken[0]).exists()
