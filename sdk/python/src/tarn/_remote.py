"""Calls of plain functions, for threads and for asyncio: transport around `tarn._calls`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import threading
import time
from typing import Any, AsyncIterator, Callable, Coroutine, Dict, Generic, Iterable, Iterator, List, Optional, Set, Tuple, TypeVar, Union, cast, overload

from tarn import _calls, _home, _load, _ops, _wire, errors
from tarn._aio import AsyncClient
from tarn._calls import Calling, Result, Target
from tarn._client import Client
from tarn._function import Asset, P, PlainFunction, R
from tarn._values import Incoming, Packed

T = TypeVar("T")
Rc = TypeVar("Rc", covariant=True)  # what a coroutine function returns is a Coroutine to whoever asks
Error = Optional[Exception]
_PLACE = ("TARN_HOME", "TARN_URL", "TARN_TOKEN", "TARN_PROJECT", "TARN_BIN")
_SLOW = 3.0  # seconds without a word that make people wonder
_ready: Set[Target] = set()  # those that a call has begun of, which needs their packages
_clients: Dict[Tuple[Any, ...], Tuple[Client, AsyncClient]] = {}


def _at(folder: Optional[str]) -> Tuple[Client, AsyncClient]:
    """The clients of a project folder; finding the server once is enough."""
    if os.environ.get("TARN_MESSAGES_FD"):
        return _inside(os.environ.get("TARN_CONTEXT", ""))
    key = (folder or os.getcwd(), *map(os.environ.get, _PLACE))
    if key not in _clients:
        _clients[key] = Client(folder=folder), AsyncClient(folder=folder)
    return _clients[key]


@contextlib.contextmanager
def _said_when_slow(t: Target) -> Iterator[None]:
    """Say on stderr what takes so long, when the beginning of a function's first call does."""
    if t in _ready:
        yield
        return
    text = f"{t.name} is being made ready: the first call resolves and fetches its packages.\n"
    timer = threading.Timer(_SLOW, lambda: _calls.show({"stream": "stderr", "text": text}))
    timer.daemon = True
    timer.start()
    try:
        yield
        _ready.add(t)
    finally:
        timer.cancel()


@functools.lru_cache(maxsize=1)
def _inside(context: str) -> Tuple[Client, AsyncClient]:
    """The clients of a worker of calls, whose sandbox has a socket for its own. A run's steps have none."""
    said: Dict[str, Any] = {}
    if context:
        with open(context, encoding="utf-8") as f:
            said = json.load(f)
    if "calls" not in said:
        text = "in a run a function cannot call others by .remote or .map: what a result is made from is in its key, and a call would not be. Call the function as it is."
        raise errors.PreconditionError(text, reason="call.nested")
    found = said["calls"]
    place = _home.Place(_wire.Address("http://tarn", _short(found["socket"]), None), found["project"], "main")
    clients = Client(place.project, url=place.address.url), AsyncClient(place.project, url=place.address.url)
    for client in clients:
        client._found = place
    return clients


def _short(path: str) -> str:
    """A socket's path that fits into an address. Where sandboxes have no root of their own it is that of the host."""
    if len(os.fsencode(path)) < 100:
        return path
    folder, name = os.path.split(path)
    return f"/proc/self/fd/{os.open(folder, os.O_PATH | os.O_DIRECTORY)}/{name}"


class _Job:
    """A call of a thread. Two threads of its own take the items and send them."""

    def __init__(self, t: Optional[Target], client: Client, id: str, python: str) -> None:
        self.client, self.project, self.id = client, client.project, id
        self.state = Calling(t, python)
        self.changed = threading.Condition()
        self.stopped = False
        self.failed: Optional[BaseException] = None

    @classmethod
    def start(cls, t: Target, ordered: bool = True, concurrency: Optional[int] = None, waits: bool = True) -> _Job:
        """Begin a call."""
        client = _at(t.folder)[0]
        with _said_when_slow(t):
            call = client._do(_calls.start(t, client.project, _ops.author(), ordered, concurrency, waits))
        return cls(t, client, call["id"], call.get("python", ""))

    def send(self) -> None:
        """Send what is to be sent now."""
        while True:
            batch = self.state.outgoing()
            if batch is None:
                return
            self.state.accepted(self._again(_calls.put(self.project, self.id, *batch)), batch[2])

    def _again(self, call: _wire.Call) -> Any:
        for lost in range(1, _calls.PATIENCE):
            with contextlib.suppress(errors.UnavailableError):
                return self.client._do(call)
            time.sleep(0.1 * lost)
        return self.client._do(call)

    def feed(self, data: Packed) -> None:
        """One more input. A big one goes first: nothing of it is kept here, and its caller may change it afterwards."""
        self.state.feed(data if isinstance(data, bytes) else self._again(_calls.upload(self.project, self.id, data)))

    def _fetched(self, result: Result) -> Result:
        if result.big is None:
            return result
        for lost in range(1, _calls.PATIENCE + 1):
            value = Incoming(result.big)
            try:
                for data in self.client._messages(_calls.download(self.project, self.id, result.big)):
                    value.feed(data)  # type: ignore[arg-type]
                return self.state.filled(result, value.close())
            except errors.UnavailableError:
                if lost == _calls.PATIENCE:
                    raise
                time.sleep(0.1 * lost)
        raise AssertionError("unreachable")

    def produce(self, items: Iterator[Packed]) -> None:
        """Take items as there is room, and send them from another thread as soon as they are there."""
        for work in (lambda: self._feed(items), self._sending):
            threading.Thread(target=self._guarded, args=(work,), name=f"tarn {self.id}", daemon=True).start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # of the caller's own items too: raised where the results are read
            if not self.stopped:
                self.failed = self.failed or error
                self.stop()

    def _feed(self, items: Iterator[Packed]) -> None:
        for data in items:
            with self.changed:
                self.changed.wait_for(lambda: self.stopped or self.state.room())
                if self.stopped:
                    return
            self.feed(data)
            with self.changed:
                self.changed.notify_all()
        with self.changed:
            self.state.close()
            self.changed.notify_all()

    def _sending(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.stopped or self.state.outgoing() is not None)
            if self.stopped:
                return
            self.send()
            if self.state.finished_sending:
                return

    def results(self, timeout: Optional[float] = None) -> Iterator[Result]:
        """Results as they come; after a lost connection, those that are missing."""
        end = None if timeout is None else time.monotonic() + timeout
        lost = 0
        while not self.state.over:
            self.state.again()
            left = None if end is None else max(end - time.monotonic(), 0.001)
            with contextlib.ExitStack() as open_:
                try:
                    messages = self.client._messages(_calls.results(self.project, self.id, self.state.next, left))
                    open_.callback(messages.close)
                    for message in messages:
                        lost = 0
                        found = self.state.take(message)
                        if found is not None:
                            with self.changed:
                                self.changed.notify_all()
                            yield self._fetched(found)
                        if self.state.over:
                            break
                except errors.DeadlineError:
                    raise _calls.still(self.id, timeout) from None
                except errors.NotFoundError:
                    if not lost:
                        raise
                    raise _calls.server_ended(self.id) from None
                except errors.UnavailableError:
                    lost += 1
                    if lost > _calls.PATIENCE:
                        raise
                    time.sleep(0.1 * lost)
        if self.failed is not None:
            raise self.failed

    def stop(self) -> None:
        """Take and send nothing more; what has not ended is canceled."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        if not self.state.over:
            with contextlib.suppress(errors.Error):  # the caller leaves, or gets the error that made it leave
                self.client._do(_calls.cancel(self.project, self.id))


def _single(t: Target, args: Tuple[Any, ...], kwargs: Dict[str, Any], waits: bool = True) -> _Job:
    data = _calls.pack(t, args, kwargs)
    job = _Job.start(t, waits=waits)
    try:
        job.feed(data)
        job.state.close()
        job.send()
    except BaseException:
        job.stop()
        raise
    return job


def _value(results: Iterable[Result], call: str) -> Any:
    found = list(results)  # to the end: what was printed may come behind the result
    if not found:
        raise _calls.ended(call)
    if found[0].error is not None:
        raise found[0].error
    return found[0].value


def _yielded(job: _Job) -> Iterator[Any]:
    try:
        for result in job.results():
            if result.error is not None:
                raise result.error
            if not result.end:
                yield result.value
    finally:
        job.stop()


def _mapped(t: Target, items: Iterator[Tuple[Any, ...]], ordered: bool, return_exceptions: bool, concurrency: Optional[int]) -> Iterator[Any]:
    job = _Job.start(t, ordered, concurrency)
    try:
        job.produce(_calls.pack(t, args, {}) for args in items)
        for result in job.results():
            if result.error is not None and not return_exceptions:
                raise result.error
            yield result.value if result.error is None else result.error
    finally:
        job.stop()


class _AsyncJob:
    """A call of a task, which has two of its own for the items."""

    def __init__(self, t: Optional[Target], client: AsyncClient, project: str, id: str, python: str) -> None:
        self.client, self.project, self.id = client, project, id
        self.state = Calling(t, python)
        self.changed = asyncio.Condition()
        self.tasks: List[asyncio.Future[None]] = []
        self.failed: Optional[BaseException] = None

    @classmethod
    async def start(cls, t: Target, ordered: bool = True, concurrency: Optional[int] = None, waits: bool = True) -> _AsyncJob:
        client = _at(t.folder)[1]
        project = (await client._scope()).project
        with _said_when_slow(t):
            call = await client._do(_calls.start(t, project, _ops.author(), ordered, concurrency, waits))
        return cls(t, client, project, call["id"], call.get("python", ""))

    async def send(self) -> None:
        while True:
            batch = self.state.outgoing()
            if batch is None:
                return
            self.state.accepted(await self._again(_calls.put(self.project, self.id, *batch)), batch[2])

    async def _again(self, call: _wire.Call) -> Any:
        for lost in range(1, _calls.PATIENCE):
            with contextlib.suppress(errors.UnavailableError):
                return await self.client._do(call)
            await asyncio.sleep(0.1 * lost)
        return await self.client._do(call)

    async def feed(self, data: Packed) -> None:
        self.state.feed(data if isinstance(data, bytes) else await self._again(_calls.upload(self.project, self.id, data)))

    async def _fetched(self, result: Result) -> Result:
        if result.big is None:
            return result
        for lost in range(1, _calls.PATIENCE + 1):
            value = Incoming(result.big)
            try:
                async for data in await self.client._messages(_calls.download(self.project, self.id, result.big)):
                    value.feed(data)
                return self.state.filled(result, value.close())
            except errors.UnavailableError:
                if lost == _calls.PATIENCE:
                    raise
                await asyncio.sleep(0.1 * lost)
        raise AssertionError("unreachable")

    def produce(self, items: AsyncIterator[Packed]) -> None:
        for work in (self._feed(items), self._sending()):
            self.tasks.append(asyncio.ensure_future(self._guarded(work)))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # of the caller's own items too: raised where the results are read
            self.failed = self.failed or error
            await self._cancel()

    async def _feed(self, items: AsyncIterator[Packed]) -> None:
        async for data in items:
            async with self.changed:
                await self.changed.wait_for(self.state.room)
            await self.feed(data)
            async with self.changed:
                self.changed.notify_all()
        async with self.changed:
            self.state.close()
            self.changed.notify_all()

    async def _sending(self) -> None:
        while not self.state.finished_sending:
            async with self.changed:
                await self.changed.wait_for(lambda: self.state.outgoing() is not None)
            await self.send()

    async def results(self, timeout: Optional[float] = None) -> AsyncIterator[Result]:
        end = None if timeout is None else time.monotonic() + timeout
        lost = 0
        while not self.state.over:
            self.state.again()
            left = None if end is None else max(end - time.monotonic(), 0.001)
            messages = None
            try:
                messages = await self.client._messages(_calls.results(self.project, self.id, self.state.next, left))
                async for message in messages:
                    lost = 0
                    found = self.state.take(message)
                    if found is not None:
                        async with self.changed:
                            self.changed.notify_all()
                        yield await self._fetched(found)
                    if self.state.over:
                        break
            except errors.DeadlineError:
                raise _calls.still(self.id, timeout) from None
            except errors.NotFoundError:
                if not lost:
                    raise
                raise _calls.server_ended(self.id) from None
            except errors.UnavailableError:
                lost += 1
                if lost > _calls.PATIENCE:
                    raise
                await asyncio.sleep(0.1 * lost)
            finally:
                if messages is not None:
                    await messages.aclose()
        if self.failed is not None:
            raise self.failed

    async def _cancel(self) -> None:
        with contextlib.suppress(errors.Error):  # the caller leaves, or gets the error that made it leave
            await self.client._do(_calls.cancel(self.project, self.id))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if not self.state.over:
            await asyncio.shield(self._cancel())


async def _single_async(t: Target, args: Tuple[Any, ...], kwargs: Dict[str, Any], waits: bool = True) -> _AsyncJob:
    data = _calls.pack(t, args, kwargs)
    job = await _AsyncJob.start(t, waits=waits)
    try:
        await job.feed(data)
        job.state.close()
        await job.send()
    except BaseException:
        await job.stop()
        raise
    return job


async def _value_async(job: _AsyncJob, timeout: Optional[float] = None) -> Any:
    return _value([result async for result in job.results(timeout)], job.id)


async def _remote_async(t: Target, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
    job = await _single_async(t, args, kwargs)
    try:
        return await _value_async(job)
    finally:
        await job.stop()


async def _yielded_async(t: Target, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> AsyncIterator[Any]:
    job = await _single_async(t, args, kwargs)
    results = job.results()
    try:
        async for result in results:
            if result.error is not None:
                raise result.error
            if not result.end:
                yield result.value
    finally:
        await results.aclose()  # type: ignore[attr-defined]
        await job.stop()


async def _mapped_async(t: Target, items: AsyncIterator[Tuple[Any, ...]], ordered: bool, return_exceptions: bool, concurrency: Optional[int]) -> AsyncIterator[Any]:
    job = await _AsyncJob.start(t, ordered, concurrency)
    results = job.results()
    try:
        job.produce(_packed(t, items))
        async for result in results:
            if result.error is not None and not return_exceptions:
                raise result.error
            yield result.value if result.error is None else result.error
    finally:
        await results.aclose()  # type: ignore[attr-defined]
        await job.stop()


async def _packed(t: Target, items: AsyncIterator[Tuple[Any, ...]]) -> AsyncIterator[Packed]:
    async for args in items:
        yield _calls.pack(t, args, {})


async def _turns(of: Any) -> AsyncIterator[Any]:
    """An iterable as an asynchronous one, which lets other tasks run between its items."""
    if hasattr(of, "__aiter__"):
        async for item in of:
            yield item
        return
    for item in of:
        yield item
        await asyncio.sleep(0)


async def _several_async(iterables: Tuple[Any, ...]) -> AsyncIterator[Tuple[Any, ...]]:
    if not any(hasattr(i, "__aiter__") for i in iterables):
        async for args in _turns(_calls.several(iterables)):
            yield args
        return
    turns = [_turns(i) for i in iterables]
    while True:
        try:
            yield tuple([await t.__anext__() for t in turns])
        except StopAsyncIteration:
            return


class Remote(Generic[P, Rc]):
    """`f.remote`: one call, waited for."""

    def __init__(self, function: PlainFunction[P, Any]) -> None:
        self._function = function

    @overload
    def __call__(self: Remote[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Rc: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it and wait."""
        self._function._refuse_missing(args, kwargs)
        return _called(_calls.target(self._function), args, kwargs)

    @overload
    def aio(self: Remote[P, Iterator[T]], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]: ...  # type: ignore[overload-overlap]
    @overload
    def aio(self: Remote[P, AsyncIterator[T]], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]: ...  # type: ignore[overload-overlap]
    @overload
    def aio(self: Remote[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]: ...
    @overload
    def aio(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Rc]: ...
    def aio(self, *args: Any, **kwargs: Any) -> Any:
        """The same, awaited; a generator function's results with `async for`."""
        self._function._refuse_missing(args, kwargs)
        t = _calls.target(self._function)
        return _yielded_async(t, args, kwargs) if t.generator else _remote_async(t, args, kwargs)


def _called(t: Target, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
    job = _single(t, args, kwargs)
    if t.generator:
        return _yielded(job)
    try:
        return _value(job.results(), job.id)
    finally:
        job.stop()


class AssetRemote(Generic[P, Rc]):
    """`asset.remote`: one call, with the inputs that were left out, waited for."""

    def __init__(self, function: Asset[P, Any]) -> None:
        self._function = function

    def _filled(self, args: Tuple[Any, ...], kwargs: Dict[str, Any], ref: Optional[str]) -> Dict[str, Any]:
        given = set(self._function._positional[: len(args)]).union(kwargs)
        return {**kwargs, **_load.remote_inputs(self._function, [n for n in self._function._required if n not in given], ref)}

    def __call__(self, *args: Any, ref: Optional[str] = None, **kwargs: Any) -> Rc:
        """Call it and wait. Inputs come from `ref`, or from the current branch."""
        found: Rc = _called(_calls.target(self._function), args, self._filled(args, kwargs, ref))
        return found

    async def aio(self, *args: Any, ref: Optional[str] = None, **kwargs: Any) -> Rc:
        """The same, awaited. What a generator function yields comes as a list."""
        t = _calls.target(self._function)
        kwargs = await asyncio.get_running_loop().run_in_executor(None, self._filled, args, kwargs, ref)
        found: Any = [v async for v in _yielded_async(t, args, kwargs)] if t.generator else await _remote_async(t, args, kwargs)
        return cast("Rc", found)


class Map(Generic[R]):
    """`f.map` and `f.starmap`: one call for each item."""

    def __init__(self, function: PlainFunction[Any, R], star: bool) -> None:
        self._function, self._star = function, star

    def _target(self) -> Target:
        t = _calls.target(self._function)
        if t.generator:
            raise errors.InvalidArgumentError(f"{t.name} is a generator function: each call has many results. Iterate over {t.name}.remote(...).", reason="call.map_generator")
        return t

    def _items(self, iterables: Tuple[Iterable[Any], ...]) -> Iterator[Tuple[Any, ...]]:
        if self._star:
            return (tuple(args) for args in iterables[0]) if len(iterables) == 1 else iter(_calls.several(iterables))
        return _calls.several(iterables)

    def __call__(self, *iterables: Iterable[Any], ordered: bool = True, return_exceptions: bool = False, concurrency: Optional[int] = None) -> Iterator[R]:
        """Iterate over the results."""
        return _mapped(self._target(), self._items(iterables), ordered, return_exceptions, concurrency)

    def aio(
        self, *iterables: Union[Iterable[Any], AsyncIterator[Any]], ordered: bool = True, return_exceptions: bool = False, concurrency: Optional[int] = None
    ) -> AsyncIterator[R]:
        """The same with `async for`. Items may come from an asynchronous iterator."""
        items = _turns(iterables[0]) if self._star and len(iterables) == 1 else _several_async(iterables)
        return _mapped_async(self._target(), items, ordered, return_exceptions, concurrency)


class ForEach:
    """`f.for_each`: one call for each item, for its effects."""

    def __init__(self, function: PlainFunction[Any, Any]) -> None:
        self._map = Map(function, star=False)

    def __call__(self, *iterables: Iterable[Any], ignore_exceptions: bool = False, concurrency: Optional[int] = None) -> None:
        """Wait for all."""
        for _ in self._map(*iterables, ordered=False, return_exceptions=ignore_exceptions, concurrency=concurrency):
            pass

    async def aio(self, *iterables: Union[Iterable[Any], AsyncIterator[Any]], ignore_exceptions: bool = False, concurrency: Optional[int] = None) -> None:
        """The same, awaited."""
        async for _ in self._map.aio(*iterables, ordered=False, return_exceptions=ignore_exceptions, concurrency=concurrency):
            pass


class Spawn(Generic[P, R]):
    """`f.spawn`: one call, not waited for."""

    def __init__(self, function: PlainFunction[P, R]) -> None:
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        """Start it."""
        self._function._refuse_missing(args, kwargs)
        t = _calls.target(self._function)
        job = _single(t, args, kwargs, waits=False)
        return _started(job.id, t, job.state.python)

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        """The same, awaited."""
        self._function._refuse_missing(args, kwargs)
        t = _calls.target(self._function)
        job = await _single_async(t, args, kwargs, waits=False)
        return _started(job.id, t, job.state.python)


def _started(id: str, t: Target, python: str) -> FunctionCall[Any]:
    call: FunctionCall[Any] = FunctionCall(id)
    call._target, call._python = t, python
    return call


class FunctionCall(Generic[R]):
    """A call that was started with `spawn`: `get()` waits for its result.

    It can be asked for again while the server is up, for an hour after its end, also from another process:
    `tarn.FunctionCall.from_id(call.id).get()`.
    """

    def __init__(self, id: str) -> None:
        self.id = id
        self._target: Optional[Target] = None
        self._python = ""
        self._shown = 0  # pieces of output: each is shown once, however often get() is called

    @classmethod
    def from_id(cls, id: str) -> FunctionCall[Any]:
        """The call that has this id, in the project of this folder."""
        return FunctionCall(id)

    @property
    def get(self) -> Get[R]:
        """Wait for the result: `call.get(timeout=None)`, or `await call.get.aio()`. Raises what the function
        raised, and `tarn.errors.DeadlineError` when it still runs after `timeout` seconds."""
        return Get(self)

    @property
    def cancel(self) -> Cancel:
        """Stop it: `call.cancel()`, or `await call.cancel.aio()`. Who waits for it gets `tarn.errors.CanceledError`."""
        return Cancel(self)

    @contextlib.contextmanager
    def _again(self, state: Calling) -> Iterator[None]:
        state.shown = self._shown
        try:
            yield
        finally:
            self._shown = state.shown

    def _clients(self) -> Tuple[Client, AsyncClient]:
        return _at(self._target.folder if self._target else None)

    def __reduce__(self) -> Tuple[Any, ...]:
        """Another process finds the call by its id: this one's folder says nothing there."""
        return FunctionCall, (self.id,)

    def __repr__(self) -> str:
        return f"<tarn call {self.id}>"


class Get(Generic[R]):
    """`call.get`."""

    def __init__(self, call: FunctionCall[R]) -> None:
        self._call = call

    def __call__(self, timeout: Optional[float] = None) -> R:
        """Wait for the result."""
        call = self._call
        job = _Job(call._target, call._clients()[0], call.id, call._python)
        with call._again(job.state):
            value: R = _value(job.results(_wire.limit(timeout)), call.id)
        return value

    async def aio(self, timeout: Optional[float] = None) -> R:
        """The same, awaited."""
        call = self._call
        client = call._clients()[1]
        job = _AsyncJob(call._target, client, (await client._scope()).project, call.id, call._python)
        with call._again(job.state):
            value: R = await _value_async(job, _wire.limit(timeout))
        return value


class Cancel:
    """`call.cancel`."""

    def __init__(self, call: FunctionCall[Any]) -> None:
        self._call = call

    def __call__(self) -> None:
        """Stop it."""
        client = self._call._clients()[0]
        client._do(_calls.cancel(client.project, self._call.id))

    async def aio(self) -> None:
        """The same, awaited."""
        client = self._call._clients()[1]
        await client._do(_calls.cancel((await client._scope()).project, self._call.id))


class _Gather:
    """Wait for several calls and return their results in order: `a, b = tarn.gather(f.spawn(1), g.spawn(2))`.

    The first error is raised, and the other calls go on. `await tarn.gather.aio(...)` is the same for asyncio.
    """

    __name__ = "gather"

    def __call__(self, *calls: FunctionCall[Any]) -> List[Any]:
        """Wait for all."""
        self._refuse(calls)
        return [call.get() for call in calls]

    async def aio(self, *calls: FunctionCall[Any]) -> List[Any]:
        """The same, awaited."""
        self._refuse(calls)
        return list(await asyncio.gather(*(call.get.aio() for call in calls)))

    def _refuse(self, calls: Tuple[Any, ...]) -> None:
        for call in calls:
            if not isinstance(call, FunctionCall):
                raise TypeError(f"tarn.gather() takes calls, such as f.spawn(1), got {call!r}.")


gather = _Gather()
