# Generated from internal/base/errdef/table.go by "make generate". Do not edit.
"""The classes of tarn.errors, one for each error code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Error(Exception):
    """Base of every error that Tarn raises.

    code and reason are stable; the message is for people and may change. next lists what to do,
    which tracebacks show from Python 3.11 on.
    """

    code: str = "internal"

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
        next: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.reason: str = reason or self.code
        self.message: str = message
        self.details: dict[str, Any] = dict(details or {})
        self.next: tuple[str, ...] = tuple(next)
        if self.next:
            self.__notes__ = [f"  try: {one}" for one in self.next]


class InvalidArgumentError(Error):
    """What was typed or sent cannot be right."""

    code = "invalid_argument"


class AuthError(Error):
    """Who is calling is not known."""

    code = "unauthenticated"


class PermissionDeniedError(Error):
    """The caller may not do this."""

    code = "permission_denied"


class NotFoundError(Error):
    """What was named does not exist."""

    code = "not_found"


class AlreadyExistsError(Error):
    """The name is taken."""

    code = "already_exists"


class ConflictError(Error):
    """Somebody else changed it, or two changes do not fit together."""

    code = "conflict"


class PreconditionError(Error):
    """Something else must be done first."""

    code = "failed_precondition"


class ResourceExhaustedError(Error):
    """Memory, disk, quota or time slots are used up."""

    code = "resource_exhausted"


class UnavailableError(Error):
    """A server or a network cannot be reached."""

    code = "unavailable"


class DeadlineError(Error):
    """It took longer than allowed."""

    code = "deadline_exceeded"


class UserCodeError(Error):
    """The user's function failed, or a check did not pass."""

    code = "user_code"


class NotImplementedByServerError(Error):
    """This server cannot do that."""

    code = "not_implemented"


class DataLossError(Error):
    """Stored bytes are missing or not what was written."""

    code = "data_loss"


class InternalError(Error):
    """A bug in Tarn."""

    code = "internal"


class CanceledError(Error):
    """The caller stopped it."""

    code = "canceled"


CODES: dict[str, type[Error]] = {
    "invalid_argument": InvalidArgumentError,
    "unauthenticated": AuthError,
    "permission_denied": PermissionDeniedError,
    "not_found": NotFoundError,
    "already_exists": AlreadyExistsError,
    "conflict": ConflictError,
    "failed_precondition": PreconditionError,
    "resource_exhausted": ResourceExhaustedError,
    "unavailable": UnavailableError,
    "deadline_exceeded": DeadlineError,
    "user_code": UserCodeError,
    "not_implemented": NotImplementedByServerError,
    "data_loss": DataLossError,
    "internal": InternalError,
    "canceled": CanceledError,
}
