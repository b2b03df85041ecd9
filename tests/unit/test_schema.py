"""The schema is consistent in itself, and loading the package does not load ldap3."""

import subprocess
import sys

import pytest

from statelesskit.directory.model import MODES, STATES
from statelesskit.directory.schema import ARC, ATTRIBUTES, CLASSES, Attribute, Kind, ObjectClass, openldap_schema

FROM_CORE = {"cn", "dc", "description", "o", "ou", "owner"}


@pytest.mark.parametrize("items", [ATTRIBUTES, CLASSES])
def test_numbers_and_names_are_unique(items: tuple[Attribute, ...] | tuple[ObjectClass, ...]) -> None:
    assert len({item.number for item in items}) == len({item.name.lower() for item in items}) == len(items)


def test_classes_use_what_is_defined() -> None:
    known = {attribute.name for attribute in ATTRIBUTES} | FROM_CORE
    for item in CLASSES:
        assert set(f"{item.must} {item.may}".split()) <= known
        assert item.parent in {"top", *(other.name for other in CLASSES)}


def test_every_attribute_has_a_use() -> None:
    used = set(" ".join(f"{item.must} {item.may}" for item in CLASSES).split())
    assert {attribute.name for attribute in ATTRIBUTES} <= used


def test_descriptions_need_no_escapes() -> None:
    for item in (*ATTRIBUTES, *CLASSES):
        assert item.description
        assert not set("'\\\n") & set(item.description)


def test_words_of_the_model_are_named() -> None:
    described = {attribute.name: attribute.description for attribute in ATTRIBUTES}
    assert described["skClientMode"].split() == list(MODES)
    assert described["skSnapshotState"].split() == list(STATES)


def test_rendering() -> None:
    attribute = Attribute(26, "skSerial", Kind.INTEGER, "a number")
    assert attribute.render() == (
        f"( {ARC}.1.26 NAME 'skSerial' DESC 'a number' EQUALITY integerMatch ORDERING integerOrderingMatch"
        " SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )"
    )
    item = ObjectClass(5, "skClient", "AUXILIARY", "a machine", "skClientMode", "skSerial cn", parent="skAssignment")
    assert item.render() == (
        f"( {ARC}.2.5 NAME 'skClient' DESC 'a machine' SUP skAssignment AUXILIARY"
        " MUST ( skClientMode ) MAY ( skSerial $ cn ) )"
    )
    assert len(openldap_schema().splitlines()) == 1 + len(ATTRIBUTES) + len(CLASSES)


def test_import_is_light() -> None:
    code = (
        "import sys\n"
        "from statelesskit import directory\n"
        "from statelesskit.directory import Assignment, Client, assignments, resolve, slapd\n"
        "heavy = {'ldap3', 'cryptography', 'pandas', 'ssl'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_unknown_name_is_an_attribute_error() -> None:
    from statelesskit import directory

    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = directory.Clint
