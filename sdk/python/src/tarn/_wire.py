"""The Connect protocol without I/O: requests to bytes, bytes to answers and errors.

A unary call is one JSON document each way. A stream is a series of envelopes: one byte of flags, four
of length, a JSON document; the last one, flagged 2, holds the error if there was one.
"""

from __future__ import annotations

import base64
import json
import math
import socket
import struct
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union
from urllib.parse import urlsplit

from tarn import errors

END, COMPRESSED = 2, 1
MAX_MESSAGE = 1 << 28


class Address(NamedTuple):
    """Where a server is, and who asks."""

    url: str
    socket: Optional[str]
    token: Optional[str]

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "tarn"

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def tls(self) -> bool:
        return urlsplit(self.url).scheme == "https"


class Call(NamedTuple):
    """One call: what to send and how to read what comes back. `messages` makes it a client stream; with `binary` they are
    protobuf, written by `field`, and what comes back is the bytes of each message's first field."""

    procedure: str
    request: Mapping[str, Any]
    parse: Callable[[Any], Any]
    streams: bool = False
    messages: Optional[Callable[[], Iterable[Any]]] = None
    timeout: Optional[float] = None
    binary: bool = False

    @property
    def patience(self) -> Optional[float]:
        """Seconds of silence after which the server is given up: it ends a call in time by itself."""
        return None if self.timeout is None else self.timeout + 5


def limit(timeout: Optional[float]) -> Optional[float]:
    """A timeout in seconds, checked."""
    if timeout is not None and not 0 < timeout < math.inf:
        raise errors.InvalidArgumentError(f"timeout={timeout!r} must be a number of seconds, more than 0.", reason="client.timeout")
    return timeout


def head(address: Address, call: Call) -> Dict[str, str]:
    """The headers of a call."""
    streaming = call.streams or call.messages is not None
    codec = "proto" if call.binary else "json"
    headers = {"Content-Type": f"application/connect+{codec}" if streaming else "application/json", "Connect-Protocol-Version": "1", "Accept-Encoding": "identity"}
    if call.timeout is not None:
        headers["Connect-Timeout-Ms"] = str(min(math.ceil(call.timeout * 1000), 9_999_999_999))
    if address.token:
        headers["Authorization"] = f"Bearer {address.token}"
    return headers


def path(address: Address, call: Call) -> str:
    """The path of a call."""
    return f"{urlsplit(address.url).path.rstrip('/')}/tarn.v1.{call.procedure}"


def envelope(message: Any) -> bytes:
    """One message of a stream."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">BI", 0, len(body)) + body


def body(call: Call) -> Iterator[bytes]:
    """The request's body in pieces."""
    if call.messages is not None:
        yield from map(envelope, call.messages())
    elif call.streams:
        yield envelope(call.request)
    else:
        yield json.dumps(call.request).encode()


class Envelopes:
    """Takes bytes as they come, gives messages as they are complete; raises the stream's error."""

    def __init__(self, binary: bool = False) -> None:
        self._buffer = bytearray()
        self._binary = binary
        self.ended = False

    def feed(self, data: bytes) -> List[Any]:
        """Messages that data completes."""
        self._buffer += data
        found = []
        while len(self._buffer) >= 5:
            flags, size = struct.unpack_from(">BI", self._buffer)
            if flags & COMPRESSED or size > MAX_MESSAGE:
                raise errors.InternalError("the server sent a message that this client cannot read", reason="client.protocol")
            if len(self._buffer) < 5 + size:
                break
            raw = bytes(memoryview(self._buffer)[5 : 5 + size])
            del self._buffer[: 5 + size]
            if flags & END:
                self.ended = True
                message = parsed(raw)
                if message.get("error"):
                    raise error_of(message["error"])
            else:
                found.append(first_field(raw) if self._binary else parsed(raw))
        return found

    def close(self) -> None:
        """Check that the stream came to its end."""
        if not self.ended:
            raise errors.UnavailableError("the server went away in the middle of an answer", reason="client.unreachable")


def parsed(raw: bytes) -> Dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(raw or b"{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise errors.InternalError("the server's answer is no JSON object", reason="client.protocol")
    return value


def answer(status: int, raw: bytes) -> Dict[str, Any]:
    """The answer of a unary call, or its error."""
    if status == 200:
        return parsed(raw)
    raise http_error(status, raw)


def http_error(status: int, raw: bytes) -> errors.Error:
    """The error of a refused call."""
    try:
        return error_of(parsed(raw))
    except errors.InternalError:
        if status == 404:
            return errors.NotImplementedByServerError("this server does not have that call yet; a newer tarn may", reason="client.no_such_call")
        return errors.UnavailableError(f"the server answered with HTTP status {status}", reason="client.protocol")


_CONNECT = {"aborted": "conflict", "out_of_range": "invalid_argument", "unimplemented": "not_implemented", "unknown": "internal"}


def error_of(j: Mapping[str, Any]) -> errors.Error:
    """The error that the wire carries, as the class its code has."""
    for detail in j.get("details") or ():
        if not str(detail.get("type", "")).endswith("tarn.v1.ErrorDetail"):
            continue
        readable = detail.get("debug")
        found = readable if isinstance(readable, dict) else _detail(base64.b64decode(detail.get("value", "") + "=="))
        return make_error(found)
    code = str(j.get("code", "internal"))
    code = _CONNECT.get(code, code)
    return errors.CODES.get(code, errors.InternalError)(str(j.get("message", code)), reason=f"client.{code}")


def make_error(j: Mapping[str, Any]) -> errors.Error:
    """An error from an ErrorDetail."""
    kind = errors.CODES.get(str(j.get("code")), errors.InternalError)
    details = parsed(str(j["detailsJson"]).encode()) if j.get("detailsJson") else {}
    return kind(str(j.get("message", "")), reason=str(j.get("reason", "")), details=details, next=tuple(j.get("next") or ()))


def _detail(raw: bytes) -> Dict[str, Any]:
    """An ErrorDetail in protobuf: five fields, all of them text. Connect sends details in no other form."""
    names = {1: "code", 2: "reason", 3: "message", 4: "detailsJson", 5: "next"}
    found: Dict[str, Any] = {}
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        if tag & 7 != 2:
            break
        size, at = _varint(raw, at)
        text = raw[at : at + size].decode("utf-8", "replace")
        at += size
        name = names.get(tag >> 3)
        if name == "next":
            found.setdefault("next", []).append(text)
        elif name:
            found[name] = text
    return found


def field(number: int, value: Union[str, bytes, memoryview]) -> bytes:
    """A text or bytes field of a protobuf message."""
    raw = value.encode() if isinstance(value, str) else value
    size, left = bytearray(), len(raw)
    while left > 127:
        size.append(left & 127 | 128)
        left >>= 7
    size.append(left)
    return b"".join((bytes([number << 3 | 2]), size, raw))


def first_field(raw: bytes) -> bytes:
    """The bytes of a protobuf message's field 1, which has no other."""
    if not raw:
        return b""
    size, at = _varint(raw, 1)
    return raw[at : at + size]


def _varint(raw: bytes, at: int) -> Tuple[int, int]:
    value = shift = 0
    while at < len(raw):
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    return value, at


def unreachable(address: Address, cause: BaseException) -> errors.Error:
    """The error of a connection that could not be made or broke."""
    where = address.socket or address.url
    if isinstance(cause, (socket.timeout, TimeoutError)):
        return errors.DeadlineError(f"{where} did not answer in time", reason="client.timeout")
    return errors.UnavailableError(f"{where} cannot be reached: {cause}", reason="client.unreachable")


def read_data(j: Mapping[str, Any]) -> bytes:
    """The bytes of a message with `data`."""
    return base64.b64decode(j["data"])


def data(raw: bytes) -> Dict[str, str]:
    """Bytes as a message with `data`."""
    return {"data": base64.b64encode(raw).decode()}
