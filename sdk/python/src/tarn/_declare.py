"""What a pipeline file declares: environments, inputs, options.

These are plain values. Nothing here does I/O, and nothing is checked later that can be checked when
the value is made, so that the traceback points at the user's line.
"""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, Iterable, Mapping, Optional, Sequence, Tuple, Union

from tarn import _units

if TYPE_CHECKING:
    from pathlib import Path


def choice(value: Any, allowed: Sequence[str], what: str) -> str:
    """Return value, or raise an error that names the nearest allowed one."""
    if value in allowed:
        return str(value)
    from difflib import get_close_matches  # not with the module: `import tarn` is to stay fast

    near = get_close_matches(str(value), allowed, 1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{what}={value!r} is not known. {hint}Allowed: {', '.join(map(repr, allowed))}.")


def strings(value: Union[str, Iterable[str], None], what: str) -> Tuple[str, ...]:
    """A tuple of strings; one string alone counts as one element."""
    if value is None:
        return ()
    found = (value,) if isinstance(value, str) else tuple(value)
    for item in found:
        if not isinstance(item, str) or not item.strip():
            raise TypeError(f"{what} must be strings, got {item!r}.")
    return found


@dataclass(frozen=True)
class Env:
    """The environment of a function: `tarn.Env(python="3.11", packages=["pandas==2.2.3"])`.

    A package of the project itself is a path, as seen from the project's folder: `"./libs/geo"`, or a wheel.
    `constraints` bound what packages bring along, like `["numpy<2"]`, without asking for it.
    """

    python: Optional[str] = None
    packages: Sequence[str] = ()
    vars: Mapping[str, str] = field(default_factory=dict)
    build: bool = False
    constraints: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.python is not None and not isinstance(self.python, str):
            raise TypeError(f'python={self.python!r} must be text, like "3.11": 3.10 as a number is 3.1.')
        object.__setattr__(self, "packages", strings(self.packages, "packages"))
        object.__setattr__(self, "constraints", strings(self.constraints, "constraints"))
        object.__setattr__(self, "vars", {str(k): str(v) for k, v in dict(self.vars).items()})

    def __hash__(self) -> int:
        return hash((self.python, self.packages, tuple(sorted(self.vars.items())), self.build, self.constraints))

    def add(self, *packages: str) -> Env:
        """The same environment with more packages."""
        return Env(self.python, (*self.packages, *strings(packages, "packages")), self.vars, self.build, self.constraints)


@dataclass(frozen=True)
class Resources:
    """What a function may use, and has kept for it while it runs: `tarn.Resources(cpu=2, memory="2GiB", gpu="H100:2", disk="10GiB")`.

    `memory` and `disk` are bytes, or a text with a unit; `disk` counts its results and whatever else it writes. A step, or an input of a
    call, begins when the machine has as much left beside what others asked for; one that asks for more than there is runs alone.
    """

    cpu: Optional[float] = None
    memory: Union[str, int, None] = None
    gpu: Union[str, int, None] = None
    disk: Union[str, int, None] = None

    def __post_init__(self) -> None:
        if self.cpu is not None and not (isinstance(self.cpu, (int, float)) and self.cpu > 0):
            raise ValueError(f"cpu={self.cpu!r} must be a positive number of cores.")
        for name in ("memory", "disk"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _units.size(getattr(self, name), name))
        if self.gpu is not None:
            object.__setattr__(self, "gpu", str(self.gpu))


@dataclass(frozen=True)
class Retry:
    """When a failed attempt is tried again: `tarn.Retry(times=3, on=(TimeoutError,), delay="1s")`.

    The first wait is `delay`, each further one `backoff` times as long, `max_delay` at most. Chance takes up to
    the share `jitter` off each, so that what failed together does not come back together.
    """

    times: int = 3
    on: Tuple[type, ...] = (Exception,)
    delay: Union[str, float] = 1.0
    backoff: float = 2.0
    max_delay: Union[str, float] = 60.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        if not isinstance(self.times, int) or isinstance(self.times, bool) or self.times < 0:
            raise ValueError(f"times={self.times!r} must be a number of attempts, 0 or more.")
        on = self.on if isinstance(self.on, tuple) else (self.on,)
        for kind in on:
            if not isinstance(kind, type):
                raise TypeError(f"on={kind!r} must be exception classes.")
        object.__setattr__(self, "on", on)
        object.__setattr__(self, "delay", _units.seconds(self.delay, "delay"))
        object.__setattr__(self, "max_delay", _units.seconds(self.max_delay, "max_delay"))
        if not isinstance(self.backoff, (int, float)) or self.backoff < 1:
            raise ValueError(f"backoff={self.backoff!r} must be 1 or more.")
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, (int, float)) or not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter={self.jitter!r} must be a share of the delay, from 0 to 1.")


@dataclass(frozen=True)
class Concurrency:
    """How many at a time, of all functions that name the key: `concurrency=tarn.Concurrency(4, key="api.example.com")`.

    It holds for the whole project: for all runs and calls, whoever made them.
    """

    limit: int
    key: str

    def __post_init__(self) -> None:
        if not isinstance(self.limit, int) or isinstance(self.limit, bool) or self.limit < 1:
            raise ValueError(f"limit={self.limit!r} must be a number, 1 or more.")
        strings(self.key, "key")
        if not isinstance(self.key, str):
            raise TypeError(f"key={self.key!r} must be text: the name of what is limited.")


@dataclass(frozen=True)
class CheckResult:
    """What a check found, in its own words: `tarn.CheckResult(False, "two suns", rows=frame)`."""

    passed: bool
    message: str = ""
    rows: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Partitions:
    """A partitioning; made by `tarn.daily`, `hourly`, `weekly`, `monthly` and `keys`."""

    kind: str
    start: Optional[str] = None
    by: Optional[str] = None
    timezone: str = "UTC"
    lookback: int = 0
    keys: Tuple[str, ...] = ()
    name: Optional[str] = None


def _calendar(kind: str, start: str, by: Optional[str], timezone: str, lookback: int) -> Partitions:
    from datetime import datetime

    try:
        datetime.fromisoformat(start)
    except (TypeError, ValueError):
        raise ValueError(f"{kind}({start!r}): the start must be a date like '2024-01-01'.") from None
    if not isinstance(lookback, int) or lookback < 0:
        raise ValueError(f"lookback={lookback!r} must be a number of partitions, 0 or more.")
    return Partitions(kind, start, by, timezone, lookback)


def daily(start: str, *, by: Optional[str] = None, timezone: str = "UTC", lookback: int = 0) -> Partitions:
    """One partition a day from `start` on."""
    return _calendar("daily", start, by, timezone, lookback)


def hourly(start: str, *, by: Optional[str] = None, timezone: str = "UTC", lookback: int = 0) -> Partitions:
    """One partition an hour from `start` on."""
    return _calendar("hourly", start, by, timezone, lookback)


def weekly(start: str, *, by: Optional[str] = None, timezone: str = "UTC", lookback: int = 0) -> Partitions:
    """One partition a week from `start` on."""
    return _calendar("weekly", start, by, timezone, lookback)


def monthly(start: str, *, by: Optional[str] = None, timezone: str = "UTC", lookback: int = 0) -> Partitions:
    """One partition a month from `start` on."""
    return _calendar("monthly", start, by, timezone, lookback)


def keys(values: Union[str, Iterable[str]], *, by: Optional[str] = None) -> Partitions:
    """Partitions by key: a fixed list, or the name of a set that grows."""
    if isinstance(values, str):
        return Partitions("keys", by=by, name=values)
    return Partitions("keys", by=by, keys=strings(values, "keys"))


@dataclass(frozen=True)
class Items:
    """How the items of several inputs combine; made by `tarn.cross`, `tarn.join` and `tarn.union`."""

    kind: str
    on: Tuple[str, ...] = ()
    how: str = "inner"


def cross() -> Items:
    """Each item of one input with each item of the other."""
    return Items("cross")


def join(on: Union[str, Iterable[str]], how: str = "inner") -> Items:
    """Items of both inputs that agree in `on`."""
    return Items("join", strings(on, "on"), choice(how, ("inner", "left", "outer"), "how"))


def union() -> Items:
    """The items of both inputs, one after the other."""
    return Items("union")


class Marker:
    """An input declaration. It says where a parameter comes from and is never the data itself."""


@dataclass(frozen=True)
class Table(Marker):
    """A table of the project; made by `tarn.table`."""

    name: Optional[str] = None
    ref: Optional[str] = None
    columns: Optional[Tuple[str, ...]] = None
    where: Optional[str] = None
    rows: Optional[str] = None
    each: Optional[str] = None
    batch: Optional[int] = None

    def _read(self) -> Any:
        from tarn import Client

        if self.name is None:
            raise TypeError("tarn.table() outside a function needs a name: tarn.table('flights').")
        return Client().table(self.name, ref=self.ref, columns=self.columns, where=self.where)

    def to_arrow(self) -> Any:
        """Read the table as a `pyarrow.Table`."""
        return self._read().to_arrow()

    def to_pandas(self) -> Any:
        """Read the table as a pandas frame."""
        return self._read().to_pandas()

    def to_polars(self) -> Any:
        """Read the table as a polars frame."""
        return self._read().to_polars()

    def to_dicts(self) -> Any:
        """Read the table as a list of dicts."""
        return self._read().to_dicts()

    def batches(self) -> Any:
        """Read the table as a `pyarrow.RecordBatchReader`, as the rows arrive."""
        return self._read().batches()


@dataclass(frozen=True)
class Files(Marker):
    """Files of the project's history; made by `tarn.files`."""

    glob: str
    each: bool = False
    group_by: Optional[str] = None
    batch: Optional[int] = None


@dataclass(frozen=True)
class Local(Marker):
    """Files of the project folder; made by `tarn.local`."""

    glob: str


@dataclass(frozen=True)
class Secret(Marker):
    """A secret of the project; made by `tarn.secret`."""

    name: str


def _batch(batch: Optional[int], items: bool) -> Optional[int]:
    if batch is None:
        return None
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise ValueError(f"batch={batch!r} must be a number of items, 1 or more.")
    if not items:
        raise ValueError(f"batch={batch} hands items over in lists, so it needs each= too.")
    return batch


# The makers are declared `-> Any`, so that `flights: pd.DataFrame = tarn.table()` type-checks.
def table(
    name: Any = None,
    *,
    ref: Optional[str] = None,
    columns: Optional[Iterable[str]] = None,
    where: Optional[str] = None,
    rows: Optional[str] = None,
    each: Optional[str] = None,
    batch: Optional[int] = None,
) -> Any:
    """A table as input: `Annotated[pd.DataFrame, tarn.table(columns=["a"], where="a > 1")]`.

    Without a name it is the table called like the parameter. Outside a function it reads:
    `tarn.table("flights", ref="dev").to_pandas()`.
    """
    name = getattr(name, "name", name)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"table({name!r}): the name of a table must be text.")
    if name is not None and "@" in name:
        name, _, at = name.partition("@")
        if ref is not None and ref != at:
            raise ValueError(f"table({name + '@' + at!r}, ref={ref!r}) names two refs. Keep one.")
        ref = at
    if name is not None and not name:
        raise ValueError("table(''): the name of a table must not be empty.")
    if rows is not None:
        choice(rows, ("added",), "rows")
    return Table(name, ref, None if columns is None else strings(columns, "columns"), where, rows, each, _batch(batch, each is not None))


def files(glob: str, *, each: bool = False, group_by: Optional[str] = None, batch: Optional[int] = None) -> Any:
    """Files of the history as input, all at once, one by one (`each=True`) or by group (`group_by=r"(\\w+)-"`)."""
    import re

    (glob,) = strings(glob, "files()")
    if group_by is not None:
        if each:
            raise ValueError("files(each=True, group_by=...): an item is one file or one group. Keep one.")
        try:
            groups = re.compile(group_by).groups
        except re.error as error:
            raise ValueError(f"group_by={group_by!r} is no regular expression: {error}.") from None
        if groups == 0:
            raise ValueError(f"group_by={group_by!r} needs a group in parentheses; what it matches names the item.")
    return Files(glob, bool(each), group_by, _batch(batch, bool(each or group_by)))


def local(glob: str) -> Any:
    """Files of the project folder as input: `tarn.local("data/*.csv")`."""
    (glob,) = strings(glob, "local()")
    if os.path.isabs(glob) or ".." in pathlib.PurePath(glob).parts:
        raise ValueError(f"local({glob!r}) must stay inside the project folder.")
    return Local(glob)


def secret(name: str) -> Any:
    """A secret as input: `key: Annotated[str, tarn.secret("OPENAI_API_KEY")]`. `tarn secret set` sets it.

    `.local()` takes it from the variable of that name. What a function prints of it is shown as `***`.
    """
    return Secret(strings(name, "secret()")[0])


if TYPE_CHECKING:

    class OutputDir(Path):
        """A folder; the files that a function writes into it are published under its name."""

else:

    class OutputDir(type(pathlib.Path())):
        """A folder; the files that a function writes into it are published under its name."""


@dataclass(frozen=True)
class Partition:
    """The partition that one invocation is for."""

    key: str
    start: Optional[str] = None
    end: Optional[str] = None

    def __str__(self) -> str:
        return self.key


def as_spec(env: Union[Env, str, None]) -> Optional[Dict[str, Any]]:
    """The environment as the manifest spells it."""
    if env is None:
        return None
    if isinstance(env, str):
        return {"name": env}
    spec: Dict[str, Any] = {"python": env.python, "packages": list(env.packages), "vars": dict(env.vars), "build": env.build}
    if env.constraints:
        spec["constraints"] = list(env.constraints)
    return spec
