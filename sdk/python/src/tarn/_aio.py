"""The asynchronous client: the calls of the synchronous one over asyncio streams."""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
import time
from typing import Any, AsyncGenerator, AsyncIterator, Dict, Iterable, List, Mapping, Optional, Tuple, Union

from tarn import _frames, _home, _ops, _wire, errors
from tarn._declare import strings
from tarn._result import Batches, Result
from tarn._types import Answer, Change, Commit, Entry, LogLine, Merge, Plan, Ref, RunState, Secret, Source, TableInfo, TableVersion, Written

Streams = Tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connect(address: _wire.Address) -> Streams:
    try:
        if address.socket:
            return await asyncio.open_unix_connection(address.socket)
        return await asyncio.open_connection(address.host, address.port, ssl=ssl.create_default_context() if address.tls else None)
    except OSError as error:
        raise _wire.unreachable(address, error) from error


async def _request(writer: asyncio.StreamWriter, address: _wire.Address, call: _wire.Call) -> None:
    headers = {**_wire.head(address, call), "Host": address.host, "Connection": "close"}
    chunked = call.messages is not None
    body = b"" if chunked else b"".join(_wire.body(call))
    headers.update({"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))})
    lines = [f"POST {_wire.path(address, call)} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode("latin-1") + body)
    if chunked:
        for piece in _wire.body(call):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _response(reader: asyncio.StreamReader) -> Tuple[int, Dict[str, str]]:
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    return int(status.split()[1]), headers


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: _wire.Address, call: _wire.Call) -> Tuple[int, Dict[str, str]]:
    """Send a call and wait for the head of its answer, which comes before the end of what is sent when
    the server refuses it."""
    sending, answer = asyncio.ensure_future(_request(writer, address, call)), asyncio.ensure_future(_response(reader))
    try:
        await asyncio.wait({sending, answer}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and not isinstance(sending.exception(), OSError):
            sending.result()  # raises what the caller's own rows raised
        return await answer
    finally:
        sending.cancel()
        answer.cancel()
        await asyncio.gather(sending, answer, return_exceptions=True)


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while True:
            size = int((await reader.readline()).split(b";")[0], 16)
            data = await reader.readexactly(size)
            await reader.readexactly(2)
            if not size:
                return
            yield data
    left = int(headers.get("content-length", -1))
    while left:
        data = await reader.read(1 << 16 if left < 0 else min(left, 1 << 16))
        if not data:
            if left > 0:
                raise asyncio.IncompleteReadError(b"", left)
            return
        left -= len(data) if left > 0 else 0
        yield data


async def _messages(streams: Streams, address: _wire.Address, call: _wire.Call) -> AsyncGenerator[Any, None]:
    """The messages of a stream, or the one answer of a unary call. Closing it, or cancelling the task,
    ends the call."""
    reader, writer = streams
    try:
        status, headers = await _exchange(reader, writer, address, call)
        if status != 200 or not call.streams:
            yield _wire.answer(status, b"".join([data async for data in _body(reader, headers)]))
            return
        envelopes = _wire.Envelopes(call.binary)
        async for data in _body(reader, headers):
            for message in envelopes.feed(data):
                yield message
        envelopes.close()
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        raise _wire.unreachable(address, error) from error
    finally:
        writer.close()


class AsyncClient:
    """`tarn.Client` for asyncio: the same calls, awaited.

    c = tarn.AsyncClient()
    frame = await c.table("flights").to_pandas()
    async for batch in c.table("flights").batches(): ...
    """

    def __init__(
        self,
        project: Optional[str] = None,
        *,
        ref: Optional[str] = None,
        into: Optional[str] = None,
        url: Optional[str] = None,
        token: Optional[str] = None,
        folder: Optional[str] = None,
    ) -> None:
        self._project, self._ref, self._into = project, ref, into
        self._url, self._token, self._folder = url or os.environ.get("TARN_URL"), token or os.environ.get("TARN_TOKEN"), folder
        self._found: Optional[_home.Place] = None

    def at(self, ref: str) -> AsyncClient:
        """The same client, reading from and writing to `ref`."""
        other = AsyncClient(self._project, ref=ref, into=ref, url=self._url, token=self._token, folder=self._folder)
        other._found = self._found
        return other

    async def _place(self) -> _home.Place:
        if self._found is None:
            if self._url:
                self._found = _home.remote(self._url, self._token, self._project)
            else:
                argv = _home.command(self._project)
                child = await asyncio.create_subprocess_exec(
                    *argv, cwd=self._folder, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
                )
                stdout, stderr = await child.communicate()
                self._found = _home.understood(child.returncode or 0, stdout.decode(), stderr.decode(), self._folder, self._project)
        return self._found

    async def _scope(self) -> _ops.Scope:
        place = await self._place()
        return _ops.Scope(place.project, self._ref or place.branch, self._into or self._ref or place.branch, place.folder)

    async def _do(self, call: _wire.Call) -> Any:
        messages = [message async for message in await self._messages(call)]
        return call.parse(messages if call.streams else messages[0])

    async def _messages(self, call: _wire.Call) -> AsyncGenerator[Any, None]:
        """The messages of a call on a connection of its own. A local server ends by itself when it is
        idle; it is started again."""
        known = self._found is not None and not self._url
        address = (await self._place()).address
        try:
            streams = await _connect(address)
        except errors.UnavailableError:
            if not known:
                raise
            self._found = None
            address = (await self._place()).address
            streams = await _connect(address)
        return _messages(streams, address, call)

    @property
    def branches(self) -> AsyncBranches:
        """The project's branches."""
        return AsyncBranches(self)

    @property
    def tags(self) -> AsyncTags:
        """The project's tags."""
        return AsyncTags(self)

    @property
    def files(self) -> AsyncFiles:
        """The project's files."""
        return AsyncFiles(self)

    @property
    def secrets(self) -> AsyncSecrets:
        """The project's secrets."""
        return AsyncSecrets(self)

    @property
    def tables(self) -> AsyncTables:
        """The project's tables."""
        return AsyncTables(self)

    def table(self, name: str, *, ref: Optional[str] = None, columns: Optional[Iterable[str]] = None, where: Optional[str] = None) -> AsyncTable:
        """One table, to read or to write. `columns` and `where` choose what is read."""
        return AsyncTable(self, name, ref, None if columns is None else list(strings(columns, "columns")), where)

    async def resolve(self, ref: Optional[str] = None) -> Commit:
        """The commit that a ref names."""
        found: Commit = await self._do(_ops.resolve(await self._scope(), ref))
        return found

    async def log(self, name: str = "", *, ref: Optional[str] = None, limit: int = 0) -> List[Commit]:
        """Commits, newest first; with a name, those that changed it."""
        found: List[Commit] = await self._do(_ops.log(await self._scope(), name, ref, limit))
        return found

    async def diff(self, span: str, name: str = "") -> List[Change]:
        """What differs between two refs: `await c.diff("main..dev")`."""
        found: List[Change] = await self._do(_ops.diff(await self._scope(), span, name))
        return found

    async def merge(self, source: str, *, into: Optional[str] = None, prefer: Optional[Mapping[str, str]] = None, message: str = "", dry_run: bool = False) -> Merge:
        """Bring a branch's changes into another. Conflicts raise `ConflictError`; a dry run returns them."""
        found: Merge = await self._do(_ops.merge(await self._scope(), source, into, prefer, message, dry_run))
        return found

    async def revert(self, commit: str, *, into: Optional[str] = None, message: str = "") -> Written:
        """Undo a commit by a new one."""
        found: Written = await self._do(_ops.revert(await self._scope(), commit, into, message))
        return found

    async def query(
        self,
        sql: str,
        *,
        ref: Optional[str] = None,
        into: Optional[str] = None,
        params: Optional[Mapping[str, Any]] = None,
        message: str = "",
        timeout: Optional[float] = None,
    ) -> AsyncResult:
        """Run one SQL statement, as `Client.query` does. Cancelling the task stops the query.

        frame = await (await c.query("select count(*) as n from flights")).to_pandas()
        """
        call = _ops.query(await self._scope(), sql, ref, into, params, message, timeout)
        messages = await self._messages(call)
        try:
            first = await asyncio.wait_for(messages.__anext__(), call.patience)
        except asyncio.TimeoutError as error:
            raise _wire.unreachable((await self._place()).address, TimeoutError()) from error
        return AsyncResult(first, messages)

    async def run(
        self,
        path: Optional[str] = None,
        *,
        select: Union[str, Iterable[str]] = (),
        ref: Optional[str] = None,
        into: Optional[str] = None,
        params: Optional[Mapping[str, Any]] = None,
        cache: bool = True,
        publish: bool = True,
        id: str = "",
    ) -> AsyncRun:
        """Start a run of a project folder. The same `id` attaches to the run that has it."""
        spec = _ops.run_spec(await self._scope(), _home.folder_of(path, self._folder), select, ref, into, params, cache, publish)
        state: RunState = await self._do(_ops.start_run(spec, id))
        return AsyncRun(self, state)

    async def plan(
        self,
        path: Optional[str] = None,
        *,
        select: Union[str, Iterable[str]] = (),
        ref: Optional[str] = None,
        into: Optional[str] = None,
        params: Optional[Mapping[str, Any]] = None,
        cache: bool = True,
    ) -> Plan:
        """What `run` with the same arguments would do, without doing it."""
        spec = _ops.run_spec(await self._scope(), _home.folder_of(path, self._folder), select, ref, into, params, cache, True)
        found: Plan = await self._do(_ops.plan(spec))
        return found

    async def runs(self, limit: int = 20) -> List[RunState]:
        """Runs, newest first."""
        found: List[RunState] = await self._do(_ops.list_runs(await self._scope(), limit))
        return found

    async def logs(self, run: str = "", step: str = "", *, follow: bool = False) -> AsyncGenerator[LogLine, None]:
        """What the steps of a run wrote, line by line: `async for line in c.logs(): ...`"""
        messages = await self._messages(_ops.logs(await self._scope(), run, step, follow))
        try:
            async for message in messages:
                yield LogLine.of(message)
        finally:
            await messages.aclose()

    async def why(self, target: str, *, ref: Optional[str] = None) -> Answer:
        """Why a run, step, asset, table, commit or file is as it is: one sentence and one command."""
        found: Answer = await self._do(_ops.why(await self._scope(), target, ref))
        return found

    async def provenance(self, target: str, *, ref: Optional[str] = None, forward: bool = False) -> List[Source]:
        """What something was made from, itself first; forward: what was made from it."""
        found: List[Source] = await self._do(_ops.provenance(await self._scope(), target, ref, forward))
        return found


class AsyncResult:
    """What a statement gave. Rows are read once."""

    def __init__(self, first: Mapping[str, Any], rest: AsyncGenerator[Any, None]) -> None:
        self._first, self._rest = [first], rest

    async def _messages(self) -> AsyncGenerator[Any, None]:
        try:
            while self._first:
                yield self._first.pop()
            async for message in self._rest:
                yield message
        finally:
            await self._rest.aclose()

    async def batches(self) -> AsyncGenerator[Any, None]:
        """The rows as `pyarrow.RecordBatch`es, as they arrive: `async for batch in result.batches()`."""
        messages, found = self._messages(), Batches()
        try:
            async for message in messages:
                for batch in found.feed(_wire.read_data(message)) if "data" in message else ():
                    yield batch
        finally:
            await messages.aclose()

    async def _whole(self) -> Result:
        return Result(iter([message async for message in self._messages()]))

    async def to_arrow(self) -> Any:
        """The rows as a `pyarrow.Table`."""
        return (await self._whole()).to_arrow()

    async def to_pandas(self) -> Any:
        """The rows as a pandas frame."""
        return (await self._whole()).to_pandas()

    async def to_polars(self) -> Any:
        """The rows as a polars frame; pyarrow is not needed."""
        return (await self._whole()).to_polars()

    async def to_dicts(self) -> Any:
        """The rows as a list of dicts."""
        return (await self._whole()).to_dicts()

    async def written(self) -> Optional[Written]:
        """For a statement that wrote: the branch and commit. None for one that only read."""
        return (await self._whole()).written()

    async def aclose(self) -> None:
        """Stop the query."""
        await self._rest.aclose()


class AsyncBranches:
    """Branches of a project."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> List[Ref]:
        """All branches."""
        found: List[Ref] = await self._client._do(_ops.list_branches(await self._client._scope()))
        return found

    async def create(self, name: str, base: Optional[str] = None) -> Ref:
        """A new branch at a ref."""
        found: Ref = await self._client._do(_ops.create_branch(await self._client._scope(), name, base))
        return found

    async def delete(self, name: str) -> Ref:
        """Remove a branch; the answer says where it was."""
        found: Ref = await self._client._do(_ops.delete_branch(await self._client._scope(), name))
        return found


class AsyncTags:
    """Tags of a project."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> List[Ref]:
        """All tags."""
        found: List[Ref] = await self._client._do(_ops.list_tags(await self._client._scope()))
        return found

    async def create(self, name: str, base: Optional[str] = None) -> Ref:
        """A new tag at a ref."""
        found: Ref = await self._client._do(_ops.create_tag(await self._client._scope(), name, base))
        return found

    async def delete(self, name: str) -> Ref:
        """Remove a tag; the answer says where it was."""
        found: Ref = await self._client._do(_ops.delete_tag(await self._client._scope(), name))
        return found


class AsyncFiles:
    """Files of a project. A path may end in @REF."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def put(self, path: str, content: _ops.Data, *, into: Optional[str] = None, message: str = "") -> Written:
        """Store bytes, text, a local path or an open file under a path."""
        found: Written = await self._client._do(_ops.put_file(await self._client._scope(), path, content, into, message))
        return found

    async def get(self, path: str, *, ref: Optional[str] = None) -> bytes:
        """A file's bytes."""
        found: bytes = await self._client._do(_ops.get_file(await self._client._scope(), path, ref))
        return found

    async def open(self, path: str, *, ref: Optional[str] = None) -> AsyncGenerator[bytes, None]:
        """A file's bytes in pieces, as they arrive."""
        messages = await self._client._messages(_ops.get_file(await self._client._scope(), path, ref))
        try:
            async for message in messages:
                if "data" in message:
                    yield _wire.read_data(message)
        finally:
            await messages.aclose()

    async def ls(self, pattern: str = "", *, ref: Optional[str] = None, recursive: bool = False) -> List[Entry]:
        """Files and folders that a path, folder or glob selects."""
        found: List[Entry] = await self._client._do(_ops.list_files(await self._client._scope(), pattern, ref, recursive))
        return found

    async def rm(self, *patterns: str, into: Optional[str] = None, message: str = "") -> Written:
        """Remove files as one commit."""
        found: Written = await self._client._do(_ops.remove_files(await self._client._scope(), patterns, into, message))
        return found


class AsyncSecrets:
    """Secrets of a project: texts that functions get and nobody reads back."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def set(self, name: str, value: str) -> Secret:
        """Make or replace a secret. Functions get it by `secrets=[name]` or `tarn.secret(name)`."""
        found: Secret = await self._client._do(_ops.set_secret(await self._client._scope(), name, value))
        return found

    async def ls(self) -> List[Secret]:
        """All secrets, without their values."""
        found: List[Secret] = await self._client._do(_ops.list_secrets(await self._client._scope()))
        return found

    async def rm(self, *names: str) -> List[Secret]:
        """Remove secrets, all or none."""
        found: List[Secret] = await self._client._do(_ops.remove_secrets(await self._client._scope(), names))
        return found


class AsyncTables:
    """Tables of a project."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self, *, ref: Optional[str] = None) -> List[Entry]:
        """All tables."""
        found: List[Entry] = await self._client._do(_ops.list_tables(await self._client._scope(), ref))
        return found

    async def delete(self, *names: str, into: Optional[str] = None, message: str = "") -> Written:
        """Remove tables as one commit."""
        found: Written = await self._client._do(_ops.remove_tables(await self._client._scope(), names, into, message))
        return found


class AsyncTable:
    """One table, seen through a client."""

    def __init__(self, client: AsyncClient, name: str, ref: Optional[str], columns: Optional[List[str]], where: Optional[str]) -> None:
        self._client, self.name, self._ref, self._columns, self._where = client, name, ref, columns, where

    async def describe(self) -> TableInfo:
        """Its columns, row key, checks and description."""
        found: TableInfo = await self._client._do(_ops.describe_table(await self._client._scope(), self.name, self._ref))
        return found

    async def history(self, limit: int = 0) -> List[TableVersion]:
        """The commits that changed it, newest first."""
        found: List[TableVersion] = await self._client._do(_ops.table_history(await self._client._scope(), self.name, self._ref, limit))
        return found

    async def _result(self) -> AsyncResult:
        name, ref = _ops.named(await self._client._scope(), self.name, self._ref)
        return await self._client.query(_ops.select(name, self._columns, self._where), ref=ref)

    async def batches(self) -> AsyncGenerator[Any, None]:
        """The rows as `pyarrow.RecordBatch`es, as they arrive: a table need not fit in memory."""
        batches = (await self._result()).batches()
        try:
            async for batch in batches:
                yield batch
        finally:
            await batches.aclose()

    async def to_arrow(self) -> Any:
        """The rows as a `pyarrow.Table`."""
        return await (await self._result()).to_arrow()

    async def to_pandas(self) -> Any:
        """The rows as a pandas frame."""
        return await (await self._result()).to_pandas()

    async def to_polars(self) -> Any:
        """The rows as a polars frame."""
        return await (await self._result()).to_polars()

    async def to_dicts(self) -> Any:
        """The rows as a list of dicts."""
        return await (await self._result()).to_dicts()

    async def write(self, frame: Any, *, mode: str = "replace", key: Union[str, Iterable[str]] = (), into: Optional[str] = None, message: str = "") -> Written:
        """Write rows as one commit: replace, append, or merge by key. See `Table.write`."""
        with tempfile.TemporaryDirectory(prefix="tarn-") as folder:
            file = os.path.join(folder, "rows.arrow")
            _frames.write(frame, file, f"table({self.name!r}).write()")
            names = [key] if isinstance(key, str) else list(key)
            found: Written = await self._client._do(_ops.write_table(await self._client._scope(), self.name, file, mode, names, into, message))
            return found


class AsyncRun:
    """A run that was started."""

    def __init__(self, client: AsyncClient, state: RunState) -> None:
        self._client = client
        self.state = state

    @property
    def id(self) -> str:
        """The run's id."""
        return self.state.id

    async def wait(self, timeout: Optional[float] = None) -> RunState:
        """Wait for the end. Raises `tarn.RunFailed` when it did not succeed, and `DeadlineError` when
        it is still going after `timeout` seconds; the run goes on."""
        end = None if _wire.limit(timeout) is None else time.monotonic() + (timeout or 0)
        seq, lost = 0, 0
        while True:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise _ops.still_running(self.state, timeout)
            try:
                messages = await self._client._messages(_ops.run_events(await self._client._scope(), self.id, seq, left))
                async for event in messages:
                    lost = 0
                    if "run" in event:
                        await messages.aclose()
                        self.state = RunState.of(event["run"])
                        return _ops.finished(self.state)
                    seq = int(event.get("happened", {}).get("seq", seq))
            except errors.DeadlineError:
                raise _ops.still_running(self.state, timeout) from None
            except errors.UnavailableError:
                lost += 1  # the server may have been replaced; a run outlives its connection
                if lost > 3:
                    raise

    def logs(self, step: str = "", *, follow: bool = False) -> AsyncGenerator[LogLine, None]:
        """What its steps wrote, line by line; `follow` waits for more until the run ends."""
        return self._client.logs(self.id, step, follow=follow)

    async def refresh(self) -> RunState:
        """Ask the server for the run's state now."""
        self.state = await self._client._do(_ops.get_run(await self._client._scope(), self.id))
        return self.state

    async def cancel(self) -> RunState:
        """Stop the run."""
        self.state = await self._client._do(_ops.cancel_run(await self._client._scope(), self.id))
        return self.state
