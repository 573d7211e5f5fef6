"""Rows that came from the server, in the caller's format."""

from __future__ import annotations

import io
import struct
from typing import Any, Generator, Iterator, List, Mapping, Optional, Tuple

from tarn import _frames, _wire
from tarn._types import CheckReport, Written


class Messages(Iterator[Mapping[str, Any]]):
    """The messages of a call that has begun. The first is here already, so a refusal was raised."""

    def __init__(self, rest: Generator[Mapping[str, Any], None, None]) -> None:
        self._rest = rest
        self._first: Optional[Mapping[str, Any]] = next(rest, None)

    def __next__(self) -> Mapping[str, Any]:
        first, self._first = self._first, None
        return next(self._rest) if first is None else first

    def close(self) -> None:
        """End the call, and with it the server's work."""
        self._first = None
        self._rest.close()


class Pieces(io.RawIOBase):
    """The bytes of a stream of messages, as a file that is read once."""

    def __init__(self, messages: Iterator[Mapping[str, Any]]) -> None:
        self._messages = messages
        self._piece = memoryview(b"")
        self.summary: Mapping[str, Any] = {}

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._piece:
            message = next(self._messages, None)
            if message is None:
                return 0
            if "data" in message:
                self._piece = memoryview(_wire.read_data(message))
            elif "summary" in message:
                self.summary = message["summary"]
        n = min(len(buffer), len(self._piece))
        buffer[:n] = self._piece[:n]
        self._piece = self._piece[n:]
        return n

    def drain(self) -> Mapping[str, Any]:
        """Read what is left; the summary comes last."""
        while not self.closed and self.read(1 << 20):
            pass
        return self.summary

    def close(self) -> None:
        if isinstance(self._messages, Messages):
            self._messages.close()
        super().close()


class Result:
    """What a statement gave. Rows are read once; keep what `to_arrow` and its like return.

    It may be closed before its end, also as a context manager; that stops the query.
    """

    def __init__(self, messages: Iterator[Mapping[str, Any]]) -> None:
        self._pieces = Pieces(messages)
        self._taken = False

    def _rows(self) -> Pieces:
        if self._taken or self._pieces.closed:
            raise ValueError("the rows of a result are read once. Keep what to_arrow() and its like return.")
        self._taken = True
        return self._pieces

    def batches(self) -> Any:
        """The rows as a `pyarrow.RecordBatchReader`, as they arrive."""
        import pyarrow as pa

        return pa.ipc.open_stream(io.BufferedReader(self._rows(), 1 << 20))

    def to_arrow(self) -> Any:
        """The rows as a `pyarrow.Table`."""
        reader = self.batches()
        table = reader.read_all()
        self._pieces.drain()  # what went wrong at the very end is said there
        return table

    def to_pandas(self) -> Any:
        """The rows as a pandas frame."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """The rows as a polars frame; pyarrow is not needed."""
        import polars as pl

        return pl.read_ipc_stream(io.BytesIO(self._rows().readall()))

    def to_dicts(self) -> Any:
        """The rows as a list of dicts."""
        return self.to_arrow().to_pylist() if _frames.has("pyarrow") else self.to_polars().to_dicts()

    def written(self) -> Optional[Written]:
        """For a statement that wrote: the branch and commit. None for one that only read."""
        summary = self._pieces.drain()
        return Written.of(summary["written"], summary.get("checks", ())) if summary.get("written") else None

    @property
    def checks(self) -> Tuple[CheckReport, ...]:
        """What the checks said of what a statement wrote."""
        return tuple(CheckReport.of(c) for c in self._pieces.drain().get("checks", ()))

    def close(self) -> None:
        """Stop the query."""
        self._pieces.close()

    def __enter__(self) -> Result:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Batches:
    """Takes an Arrow IPC stream as it comes, gives record batches as they are complete.

    pyarrow reads streams only by waiting for them, which an event loop must not. So messages are cut
    here, and each record batch is read as a stream of its own behind the schema and dictionaries.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head = b""

    def feed(self, data: bytes) -> List[Any]:
        """Batches that data completes."""
        import pyarrow as pa

        self._buffer += data
        found: List[Any] = []
        while True:
            size = _message_size(self._buffer)
            if size is None or len(self._buffer) < size:
                return found
            message = bytes(memoryview(self._buffer)[:size])
            del self._buffer[:size]
            if size == 8:  # the end of the stream
                continue
            if pa.ipc.read_message(message).type == "record batch":
                found.append(pa.ipc.open_stream(self._head + message).read_next_batch())
            else:
                self._head += message


def _message_size(raw: bytearray) -> Optional[int]:
    """The length of the message that raw begins with: a marker, the length of a flatbuffer, that
    flatbuffer, and a body whose length is the flatbuffer's fourth field."""
    if len(raw) < 8:
        return None
    (meta,) = struct.unpack_from("<i", raw, 4)
    if meta == 0:
        return 8
    if len(raw) < 8 + meta:
        return None
    table = 8 + struct.unpack_from("<I", raw, 8)[0]
    vtable = table - struct.unpack_from("<i", raw, table)[0]
    field = struct.unpack_from("<H", raw, vtable + 10)[0] if struct.unpack_from("<H", raw, vtable)[0] > 10 else 0
    body = struct.unpack_from("<q", raw, table + field)[0] if field else 0
    return int(8 + meta + body)
