"""Perform an action in this process: lock, plan, hold it against what was confirmed, apply, verify, record."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from statelesskit.action import Action, Plan, Work
from statelesskit.audit.keys import PRIVATE, load_private
from statelesskit.audit.records import Record
from statelesskit.config import Site
from statelesskit.directory.authorship import Author, in_the_name_of, new_key
from statelesskit.errors import CancelledError, ConflictError, RefusedError, StatelessError
from statelesskit.fs import canonical_json
from statelesskit.lock import held, user_name
from statelesskit.progress import SILENT, Progress
from statelesskit.progress import shown as shown_by
from statelesskit.publish.following import boot_scripts_follow
from statelesskit.witness import tell_witness

AT_ONCE = "at once"  # a person at the command line, who gives no digest and wants no second look
AUTO = "auto"  # nobody is looking: within the site's policy only
STOPPING = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an action.

    Attributes:
        record: the name of the record that is evidence of it.
        checks: the rows of :meth:`Action.verify`.
    """

    plan: Plan
    result: Mapping[str, Any]
    checks: list[dict[str, Any]]
    record: str


def perform_recorded(
    site: Site,
    action: Action,
    confirm: str,
    progress: Progress = SILENT,
    *,
    caller: Mapping[str, Any] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Outcome:
    """Do what an action says, with a record of its own; see :func:`statelesskit.service.perform`.

    Args:
        caller: what the record's begin tells of who asked, if that is not this process.
        check: raises what is wrong with it before anything is looked at; that is recorded.
    """
    facts = {"parameters": action.as_parameters(), **(caller or {})}
    record = Record.begin(site.records, action.verb, facts=facts)
    key = site.keys / PRIVATE
    try:
        with stopped_by_signals():
            check()
            outcome = perform_in(record, site, action, confirm, progress)
    except BaseException as error:
        state, code, text = ending_of(error)
        # Where even that can't be written the record stays without an end, and reads as lost; what the
        # person is told is why the action itself ended.
        with suppress(StatelessError, OSError):
            record.end(state, code, key=key, error=text)
        tell_witness(site)
        raise
    with _after_it_was_done(action, record):
        record.end("completed", 0, key=key, changes=outcome.plan.summary)
    tell_witness(site)
    return outcome


def perform_in(record: Record, site: Site, action: Action, confirm: str, progress: Progress = SILENT) -> Outcome:
    """Do what an action says as a part of the run that has that record."""
    with ExitStack() as locks:
        locks.enter_context(shown_by(progress))
        shared = dict.fromkeys(action.uses(), True) | dict.fromkeys(action.objects(), False)
        for name in sorted(shared):  # all in one order, so that two never wait for each other
            what, _, rest = name.partition("/")
            doing = f"{action.verb} ({record.name})"
            locks.enter_context(held(site.lock_file(name), what=f"the {what} {rest}", doing=doing, shared=shared[name]))
        plan = action.plan(site)
        record.attach("plan.json", canonical_json(plan.as_json()) + b"\n")
        record.event("plan", digest=plan.digest, summary=plan.summary, changes=plan.changes)
        check_confirmed(plan, confirm)
        record.event("confirmed", by=user_name(), how=confirm)
        if plan.changes:
            load_private(site.keys / PRIVATE)  # nothing is changed whose evidence could not be sealed
            # With this and no "applied" after it, a run that was stopped may have done it or not.
            named = _named_in(record)
            author = Author(lambda: named)
            try:
                with in_the_name_of(author):
                    result = action.apply(site, plan, Work(user_name(), record.name, progress))
            finally:  # also when it failed: the directory may have been changed before that
                followed = boot_scripts_follow(site, author.changes)
        else:
            result = action.unchanged(plan)
        result = {**result, "changed": plan.changes}
        with _after_it_was_done(action, record) if plan.changes else nullcontext():
            record.event("applied", result=result)
            checks = [*action.verify(site, plan, result), *followed] if plan.changes else []
            record.event("verified", checks=checks, ok=all(row["ok"] for row in checks))
    if wrong := [row for row in checks if not row["ok"]]:
        shown = "; ".join(f"{row['check']}: expected {row['expected']}, found {row['found']}" for row in wrong[:5])
        raise StatelessError(
            f"{action.verb} was applied, but afterwards the world is not as planned: {shown}",
            hint=f"look at the record {record.name}: somebody may have changed the same thing at the same moment",
        )
    return Outcome(plan, result, checks, record.name)


def _named_in(record: Record) -> tuple[str, bytes]:
    """Say that now things change, and with which key the record's changes of the directory can be told."""
    key = new_key()
    record.event("applying", directory_key=key.hex())
    return record.name, key


@contextmanager
def recorded_if_changed(site: Site, what: str) -> Iterator[None]:
    """Have what a block that is no action changes in the directory leave a record; if nothing, there is none."""
    begun: list[Record] = []
    key = site.keys / PRIVATE

    def begin() -> tuple[str, bytes]:
        load_private(key)
        begun.append(Record.begin(site.records, what, facts={}))
        return _named_in(begun[0])

    try:
        with in_the_name_of(Author(begin)):
            yield
    except BaseException as error:
        state, code, text = ending_of(error)
        with suppress(StatelessError, OSError):
            for record in begun:
                record.end(state, code, key=key, error=text)
        raise
    for record in begun:
        record.end("completed", 0, key=key, changes="The directory was brought up to date.")


@contextmanager
def _after_it_was_done(action: Action, record: Record) -> Iterator[None]:
    """Have an error that comes too late to undo anything say so, whatever its own hint promises."""
    try:
        yield
    except StatelessError as error:
        error.message = f"{action.verb} was applied, but {record.name} could not be completed: {error.message}"
        error.hint = "mend that, then look at what is there now; doing it again is not needed"
        raise


def check_confirmed(plan: Plan, confirm: str) -> None:
    """Hold a plan against the confirmation.

    Raises:
        RefusedError: there is none, or policy does not let this plan run on its own.
        ConflictError: another plan was confirmed.
    """
    if not confirm:
        raise RefusedError(
            f"not confirmed: {plan.summary}", hint=f"run it again with confirm={plan.digest} to do just this"
        )
    if confirm == AUTO and plan.guard and plan.changes:
        raise RefusedError(f"confirm=auto is not enough: {plan.guard}", hint=f"confirm this plan: {plan.digest}")
    if confirm not in (AUTO, AT_ONCE) and not plan.confirmed_by(confirm):
        raise ConflictError(
            f"the plan is no longer the one that was confirmed: {plan.summary}",
            hint=f"read the new plan; its digest is {plan.digest}",
        )


def ending_of(error: BaseException) -> tuple[str, int, str]:
    """Return the state, the exit code and the text a record ends with when this was raised."""
    if isinstance(error, (KeyboardInterrupt, CancelledError)):
        return "cancelled", CancelledError.exit_code, "stopped by a signal"
    if isinstance(error, StatelessError):
        refused = isinstance(error, RefusedError) or error.exit_code in (2, 4)
        return "refused" if refused else "failed", error.exit_code, str(error)
    return "failed", 1, f"{type(error).__name__}: {error}"


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Turn the signals that ask us to stop into KeyboardInterrupt, so that everything is cleaned up.

    It is no Exception, which a library might catch and hide in one of its own.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    try:
        before = {number: signal.signal(number, stop) for number in STOPPING}
    except ValueError:  # not in the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
