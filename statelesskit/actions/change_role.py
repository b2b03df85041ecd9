"""Give an account of the directory a role, or take one from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import surveys
from statelesskit.actions.change_account import LOCK
from statelesskit.config import Site
from statelesskit.errors import NotFoundError

ROLE = "operator, pusher:PROTOTYPE, auditor or reporter"
ACCOUNT = "an account's name; user:NAME or uid:NUMBER of this host; or dn:DN, the subject of a certificate"


@dataclass(frozen=True)
class _ChangeRole(Action):
    role: str = parameter(ROLE, positional=True)
    account: str = parameter(ACCOUNT, positional=True)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.accounts(site)

    def objects(self) -> Sequence[str]:
        return [LOCK]

    def _plan(self, site: Site, summary: str, *, given: bool) -> Plan:
        from statelesskit.directory import open_directory
        from statelesskit.directory.accounts import account_dn, accounts, role_groups, roles_of

        role_groups(self.role)
        with open_directory(site) as directory:
            dn, held = account_dn(directory, self.account), roles_of(directory, self.account)
            if given and ":" not in self.account and self.account not in accounts(directory):
                raise NotFoundError(
                    f"there is no account {self.account}",
                    hint=f"statelesskit directory account add {self.account}; a user of this host is user:NAME",
                )
        changes = (self.role in held) is not given
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=summary if changes else f"{self.account} {'has' if given else 'has not got'} the role {self.role}.",
            rows=[{"account": self.account, "dn": dn, "role": self.role, "has now": " ".join(held)}],
            facts={"dn": dn, "role": self.role, "held": held},
            changes=changes,
            guard="roles are changed by a person",
        )

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.directory import open_directory
        from statelesskit.directory.accounts import roles_of

        with open_directory(site) as directory:
            found = self.role in roles_of(directory, self.account)
        return [check(f"{self.account} has the role {self.role}", self.role not in plan.facts["held"], found)]


@dataclass(frozen=True)
class GrantRole(_ChangeRole):
    """Give an account a role: operator, pusher of a prototype, auditor or reporter."""

    verb: ClassVar[str] = "directory grant"
    title: ClassVar[str] = "Give a role"
    button: ClassVar[str] = "Give the role"

    def plan(self, site: Site) -> Plan:
        return self._plan(site, f"Give {self.account} the role {self.role}.", given=True)

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.directory.accounts import grant

        with open_directory(site) as directory:
            grant(directory, self.role, self.account)
        return {"account": self.account, "role": self.role, "dn": plan.facts["dn"]}


@dataclass(frozen=True)
class RevokeRole(_ChangeRole):
    """Take a role from an account; it is out at once, also where it is connected."""

    verb: ClassVar[str] = "directory revoke"
    title: ClassVar[str] = "Take a role"
    button: ClassVar[str] = "Take the role"

    def plan(self, site: Site) -> Plan:
        return self._plan(site, f"Take the role {self.role} from {self.account}.", given=False)

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.directory.accounts import revoke

        with open_directory(site) as directory:
            revoke(directory, self.role, self.account)
        return {"account": self.account, "role": self.role, "dn": plan.facts["dn"]}
