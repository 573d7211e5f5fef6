"""Pickled values: small ones as bytes, big ones as pieces of a file that is mapped and not copied.

The file of a big value begins with the number of its pieces and their lengths, 8 bytes each, little endian. The first piece is the
pickle (protocol 5), the others are its buffers: what an array or a table holds. Each begins at a multiple of 64.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import pickle
import struct
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Union

from tarn import errors

BIG = 512 << 10  # from here on a file is faster than base64 in JSON: 1 MiB there and back takes 29 ms, and took 58
ALIGN = 64
PIECE = 1 << 20  # of one message


class Big(NamedTuple):
    """A value that is too big for a message. Its pieces are views of what it was made from."""

    pieces: Sequence[Any]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(map(len, self.parts()))

    def parts(self) -> Iterator[memoryview]:
        """The file's bytes in order. A part is as long as a piece."""
        head = struct.pack(f"<{len(self.pieces) + 1}Q", len(self.pieces), *map(len, self.pieces))
        for piece in (head, *self.pieces):
            yield memoryview(piece)
            yield memoryview(bytes(-len(piece) % ALIGN))


Packed = Union[bytes, Big]


class Ref(NamedTuple):
    """A big value on the server."""

    name: str
    size: int
    sha256: str = ""


def dump(value: Any) -> Packed:
    """A value, pickled. Raises what pickle does."""
    buffers: List[pickle.PickleBuffer] = []
    raw = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    try:
        views = [b.raw() for b in buffers]
    except BufferError:  # one in pieces: its owner can copy it, a view cannot show it
        raw, views = pickle.dumps(value, protocol=5), []
    if len(raw) + sum(map(len, views)) >= BIG:
        return Big([memoryview(raw), *views])
    return pickle.dumps(value, protocol=5) if views else raw


class Reader(pickle.Unpickler):
    """Reads a value. `names` are modules that have another name here."""

    def __init__(self, source: Any, names: Mapping[str, str], buffers: Sequence[Any] = ()) -> None:
        super().__init__(source, buffers=buffers)
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(self._names.get(module, module), name)


def load(data: Union[bytes, mmap.mmap], names: Mapping[str, str]) -> Any:
    """The value. Arrays of a big one are views of the map, which lives as long as they do."""
    if isinstance(data, bytes):
        return Reader(io.BytesIO(data), names).load()
    view = memoryview(data)
    (count,) = struct.unpack_from("<Q", view)
    lengths = struct.unpack_from(f"<{count}Q", view, 8)
    at = _aligned(8 * (count + 1))
    data.seek(at)
    buffers = []
    for length in lengths:
        buffers.append(view[at : at + length])
        at += _aligned(length)
    return Reader(data, names, buffers[1:]).load()


def _aligned(n: int) -> int:
    return n + -n % ALIGN


def write(path: str, big: Big) -> Dict[str, Any]:
    """Write a big value to a new file; its size and hash."""
    sha = hashlib.sha256()
    with open(path, "xb", buffering=0) as f:
        for part in big.parts():
            sha.update(part)
            while part:
                part = part[f.write(part) :]
        return {"size": f.tell(), "sha256": sha.hexdigest()}


class Incoming:
    """A big value on its way here."""

    def __init__(self, ref: Ref) -> None:
        self.ref = ref
        self.map = mmap.mmap(-1, ref.size)
        self._at = 0
        self._sha = hashlib.sha256()

    def feed(self, data: bytes) -> None:
        """The next of its bytes."""
        self._sha.update(data)
        self.map[self._at : self._at + len(data)] = data
        self._at += len(data)

    def close(self) -> mmap.mmap:
        """All of it, checked."""
        if self._at != self.ref.size or self._sha.hexdigest() != self.ref.sha256:
            raise errors.DataLossError(f"a value of {self.ref.size:,} bytes arrived damaged", reason="call.value_damaged")
        return self.map


def slices(big: Big, seen: Callable[[memoryview], None]) -> Iterator[memoryview]:
    """The file's bytes in pieces of a message, each shown to `seen`."""
    for part in big.parts():
        for at in range(0, len(part), PIECE):
            seen(part[at : at + PIECE])
            yield part[at : at + PIECE]
