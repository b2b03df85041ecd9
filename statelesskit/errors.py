"""The error tree: every error says what went wrong, in which object, and how to mend it.

Library code raises these and never exits; only the command line turns one into an exit code.

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | usage: a name, value or parameter cannot be right |
| 3 | refused: policy, missing confirmation, or it would do harm |
| 4 | locked, or the world moved since the plan was made |
| 5 | timed out |
| 6 | the notebook's kernel died |
| 7 | the machine lacks something: a tool, a permission, a running directory |
| 8 | no space left |
| 9 | stored data is damaged or is not what its digest says |
| 143 | cancelled, by whichever signal |
"""

from __future__ import annotations


class StatelessError(Exception):
    """Base of all errors of this package.

    Attributes:
        hint: one sentence that says what to do about it, or "".
        exit_code: the process exit code this error stands for.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(cls: type[StatelessError], message: str, hint: str) -> StatelessError:
    return cls(message, hint=hint)


class UsageError(StatelessError, ValueError):
    """The caller asked for something that cannot be right."""

    exit_code = 2


class NameInvalidError(UsageError):
    """A name that could escape a path, a DN or a terminal."""


class ParameterError(UsageError):
    """A parameter is unknown, missing or of the wrong type."""


class NotFoundError(UsageError):
    """No object of that name."""


class ExistsError(UsageError):
    """An object of that name is already there."""


class RefusedError(StatelessError):
    """Policy or safety says no; nothing was changed."""

    exit_code = 3


class LockedError(StatelessError):
    """Somebody else is working on the object."""

    exit_code = 4


class ConflictError(StatelessError):
    """The world moved between plan and apply; nothing was changed."""

    exit_code = 4


class TimedOutError(StatelessError):
    """A deadline passed."""

    exit_code = 5


class KernelDiedError(StatelessError):
    """The process that ran a notebook's cells is gone."""

    exit_code = 6


class EnvironmentLacksError(StatelessError):
    """The machine lacks something the operation needs."""

    exit_code = 7


class MissingToolError(EnvironmentLacksError):
    """A program is not installed."""


class PermissionNeededError(EnvironmentLacksError):
    """The process may not do this."""


class ConfigError(EnvironmentLacksError):
    """The site's configuration cannot be used."""


class DirectoryUnavailableError(EnvironmentLacksError):
    """The LDAP server does not answer, or does not trust us."""


class DirectoryAwayError(DirectoryUnavailableError):
    """The LDAP server does not answer now; it may in a moment."""


class DirectoryNotToldError(DirectoryAwayError):
    """The LDAP server is away or busy, and has done nothing of what it was asked."""


class NoSpaceError(StatelessError):
    """The disk or a quota is full; what was being written was taken away again."""

    exit_code = 8


class DamagedError(StatelessError):
    """Stored bytes are not what their digest says."""

    exit_code = 9


class FormatError(DamagedError):
    """A file is not of the format it claims, or needs a newer version of this tool."""


class CommandError(StatelessError):
    """Another program failed.

    Attributes:
        argv: what was run.
        returncode: its exit status; negative for a signal.
        stderr: the end of what it printed.
    """

    def __init__(self, argv: list[str], returncode: int, stderr: str, *, hint: str = "") -> None:
        from shlex import join

        how = f"signal {-returncode}" if returncode < 0 else f"status {returncode}"
        tail = "\n".join(f"  | {line}" for line in stderr.strip().splitlines()[-15:])
        super().__init__(
            f"{argv[0]} ended with {how}; the command was:\n  {join(argv)}" + (f"\n{tail}" if tail else ""),
            hint=hint,
        )
        self.argv, self.returncode, self.stderr = argv, returncode, stderr

    def __reduce__(self) -> tuple[object, ...]:
        return (CommandError, (self.argv, self.returncode, self.stderr))


class CancelledError(StatelessError):
    """A signal asked us to stop."""

    exit_code = 143


class AuditError(StatelessError):
    """A record is altered, incomplete or cannot be read."""
