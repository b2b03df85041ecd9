"""What can go wrong between us and a directory server, said in our words, with what mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ldap3.core import exceptions as ldap

from statelesskit.directory.listening import START_HINT
from statelesskit.errors import (
    DirectoryAwayError,
    DirectoryNotToldError,
    DirectoryUnavailableError,
    RefusedError,
    StatelessError,
)

_NOT_FOR_US = (
    ldap.LDAPAuthMethodNotSupportedResult,
    ldap.LDAPInappropriateAuthenticationResult,
    ldap.LDAPInsufficientAccessRightsResult,
    ldap.LDAPInvalidCredentialsResult,
    ldap.LDAPStrongerAuthRequiredResult,
)
_READ_ONLY = ("shadow context", "read-only", "restricted")
_PROVIDER_HINT = "changes go to one provider: give its address as uri under [directory] in site.toml"
_NO_TLS = ("WRONG_VERSION_NUMBER", "ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "HANDSHAKE_FAILURE")


@contextmanager
def translated(server: str) -> Iterator[None]:
    """Turn what ldap3 raises into our errors, naming the server."""
    try:
        yield
    except ldap.LDAPOperationResult as error:
        raise _refusal(server, error) from error
    except ldap.LDAPException as error:
        raise _break(server, error) from error


def _refusal(server: str, error: Any) -> StatelessError:
    """Return what an answer that is no success means."""
    where = f"the directory at {server}"
    description, message = str(error.description), str(error.message or "")
    answered = f"{description}: {message}" if message else description
    match error:
        case ldap.LDAPConstraintViolationResult():
            return RefusedError(f"the directory refused the change: {message}")
        case ldap.LDAPNoSuchObjectResult():
            return DirectoryUnavailableError(f"{where} lacks its folders", hint=START_HINT)
        case ldap.LDAPReferralResult():
            return RefusedError(f"{where} makes no changes, or not of that; it names another", hint=_PROVIDER_HINT)
        case ldap.LDAPUnwillingToPerformResult() if any(sign in message for sign in _READ_ONLY):
            return RefusedError(f"{where} makes no changes ({message}); its provider does", hint=_PROVIDER_HINT)
        case ldap.LDAPBusyResult() | ldap.LDAPUnavailableResult():
            return DirectoryNotToldError(f"{where} says that it is {answered}", hint="try again in a minute")
    if isinstance(error, _NOT_FOR_US):
        return DirectoryUnavailableError(
            f"{where} does not let us in: {description}",
            hint="root, the site's owner, and who was given a role may use it: statelesskit directory grant",
        )
    return StatelessError(f"{where} answered {answered}")


def _break(server: str, error: Exception) -> DirectoryUnavailableError:
    """Return what it means that no answer came."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        why = re.sub(r"^.*certificate verify failed: |\s*\(_ssl.c:\d+\).*$", "", str(error), flags=re.DOTALL)
        return DirectoryUnavailableError(
            f"the server at {server} has no certificate we trust ({why}); nothing was sent to it",
            hint="see what listens there, and its certificate's names, end and CA (ca_file in site.toml); "
            "if it is the private server: statelesskit site stop, then site start",
        )
    if isinstance(error, ldap.LDAPStartTLSError) or any(sign in str(error) for sign in _NO_TLS):
        return DirectoryUnavailableError(
            f"the server at {server} does not agree on TLS with us ({error}); nothing was sent to it",
            hint="ldaps:// is for a port that begins with TLS, ldap:// for StartTLS; TLS 1.2 is the least",
        )
    if isinstance(error, ldap.LDAPSocketSendError):  # a request that is not whole is none
        return DirectoryNotToldError(f"the directory at {server} is gone ({error})", hint=START_HINT)
    return DirectoryAwayError(f"the directory at {server} does not answer ({error})", hint=START_HINT)
