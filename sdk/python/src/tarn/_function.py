"""Decorators: a function plus what was declared about it.

A decorated function stays a plain function to whoever calls it: same arguments, same result, same
type. Only a call that leaves out an input is stopped, before the body sees a marker.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Dict, Generic, Iterable, List, Mapping, Optional, Tuple, TypeVar, Union, overload

from tarn import _units
from tarn._declare import Concurrency, Env, Items, Marker, Partitions, Resources, Retry, Table, choice, strings

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from tarn._remote import AssetRemote, ForEach, Map, Remote, Spawn

    P = ParamSpec("P")
elif sys.version_info >= (3, 10):
    from typing import ParamSpec

    P = ParamSpec("P")
else:
    P = TypeVar("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

# Everything declared in this interpreter, in order; discovery and the runner read it.
declared: List[Union[Function[Any, Any], Command, Class]] = []


@dataclass(frozen=True)
class Options:
    """The options that every decorator takes, checked."""

    env: Union[Env, str, None] = None
    resources: Optional[Resources] = None
    retry: Optional[Retry] = None
    timeout: Optional[float] = None
    network: Optional[bool] = None
    fresh: Optional[float] = None
    cache: Optional[bool] = None
    secrets: Tuple[str, ...] = ()
    concurrency: Union[int, Concurrency, None] = None
    priority: int = 0
    start_timeout: Optional[float] = None
    tags: Tuple[str, ...] = ()
    owners: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    """What an asset publishes and how."""

    names: Tuple[str, ...]
    mode: str = "replace"
    key: Tuple[str, ...] = ()
    checks: Tuple[str, ...] = ()
    warn: Tuple[str, ...] = ()
    partitions: Optional[Partitions] = None
    items: Optional[Items] = None
    allow_failed: Union[float, int, None] = None
    isolate: Optional[str] = None
    isolation: Optional[str] = None
    formats: Mapping[str, str] = field(default_factory=dict)


def _options(
    env: Union[Env, str, None],
    resources: Optional[Resources],
    retry: Union[int, Retry, None],
    timeout: Union[str, float, None],
    network: Optional[bool],
    fresh: Union[str, float, None],
    cache: Optional[bool],
    secrets: Iterable[str],
    concurrency: Union[int, Concurrency, None],
    priority: int,
    tags: Iterable[str],
    owners: Iterable[str],
    start_timeout: Union[str, float, None] = None,
) -> Options:
    if env is not None and not isinstance(env, (Env, str)):
        raise TypeError(f"env={env!r} must be a tarn.Env or the name of one in tarn.toml.")
    if resources is not None and not isinstance(resources, Resources):
        raise TypeError(f"resources={resources!r} must be tarn.Resources(...).")
    if isinstance(retry, int) and not isinstance(retry, bool):
        retry = Retry(times=retry)
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"retry={retry!r} must be a number of attempts or tarn.Retry(...).")
    if not isinstance(concurrency, (Concurrency, type(None))) and (not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1):
        raise ValueError(f"concurrency={concurrency!r} must be a number, 1 or more, or tarn.Concurrency(...).")
    if not isinstance(priority, int) or isinstance(priority, bool) or abs(priority) > 1000:
        raise ValueError(f"priority={priority!r} must be a whole number from -1000 to 1000. Higher goes first.")
    for name, flag in (("network", network), ("cache", cache)):
        if flag is not None and not isinstance(flag, bool):
            raise TypeError(f"{name}={flag!r} must be True or False.")
    return Options(
        env,
        resources,
        retry,
        None if timeout is None else _units.seconds(timeout, "timeout"),
        network,
        None if fresh is None else _units.seconds(fresh, "fresh"),
        cache,
        strings(secrets, "secrets"),
        concurrency,
        priority,
        None if start_timeout is None else _units.seconds(start_timeout, "start_timeout"),
        strings(tags, "tags"),
        strings(owners, "owners"),
    )


def _output(
    outputs: Union[str, Iterable[str]],
    mode: str,
    key: Union[str, Iterable[str]],
    checks: Union[str, Iterable[str]],
    warn: Union[str, Iterable[str]],
    partitions: Optional[Partitions],
    items: Optional[Items],
    allow_failed: Union[float, int, None],
    isolate: Optional[str],
    isolation: Optional[str],
    formats: Optional[Mapping[str, str]] = None,
) -> Output:
    names = strings(outputs, "outputs")
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise ValueError(f"outputs names {', '.join(sorted(twice))} twice.")
    choice(mode, ("replace", "append", "merge"), "mode")
    row_key = strings(key, "key")
    if mode == "merge" and not row_key:
        raise ValueError('mode="merge" folds rows by key. Name it: key=["id"].')
    if partitions is not None and not isinstance(partitions, Partitions):
        raise TypeError(f"partitions={partitions!r} must be tarn.daily(...), hourly, weekly, monthly or keys.")
    if items is not None and not isinstance(items, Items):
        raise TypeError(f"items={items!r} must be tarn.cross(), tarn.join(...) or tarn.union().")
    if allow_failed is not None and (isinstance(allow_failed, bool) or not isinstance(allow_failed, (int, float)) or allow_failed < 0):
        raise ValueError(f"allow_failed={allow_failed!r} must be a share like 0.05 or a number of items.")
    if isolate is not None:
        choice(isolate, ("item",), "isolate")
    if isolation is not None:
        choice(isolation, ("snapshot", "serializable"), "isolation")
    return Output(names, mode, row_key, strings(checks, "checks"), strings(warn, "warn"), partitions, items, allow_failed, isolate, isolation, dict(formats or {}))


class Function(Generic[P, R]):
    """A decorated function. Call it as if it were not decorated."""

    kind = "function"

    def __init__(self, fn: Callable[P, R], options: Options) -> None:
        if not callable(fn) or isinstance(fn, type) or not hasattr(fn, "__code__"):
            raise TypeError(f"@tarn.{self.kind} decorates a function, got {fn!r}.")
        functools.update_wrapper(self, fn)
        self._fn = fn
        self.name: str = fn.__name__
        self.options = options
        declared.append(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        self._refuse_missing(args, kwargs)
        return self._fn(*args, **kwargs)

    def _refuse_missing(self, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = set(self._positional[: len(args)]).union(kwargs)
        missing = [name for name in self._required if name not in given]
        if missing:
            raise TypeError(self._needs(missing))
        for name, value in (*zip(self._positional, args), *kwargs.items()):
            if isinstance(value, Marker):
                raise TypeError(f"{self.name}() got a declaration for {name!r}, not data. Pass what it stands for.")

    @functools.cached_property
    def _positional(self) -> Tuple[str, ...]:
        code = self._plain().__code__
        return tuple(code.co_varnames[: code.co_argcount])

    @functools.cached_property
    def _required(self) -> Tuple[str, ...]:
        """Parameters that a call must pass: those without a default, and those whose default is a marker."""
        fn = self._plain()
        code = fn.__code__
        defaults = dict(zip(reversed(self._positional), reversed(fn.__defaults__ or ())))
        defaults.update(fn.__kwdefaults__ or {})
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        return tuple(n for n in names if n not in defaults or isinstance(defaults[n], Marker))

    def _plain(self) -> Any:
        """The user's own function, below other decorators that kept `__wrapped__`."""
        fn: Any = self._fn
        while hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        return fn

    def _needs(self, missing: List[str]) -> str:
        names = " and ".join(filter(None, (", ".join(map(repr, missing[:-1])), repr(missing[-1]))))
        return f"{self.name}() needs {names}."

    def __repr__(self) -> str:
        return f"<tarn {self.kind} {self.name}>"

    def __reduce__(self) -> str:
        return self._fn.__qualname__


def qualname(decl: Any) -> str:
    """How the runner finds it in its module: an attribute path, or `:NAME` for one that has none."""
    module = sys.modules.get(decl.__module__)
    value: Any = module
    for part in decl.__qualname__.split("."):
        value = getattr(value, part, None)
    if value is decl:
        return str(decl.__qualname__)
    return next((name for name, v in vars(module).items() if v is decl), f":{decl.name}")


class PlainFunction(Function[P, R]):
    """A function that can run in a sandbox with its own environment: one call, or many at a time.

    Each way has a form for asyncio: `await f.remote.aio(3)`, `async for y in f.map.aio(xs)`. Arguments and
    results are pickled; a result is unpickled here, so what the function returns is trusted as it is.

        fit.remote(3)                              # one call, its result
        list(fit.map(range(500)))                  # many, in order
        for error in fit.map(xs, ordered=False, return_exceptions=True): ...
        call = fit.spawn(3); call.get()            # started now, asked later
    """

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it here, in this interpreter."""
        return self(*args, **kwargs)

    @property
    def remote(self) -> Remote[P, R]:
        """Call it in a sandbox and wait for its result. A generator function gives an iterator of what it
        yields, as it yields it. An exception comes back as itself, with the traceback of the sandbox as its
        cause; as `tarn.errors.RemoteError` when its class is not importable here."""
        from tarn._remote import Remote

        return Remote(self)

    @property
    def map(self) -> Map[R]:
        """Call it for each item, or for each group of items of several iterables, and iterate over the
        results: `f.map(xs, ys, ordered=True, return_exceptions=False, concurrency=None)`.

        Nothing runs before the first result is asked for. Items are taken as there is room, so an endless
        producer is fine; leaving the loop cancels what still runs. `ordered=False` gives results as they
        come, `return_exceptions=True` gives errors in place of results, `concurrency` limits how many run."""
        from tarn._remote import Map

        return Map(self, star=False)

    @property
    def starmap(self) -> Map[R]:
        """`map` over tuples of arguments: `f.starmap([(1, 2), (3, 4)])`."""
        from tarn._remote import Map

        return Map(self, star=True)

    @property
    def for_each(self) -> ForEach:
        """`map` for its effects: wait for all, drop the results. With `ignore_exceptions=True` errors too."""
        from tarn._remote import ForEach

        return ForEach(self)

    @property
    def spawn(self) -> Spawn[P, R]:
        """Start a call and return a `tarn.FunctionCall` at once; it goes on without this process."""
        from tarn._remote import Spawn

        return Spawn(self)


class _Loading(Function[P, R]):
    """A function whose inputs are data of the project."""

    def _needs(self, missing: List[str]) -> str:
        from tarn import _params

        nouns = {p.name: p.noun for p in _params.of(self)}
        noun = nouns[missing[0]] if len(missing) == 1 else "them"
        return f"{super()._needs(missing)} Pass {noun}, or {self.name}.local() to load {'it' if len(missing) == 1 else 'them'} from {_home_ref()}."

    def local(self, *args: Any, ref: Optional[str] = None, **kwargs: Any) -> R:
        """Load the inputs that were left out and run here, in this interpreter. Nothing is published.

        Inputs come from `ref`, or from the current branch. It works wherever the function is defined,
        in a file of the project or in a cell of a notebook. Raises `TypeError` for an input that only
        a run can choose, and `tarn.Error` for what cannot be read.
        """
        from tarn._load import inputs

        given = set(self._positional[: len(args)]).union(kwargs)
        kwargs.update(inputs(self, [n for n in self._required if n not in given], ref))
        return self._fn(*args, **kwargs)


def _home_ref() -> str:
    import os

    return os.environ.get("TARN_BRANCH") or "main"


class Asset(_Loading[P, R]):
    """A function whose result is a table or files in the history."""

    kind = "asset"

    def __init__(self, fn: Callable[P, R], options: Options, output: Output) -> None:
        super().__init__(fn, options)
        self.output = output

    @property
    def remote(self) -> AssetRemote[P, R]:
        """Load the inputs that were left out and run in a sandbox, in its own environment: what it returns comes back, and
        nothing is published. `delays.remote(top=5, ref="dev")`; `await delays.remote.aio()`."""
        from tarn._remote import AssetRemote

        return AssetRemote(self)

    @property
    def outputs(self) -> Tuple[str, ...]:
        """The names it publishes; its own unless declared."""
        return self.output.names or (self.name,)


class Check(_Loading[P, R]):
    """A function that judges a table or asset."""

    kind = "check"

    def __init__(self, fn: Callable[P, R], options: Options, of: str, severity: str) -> None:
        super().__init__(fn, options)
        self.of = of
        self.severity = severity


class Entrypoint(Function[P, R]):
    """A function that `tarn run FILE::NAME` calls with the command line's arguments."""

    kind = "entrypoint"


class Command:
    """An asset in any language: a command line with named inputs and outputs."""

    kind = "asset"

    def __init__(self, argv: Tuple[str, ...], name: str, inputs: Mapping[str, str], options: Options, output: Output) -> None:
        self.argv, self.name, self.inputs, self.options, self.output = argv, name, inputs, options, output
        frame = sys._getframe(2)
        self.file, self.line, self.__module__ = frame.f_code.co_filename, frame.f_lineno, frame.f_globals.get("__name__", "")
        declared.append(self)

    @property
    def outputs(self) -> Tuple[str, ...]:
        """The names it publishes."""
        return self.output.names

    def __repr__(self) -> str:
        return f"<tarn command {self.name}>"


class Class:
    """What `tarn.cls` found in a class."""

    kind = "cls"

    def __init__(self, cls: type) -> None:
        self.cls, self.name = cls, cls.__name__
        declared.append(self)


@overload
def asset(fn: Callable[P, R]) -> Asset[P, R]: ...
@overload
def asset(
    *,
    env: Union[Env, str, None] = None,
    outputs: Union[str, Iterable[str]] = (),
    mode: str = "replace",
    key: Union[str, Iterable[str]] = (),
    checks: Union[str, Iterable[str]] = (),
    warn: Union[str, Iterable[str]] = (),
    partitions: Optional[Partitions] = None,
    items: Optional[Items] = None,
    allow_failed: Union[float, int, None] = None,
    isolate: Optional[str] = None,
    isolation: Optional[str] = None,
    resources: Optional[Resources] = None,
    retry: Union[int, Retry, None] = None,
    timeout: Union[str, float, None] = None,
    network: Optional[bool] = None,
    fresh: Union[str, float, None] = None,
    cache: Optional[bool] = None,
    secrets: Iterable[str] = (),
    concurrency: Union[int, Concurrency, None] = None,
    priority: int = 0,
    tags: Iterable[str] = (),
    owners: Iterable[str] = (),
) -> Callable[[Callable[P, R]], Asset[P, R]]: ...
def asset(
    fn: Optional[Callable[P, R]] = None,
    *,
    env: Union[Env, str, None] = None,
    outputs: Union[str, Iterable[str]] = (),
    mode: str = "replace",
    key: Union[str, Iterable[str]] = (),
    checks: Union[str, Iterable[str]] = (),
    warn: Union[str, Iterable[str]] = (),
    partitions: Optional[Partitions] = None,
    items: Optional[Items] = None,
    allow_failed: Union[float, int, None] = None,
    isolate: Optional[str] = None,
    isolation: Optional[str] = None,
    resources: Optional[Resources] = None,
    retry: Union[int, Retry, None] = None,
    timeout: Union[str, float, None] = None,
    network: Optional[bool] = None,
    fresh: Union[str, float, None] = None,
    cache: Optional[bool] = None,
    secrets: Iterable[str] = (),
    concurrency: Union[int, Concurrency, None] = None,
    priority: int = 0,
    tags: Iterable[str] = (),
    owners: Iterable[str] = (),
) -> Any:
    """Make a function an asset: its result is published under its name.

    A parameter without a default is the table of that name; the annotation chooses its form: a pandas
    or polars frame, a polars LazyFrame, a `pyarrow.Table` (also without an annotation) or
    RecordBatchReader, a DuckDB relation, `list[dict]`. A parameter with a default is set with
    `tarn run --param NAME=VALUE`. It returns any of these, a generator of them, a dict of them if it
    has several `outputs`, or None if it takes a `tarn.OutputDir`.

        @tarn.asset(checks=["unique(origin)"], retry=2, timeout="5m")
        def delays(flights: pd.DataFrame, top: int = 20) -> pd.DataFrame:
            return flights.groupby("origin", as_index=False).delay.mean().head(top)

    `mode` is replace, append, or merge, which folds rows by `key`. `checks` stop the publication when
    they fail, `warn` only says so. `timeout`, `fresh` and delays are text with a unit ("90s", "1h30m")
    or seconds; sizes are text ("2GiB") or bytes. `allow_failed` is a share below 1 or a number of
    items. Items have `timeout` each, and share interpreters and their sandboxes: each is a fork.
    `isolate="item"` gives each a sandbox, with `resources`, of its own. Wrong options raise `TypeError` or `ValueError` where the function is declared.
    """
    if network and fresh is None and cache is None:
        raise ValueError('network=True reads what no key can hold. Say how long a result stays good: fresh="1h", or cache=True or False.')
    options = _options(env, resources, retry, timeout, network, fresh, cache, secrets, concurrency, priority, tags, owners)
    output = _output(outputs, mode, key, checks, warn, partitions, items, allow_failed, isolate, isolation)
    return Asset(fn, options, output) if fn is not None else lambda f: Asset(f, options, output)


def check(
    of: Union[Asset[Any, Any], Command, Table, str],
    *,
    severity: str = "fail",
    env: Union[Env, str, None] = None,
    resources: Optional[Resources] = None,
    retry: Union[int, Retry, None] = None,
    timeout: Union[str, float, None] = None,
    network: Optional[bool] = None,
    fresh: Union[str, float, None] = None,
    cache: Optional[bool] = None,
    secrets: Iterable[str] = (),
    concurrency: Union[int, Concurrency, None] = None,
    priority: int = 0,
    tags: Iterable[str] = (),
    owners: Iterable[str] = (),
) -> Callable[[Callable[P, R]], Check[P, R]]:
    """Make a function judge a table before it is published.

    It returns the offending rows, which are kept and shown, or a bool, or `tarn.CheckResult`, or it
    asserts. With `severity="warn"` a failure is reported and nothing is stopped.

        @tarn.check("orders", severity="warn")
        def plausible(orders: pd.DataFrame) -> pd.DataFrame:
            return orders[orders.price > 1000]
    """
    choice(severity, ("fail", "warn"), "severity")
    if isinstance(of, (Asset, Command)):
        if len(of.outputs) != 1:
            raise ValueError(f"{of.name} has the outputs {', '.join(of.outputs)}. Name the one to check: @tarn.check({of.outputs[0]!r}).")
        name: Optional[str] = of.outputs[0]
    else:
        name = of.name if isinstance(of, Table) else of
    if not isinstance(name, str) or not name:
        raise TypeError(f"@tarn.check({of!r}): name the asset or table to check, as in @tarn.check(orders).")
    target = name
    options = _options(env, resources, retry, timeout, network, fresh, cache, secrets, concurrency, priority, tags, owners)
    return lambda f: Check(f, options, target, severity)


@overload
def function(fn: Callable[P, R]) -> PlainFunction[P, R]: ...
@overload
def function(
    *,
    env: Union[Env, str, None] = None,
    resources: Optional[Resources] = None,
    retry: Union[int, Retry, None] = None,
    timeout: Union[str, float, None] = None,
    start_timeout: Union[str, float, None] = None,
    network: Optional[bool] = None,
    fresh: Union[str, float, None] = None,
    cache: Optional[bool] = None,
    secrets: Iterable[str] = (),
    concurrency: Union[int, Concurrency, None] = None,
    priority: int = 0,
    tags: Iterable[str] = (),
    owners: Iterable[str] = (),
) -> Callable[[Callable[P, R]], PlainFunction[P, R]]: ...
def function(
    fn: Optional[Callable[P, R]] = None,
    *,
    env: Union[Env, str, None] = None,
    resources: Optional[Resources] = None,
    retry: Union[int, Retry, None] = None,
    timeout: Union[str, float, None] = None,
    start_timeout: Union[str, float, None] = None,
    network: Optional[bool] = None,
    fresh: Union[str, float, None] = None,
    cache: Optional[bool] = None,
    secrets: Iterable[str] = (),
    concurrency: Union[int, Concurrency, None] = None,
    priority: int = 0,
    tags: Iterable[str] = (),
    owners: Iterable[str] = (),
) -> Any:
    """Make a function callable in a sandbox, with an environment and options of its own.

    It stays a plain function here; `.remote`, `.map` and the others run it there. The file it is in
    belongs to a project, whose folder is in the sandbox as it is here.

    `timeout` is for one input, from when a worker begins with it. `start_timeout` is for the wait before, of an
    input that is next: for its turn, and for a worker to start and import. All calls share the machine's cores, and
    functions with a higher `priority` go first. `concurrency=4` does four inputs at a time at most, of all calls of
    the function, and more than there are cores if they mostly wait; with `tarn.Concurrency(4, key="api")` the limit
    is for all functions of that key.

        @tarn.function(env=tarn.Env(packages=["scikit-learn"]))
        def fit(depth: int) -> float: ...

        scores = list(fit.map(range(1, 20)))
    """
    options = _options(env, resources, retry, timeout, network, fresh, cache, secrets, concurrency, priority, tags, owners, start_timeout)
    return PlainFunction(fn, options) if fn is not None else lambda f: PlainFunction(f, options)


def entrypoint(fn: Callable[P, R]) -> Entrypoint[P, R]:
    """Make a function callable from the command line: `tarn run file.py::main --n 5`."""
    return Entrypoint(fn, Options())


def cls(target: C) -> C:
    """Make a class with state that is set up once: `with Model() as m` runs its `enter` and `exit` methods. It runs
    where it is made, not in a sandbox."""
    if not isinstance(target, type):
        raise TypeError(f"@tarn.cls decorates a class and takes no options, got {target!r}.")
    if "__enter__" not in target.__dict__:
        target.__enter__ = _enter  # type: ignore[attr-defined]
    if "__exit__" not in target.__dict__:
        target.__exit__ = _exit  # type: ignore[attr-defined]
    Class(target)
    return target


def _marked(instance: Any, role: str) -> List[Callable[[], Any]]:
    names = dict.fromkeys(n for base in reversed(type(instance).__mro__) for n in vars(base))
    return [getattr(instance, n) for n in names if getattr(getattr(type(instance), n, None), "__tarn_role__", None) == role]


def _enter(self: Any) -> Any:
    for run in _marked(self, "enter"):
        run()
    return self


def _exit(self: Any, *_: object) -> None:
    for run in _marked(self, "exit"):
        run()


def _role(role: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    def mark(fn: Callable[P, R]) -> Callable[P, R]:
        fn.__tarn_role__ = role  # type: ignore[attr-defined]
        return fn

    return mark


def enter(fn: Callable[P, R]) -> Callable[P, R]:
    """Mark a method of a `tarn.cls` that sets the instance up."""
    return _role("enter")(fn)


def exit(fn: Callable[P, R]) -> Callable[P, R]:
    """Mark a method of a `tarn.cls` that tears the instance down."""
    return _role("exit")(fn)


def method(fn: Callable[P, R]) -> Callable[P, R]:
    """Mark a method of a `tarn.cls` that callers use."""
    return _role("method")(fn)


def command(
    *argv: str,
    inputs: Optional[Mapping[str, str]] = None,
    outputs: Union[Mapping[str, str], str],
    name: Optional[str] = None,
    env: Union[Env, str, None] = None,
    mode: str = "replace",
    key: Union[str, Iterable[str]] = (),
    checks: Union[str, Iterable[str]] = (),
    warn: Union[str, Iterable[str]] = (),
    resources: Optional[Resources] = None,
    retry: Union[int, Retry, None] = None,
    timeout: Union[str, float, None] = None,
    network: Optional[bool] = None,
    fresh: Union[str, float, None] = None,
    cache: Optional[bool] = None,
    secrets: Iterable[str] = (),
    concurrency: Union[int, Concurrency, None] = None,
    priority: int = 0,
    tags: Iterable[str] = (),
    owners: Iterable[str] = (),
) -> Command:
    """An asset made by a command line, in any language.

    `tarn.command("bash", "clean.sh", inputs={"raw": "csv"}, outputs={"clean": "parquet"})` gives the
    command `$TARN_IN_RAW` and `$TARN_OUT_CLEAN`, files of those formats.
    """
    if not argv:
        raise TypeError('tarn.command() needs the command line: tarn.command("bash", "clean.sh", ...).')
    strings(argv, "tarn.command()")
    produced: Dict[str, str] = {outputs: "arrow"} if isinstance(outputs, str) else dict(outputs)
    if not produced:
        raise ValueError('tarn.command() needs outputs, as in outputs={"clean": "parquet"}.')
    wanted = dict(inputs or {})
    for what, formats in (("inputs", wanted), ("outputs", produced)):
        for label, form in formats.items():
            choice(form, ("csv", "parquet", "json", "arrow", "file"), f"{what}[{label!r}]")
    options = _options(env, resources, retry, timeout, network, fresh, cache, secrets, concurrency, priority, tags, owners)
    output = _output(tuple(produced), mode, key, checks, warn, None, None, None, None, None, produced)
    return Command(tuple(argv), name or next(iter(produced)), wanted, options, output)
