"""The synchronous client."""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import tempfile
import time
from typing import Any, Dict, Generator, Iterable, Iterator, List, Mapping, Optional, Union

from tarn import _frames, _home, _ops, _wire, errors
from tarn._declare import strings
from tarn._result import Messages, Pieces, Result
from tarn._types import Answer, Change, Commit, Entry, LogLine, Merge, Plan, Ref, RunState, Secret, Source, TableInfo, TableVersion, Written


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: Optional[float]) -> None:
        super().__init__("tarn", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connect(address: _wire.Address, timeout: Optional[float]) -> http.client.HTTPConnection:
    """Each call has a connection of its own: connecting to a socket of this host costs less than the
    bookkeeping of sharing, and threads need no lock."""
    if address.socket:
        connection: http.client.HTTPConnection = _UnixConnection(address.socket, timeout)
    elif address.tls:
        connection = http.client.HTTPSConnection(address.host, address.port, timeout=timeout, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout)
    try:
        connection.connect()
    except OSError as error:
        connection.close()
        raise _wire.unreachable(address, error) from error
    return connection


def _send(connection: http.client.HTTPConnection, address: _wire.Address, call: _wire.Call) -> http.client.HTTPResponse:
    """Send a call and wait for the head of its answer."""
    try:
        body: Any = _wire.body(call)
        headers = _wire.head(address, call)
        if call.messages is None:
            body = b"".join(body)
        try:
            connection.request("POST", _wire.path(address, call), body=body, headers=headers, encode_chunked=call.messages is not None and _chunk(headers))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server refuses what is still being sent, and its answer says why
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise _wire.unreachable(address, error) from error
    except BaseException:  # Ctrl-C, or what the caller's own rows raised
        connection.close()
        raise


def _chunk(headers: Dict[str, str]) -> bool:
    headers["Transfer-Encoding"] = "chunked"
    return True


def _unary(connection: http.client.HTTPConnection, address: _wire.Address, call: _wire.Call) -> Any:
    response = _send(connection, address, call)
    try:
        raw = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise _wire.unreachable(address, error) from error
    finally:
        connection.close()
    return call.parse(_wire.answer(response.status, raw))


def _stream(connection: http.client.HTTPConnection, address: _wire.Address, call: _wire.Call) -> Generator[Any, None, None]:
    """The messages of a stream. Closing the iterator ends the call, and with it the server's work."""
    response = _send(connection, address, call)
    try:
        if response.status != 200:
            raise _wire.http_error(response.status, response.read())
        envelopes = _wire.Envelopes(call.binary)
        while True:
            data = response.read1(1 << 20)
            if not data:
                break
            yield from envelopes.feed(data)
        envelopes.close()
    except (OSError, http.client.HTTPException) as error:
        raise _wire.unreachable(address, error) from error
    finally:
        connection.close()


class Client:
    """A project on a server: `tarn.Client()` is that of this folder on the local server.

    `ref` is where it reads, `into` is where it writes; without them both are the current branch.
    `TARN_URL` and `TARN_TOKEN`, or `url` and `token`, name a server elsewhere. Nothing is connected
    before the first call. Threads may share a client. Every error is a class of `tarn.errors`.

        c = tarn.Client()
        dev = c.at("dev")
        flights = c.table("flights", columns=["origin", "delay"], where="delay > 0").to_pandas()
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

    def at(self, ref: str) -> Client:
        """The same client, reading from and writing to `ref`."""
        other = Client(self._project, ref=ref, into=ref, url=self._url, token=self._token, folder=self._folder)
        other._found = self._found
        return other

    def _place(self) -> _home.Place:
        place = self._found
        if place is None:
            if self._url:
                place = _home.remote(self._url, self._token, self._project)
            else:
                place = _home.local(_home.command(self._project), self._folder, self._project)
            self._found = place
        return place

    @property
    def _scope(self) -> _ops.Scope:
        place = self._place()
        return _ops.Scope(place.project, self._ref or place.branch, self._into or self._ref or place.branch, place.folder)

    def _open(self, call: _wire.Call) -> http.client.HTTPConnection:
        """A connection to the server. A local one ends by itself when it is idle; it is started again."""
        known = self._found is not None and not self._url
        try:
            return _connect(self._place().address, call.patience)
        except errors.UnavailableError:
            if not known:
                raise
            self._found = None
            return _connect(self._place().address, call.patience)

    @property
    def project(self) -> str:
        """The project's name."""
        return self._scope.project

    def _do(self, call: _wire.Call) -> Any:
        connection = self._open(call)
        address = self._place().address
        if call.streams:
            return call.parse(list(_stream(connection, address, call)))
        return _unary(connection, address, call)

    def _messages(self, call: _wire.Call) -> Messages:
        """The messages of a call that has begun: the first one is here, or its error is raised."""
        connection = self._open(call)
        return Messages(_stream(connection, self._place().address, call))

    @property
    def branches(self) -> Branches:
        """The project's branches."""
        return Branches(self)

    @property
    def tags(self) -> Tags:
        """The project's tags."""
        return Tags(self)

    @property
    def files(self) -> Files:
        """The project's files."""
        return Files(self)

    @property
    def secrets(self) -> Secrets:
        """The project's secrets."""
        return Secrets(self)

    @property
    def tables(self) -> Tables:
        """The project's tables."""
        return Tables(self)

    def table(self, name: str, *, ref: Optional[str] = None, columns: Optional[Iterable[str]] = None, where: Optional[str] = None) -> Table:
        """One table, to read or to write. `columns` and `where` choose what is read."""
        return Table(self, name, ref, None if columns is None else list(strings(columns, "columns")), where)

    def resolve(self, ref: Optional[str] = None) -> Commit:
        """The commit that a ref names."""
        found: Commit = self._do(_ops.resolve(self._scope, ref))
        return found

    def log(self, name: str = "", *, ref: Optional[str] = None, limit: int = 0) -> List[Commit]:
        """Commits, newest first; with a name, those that changed it."""
        found: List[Commit] = self._do(_ops.log(self._scope, name, ref, limit))
        return found

    def diff(self, span: str, name: str = "") -> List[Change]:
        """What differs between two refs: `c.diff("main..dev")`."""
        found: List[Change] = self._do(_ops.diff(self._scope, span, name))
        return found

    def merge(self, source: str, *, into: Optional[str] = None, prefer: Optional[Mapping[str, str]] = None, message: str = "", dry_run: bool = False) -> Merge:
        """Bring a branch's changes into another. Conflicts raise `ConflictError`; a dry run returns them."""
        found: Merge = self._do(_ops.merge(self._scope, source, into, prefer, message, dry_run))
        return found

    def revert(self, commit: str, *, into: Optional[str] = None, message: str = "") -> Written:
        """Undo a commit by a new one."""
        found: Written = self._do(_ops.revert(self._scope, commit, into, message))
        return found

    def query(
        self,
        sql: str,
        *,
        ref: Optional[str] = None,
        into: Optional[str] = None,
        params: Optional[Mapping[str, Any]] = None,
        message: str = "",
        timeout: Optional[float] = None,
    ) -> Result:
        """Run one SQL statement, with `params` for its `$name`s. A write is one commit.

        Rows arrive as they are read, so a large result needs no memory here. Closing the result, or
        leaving it, stops the query; so does `timeout`, in seconds, with `DeadlineError`.
        Raises `InvalidArgumentError` for SQL that does not parse, `NotFoundError` for an unknown table
        or ref, and for writes `UserCodeError` when a check fails, `PermissionDeniedError` when the
        branch is protected.

            c.query("select origin, count(*) as n from flights where delay > $min group by 1", params={"min": 30}).to_pandas()
        """
        return Result(self._messages(_ops.query(self._scope, sql, ref, into, params, message, timeout)))

    def run(
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
    ) -> Run:
        """Start a run of a project folder; it goes on without this process.

        `select` takes what `tarn run` takes: names, globs, `+x`, `x+`. The same `id` attaches to the
        run that has it and never runs twice, so a scheduler may send it again.

            c.run(select="delays+", params={"top": 5}, id="airflow-123").wait()
        """
        spec = _ops.run_spec(self._scope, _home.folder_of(path, self._folder), select, ref, into, params, cache, publish)
        state: RunState = self._do(_ops.start_run(spec, id))
        return Run(self, state)

    def plan(
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
        spec = _ops.run_spec(self._scope, _home.folder_of(path, self._folder), select, ref, into, params, cache, True)
        found: Plan = self._do(_ops.plan(spec))
        return found

    def runs(self, limit: int = 20) -> List[RunState]:
        """Runs, newest first."""
        found: List[RunState] = self._do(_ops.list_runs(self._scope, limit))
        return found

    def logs(self, run: str = "", step: str = "", *, follow: bool = False) -> Iterator[LogLine]:
        """What the steps of a run wrote, line by line; without a name, those of the newest run."""
        return map(LogLine.of, self._messages(_ops.logs(self._scope, run, step, follow)))

    def why(self, target: str, *, ref: Optional[str] = None) -> Answer:
        """Why a run, step, asset, table, commit or file is as it is: one sentence and one command."""
        found: Answer = self._do(_ops.why(self._scope, target, ref))
        return found

    def provenance(self, target: str, *, ref: Optional[str] = None, forward: bool = False) -> List[Source]:
        """What something was made from, itself first; forward: what was made from it."""
        found: List[Source] = self._do(_ops.provenance(self._scope, target, ref, forward))
        return found


class Branches:
    """Branches of a project."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> List[Ref]:
        """All branches."""
        found: List[Ref] = self._client._do(_ops.list_branches(self._client._scope))
        return found

    def create(self, name: str, base: Optional[str] = None) -> Ref:
        """A new branch at a ref."""
        found: Ref = self._client._do(_ops.create_branch(self._client._scope, name, base))
        return found

    def delete(self, name: str) -> Ref:
        """Remove a branch; the answer says where it was."""
        found: Ref = self._client._do(_ops.delete_branch(self._client._scope, name))
        return found


class Tags:
    """Tags of a project."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> List[Ref]:
        """All tags."""
        found: List[Ref] = self._client._do(_ops.list_tags(self._client._scope))
        return found

    def create(self, name: str, base: Optional[str] = None) -> Ref:
        """A new tag at a ref."""
        found: Ref = self._client._do(_ops.create_tag(self._client._scope, name, base))
        return found

    def delete(self, name: str) -> Ref:
        """Remove a tag; the answer says where it was."""
        found: Ref = self._client._do(_ops.delete_tag(self._client._scope, name))
        return found


class Files:
    """Files of a project. A path may end in @REF."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def put(self, path: str, content: _ops.Data, *, into: Optional[str] = None, message: str = "") -> Written:
        """Store bytes, text, a local path or an open file under a path."""
        found: Written = self._client._do(_ops.put_file(self._client._scope, path, content, into, message))
        return found

    def get(self, path: str, *, ref: Optional[str] = None) -> bytes:
        """A file's bytes."""
        found: bytes = self._client._do(_ops.get_file(self._client._scope, path, ref))
        return found

    def open(self, path: str, *, ref: Optional[str] = None) -> Any:
        """A file to read from as it arrives."""
        messages = self._client._messages(_ops.get_file(self._client._scope, path, ref))
        return io.BufferedReader(Pieces(messages), 1 << 20)

    def ls(self, pattern: str = "", *, ref: Optional[str] = None, recursive: bool = False) -> List[Entry]:
        """Files and folders that a path, folder or glob selects."""
        found: List[Entry] = self._client._do(_ops.list_files(self._client._scope, pattern, ref, recursive))
        return found

    def rm(self, *patterns: str, into: Optional[str] = None, message: str = "") -> Written:
        """Remove files as one commit."""
        found: Written = self._client._do(_ops.remove_files(self._client._scope, patterns, into, message))
        return found


class Secrets:
    """Secrets of a project: texts that functions get and nobody reads back."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def set(self, name: str, value: str) -> Secret:
        """Make or replace a secret. Functions get it by `secrets=[name]` or `tarn.secret(name)`."""
        found: Secret = self._client._do(_ops.set_secret(self._client._scope, name, value))
        return found

    def ls(self) -> List[Secret]:
        """All secrets, without their values."""
        found: List[Secret] = self._client._do(_ops.list_secrets(self._client._scope))
        return found

    def rm(self, *names: str) -> List[Secret]:
        """Remove secrets, all or none."""
        found: List[Secret] = self._client._do(_ops.remove_secrets(self._client._scope, names))
        return found


class Tables:
    """Tables of a project."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, *, ref: Optional[str] = None) -> List[Entry]:
        """All tables."""
        found: List[Entry] = self._client._do(_ops.list_tables(self._client._scope, ref))
        return found

    def delete(self, *names: str, into: Optional[str] = None, message: str = "") -> Written:
        """Remove tables as one commit."""
        found: Written = self._client._do(_ops.remove_tables(self._client._scope, names, into, message))
        return found


class Table:
    """One table, seen through a client."""

    def __init__(self, client: Client, name: str, ref: Optional[str], columns: Optional[List[str]], where: Optional[str]) -> None:
        self._client, self.name, self._ref, self._columns, self._where = client, name, ref, columns, where

    def _result(self) -> Result:
        name, ref = _ops.named(self._client._scope, self.name, self._ref)
        return self._client.query(_ops.select(name, self._columns, self._where), ref=ref)

    def describe(self) -> TableInfo:
        """Its columns, row key, checks and description."""
        found: TableInfo = self._client._do(_ops.describe_table(self._client._scope, self.name, self._ref))
        return found

    def history(self, limit: int = 0) -> List[TableVersion]:
        """The commits that changed it, newest first."""
        found: List[TableVersion] = self._client._do(_ops.table_history(self._client._scope, self.name, self._ref, limit))
        return found

    def batches(self) -> Any:
        """The rows as a `pyarrow.RecordBatchReader`, as they arrive: a table need not fit in memory."""
        return self._result().batches()

    def to_arrow(self) -> Any:
        """The rows as a `pyarrow.Table`."""
        return self._result().to_arrow()

    def to_pandas(self) -> Any:
        """The rows as a pandas frame."""
        return self._result().to_pandas()

    def to_polars(self) -> Any:
        """The rows as a polars frame."""
        return self._result().to_polars()

    def to_dicts(self) -> Any:
        """The rows as a list of dicts."""
        return self._result().to_dicts()

    def write(self, frame: Any, *, mode: str = "replace", key: Union[str, Iterable[str]] = (), into: Optional[str] = None, message: str = "") -> Written:
        """Write rows as one commit: replace, append, or merge by key.

        Accepted: a pandas or polars frame, an Arrow table, reader or batch, a DuckDB relation, a list
        of dicts, and a generator of those, which need not fit in memory. A frame's index is dropped
        unless it has a name. Nothing is visible before the end. Raises `UserCodeError` when a check
        fails, `PermissionDeniedError` when the branch is protected, `TypeError` for what is no table.

            c.table("t").write([{"id": 1, "n": 2}], mode="merge", key="id", into="dev")
        """
        with tempfile.TemporaryDirectory(prefix="tarn-") as folder:
            file = os.path.join(folder, "rows.arrow")
            _frames.write(frame, file, f"table({self.name!r}).write()")
            names = [key] if isinstance(key, str) else list(key)
            found: Written = self._client._do(_ops.write_table(self._client._scope, self.name, file, mode, names, into, message))
            return found


class Run:
    """A run that was started."""

    def __init__(self, client: Client, state: RunState) -> None:
        self._client = client
        self.state = state

    @property
    def id(self) -> str:
        """The run's id."""
        return self.state.id

    def wait(self, timeout: Optional[float] = None) -> RunState:
        """Wait for the end. Raises `tarn.RunFailed` when it did not succeed, and `DeadlineError` when
        it is still going after `timeout` seconds; the run goes on."""
        end = None if _wire.limit(timeout) is None else time.monotonic() + (timeout or 0)
        seq, lost = 0, 0
        while True:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise _ops.still_running(self.state, timeout)
            try:
                for event in self._client._messages(_ops.run_events(self._client._scope, self.id, seq, left)):
                    lost = 0
                    if "run" in event:
                        self.state = RunState.of(event["run"])
                        return _ops.finished(self.state)
                    seq = int(event.get("happened", {}).get("seq", seq))
            except errors.DeadlineError:
                raise _ops.still_running(self.state, timeout) from None
            except errors.UnavailableError:
                lost += 1  # the server may have been replaced; a run outlives its connection
                if lost > 3:
                    raise

    def logs(self, step: str = "", *, follow: bool = False) -> Iterator[LogLine]:
        """What its steps wrote, line by line; `follow` waits for more until the run ends."""
        return self._client.logs(self.id, step, follow=follow)

    def refresh(self) -> RunState:
        """Ask the server for the run's state now."""
        self.state = self._client._do(_ops.get_run(self._client._scope, self.id))
        return self.state

    def cancel(self) -> RunState:
        """Stop the run."""
        self.state = self._client._do(_ops.cancel_run(self._client._scope, self.id))
        return self.state

    def __repr__(self) -> str:
        return f"<tarn run {self.id} {self.state.state}>"
