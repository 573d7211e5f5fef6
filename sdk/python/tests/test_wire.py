"""The protocol without a server: pieces, ends, errors."""

from __future__ import annotations

import base64
import json
import struct
import sys
import traceback

import pytest

from tarn import _wire, errors


def envelope(flags: int, message: object) -> bytes:
    raw = json.dumps(message).encode()
    return struct.pack(">BI", flags, len(raw)) + raw


def test_envelopes_in_any_pieces() -> None:
    raw = envelope(0, {"a": 1}) + envelope(0, {"b": "é" * 100}) + envelope(2, {})
    for size in (1, 2, 7, 1000):
        found, reader = [], _wire.Envelopes()
        for at in range(0, len(raw), size):
            found += reader.feed(raw[at : at + size])
        reader.close()
        assert found == [{"a": 1}, {"b": "é" * 100}]


def test_a_stream_that_just_ends_is_no_answer() -> None:
    reader = _wire.Envelopes()
    assert reader.feed(envelope(0, {"a": 1})) == [{"a": 1}]
    with pytest.raises(errors.UnavailableError, match="in the middle"):
        reader.close()


@pytest.mark.parametrize("raw", [struct.pack(">BI", 1, 3) + b"abc", struct.pack(">BI", 0, 0xFFFFFFFF), struct.pack(">BI", 0, 3) + b"abc", envelope(0, [1])])
def test_what_no_server_sends(raw: bytes) -> None:
    with pytest.raises(errors.InternalError):
        _wire.Envelopes().feed(raw)


def detail(**fields: object) -> str:
    names = {"code": 1, "reason": 2, "message": 3, "detailsJson": 4, "next": 5}
    out = b""
    for name, value in fields.items():
        for text in value if isinstance(value, list) else [value]:
            raw = str(text).encode()
            out += bytes([names[name] << 3 | 2]) + (bytes([len(raw)]) if len(raw) < 128 else bytes([len(raw) & 127 | 128, len(raw) >> 7])) + raw
    return base64.b64encode(out).decode().rstrip("=")


def test_errors_have_their_class() -> None:
    value = detail(code="not_found", reason="lake.ref_not_found", message="no é" + "x" * 200, detailsJson='{"ref": "dev"}', next=["tarn branch ls", "other"])
    error = _wire.error_of({"code": "not_found", "message": "transport", "details": [{"type": "tarn.v1.ErrorDetail", "value": value}]})
    assert type(error) is errors.NotFoundError
    assert (error.reason, str(error), error.details, error.next) == ("lake.ref_not_found", "no é" + "x" * 200, {"ref": "dev"}, ("tarn branch ls", "other"))
    if sys.version_info >= (3, 11):
        assert traceback.format_exception(error)[-2:] == ["  try: tarn branch ls\n", "  try: other\n"]


@pytest.mark.parametrize(
    ("status", "raw", "kind"),
    [
        (404, b"404 page not found", errors.NotImplementedByServerError),
        (502, b"<html>", errors.UnavailableError),
        (409, b'{"code": "aborted", "message": "m"}', errors.ConflictError),
        (500, b'{"code": "strange", "message": "m"}', errors.InternalError),
        (500, b"{}", errors.InternalError),
        (404, json.dumps({"code": "not_found", "details": [{"type": "tarn.v1.ErrorDetail", "value": "////"}]}).encode(), errors.InternalError),
    ],
)
def test_answers_that_are_errors(status: int, raw: bytes, kind: type) -> None:
    with pytest.raises(errors.Error) as e:
        _wire.answer(status, raw)
    assert type(e.value) is kind


def test_every_code_has_a_class() -> None:
    for code, kind in errors.CODES.items():
        assert issubclass(kind, errors.Error)
        assert type(_wire.make_error({"code": code, "message": "m"})) is kind
    assert issubclass(errors.RunFailed, errors.UserCodeError)
