"""Every call of the API that the clients make: arguments to a request, an answer to a value.

The clients add only transport, so that the synchronous and the asynchronous one cannot differ.
"""

from __future__ import annotations

import io
import json
import os
import uuid
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

from tarn import _frames, _wire, errors
from tarn._types import Answer, Change, Commit, Entry, Json, LogLine, Merge, Plan, Ref, RunState, Secret, Source, TableInfo, TableVersion, Written
from tarn._wire import Call

PIECE = 1 << 20
Data = Any  # bytes, text, a local path (os.PathLike), or an open file


class Scope(NamedTuple):
    """Which project, where to read, where to write, and the project folder if there is one: the rules
    of its tarn.toml go along with every write."""

    project: str
    ref: str
    into: str
    dir: str = ""


def request_id() -> str:
    """A new id; sending a request again with the same id has no second effect."""
    return uuid.uuid4().hex


def author() -> str:
    """Who writes."""
    return os.environ.get("TARN_AUTHOR") or os.environ.get("USER") or os.environ.get("LOGNAME") or "python"


def write(scope: Scope, into: Optional[str], message: str) -> Dict[str, str]:
    """What every writing request carries."""
    return {"requestId": request_id(), "project": scope.project, "into": into or scope.into, "author": author(), "message": message, "dir": scope.dir}


def named(scope: Scope, name: str, ref: Optional[str]) -> Tuple[str, str]:
    """Name and ref of NAME or NAME@REF."""
    plain, at, inner = name.partition("@")
    if at and ref is not None and ref != inner:
        raise errors.InvalidArgumentError(f"{name!r} with ref={ref!r} names two refs. Keep one.", reason="client.two_refs")
    return plain, inner if at else ref or scope.ref


# History


def list_branches(scope: Scope) -> Call:
    return Call("HistoryService/ListBranches", {"project": scope.project}, lambda j: [Ref.of(r) for r in j.get("branches", ())])


def create_branch(scope: Scope, name: str, base: Optional[str]) -> Call:
    request = {"requestId": request_id(), "project": scope.project, "name": name, "from": base or scope.ref}
    return Call("HistoryService/CreateBranch", request, lambda j: Ref.of(j.get("branch", {})))


def delete_branch(scope: Scope, name: str) -> Call:
    return Call("HistoryService/DeleteBranch", {"requestId": request_id(), "project": scope.project, "name": name}, lambda j: Ref.of(j.get("branch", {})))


def list_tags(scope: Scope) -> Call:
    return Call("HistoryService/ListTags", {"project": scope.project}, lambda j: [Ref.of(r) for r in j.get("tags", ())])


def create_tag(scope: Scope, name: str, base: Optional[str]) -> Call:
    request = {"requestId": request_id(), "project": scope.project, "name": name, "from": base or scope.ref}
    return Call("HistoryService/CreateTag", request, lambda j: Ref.of(j.get("tag", {})))


def delete_tag(scope: Scope, name: str) -> Call:
    return Call("HistoryService/DeleteTag", {"requestId": request_id(), "project": scope.project, "name": name}, lambda j: Ref.of(j.get("tag", {})))


def resolve(scope: Scope, ref: Optional[str]) -> Call:
    return Call("HistoryService/Resolve", {"project": scope.project, "ref": ref or scope.ref}, lambda j: Commit.of(j.get("commit")))


def log(scope: Scope, name: str, ref: Optional[str], limit: int) -> Call:
    request = {"project": scope.project, "ref": ref or scope.ref, "name": name, "limit": limit}
    return Call("HistoryService/Log", request, lambda all: [Commit.of(j.get("commit")) for j in all], streams=True)


def diff(scope: Scope, span: str, name: str) -> Call:
    start, dots, end = span.partition("..")
    request = {"project": scope.project, "from": start or scope.ref, "to": (end if dots else "") or scope.ref, "name": name}
    return Call("HistoryService/Diff", request, lambda all: [Change.of(j["change"]) for j in all], streams=True)


def merge(scope: Scope, source: str, into: Optional[str], prefer: Optional[Mapping[str, str]], message: str, dry_run: bool) -> Call:
    request = {"write": write(scope, into, message), "source": source, "prefer": dict(prefer or {}), "dryRun": dry_run}

    def parse(j: Json) -> Merge:
        found = Merge.of(j)
        if found.conflicts and not dry_run:
            text = "; ".join(c.message for c in found.conflicts[:5]) + (f"; and {len(found.conflicts) - 5} more" if len(found.conflicts) > 5 else "")
            raise errors.ConflictError(text, reason=next(iter(found.conflicts)).reason, details={"conflicts": [c.__dict__ for c in found.conflicts]})
        return found

    return Call("HistoryService/Merge", request, parse)


def revert(scope: Scope, commit: str, into: Optional[str], message: str) -> Call:
    return Call("HistoryService/Revert", {"write": write(scope, into, message), "commit": commit}, lambda j: Written.of(j.get("written")))


# Files


def put_file(scope: Scope, path: str, content: Data, into: Optional[str], message: str) -> Call:
    def messages() -> Iterator[Dict[str, Any]]:
        yield {"write": write(scope, into, message)}
        yield {"path": path}
        yield from map(_wire.data, pieces(content))

    return Call("FileService/Put", {}, lambda all: Written.of(all[-1].get("written")), streams=True, messages=messages)


def pieces(content: Data) -> Iterator[bytes]:
    """Bytes of text, bytes, a path or an open file, in pieces."""
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, (bytes, bytearray, memoryview)):
        view = memoryview(content).cast("B")
        for at in range(0, len(view), PIECE):
            yield bytes(view[at : at + PIECE])
    elif hasattr(content, "read"):
        while True:
            piece = content.read(PIECE)
            if not piece:
                return
            yield piece.encode() if isinstance(piece, str) else piece
    else:
        with open(content, "rb") as f:
            yield from pieces(f)


def get_file(scope: Scope, path: str, ref: Optional[str]) -> Call:
    request = {"project": scope.project, "ref": ref or scope.ref, "pattern": path, "one": True}
    return Call("FileService/Get", request, lambda all: b"".join(_wire.read_data(j) for j in all if "data" in j), streams=True)


def list_files(scope: Scope, pattern: str, ref: Optional[str], recursive: bool) -> Call:
    request = {"project": scope.project, "ref": ref or scope.ref, "pattern": pattern, "recursive": recursive}
    return Call("FileService/List", request, lambda all: [Entry.of(j["file"]) for j in all], streams=True)


def remove_files(scope: Scope, patterns: Iterable[str], into: Optional[str], message: str) -> Call:
    return Call("FileService/Remove", {"write": write(scope, into, message), "patterns": list(patterns)}, lambda j: Written.of(j.get("written")))


# Secrets


def secrets(j: Json) -> List[Secret]:
    return [Secret.of(s) for s in j.get("secrets", ())]


def set_secret(scope: Scope, name: str, value: str) -> Call:
    request = {"requestId": request_id(), "project": scope.project, "values": {name: value}}
    return Call("SecretService/Set", request, lambda j: secrets(j)[0])


def list_secrets(scope: Scope) -> Call:
    return Call("SecretService/List", {"project": scope.project}, secrets)


def remove_secrets(scope: Scope, names: Iterable[str]) -> Call:
    return Call("SecretService/Remove", {"requestId": request_id(), "project": scope.project, "names": list(names)}, secrets)


# Tables and queries


def list_tables(scope: Scope, ref: Optional[str]) -> Call:
    return Call("TableService/List", {"project": scope.project, "ref": ref or scope.ref}, lambda j: [Entry.of(t) for t in j.get("tables", ())])


def describe_table(scope: Scope, name: str, ref: Optional[str]) -> Call:
    plain, at = named(scope, name, ref)
    return Call("TableService/Describe", {"project": scope.project, "ref": at, "table": plain}, TableInfo.of)


def table_history(scope: Scope, name: str, ref: Optional[str], limit: int) -> Call:
    plain, at = named(scope, name, ref)
    request = {"project": scope.project, "ref": at, "table": plain, "limit": limit}
    return Call("TableService/History", request, lambda j: [TableVersion.of(v) for v in j.get("versions", ())])


def remove_tables(scope: Scope, names: Iterable[str], into: Optional[str], message: str) -> Call:
    return Call("TableService/Remove", {"write": write(scope, into, message), "tables": list(names)}, lambda j: Written.of(j.get("written")))


def write_table(scope: Scope, name: str, file: str, mode: str, key: List[str], into: Optional[str], message: str) -> Call:
    """Send the rows of an Arrow IPC file."""
    plain, at, branch = name.partition("@")
    if at and into not in (None, branch):
        raise errors.InvalidArgumentError(f"{name!r} with into={into!r} names two branches. Keep one.", reason="client.two_refs")
    if mode not in ("replace", "append", "merge"):
        raise errors.InvalidArgumentError(f"mode={mode!r} is not known. Allowed: 'replace', 'append', 'merge'.", reason="client.mode")

    def messages() -> Iterator[Dict[str, Any]]:
        yield {"head": {"write": write(scope, branch or into, message), "table": plain, "mode": mode, "key": key}}
        yield from map(_wire.data, ipc_stream(file))

    def parse(all: List[Any]) -> Written:
        done = all[-1].get("done", {})
        return Written.of(done.get("written"), done.get("checks", ()))

    return Call("TableService/Write", {}, parse, streams=True, messages=messages)


def ipc_stream(file: str) -> Iterator[bytes]:
    """An Arrow IPC file as an IPC stream, in pieces."""
    if not _frames.has("pyarrow"):
        import polars as pl

        whole = io.BytesIO()
        pl.read_ipc(file).write_ipc_stream(whole, compression="uncompressed", compat_level=pl.CompatLevel.oldest())
        yield from pieces(whole.getbuffer())
        return
    import pyarrow as pa

    reader = _frames.opened(file)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        for i in range(reader.num_record_batches):
            writer.write_batch(reader.get_batch(i))
            yield from pieces(sink.getvalue())
            sink.seek(0)
            sink.truncate()
    yield from pieces(sink.getvalue())


def query(scope: Scope, sql: str, ref: Optional[str], into: Optional[str], params: Optional[Mapping[str, Any]], message: str, timeout: Optional[float]) -> Call:
    if not isinstance(sql, str):
        raise errors.InvalidArgumentError(f"query({sql!r}): a statement is text.", reason="client.statement")
    request = {"write": write(scope, into, message), "sql": sql, "ref": ref or scope.ref, "paramsJson": json.dumps(dict(params or {}), default=plain)}
    return Call("QueryService/Query", request, list, streams=True, timeout=_wire.limit(timeout))


def select(name: str, columns: Optional[List[str]], where: Optional[str]) -> str:
    """The statement that reads a table."""
    if not name:
        raise errors.InvalidArgumentError("the name of a table must not be empty.", reason="client.table")
    if columns is not None and not columns:
        raise errors.InvalidArgumentError(f"columns=[] chooses nothing of {name}.", reason="client.columns")
    chosen = "*" if columns is None else ", ".join(map(quote, columns))
    return f"SELECT {chosen} FROM {'.'.join(map(quote, name.split('.')))}" + (f" WHERE ({where})" if where else "")


def quote(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


# Runs


def run_spec(
    scope: Scope, dir: str, select: Union[str, Iterable[str]], ref: Optional[str], into: Optional[str], params: Optional[Mapping[str, Any]], cache: bool, publish: bool
) -> Dict[str, Any]:
    """What a run or a plan is asked for."""
    return {
        "project": scope.project, "dir": dir, "select": [select] if isinstance(select, str) else list(select), "params": {k: typed(v) for k, v in (params or {}).items()},
        "ref": ref or scope.ref, "into": into or scope.into, "noCache": not cache, "noPublish": not publish, "author": author(),
    }  # fmt: skip


def plain(value: Any) -> Any:
    """A parameter's value in JSON; numpy's numbers are numbers."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if type(value).__name__ in ("Decimal", "UUID"):
        return str(value)
    raise errors.InvalidArgumentError(f"a parameter cannot be {value!r}: pass text, a number, a bool, None, a time, or a list of those.", reason="client.param")


def typed(value: Any) -> str:
    """A run parameter as one would type it."""
    return value if isinstance(value, str) else value.isoformat() if hasattr(value, "isoformat") else json.dumps(value, default=plain)


def start_run(spec: Mapping[str, Any], id: str) -> Call:
    return Call("RunService/Start", {"requestId": request_id(), "spec": spec, "runId": id}, lambda j: RunState.of(j.get("run", {})))


def plan(spec: Mapping[str, Any]) -> Call:
    return Call("RunService/Plan", {"spec": spec}, Plan.of)


def list_runs(scope: Scope, limit: int) -> Call:
    return Call("RunService/List", {"project": scope.project, "limit": limit}, lambda j: [RunState.of(r) for r in j.get("runs", ())])


def logs(scope: Scope, run: str, step: str, follow: bool) -> Call:
    return Call("RunService/Logs", {"project": scope.project, "run": run, "step": step, "follow": follow}, lambda all: list(map(LogLine.of, all)), streams=True)


def why(scope: Scope, target: str, ref: Optional[str]) -> Call:
    return Call("RunService/Why", {"project": scope.project, "dir": scope.dir, "ref": ref or scope.ref, "target": target}, Answer.of)


def provenance(scope: Scope, target: str, ref: Optional[str], forward: bool) -> Call:
    request = {"project": scope.project, "ref": ref or scope.ref, "target": target, "forward": forward}
    return Call("RunService/Provenance", request, lambda j: [Source.of(n) for n in j.get("nodes", ())])


def run_events(scope: Scope, id: str, after: int, timeout: Optional[float]) -> Call:
    return Call("RunService/Events", {"project": scope.project, "run": id, "after": str(after)}, list, streams=True, timeout=timeout)


def still_running(state: RunState, timeout: Optional[float]) -> errors.Error:
    """The error of a wait that was too short."""
    return errors.DeadlineError(f"run {state.id} is still going after {timeout:g} s. It goes on: wait() again, or cancel().", reason="client.timeout", details={"run": state.id})


def get_run(scope: Scope, id: str) -> Call:
    return Call("RunService/Get", {"project": scope.project, "run": id}, lambda j: RunState.of(j.get("run", {})))


def cancel_run(scope: Scope, id: str) -> Call:
    return Call("RunService/Cancel", {"project": scope.project, "run": id}, lambda j: RunState.of(j.get("run", {})))


def finished(state: RunState) -> RunState:
    """The state of a run that succeeded, or the error of one that did not."""
    if state.state == "succeeded":
        return state
    error = state.error
    failed = [s for s in state.steps if s.state == "failed"]
    message = error.get("message") or (f"{failed[0].name}: {failed[0].error}" if failed else f"run {state.id} {state.state}")
    raise errors.RunFailed(
        message,
        reason=error.get("reason") or f"run.{state.state}",
        details={"run": state.id, "state": state.state, "failed": [s.name for s in failed]},
        next=tuple(error.get("next") or ()),
    )
