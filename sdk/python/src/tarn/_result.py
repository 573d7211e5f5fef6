"""Rows that came from the server, in the caller's format."""

from __future__ import annotations

import io
from typing import Any, Iterator, Mapping, Optional

from tarn import _wire
from tarn._types import CheckReport, Written


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
        while self.read(1 << 20):
            pass
        return self.summary


class Result:
    """What a statement gave. Rows are read once; keep what `to_arrow` and its like return."""

    def __init__(self, messages: Iterator[Mapping[str, Any]]) -> None:
        self._pieces = Pieces(messages)

    def batches(self) -> Any:
        """The rows as a `pyarrow.RecordBatchReader`, as they arrive."""
        import pyarrow as pa

        return pa.ipc.open_stream(io.BufferedReader(self._pieces, 1 << 20))

    def to_arrow(self) -> Any:
        """The rows as a `pyarrow.Table`."""
        return self.batches().read_all()

    def to_pandas(self) -> Any:
        """The rows as a pandas frame."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """The rows as a polars frame."""
        import polars as pl

        return pl.read_ipc_stream(io.BytesIO(self._pieces.readall()))

    def to_dicts(self) -> Any:
        """The rows as a list of dicts."""
        return self.to_arrow().to_pylist()

    def written(self) -> Optional[Written]:
        """For a statement that wrote: the branch and commit. None for one that only read."""
        summary = self._pieces.drain()
        return Written.of(summary["written"], summary.get("checks", ())) if summary.get("written") else None

    @property
    def checks(self) -> tuple[CheckReport, ...]:
        """What the checks said of what a statement wrote."""
        return tuple(CheckReport.of(c) for c in self._pieces.drain().get("checks", ()))
