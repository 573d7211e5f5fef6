"""Tables between Arrow IPC files and the types that users work with.

Files are uncompressed, so that a reader maps them and copies nothing. pyarrow does the work where it
is installed; polars alone is enough for functions that want polars or dicts. Nothing is imported
before it is needed, and a result's library is recognised by what is already imported.
"""

from __future__ import annotations

import itertools
import mmap
import os
import sys
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple

BATCH_ROWS = 1 << 17
BATCH_BYTES = 64 << 20  # other readers pay for each batch, 0.25 ms where they map files with pyarrow
ACCEPTED = "DataFrame, Table, batches, list of dicts, a generator of those, None with OutputDir"


class Written(NamedTuple):
    """What became of a result."""

    rows: int
    bytes: int
    columns: int


class ResultError(TypeError):
    """A result that is no table, or a table that Arrow cannot hold."""


ResultError.__module__, ResultError.__qualname__ = "builtins", "TypeError"  # as the user's traceback shows it


def has(name: str) -> bool:
    """Whether a package can be imported."""
    if name in sys.modules:
        return True
    import importlib.util

    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def read(path: str, form: str) -> Any:
    """Open an Arrow IPC file in a format of the manifest."""
    return _READERS[form](path)


def opened(path: str) -> Any:
    """A pyarrow reader of an Arrow IPC file, mapped: nothing is copied.

    pyarrow.memory_map would advise the kernel of the pages of each batch, which takes 1 to 20 ms for 1 GiB that is in memory
    already (this 0.2), and did not make files faster that are not.
    """
    import pyarrow as pa

    with open(path, "rb") as file:
        return pa.ipc.open_file(pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _table(path: str) -> Any:
    return opened(path).read_all()


def _batches(path: str) -> Any:
    import pyarrow as pa

    reader = opened(path)
    return pa.RecordBatchReader.from_batches(reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches)))


def _pandas(path: str) -> Any:
    table = _table(path).replace_schema_metadata(None)
    frame = table.to_pandas()
    # Arrow lends its memory to columns that need no conversion. A function may change its frame, and
    # the mapped file is shared with other readers, so those columns are copied; the others are already.
    for _, column in frame.items():
        values = getattr(column, "values", None)
        flags = getattr(values, "flags", None)
        if flags is not None and not flags.writeable:
            return frame.copy()
    return frame


def _polars(path: str) -> Any:
    import polars as pl

    try:
        return pl.read_ipc(path)  # maps the file, which newer versions have no argument for
    except (pl.exceptions.PolarsError, NotImplementedError):
        if not has("pyarrow"):
            raise
        return pl.from_arrow(_table(path))


def _polars_lazy(path: str) -> Any:
    import polars as pl

    return pl.scan_ipc(path)


def _duckdb(path: str) -> Any:
    import duckdb

    return duckdb.connect().from_arrow(_table(path))


def _dicts(path: str) -> Any:
    if not has("pyarrow"):
        return _polars(path).to_dicts()
    return _table(path).to_pylist()


_READERS: Dict[str, Callable[[str], Any]] = {
    "arrow": _table,
    "batches": _batches,
    "pandas": _pandas,
    "polars": _polars,
    "polars_lazy": _polars_lazy,
    "duckdb": _duckdb,
    "dicts": _dicts,
}


def _is(value: Any, module: str, *names: str) -> bool:
    found = sys.modules.get(module)
    return found is not None and any(isinstance(value, getattr(found, n)) for n in names if hasattr(found, n))


def is_frame(value: Any) -> bool:
    """Whether a value is a table by itself."""
    return (
        _is(value, "pandas", "DataFrame")
        or _is(value, "polars", "DataFrame", "LazyFrame")
        or _is(value, "pyarrow", "Table", "RecordBatch", "RecordBatchReader")
        or _is(value, "duckdb", "DuckDBPyRelation")
    )


def is_rows(value: Any) -> bool:
    """Whether a value is a frame, a list of dicts, or a generator of those."""
    if is_frame(value):
        return True
    if isinstance(value, (list, tuple)):
        return all(isinstance(v, dict) for v in value) or all(is_frame(v) for v in value)
    return isinstance(value, Iterator)


def write(value: Any, path: str, owner: str) -> Written:
    """Write a result as an Arrow IPC file. `owner` is the function, for messages."""
    if not is_rows(value):
        raise ResultError(f"{owner} returned {_kind(value)}. Accepted: {ACCEPTED}.")
    if _is(value, "polars", "LazyFrame"):
        value = value.collect()
    if _is(value, "polars", "DataFrame") and not has("pyarrow"):
        value.write_ipc(path, compression="uncompressed", compat_level=_oldest())
        return Written(value.height, os.path.getsize(path), value.width)
    if not has("pyarrow"):
        if isinstance(value, (list, tuple, Iterator)):
            import polars as pl

            pieces = list(_polars_pieces(iter(value), owner))
            return write(pl.concat(pieces, how="diagonal_relaxed") if pieces else pl.DataFrame(), path, owner)
        raise ModuleNotFoundError(f"{owner} returned {_kind(value)}, which needs pyarrow to become a table.", name="pyarrow")
    return _Writer(path, owner).run(_pieces(value, owner))


def _polars_pieces(values: Iterator[Any], owner: str) -> Iterator[Any]:
    """What a function yields, as polars frames: dicts that follow each other become one."""
    import polars as pl

    for are_dicts, group in itertools.groupby(values, lambda v: isinstance(v, dict)):
        if are_dicts:
            try:
                yield pl.DataFrame(list(group), infer_schema_length=None)
            except (pl.exceptions.PolarsError, TypeError) as error:
                raise ResultError(f"{owner} returned rows that do not fit together: {error}") from None
            continue
        for value in group:
            if _is(value, "polars", "DataFrame", "LazyFrame"):
                yield value.lazy().collect()
            elif isinstance(value, list) and is_rows(value):
                yield from _polars_pieces(iter(value), owner)
            else:
                raise ResultError(f"{owner} yielded {_kind(value)}. Accepted: {ACCEPTED}.")


def _oldest() -> Any:
    import polars as pl

    return pl.CompatLevel.oldest()


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)) and value:
        odd = next((v for v in value if not isinstance(v, dict)), value[0])
        return f"a {type(value).__name__} with {type(odd).__name__} in it"
    return type(value).__name__


def _pieces(value: Any, owner: str) -> Iterator[Any]:
    """A result as a series of Arrow tables."""
    import pyarrow as pa

    if isinstance(value, pa.RecordBatchReader):
        yield value.schema.empty_table()
        for batch in value:
            yield pa.Table.from_batches([batch])
    elif _is(value, "duckdb", "DuckDBPyRelation"):
        yield value.to_arrow_table() if hasattr(value, "to_arrow_table") else value.arrow()
    elif is_frame(value):
        yield _to_table(value, owner)
    elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], dict):
        for frame in value:
            yield _to_table(frame, owner)
    else:
        yield from _from_iterator(iter(value), owner)


def _from_iterator(values: Iterator[Any], owner: str) -> Iterator[Any]:
    first = True
    for value in values:
        if is_frame(value):
            yield from _pieces(value, owner)
        elif isinstance(value, dict):
            rows = [value]
            for following in itertools.islice(values, BATCH_ROWS - 1):
                if not isinstance(following, dict):
                    yield _from_dicts(rows, owner)
                    rows = []
                    yield from _from_iterator(iter([following]), owner)
                    break
                rows.append(following)
            if rows:
                yield _from_dicts(rows, owner)
        elif isinstance(value, list) and is_rows(value):
            yield from _from_iterator(iter(value), owner)
        else:
            raise ResultError(f"{owner} yielded {_kind(value)}. Accepted: {ACCEPTED}.")
        first = False
    if first:
        import pyarrow as pa

        yield pa.table({})


def _from_dicts(rows: List[Dict[str, Any]], owner: str) -> Any:
    import pyarrow as pa

    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    columns = {}
    for name in names:
        if not isinstance(name, str):
            raise ResultError(f"{owner} returned a row with the key {name!r}; names of columns are text.")
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ResultError(f"{owner}: column {name!r} holds values that are no single type: {error}") from None
    return pa.table(columns) if columns else pa.table({"_": pa.nulls(len(rows))}).select([])


def _to_table(value: Any, owner: str) -> Any:
    import pyarrow as pa

    if isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    if isinstance(value, pa.Table):
        return value
    if _is(value, "polars", "LazyFrame"):
        value = value.collect()
    if _is(value, "polars", "DataFrame"):
        return value.to_arrow(compat_level=_oldest())
    if _is(value, "pandas", "DataFrame"):
        return _from_pandas(value, owner)
    return pa.Table.from_batches(list(value), schema=value.schema)


def _from_pandas(frame: Any, owner: str) -> Any:
    """A frame as columns. The index is dropped, except one that has names, as group-by leaves it:
    it is data, and dropping it would lose the keys."""
    import pyarrow as pa

    names = list(frame.index.names)
    if all(n is not None for n in names) and not set(names) & set(frame.columns):
        frame = frame.reset_index()
    columns = [str(c) if not isinstance(c, tuple) else "_".join(map(str, filter(None, c))) for c in frame.columns]
    twice = sorted({c for c in columns if columns.count(c) > 1})
    if twice:
        raise ResultError(f"{owner} returned a frame with two columns named {twice[0]!r}.")
    frame = frame.set_axis(columns, axis=1)
    try:
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ResultError(f"{owner}: {error}") from None


class _Writer:
    """Writes tables of one growing schema to an IPC file.

    A later piece may widen a column (null to text, int to float) or add one. Then the rows already
    written are read back in batches and written again in the wider schema; memory stays bounded.
    """

    def __init__(self, path: str, owner: str) -> None:
        self.path, self.owner = path, owner
        self.schema: Any = None
        self.writer: Any = None
        self.rows = 0

    def run(self, pieces: Iterable[Any]) -> Written:
        try:
            for piece in pieces:
                self.add(piece)
        finally:
            if self.writer is not None:
                self.writer.close()
        return Written(self.rows, os.path.getsize(self.path), len(self.schema.names))

    def add(self, table: Any) -> None:
        import pyarrow as pa

        names = table.schema.names
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ResultError(f"{self.owner} returned a table with two columns named {twice[0]!r}.")
        if self.schema is None or (not self.schema.names and self.rows == 0):
            if self.writer is not None:
                self.writer.close()
            self._open(table.schema)
        elif not table.schema.equals(self.schema):
            try:
                wider = pa.unify_schemas([self.schema, table.schema.remove_metadata()], promote_options="permissive")
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ResultError(f"{self.owner}: its pieces do not fit together: {error}") from None
            if not wider.equals(self.schema):
                self._widen(wider)
        table = self._fit(table)
        if any(pa.types.is_dictionary(f.type) for f in table.schema):
            table = table.unify_dictionaries()  # an IPC file holds one dictionary per column
        self._write(table)

    def _open(self, schema: Any) -> None:
        import pyarrow as pa

        self.schema = schema
        self.writer = pa.ipc.new_file(self.path, schema, options=pa.ipc.IpcWriteOptions(compression=None))

    def _write(self, table: Any) -> None:
        import pyarrow as pa

        fitting = BATCH_BYTES * table.num_rows // max(table.nbytes, 1)
        at_once = min(max(fitting, BATCH_ROWS), 32 * BATCH_ROWS)
        for batch in table.to_batches(max_chunksize=at_once):
            try:
                self.writer.write_batch(batch)
            except pa.ArrowInvalid as error:
                if "ictionary" not in str(error):
                    raise
                self._widen(_decoded(self.schema))
                self.writer.write_batch(self._fit(pa.Table.from_batches([batch])).combine_chunks().to_batches()[0])
            self.rows += batch.num_rows

    def _fit(self, table: Any) -> Any:
        import pyarrow as pa

        if table.schema.equals(self.schema):
            return table
        columns = [table.column(f.name).cast(f.type) if f.name in table.schema.names else pa.nulls(table.num_rows, f.type) for f in self.schema]
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _widen(self, schema: Any) -> None:
        import pyarrow as pa

        self.writer.close()
        narrow = self.path + ".narrow"
        os.replace(self.path, narrow)
        self._open(schema)
        reader = opened(narrow)
        for i in range(reader.num_record_batches):
            for batch in self._fit(pa.Table.from_batches([reader.get_batch(i)])).to_batches():
                self.writer.write_batch(batch)
        os.unlink(narrow)


def _decoded(schema: Any) -> Any:
    import pyarrow as pa

    return pa.schema([f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in schema])
