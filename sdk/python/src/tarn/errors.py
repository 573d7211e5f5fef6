"""Errors that Tarn raises, one class for each error code; `except tarn.Error` catches all."""

from __future__ import annotations

from tarn._errors_gen import *  # noqa: F403
from tarn._errors_gen import CODES as CODES
from tarn._errors_gen import Error as Error
from tarn._errors_gen import UserCodeError


class RunFailed(UserCodeError):
    """A run did not succeed. `details` has the run's id, its state and the failed steps."""


class RemoteError(UserCodeError):
    """A function raised what is no exception here: its class cannot be imported, or not be made again.
    `details` has its class, module and traceback."""


for _kind in (Error, *CODES.values()):
    _kind.__module__ = __name__  # as tracebacks show it
