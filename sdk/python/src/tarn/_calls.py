"""Calls of plain functions without I/O: values to bytes and back, and the state of one call.

Values travel pickled. They are packed and unpacked by the caller and in the sandbox, never in the server.
"""

from __future__ import annotations

import base64
import hashlib
import mmap
import os
import pickle
import platform
import sys
import threading
import uuid
from typing import Any, Deque, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

from tarn import _home, _values, _wire, errors
from tarn._values import Big, Packed, Ref
from tarn._wire import Call

WINDOW = 1000  # inputs under way: what an endless producer costs at most
WINDOW_BYTES = 64 << 20
FILE_SHARE = 64  # of a file's bytes one counts: they are on the server's disk
BATCH, BATCH_BYTES = 100, 4 << 20  # of one Put
PATIENCE = 5  # lost connections in a row, with nothing in between


class Target(NamedTuple):
    """A function as a server finds it."""

    name: str
    folder: str
    file: str
    qualname: str
    module: str  # under which the sandbox imports the file
    here: str  # under which it is imported here, which may be __main__
    parameters: Tuple[str, ...]
    generator: bool
    source: str = ""  # of a file that the project does not have


def target(decl: Any) -> Target:
    """Where a function is: in a file of a project."""
    import inspect

    from tarn._function import qualname
    from tarn._project import module_name

    fn = decl._plain()
    generator = inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)
    if not os.path.isfile(fn.__code__.co_filename):  # a cell of a notebook
        from tarn import _cell

        folder = os.path.realpath(_project_above(decl, os.getcwd(), "the current folder"))
        return Target(decl.name, folder, _cell.FILE, fn.__qualname__, _cell.MODULE, decl.__module__, decl._positional, generator, _cell.source(decl))
    file = os.path.realpath(fn.__code__.co_filename)
    folder = os.path.realpath(_project_above(decl, os.path.dirname(file), fn.__code__.co_filename))
    relative = os.path.relpath(file, folder).replace(os.sep, "/")
    return Target(decl.name, folder, relative, qualname(decl), module_name(relative), decl.__module__, decl._positional, generator)


def _project_above(decl: Any, folder: str, what: str) -> str:
    found = _home.above(folder)
    if not found:
        raise errors.PreconditionError(f"{decl.name} is not in a file of a project: {what} has no tarn.toml in a folder above it.", reason="call.no_project", next=("tarn init",))
    return found


# Values


def _names(t: Optional[Target]) -> Dict[str, str]:
    """What the caller's own script defines is a module in the sandbox. (There it is both.)"""
    return {} if t is None else {t.module: t.here}


def pack(t: Target, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> Packed:
    """One input. What cannot travel is named."""
    try:
        return _values.dump((args, dict(kwargs)))
    except Exception as whole:
        names = [*t.parameters[: len(args)], *(f"argument {i + 1}" for i in range(len(t.parameters), len(args)))]
        for name, value in (*zip(names, args), *kwargs.items()):
            try:
                pickle.dumps(value, protocol=5)
            except Exception as error:
                text = f"{t.name}() cannot get {name!r}, a {type(value).__qualname__}: {type(error).__name__}: {error}. Pass what pickle can copy, such as a path instead of an open file."
                raise errors.InvalidArgumentError(text, reason="call.argument", details={"argument": name}) from error
        raise errors.InvalidArgumentError(f"{t.name}() cannot get its arguments: {type(whole).__name__}: {whole}", reason="call.argument") from whole


def unpack(t: Optional[Target], data: Union[bytes, mmap.mmap], python: str) -> Any:
    """One result."""
    try:
        return _values.load(data, _names(t))
    except Exception as error:
        name, here = t.name if t else "the function", ".".join(platform.python_version_tuple()[:2])
        versions = f"it comes from Python {python}, this is {here}" if python and python != here else f"this is Python {here}"
        text = f"{name}() returned what cannot be read here ({versions}): {type(error).__name__}: {error}. Return plain types, or install here what it is made of."
        raise errors.PreconditionError(text, reason="call.result", details={"python": python, "here": here}) from error


class RemoteTraceback(Exception):
    """The cause of an exception that came back: where it was raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


def exception_of(t: Optional[Target], error: Mapping[str, Any]) -> Exception:
    """The user's own exception, or one that tells of it."""
    read: Any = None
    if error.get("pickle"):
        try:
            read = _values.load(base64.b64decode(error["pickle"]), _names(t))
        except Exception:  # its class is not here, or cannot be made again: RemoteError tells of it
            read = None
    found: Exception
    if isinstance(read, Exception):
        found = read
    else:
        if not error.get("class"):
            return _wire.make_error(error)
        details = {"class": error["class"], "module": error.get("module", ""), "traceback": error.get("traceback", "")}
        text = str(error.get("message", ""))
        text = text if text.startswith(error["class"]) else f"{error['class']}: {text}"
        found = errors.RemoteError(text, reason=str(error.get("reason") or "call.raised"), details=details)
    if error.get("traceback"):
        found.__cause__ = RemoteTraceback(str(error["traceback"]))
    return found


def several(iterables: Tuple[Any, ...]) -> Iterator[Tuple[Any, ...]]:
    """The positional arguments of each call of `map`."""
    if not iterables:
        raise errors.InvalidArgumentError("map() needs something to go over: f.map([1, 2, 3]).", reason="call.empty_map")
    return zip(*iterables)


# The API


def start(t: Target, project: str, author: str, ordered: bool, concurrency: Optional[int], waits: bool) -> Call:
    if concurrency is not None and (isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1):
        raise errors.InvalidArgumentError(f"concurrency={concurrency!r} must be a number, 1 or more.", reason="call.concurrency")
    request = {
        "requestId": uuid.uuid4().hex, "project": project, "dir": t.folder, "file": t.file, "qualname": t.qualname,
        "ordered": ordered, "concurrency": concurrency or 0, "author": author, "waits": waits, "source": t.source,
    }  # fmt: skip
    return Call("CallService/Start", request, lambda j: j.get("call", {}))


Sent = Union[bytes, Ref]


def put(project: str, call: str, first: int, inputs: List[Sent], last: bool) -> Call:
    request = {
        "project": project, "call": call, "first": str(first), "last": last,
        "inputs": [base64.b64encode(i).decode() if isinstance(i, bytes) else "" for i in inputs],
        "values": {str(n): i.name for n, i in enumerate(inputs) if isinstance(i, Ref)},
    }  # fmt: skip
    return Call("CallService/Put", request, lambda j: int(j.get("next", 0)))


def upload(project: str, call: str, big: Big) -> Call:
    """Hand over a big value."""

    def messages() -> Iterator[bytes]:
        sha = hashlib.sha256()
        yield _wire.field(2, project) + _wire.field(3, call)
        for piece in _values.slices(big, sha.update):
            yield _wire.field(1, piece)
        yield _wire.field(4, sha.hexdigest())

    return Call("CallService/PutValue", {}, lambda said: Ref(said[0].decode(), big.size), streams=True, messages=messages, binary=True)


def download(project: str, call: str, ref: Ref) -> Call:
    """The bytes of a big value."""
    request = _wire.field(1, project) + _wire.field(2, call) + _wire.field(3, ref.name)
    return Call("CallService/GetValue", {}, list, streams=True, messages=lambda: [request], binary=True)


def results(project: str, call: str, after: int, timeout: Optional[float] = None) -> Call:
    return Call("CallService/Results", {"project": project, "call": call, "from": str(after)}, list, streams=True, timeout=timeout)


def cancel(project: str, call: str) -> Call:
    return Call("CallService/Cancel", {"project": project, "call": call}, lambda j: j.get("call", {}))


# The state of a call


class Result(NamedTuple):
    """One value of one input, or its error. `end`: the input has no further ones."""

    number: int
    value: Any
    error: Optional[Exception]
    end: bool
    big: Optional[Ref] = None  # the value is yet to be fetched


class Calling:
    """A call as its caller sees it: inputs go out, results come in. Safe for two threads.

    Inputs are numbered as they are fed, and stay until the server has accepted them, so that one may be
    sent twice: the server passes over numbers that it knows. Results carry sequence numbers; one below
    `next` has been given and is passed over. So after a lost connection both sides go on at what they have,
    and each input has exactly one result. `room` is false while WINDOW inputs, or WINDOW_BYTES of them, have
    no result that the consumer took: a producer without end costs no more than that.
    """

    def __init__(self, t: Optional[Target], python: str = "") -> None:
        self.target, self.python = t, python
        self.next = 0  # sequence number of the result that is expected
        self.over = False  # the server said that nothing follows, output neither
        self._fed = self._accepted = 0  # numbers of inputs
        self._listed = self.shown = 0  # pieces of output in this stream, and in all
        self._waiting: Deque[Sent] = Deque()  # fed and not accepted
        self._under_way: Dict[int, int] = {}  # size of inputs whose result was not taken
        self._bytes = 0
        self._lock = threading.Lock()
        self.closed = self.finished_sending = False

    def feed(self, data: Sent) -> None:
        """One more input."""
        with self._lock:
            self._waiting.append(data)
            self._under_way[self._fed] = _cost(data)
            self._bytes += _cost(data)
            self._fed += 1

    def close(self) -> None:
        """No more inputs."""
        with self._lock:
            self.closed = True

    def room(self) -> bool:
        """Whether to feed another input."""
        with self._lock:
            return len(self._under_way) < WINDOW and self._bytes < WINDOW_BYTES

    def outgoing(self) -> Optional[Tuple[int, List[Sent], bool]]:
        """What to send: number of the first input, inputs, whether they are the last. None: nothing now."""
        with self._lock:
            batch: List[Sent] = []
            size = 0
            for data in self._waiting:
                if batch and (len(batch) == BATCH or size + _cost(data) > BATCH_BYTES):
                    break
                batch.append(data)
                size += _cost(data)
            last = self.closed and len(batch) == len(self._waiting)
            if self.finished_sending or not (batch or last):
                return None
            return self._accepted, batch, last

    def accepted(self, upto: int, last: bool) -> None:
        """The server has the inputs below `upto`."""
        with self._lock:
            if not self._accepted <= upto <= self._fed:
                raise errors.InternalError(f"the server expects input {upto} of {self._fed}", reason="client.protocol")
            for _ in range(upto - self._accepted):
                self._waiting.popleft()
            self._accepted = upto
            self.finished_sending = last and not self._waiting

    def again(self) -> None:
        """A new stream begins, which lists all output once more."""
        self._listed = 0

    def take(self, message: Mapping[str, Any]) -> Optional[Result]:
        """The result that a message of the stream brings, if it is one that was not given yet."""
        if "call" in message:
            self.over = True
        if "output" in message:
            self._listed += 1
            if self._listed > self.shown:
                self.shown = self._listed
                show(message["output"])
        found = message.get("result")
        if found is None or int(found.get("sequence", 0)) < self.next:
            return None
        self.next = int(found.get("sequence", 0)) + 1
        number, end = int(found.get("index", 0)), not found.get("more", False)
        with self._lock:
            if end:
                self._bytes -= self._under_way.pop(number, 0)
        if "error" in found:
            return Result(number, None, exception_of(self.target, found["error"]), end)
        if "big" in found:
            return Result(number, None, None, end, Ref(found["big"]["value"], int(found["big"]["size"]), found["big"]["sha256"]))
        data = base64.b64decode(found.get("value", ""))
        if not data:  # the end of a generator
            return Result(number, None, None, end)
        return self.filled(Result(number, None, None, end), data)

    def filled(self, result: Result, data: Union[bytes, mmap.mmap]) -> Result:
        """The result with its value."""
        try:
            return result._replace(value=unpack(self.target, data, self.python), big=None)
        except errors.PreconditionError as error:
            return result._replace(error=error, big=None)


def _cost(data: Sent) -> int:
    return len(data) if isinstance(data, bytes) else data.size // FILE_SHARE


def show(output: Mapping[str, Any]) -> None:
    """What the function printed, where it would have."""
    stream = sys.stderr if output.get("stream") == "stderr" else sys.stdout
    stream.write(str(output.get("text", "")))
    stream.flush()


def ended(call: str) -> errors.Error:
    """The error of a call that has no result."""
    return errors.CanceledError(f"call {call} ended without a result: it was canceled", reason="call.canceled")


def server_ended(call: str) -> errors.Error:
    """The error of a call that a restarted server does not know."""
    return errors.UnavailableError(f"the server ended during call {call}, and the call with it: results that had not come are lost. Call it again.", reason="call.server_ended")


def still(call: str, timeout: Optional[float]) -> errors.Error:
    """The error of a wait that was too short."""
    return errors.DeadlineError(f"call {call} is still going after {timeout or 0:g} s. It goes on: get() again, or cancel().", reason="client.timeout", details={"call": call})
