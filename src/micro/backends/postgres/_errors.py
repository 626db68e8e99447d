"""The one place where PostgreSQL's errors, and asyncpg's, become the platform's."""

from __future__ import annotations

import asyncpg

from micro.domain import errors

LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError)
"""What says that a connection is gone, or never was; a timeout is an OSError."""

FAILURES = (*LOST, asyncpg.PostgresError)

_AGAIN = ("40001", "40P01", "25006", "57P01", "57P02", "57P03", "25P03")
"""Serialization, deadlock, a server that became a replica, one that goes down or comes up, a pause that was too long:
nothing was done, and another connection may do it."""

_DENIED = ("28P01", "28000")


def is_passing(error: Exception) -> bool:
    """Whether what failed, if it surely was not done, may succeed on another connection at once."""
    if isinstance(error, asyncpg.PostgresError) and not isinstance(error, asyncpg.PostgresConnectionError):
        return error.sqlstate in _AGAIN
    return isinstance(error, LOST) and not isinstance(error, asyncpg.DataError | TimeoutError)


def is_final(error: Exception) -> bool:
    """Whether connecting again in a moment fails as well: the server is there and says no."""
    if isinstance(error, asyncpg.PostgresConnectionError | asyncpg.CannotConnectNowError):
        return False
    return isinstance(error, asyncpg.ClientConfigurationError) or (
        isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in ("28", "3D", "42")
    )


def translated(error: Exception, place: str) -> errors.Error:
    """The platform's error for one of `FAILURES`; `place` says which server, without a password."""
    subject, code = f"PostgreSQL at {place}", getattr(error, "sqlstate", None) or ""
    text = _text(error)
    if code in ("53100", "53400"):
        return errors.resource_exhausted(f"{subject} has no room left: {text}: free some, then write again")
    if code in ("XX001", "XX002", "58P01"):
        return errors.data_loss(f"{subject} found damage: {text}: restore a backup")
    if code in ("42P01", "3F000", "42703"):
        return errors.data_loss(f"{subject} has lost what micro made there: {text}: restore a backup")
    if code == "42P07":
        return errors.failed_precondition(f"{subject}: {text}, and it is not micro's: name another schema")
    if code == "42501":
        return errors.failed_precondition(f"{subject} forbids it: {text}: grant it to micro's user")
    if code in _DENIED:
        return errors.unavailable(f"{subject} refuses user or password: put the right ones into the url")
    if code == "3D000":
        return errors.unavailable(f"{subject}: {text}: create it, or name another in the url")
    if code == "53300":
        return errors.unavailable(f"{subject} takes no more connections: raise its max_connections, or try again")
    if code in ("42704", "22023"):
        return errors.unavailable(f"{subject}: {text}: mend the settings in the url")
    if code in ("40001", "40P01"):
        return errors.unavailable(f"{subject} let another change go first: {text}: try again")
    if isinstance(error, asyncpg.ClientConfigurationError):  # its text may hold what was in the url
        return errors.unavailable(f"{subject}: the url's settings make no sense: see PostgreSQL's connection URIs")
    if isinstance(error, asyncpg.DataError):
        return errors.internal(f"{subject}: {text}")
    if isinstance(error, LOST) or code in _AGAIN or code[:2] in ("08", "53", "57", "58"):
        return errors.unavailable(f"{subject} cannot be reached: {text}: is it running?")
    return errors.internal(f"{subject}: {text} ({code})")


def _text(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return " ".join(str(error).split()) or type(error).__name__
