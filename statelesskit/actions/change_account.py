"""Add an account to the directory, or remove one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from statelesskit import fs
from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import choices, surveys
from statelesskit.config import Site
from statelesskit.errors import ExistsError, NotFoundError
from statelesskit.names import check_name

LOCK = "directory/accounts"


def own_file(site: Site, name: str) -> Path:
    """Return where an account's password is kept when nobody says where."""
    return site.keys / f"account-{check_name(name, 'account')}"


@dataclass(frozen=True)
class AddAccount(Action):
    """Add an account that programs log in with, and write its new password to a file; it may do nothing yet."""

    verb: ClassVar[str] = "directory account add"
    title: ClassVar[str] = "Add an account"
    button: ClassVar[str] = "Add the account"

    name: str = parameter("the account's name", positional=True)
    password_file: str = parameter("the new file its password goes to (else keys/account-NAME of the site)", default="")

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.accounts(site)

    def objects(self) -> Sequence[str]:
        return [LOCK]

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory import open_directory
        from statelesskit.directory.accounts import accounts, check_new

        with open_directory(site) as directory:
            if check_name(self.name, "account") in accounts(directory):
                raise ExistsError(
                    f"there is already an account {self.name}",
                    hint=f"for a new password: statelesskit directory account remove {self.name}, then add it again",
                )
        check_new(self._file(site))
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Add the account {self.name}, with its password in {self._file(site)}.",
            rows=[{"account": self.name, "password file": str(self._file(site))}],
            facts={"account": self.name},
            notes=["it may do nothing until it gets a role: statelesskit directory grant"],
        )

    def _file(self, site: Site) -> Path:
        return Path(self.password_file).absolute() if self.password_file else own_file(site, self.name)

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.directory.accounts import account_dn, add_account

        with open_directory(site) as directory:
            add_account(directory, self.name, self._file(site))
            dn = account_dn(directory, self.name)
        return {"account": self.name, "bind_dn": dn, "password_file": str(self._file(site))}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [check(f"account {self.name}", True, self.name in choices.accounts(site))]


@dataclass(frozen=True)
class RemoveAccount(Action):
    """Take all roles from an account and remove it, with its password where the site keeps that."""

    verb: ClassVar[str] = "directory account remove"
    title: ClassVar[str] = "Remove an account"
    button: ClassVar[str] = "Remove the account"

    name: str = parameter("the account's name", positional=True, choices=choices.accounts)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.accounts(site)

    def objects(self) -> Sequence[str]:
        return [LOCK]

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory import open_directory
        from statelesskit.directory.accounts import accounts, roles_of

        with open_directory(site) as directory:
            if check_name(self.name, "account") not in accounts(directory):
                raise NotFoundError(
                    f"there is no account {self.name}", hint="`statelesskit directory roles` shows all there are"
                )
            roles = roles_of(directory, self.name)
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Remove the account {self.name}.",
            rows=[{"account": self.name, "roles": " ".join(roles)}],
            facts={"account": self.name, "roles": roles},
            guard="an account is removed by a person",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.directory.accounts import remove_account

        with open_directory(site) as directory:
            remove_account(directory, self.name)
        if own_file(site, self.name).exists():
            fs.unlink(own_file(site, self.name))
        return {"account": self.name, "roles": plan.facts["roles"]}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [check(f"account {self.name}", False, self.name in choices.accounts(site))]
