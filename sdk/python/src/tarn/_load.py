"""Inputs of a declared function, loaded for `.local()` and `.remote()`."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from tarn import _frames, _home, _params
from tarn._client import Client
from tarn._context import Context
from tarn._declare import Files, Local, OutputDir, Secret, Table


def inputs(decl: Any, names: List[str], ref: Optional[str]) -> Dict[str, Any]:
    """The values of the named parameters."""
    folder = _folder(decl._plain().__code__.co_filename)
    client = Client(ref=ref, folder=folder)
    return {p.name: _load(decl.name, p, client, folder) for p in _params.of(decl) if p.name in names}


class Loaded:
    """A table on its way into a sandbox: rows as an Arrow IPC stream, which this interpreter need not be able to read."""

    def __init__(self, rows: Any, form: str) -> None:
        self.rows, self.form = rows, form

    def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:
        return Loaded, (pickle.PickleBuffer(self.rows), self.form)

    def frame(self, owner: str) -> Any:
        """The table in the parameter's format."""
        if _frames.has("pyarrow"):
            import pyarrow as pa

            table = pa.ipc.open_stream(self.rows).read_all()
        else:
            import polars as pl

            table = pl.read_ipc_stream(bytes(self.rows))
        handle, path = tempfile.mkstemp(suffix=".arrow")
        os.close(handle)
        _frames.write(table, path, owner)
        return _frames.read(path, self.form)


def remote_inputs(decl: Any, names: List[str], ref: Optional[str]) -> Dict[str, Any]:
    """The values of the named parameters, for a sandbox. Secrets and the context are put in there."""
    folder = _folder(decl._plain().__code__.co_filename)
    client = Client(ref=ref, folder=folder)
    found: Dict[str, Any] = {}
    for p in _params.of(decl):
        if p.name not in names or isinstance(p.marker, Secret) or p.kind == "context":
            continue
        if isinstance(p.marker, Table):
            if os.environ.get("TARN_MESSAGES_FD"):
                raise TypeError(f"{decl.name}.remote() needs {p.name!r}: a function reaches no tables from its sandbox. Pass {p.noun}.")
            table = client.table(p.marker.name or p.name, ref=p.marker.ref, columns=p.marker.columns, where=p.marker.where)
            found[p.name] = Loaded(table._result()._rows().read(), p.format)
        elif isinstance(p.marker, Local):  # the sandbox has the project's folder
            root = _home.folder_of(None, folder)
            paths = [path.relative_to(root) for path in _local(decl.name, p, p.marker, root)]
            found[p.name] = paths if p.many else paths[0]
        elif isinstance(p.marker, Files) or p.kind == "output_dir":
            raise TypeError(f"{decl.name}.remote() has no place for {p.name!r}: files are laid out by a run. tarn run {decl.name}, or {decl.name}.local().")
        else:
            raise TypeError(f"{decl.name}() needs {p.name!r}. Pass {p.noun}.")
    return found


def _local(owner: str, p: _params.Param, marker: Local, root: str) -> List[Path]:
    found = sorted(Path(root).glob(marker.glob))
    if not p.many and len(found) != 1:
        raise TypeError(f"{owner}() takes one file as {p.name!r}, and {len(found)} match {marker.glob!r}.")
    return found


def _folder(file: str) -> str:
    """The project folder around a function's file. What a notebook or a prompt defines has no file, or
    one in a temporary folder; it belongs to the project around the current folder."""
    return (_home.above(os.path.dirname(os.path.abspath(file))) if os.path.isfile(file) else "") or os.getcwd()


def _load(owner: str, p: _params.Param, client: Client, folder: str) -> Any:
    if isinstance(p.marker, Table):
        return _table(p, p.marker, client)
    if isinstance(p.marker, Files):
        if not p.many or p.marker.group_by or p.marker.batch:
            raise TypeError(f"{owner}() runs once for each item of {p.marker.glob!r}. Pass one: {owner}.local({p.name}=...).")
        return _download(p.marker.glob, client)
    if isinstance(p.marker, Local):
        found = _local(owner, p, p.marker, _home.folder_of(None, folder))
        return found if p.many else found[0]
    if isinstance(p.marker, Secret):
        if p.marker.name not in os.environ:
            raise TypeError(f"{owner}() needs the secret {p.marker.name}. Pass {p.name!r}, or set the variable {p.marker.name}.")
        return os.environ[p.marker.name]
    if p.kind == "output_dir":
        return OutputDir(tempfile.mkdtemp(prefix=f"{owner}-"))
    if p.kind == "context":
        return Context({"step": owner})
    raise TypeError(f"{owner}() needs {p.name!r}. Pass {p.noun}.")


def _table(p: _params.Param, marker: Table, client: Client) -> Any:
    table = client.table(marker.name or p.name, ref=marker.ref, columns=marker.columns, where=marker.where)
    if p.format == "pandas":
        return table.to_pandas()
    if p.format == "polars":
        return table.to_polars()
    if p.format == "polars_lazy":
        return table.to_polars().lazy()
    if p.format == "batches":
        return table.batches()
    if p.format == "dicts":
        return table.to_dicts()
    if p.format == "duckdb":
        import duckdb

        return duckdb.connect().from_arrow(table.to_arrow())
    return table.to_arrow()


def _download(glob: str, client: Client) -> List[Path]:
    root = Path(tempfile.mkdtemp(prefix="tarn-files-"))
    paths = []
    for entry in client.files.ls(glob, recursive=True):
        path = root / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(client.files.get(entry.name))
        paths.append(path)
    return paths
