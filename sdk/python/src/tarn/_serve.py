"""The program of a worker: import one function, and call it with one input after the other.

Runs in a sandbox as `python -S -B -m tarn._serve`, with the context file of the runner. Inputs are JSON lines on stdin, answers go to the
descriptor `TARN_MESSAGES_FD`: docs/formats/calls.md. What the module keeps in its globals stays from one input to the next.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import inspect
import json
import mmap
import os
import sys
from typing import Any, BinaryIO, Dict, Optional, Union

from tarn import _load, _params, _values, errors
from tarn._context import Context, Messages
from tarn._declare import Secret
from tarn._runner import OK, USER, Runner, _leave, _pickled, take_secrets

MARK = b"\0tarn: input done\0"  # behind the output of each input


class Worker:
    """One function of the project, called again and again."""

    def __init__(self, context: Dict[str, Any], messages: Messages) -> None:
        self.runner = Runner(context, messages, take_secrets())
        self.messages = messages
        # Where the end of an input's output is marked, whatever the function does to its streams.
        self.values: Dict[str, str] = context["values"]
        self.written = 0
        self.pid = os.getpid()
        self.outputs = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200) for fd in (1, 2)]

    def load(self) -> bool:
        """Import the function; say how that went."""
        try:
            self.runner.load()
            # The caller may have been the module itself: what it pickled is then of `__main__`.
            sys.modules["__main__"] = sys.modules[self.runner.decl._plain().__module__]
        except BaseException as error:
            self._fail(error, 0)
            return False
        self.runner.watching = False
        self._send("ready", 0)
        return True

    def serve(self, inputs: BinaryIO) -> None:
        """Do each input."""
        for line in inputs:
            given = json.loads(line)
            index = given["index"]
            try:
                self._call(index, self._given(given))
            except BaseException as error:  # SystemExit and KeyboardInterrupt are the function's failure too
                self._child_ends()
                self._flush()
                self._fail(error, index)

    def _child_ends(self) -> None:
        """A child that the function forked and that came back here ends: it would answer for its parent, and take his inputs."""
        if os.getpid() != self.pid:
            os._exit(OK)

    def _given(self, line: Dict[str, Any]) -> Union[bytes, mmap.mmap]:
        if "file" not in line:
            return base64.b64decode(line["data"])
        with open(f"{self.values['in']}/{line['file']['name']}", "rb") as f:
            return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)  # what the function changes is its own

    def _call(self, index: int, data: Union[bytes, mmap.mmap]) -> None:
        try:
            args, kwargs = _values.load(data, {})
        except Exception as error:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise ValueError(f"the arguments cannot be read by Python {version} in the environment of {self.runner.decl.name}: {type(error).__name__}: {error}") from None
        for p in _params.of(self.runner.decl)[len(args) :]:
            if isinstance(kwargs.get(p.name), _load.Loaded):
                kwargs[p.name] = kwargs[p.name].frame(self.runner.decl.name)
            elif isinstance(p.marker, Secret) and p.name not in kwargs:
                kwargs[p.name] = self.runner.secrets[p.marker.name]
            elif p.kind == "context" and p.name not in kwargs:
                kwargs[p.name] = Context(self.runner.context, Messages(None))  # it publishes nothing, so nothing is kept of it
        result = self.runner._call(args, kwargs)
        self._child_ends()
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            for value in _yields(result):
                self._child_ends()
                self._send("yield", index, self._dump(value))
            self._child_ends()
            self._flush()
            self._send("end", index)
            return
        value = self._dump(result)
        self._flush()
        self._send("value", index, value)

    def _dump(self, value: Any) -> Dict[str, Any]:
        """A value as an answer has it."""
        name = self.runner.decl.name
        try:
            packed = _values.dump(value)
        except Exception as error:
            raise TypeError(f"{name} returned a {type(value).__name__} that cannot be pickled: {error}") from None
        if isinstance(packed, bytes):
            return {"data": base64.b64encode(packed).decode()}
        self.written += 1
        path = f"{self.values['out']}{self.written}"
        try:
            return {"file": {"name": os.path.basename(path), **_values.write(path, packed)}}
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise errors.ResourceExhaustedError(f"{name} returned {packed.size:,} bytes, which do not fit on the server's disk: {error}", reason="call.disk_full") from None

    def _fail(self, error: BaseException, index: int) -> None:
        pickled = _pickled(error)
        # The shape of a runner's error, with the pickle as it is.
        self.runner._report(error, _Answer(self.messages, index, pickled))

    def _send(self, kind: str, index: int, value: Optional[Dict[str, Any]] = None) -> None:
        _write(self.messages.fd, {"type": kind, "index": index, **(value or {})})

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # the user closed it
                continue
        for target, fd in enumerate(self.outputs, 1):
            _all(fd, MARK)
            os.dup2(fd, target)  # an input that closed its output closed it for itself


class _Answer(Messages):
    """Sends one error as the answer to an input."""

    def __init__(self, messages: Messages, index: int, pickled: Optional[str]) -> None:
        super().__init__(messages.fd)
        self.index, self.pickled = index, pickled

    def send(self, kind: str, **fields: Any) -> None:
        super().send(kind, **{**fields, "index": self.index, "pickle": self.pickled})


def _write(fd: Optional[int], message: Dict[str, Any]) -> None:
    if fd is not None:
        _all(fd, json.dumps(message).encode() + b"\n")


def _all(fd: int, raw: bytes) -> None:
    while raw:
        raw = raw[os.write(fd, raw) :]


def _yields(result: Any) -> Any:
    if inspect.isgenerator(result):
        yield from result
        return
    import asyncio

    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(result.__anext__())
            except StopAsyncIteration:
                return
    finally:
        loop.close()


def main() -> int:
    """Serve until stdin ends."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    # High descriptors of our own: user code that closes or reads low numbers does not hit them.
    messages = Messages(fcntl.fcntl(int(os.environ["TARN_MESSAGES_FD"]), fcntl.F_DUPFD_CLOEXEC, 200))
    given = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 200)
    os.set_blocking(given, True)  # a pipe of Go's does not block
    inputs = os.fdopen(given, "rb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    with open(os.environ["TARN_CONTEXT"], encoding="utf-8") as f:
        context = json.load(f)
    worker = Worker(context, messages)
    if not worker.load():
        _leave(USER)
    worker.serve(inputs)
    _leave(OK)
    return OK


if __name__ == "__main__":
    sys.exit(main())
