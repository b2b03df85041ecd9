"""The schema of the fleet directory, defined once and rendered for the server that shall load it.

Numbers are part of the OIDs: they are never reused and never changed. The arc is a UUID's
(ITU-T X.667), which needs no registration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from statelesskit.directory.model import LEVELS, MODES, STATES

VERSION = 2  # kept in the top entry; raised when an older tool could misread or harm what is stored
ARC = "2.25.289059458453508193287196442447855396167"


class Kind(Enum):
    """What an attribute's values are: equality rule, ordering rule, syntax."""

    DN = ("distinguishedNameMatch", "", "1.3.6.1.4.1.1466.115.121.1.12")
    TEXT = ("caseExactMatch", "", "1.3.6.1.4.1.1466.115.121.1.15")
    ASCII = ("caseExactIA5Match", "", "1.3.6.1.4.1.1466.115.121.1.26")
    WORD = ("caseIgnoreIA5Match", "", "1.3.6.1.4.1.1466.115.121.1.26")
    INTEGER = ("integerMatch", "integerOrderingMatch", "1.3.6.1.4.1.1466.115.121.1.27")
    TIME = ("generalizedTimeMatch", "generalizedTimeOrderingMatch", "1.3.6.1.4.1.1466.115.121.1.24")
    UUID = ("UUIDMatch", "UUIDOrderingMatch", "1.3.6.1.1.16.1")


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute type."""

    number: int
    name: str
    kind: Kind
    description: str
    many: bool = False

    def render(self) -> str:
        """Return its description in the notation of RFC 4512, section 4.1.2."""
        equality, ordering, syntax = self.kind.value
        words = [f"{ARC}.1.{self.number} NAME '{self.name}'", f"DESC '{self.description}'", f"EQUALITY {equality}"]
        if ordering:
            words.append(f"ORDERING {ordering}")
        words.append(f"SYNTAX {syntax}")
        if not self.many:
            words.append("SINGLE-VALUE")
        return f"( {' '.join(words)} )"


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """An object class; ``must`` and ``may`` are attribute names separated by spaces."""

    number: int
    name: str
    kind: str
    description: str
    must: str = ""
    may: str = ""
    parent: str = "top"

    def render(self) -> str:
        """Return its description in the notation of RFC 4512, section 4.1.1."""
        words = [f"{ARC}.2.{self.number} NAME '{self.name}'", f"DESC '{self.description}'"]
        words.append(f"SUP {self.parent} {self.kind}")
        words += [f"{rule} ( {' $ '.join(names.split())} )" for rule, names in self.rules() if names]
        return f"( {' '.join(words)} )"

    def rules(self) -> tuple[tuple[str, str], ...]:
        return ("MUST", self.must), ("MAY", self.may)


ATTRIBUTES = (
    Attribute(1, "skPrototypeDN", Kind.DN, "prototype of a snapshot"),
    Attribute(2, "skSnapshotDN", Kind.DN, "snapshot that shall run"),
    Attribute(3, "skPreviousSnapshotDN", Kind.DN, "snapshot that ran before; target of a rollback"),
    Attribute(4, "skChannelDN", Kind.DN, "channel that is followed"),
    Attribute(5, "skParentSnapshotDN", Kind.DN, "snapshot this one was taken after"),
    Attribute(6, "skRootPath", Kind.ASCII, "absolute path of the root of a prototype on its server"),
    Attribute(7, "skManifestDigest", Kind.WORD, "sha256:hex of the manifest"),
    Attribute(8, "skSnapshotState", Kind.WORD, " ".join(STATES)),
    Attribute(9, "skCreated", Kind.TIME, "when it was made"),
    Attribute(10, "skKernelRelease", Kind.ASCII, "kernel a snapshot holds, as uname -r says it", many=True),
    Attribute(11, "skSize", Kind.INTEGER, "bytes of all files"),
    Attribute(12, "skFileCount", Kind.INTEGER, "number of files"),
    Attribute(13, "skArtifact", Kind.TEXT, "kind, digest and URI of an export", many=True),
    Attribute(14, "skClientMode", Kind.WORD, " ".join(MODES)),
    Attribute(15, "skKernelArg", Kind.ASCII, "one kernel argument", many=True),
    Attribute(16, "skStateURI", Kind.ASCII, "where the persistent state of one client is kept"),
    Attribute(17, "skStatePath", Kind.ASCII, "mode, space, absolute path that persists", many=True),
    Attribute(18, "skCacheDevice", Kind.ASCII, "disk that holds the deployments"),
    Attribute(19, "skSyncPolicy", Kind.WORD, "when a caching client pulls"),
    Attribute(20, "skHomePolicy", Kind.WORD, "nfs cached local none"),
    Attribute(21, "skHardwareUUID", Kind.UUID, "product UUID of a machine"),
    Attribute(22, "skRunningSnapshotDN", Kind.DN, "snapshot a client says it runs"),
    Attribute(23, "skCachedSnapshotDN", Kind.DN, "snapshot a client says it holds", many=True),
    Attribute(24, "skLastSeen", Kind.TIME, "when a client last reported"),
    Attribute(25, "skLastResult", Kind.WORD, "how that went"),
    Attribute(26, "skSerial", Kind.INTEGER, "raised by one with every move; guards it"),
    Attribute(27, "skRecord", Kind.TEXT, "name of the audit record of the last change"),
    Attribute(28, "skPriority", Kind.INTEGER, "of several groups the lowest decides"),
    Attribute(29, "skTargetDN", Kind.DN, "whom a push was meant for", many=True),
    Attribute(30, "skArch", Kind.WORD, "architecture, as uname -m says it"),
    Attribute(31, "skMovedBy", Kind.TEXT, "who moved a channel last"),
    Attribute(32, "skMovedAt", Kind.TIME, "when a channel was moved last"),
    Attribute(33, "skSchemaVersion", Kind.INTEGER, "version of this schema the entries below follow"),
    Attribute(34, "skReferenceSnapshotDN", Kind.DN, "snapshot a thick client is compared with, never told to run"),
    Attribute(35, "skOverlayBytes", Kind.INTEGER, "bytes a client has written over its root"),
    Attribute(36, "skOverlayLimit", Kind.INTEGER, "bytes a client can write over its root"),
    Attribute(37, "skLevel", Kind.WORD, " ".join(LEVELS)),
    Attribute(38, "skKey", Kind.ASCII, "public key a client signs its reports with, as OpenSSH writes it"),
    Attribute(39, "skEnrolment", Kind.ASCII, "hash of the token that lets a client enrol once, space, until when"),
)

CLASSES = (
    ObjectClass(
        1, "skPrototype", "STRUCTURAL", "an editable root tree", "cn",
        "description owner skArch skRootPath skStatePath skKernelArg",
    ),
    ObjectClass(
        2, "skSnapshot", "STRUCTURAL", "an immutable point in time of a prototype",
        "cn skManifestDigest skCreated skSnapshotState",
        "description owner skPrototypeDN skParentSnapshotDN skKernelRelease skSize skFileCount skArtifact skRecord"
        " skStatePath skArch",
    ),
    ObjectClass(
        3, "skChannel", "STRUCTURAL", "a named pointer to a snapshot", "cn skSerial",
        "description skSnapshotDN skPreviousSnapshotDN skMovedBy skMovedAt skRecord",
    ),
    ObjectClass(
        4, "skAssignment", "AUXILIARY", "which snapshot shall run; on groups and clients",
        may="skChannelDN skSnapshotDN skPriority skKernelArg skHomePolicy skSyncPolicy",
    ),
    ObjectClass(
        5, "skClient", "AUXILIARY", "a machine", "skClientMode",
        "skStateURI skStatePath skCacheDevice skHardwareUUID skReferenceSnapshotDN", parent="skAssignment",
    ),
    ObjectClass(
        6, "skClientStatus", "STRUCTURAL", "what a client reports; a child of its entry", "cn",
        "skRunningSnapshotDN skCachedSnapshotDN skLastSeen skLastResult skSerial skManifestDigest skOverlayBytes"
        " skOverlayLimit skLevel skKey skEnrolment",
    ),
    ObjectClass(
        7, "skPush", "STRUCTURAL", "a channel moved to another snapshot", "cn skCreated",
        "description skChannelDN skSnapshotDN skPreviousSnapshotDN skTargetDN skRecord skLastResult owner skSerial"
        " skMovedBy",
    ),
    ObjectClass(
        8, "skDirectory", "STRUCTURAL", "the top of a fleet directory", "skSchemaVersion", "ou dc o cn description",
    ),
)  # fmt: skip


def openldap_schema() -> str:
    """Return the text of an OpenLDAP ``.schema`` file; it needs core.schema before it."""
    lines = [f"# Made by statelesskit, schema version {VERSION}; changes here are overwritten."]
    lines += [f"attributetype {attribute.render()}" for attribute in ATTRIBUTES]
    lines += [f"objectclass {item.render()}" for item in CLASSES]
    return "\n".join(lines) + "\n"


def config_ldif() -> str:
    """Return the entry that loads the schema into an OpenLDAP of cn=config, for ``ldapadd``."""
    lines = [
        "dn: cn=statelesskit,cn=schema,cn=config",
        "objectClass: olcSchemaConfig",
        "cn: statelesskit",
        *(f"olcAttributeTypes: {attribute.render()}" for attribute in ATTRIBUTES),
        *(f"olcObjectClasses: {item.render()}" for item in CLASSES),
    ]
    return "\n".join(lines) + "\n"


def ds389_ldif() -> str:
    """Return a schema file of 389 Directory Server; its place is ``schema/99statelesskit.ldif`` of the instance."""
    lines = [
        "dn: cn=schema",
        *(f"attributeTypes: {_from_here(attribute.render())}" for attribute in ATTRIBUTES),
        *(f"objectClasses: {_from_here(item.render())}" for item in CLASSES),
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Lacks:
    """What a server's schema lacks of ours: names of what it does not know, and of classes that differ."""

    unknown: tuple[str, ...] = ()
    older: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.unknown or self.older)


def compare(attribute_types: Iterable[str], object_classes: Iterable[str]) -> Lacks:
    """Hold what a server says of its schema (RFC 4512, section 4.2) against ours."""
    numbers = {text.strip("( ").partition(" ")[0] for text in attribute_types}
    classes = {text.strip("( ").partition(" ")[0]: _words(text) for text in object_classes}
    unknown = [one.name for one in ATTRIBUTES if f"{ARC}.1.{one.number}" not in numbers]
    unknown += [one.name for one in CLASSES if f"{ARC}.2.{one.number}" not in classes]
    older = [
        one.name
        for one in CLASSES
        if one.name not in unknown and not _words(f"{one.must} {one.may}") <= classes[f"{ARC}.2.{one.number}"]
    ]
    return Lacks(tuple(unknown), tuple(older))


def _words(text: str) -> set[str]:
    return set(re.findall("[a-z0-9]+", text.lower()))


def _from_here(description: str) -> str:
    return description.removesuffix(" )") + " X-ORIGIN 'statelesskit' )"
