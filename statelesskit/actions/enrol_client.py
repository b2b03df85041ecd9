"""Let a client enrol, so that its reports are known to be its own."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit import scrub
from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import choices, surveys
from statelesskit.config import Site
from statelesskit.errors import NotFoundError
from statelesskit.names import check_name


@dataclass(frozen=True)
class EnrolClient(Action):
    """Make a token with which a client registers its key at the report door, once and within 24 hours.

    The token is shown once and kept nowhere; the directory has its hash. A key the client has stands until the
    token is used.
    """

    verb: ClassVar[str] = "client enrol"
    title: ClassVar[str] = "Let a client enrol"
    button: ClassVar[str] = "Make a token"

    name: str = parameter("the client", positional=True, choices=choices.clients)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.fleet(site)

    def objects(self) -> Sequence[str]:
        return [f"client/{check_name(self.name, 'client')}"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory import open_directory
        from statelesskit.directory.reported import standings

        with open_directory(site) as directory:
            found = standings(directory, [check_name(self.name, "client")]).get(self.name)
        if found is None:
            raise NotFoundError(
                f"there is no client {self.name}", hint="`statelesskit client list` shows all there are"
            )
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Make a token with which {self.name} registers {'another' if found.key else 'a'} key.",
            rows=[{"client": self.name, "key": found.key, "token is out": bool(found.enrolment)}],
            facts={"client": self.name, "key": found.key, "enrolment": found.enrolment},
            notes=["reports in its name that its key did not sign are refused from then on"],
            guard="a person approves a client",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from datetime import UTC, datetime

        from statelesskit.directory import open_directory
        from statelesskit.directory.reported import allow_enrolment
        from statelesskit.reports.judging import enrolment_text

        token = secrets.token_urlsafe(32)
        scrub.learn(token)  # so that no record, log or page gets it
        kept = enrolment_text(token, datetime.now(UTC))
        with open_directory(site) as directory:
            allow_enrolment(directory, self.name, kept)
        return {"client": self.name, "token": token, "good_until": kept.partition(" ")[2]}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.directory import open_directory
        from statelesskit.directory.reported import standings

        with open_directory(site) as directory:
            found = standings(directory, [self.name]).get(self.name)
        until = found.enrolment.partition(" ")[2] if found else ""
        return [check(f"a token of {self.name} is out until", result["good_until"], until)]
