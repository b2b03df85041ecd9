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
    NoSpaceError,
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
_CUT_OFF = (
    ldap.LDAPSizeLimitExceededResult,
    ldap.LDAPTimeLimitExceededResult,
    ldap.LDAPAdminLimitExceededResult,
)
_NO_SCHEMA = (ldap.LDAPUndefinedAttributeTypeResult, ldap.LDAPObjectClassViolationResult)
# What slapd says of each, as it is in its sources: results alone do not tell.
_READ_ONLY = ("shadow context", "read-only", "restricted")
_NOT_KEPT = re.compile("(store|update|add|generation|delete|commit) fail")
_NO_TLS = ("WRONG_VERSION_NUMBER", "ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "HANDSHAKE_FAILURE")
_PROVIDER_HINT = "changes go to one provider: give its address as uri under [directory] in site.toml"
_TLS_HINT = "ldaps:// is for a port that begins with TLS, ldap:// for StartTLS; TLS 1.2 is the least"


@contextmanager
def translated(server: str, *, stranger: bool = False) -> Iterator[None]:
    """Turn what ldap3 raises into our errors, naming the server.

    Args:
        stranger: who answers has not yet shown who it is; its bytes may be anything, and so may what ldap3 raises.
    """
    try:
        yield
    except ldap.LDAPOperationResult as error:
        raise _refusal(server, error) from error
    except ldap.LDAPException as error:
        raise _break(server, error) from error
    except Exception as error:
        if not stranger:
            raise
        raise DirectoryUnavailableError(
            f"what answers at {server} is no directory server ({type(error).__name__})", hint=_TLS_HINT
        ) from error


def _refusal(server: str, error: Any) -> StatelessError:
    """Return what an answer that is no success means."""
    where, description, message = f"the directory at {server}", str(error.description), str(error.message or "")
    answered = f"{description}: {message}" if message else description
    if isinstance(error, _NOT_FOR_US):
        return DirectoryUnavailableError(
            f"{where} does not let us in: {description}",
            hint="root, the site's owner, and who was given a role may use it: statelesskit directory grant",
        )
    if isinstance(error, _CUT_OFF):
        return StatelessError(
            f"{where} did not give all there is ({answered}), so nothing of it was used",
            hint="its administrator must let us read everything: limits in slapd.conf(5)",
        )
    if isinstance(error, _NO_SCHEMA) or (message.startswith("objectClass:") and "invalid per syntax" in message):
        return DirectoryUnavailableError(
            f"{where} does not have our schema, or an old one ({answered}); nothing was changed",
            hint="statelesskit directory schema prints what must be loaded there",
        )
    match error:
        case ldap.LDAPConstraintViolationResult():
            return RefusedError(f"the directory refused the change: {message}")
        case ldap.LDAPNoSuchObjectResult():
            return DirectoryUnavailableError(f"{where} lacks its folders", hint=START_HINT)
        case ldap.LDAPBusyResult() | ldap.LDAPUnavailableResult():
            return DirectoryNotToldError(f"{where} says that it is {answered}", hint="try again in a minute")
        case ldap.LDAPReferralResult():
            return RefusedError(f"{where} sent us elsewhere (a referral), and we follow nobody", hint=_PROVIDER_HINT)
        case ldap.LDAPUnwillingToPerformResult() if any(sign in message for sign in _READ_ONLY):
            return RefusedError(f"{where} makes no changes ({message}); its provider does", hint=_PROVIDER_HINT)
        case ldap.LDAPOtherResult() if _NOT_KEPT.search(message):
            return NoSpaceError(
                f"{where} could not keep the change ({message}), most likely for want of space; nothing was changed",
                hint="free some where the server keeps its data, or raise its maxsize; its log says which",
            )
    return StatelessError(f"{where} answered {answered}")


def _break(server: str, error: Exception) -> DirectoryUnavailableError:
    """Return what it means that no answer came."""
    text = re.sub(r"""^[("']+|[,)"']+$""", "", str(error))
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = re.sub(r"^.*certificate verify failed: |\s*\(_ssl.c:\d+.*$", "", text, flags=re.DOTALL)
        return DirectoryUnavailableError(
            f"the server at {server} has no certificate we trust ({why}); nothing was sent to it",
            hint="see what listens there, and its certificate's names, end and CA (ca_file in site.toml); "
            "if it is the private server: statelesskit site stop, then site start",
        )
    if isinstance(error, ldap.LDAPStartTLSError) or any(sign in text for sign in _NO_TLS):
        return DirectoryUnavailableError(
            f"the server at {server} does not agree on TLS with us ({text}); nothing was sent to it", hint=_TLS_HINT
        )
    hint = START_HINT if server.startswith("ldapi:") else f"see whether it runs and can be reached; {_TLS_HINT}"
    if isinstance(error, ldap.LDAPSocketSendError):  # a request that is not whole is none
        return DirectoryNotToldError(f"the directory at {server} is gone ({text})", hint=hint)
    return DirectoryAwayError(f"the directory at {server} does not answer ({text})", hint=hint)
