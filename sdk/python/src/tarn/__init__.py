"""Tarn: functions over versioned tables and files.

Declare assets and checks with decorators, run them with `tarn run`, read the results with
`tarn.Client()` or `tarn.table(...)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tarn._context import Context
from tarn._declare import (
    CheckResult,
    Concurrency,
    Env,
    OutputDir,
    Partition,
    Resources,
    Retry,
    cross,
    daily,
    files,
    hourly,
    join,
    keys,
    local,
    monthly,
    secret,
    table,
    union,
    weekly,
)
from tarn._function import asset, check, cls, command, enter, entrypoint, exit, function, method

__all__ = [
    "AsyncClient",
    "CheckResult",
    "Client",
    "Concurrency",
    "Context",
    "Env",
    "Error",
    "FunctionCall",
    "OutputDir",
    "Partition",
    "RemoteError",
    "Resources",
    "Retry",
    "RunFailed",
    "asset",
    "check",
    "cls",
    "command",
    "cross",
    "daily",
    "enter",
    "entrypoint",
    "errors",
    "exit",
    "files",
    "function",
    "gather",
    "hourly",
    "join",
    "keys",
    "local",
    "method",
    "monthly",
    "secret",
    "table",
    "union",
    "weekly",
]

# Sandboxes import tarn once per step: what talks to a server is loaded when it is asked for.
_LATER = {
    "AsyncClient": "tarn._aio", "Client": "tarn._client", "Error": "tarn.errors", "FunctionCall": "tarn._remote", "RemoteError": "tarn.errors",
    "RunFailed": "tarn.errors", "errors": "tarn.errors", "gather": "tarn._remote",
}  # fmt: skip

if TYPE_CHECKING:
    from tarn import errors
    from tarn._aio import AsyncClient
    from tarn._client import Client
    from tarn._remote import FunctionCall, gather
    from tarn.errors import Error, RemoteError, RunFailed

else:  # hidden from type checkers, for which every name would exist then

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'tarn' has no attribute {name!r}")
        import importlib

        module = importlib.import_module(_LATER[name])
        value = module if name == "errors" else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return list(__all__)
