"""The state of a call, without a server: any order of events leaves each input with one result."""

from __future__ import annotations

import base64
import pickle
import random
import threading
from typing import Any, Dict, List

import pytest

import tarn
from tarn import _calls, _remote
from tarn._calls import Calling, Target

HERE = Target("f", "/p", "jobs/a.py", "f", "jobs.a", __name__, ("x", "y"), False)


def message(sequence: int, number: int, value: Any, **more: Any) -> Dict[str, Any]:
    found = {"index": str(number), "sequence": str(sequence), "value": base64.b64encode(pickle.dumps(value, protocol=5)).decode(), **more}
    return {"result": {k: v for k, v in found.items() if v != "0"}}  # as the wire leaves zeros out


@pytest.mark.parametrize("seed", range(40))
def test_every_input_has_one_result(seed: int) -> None:
    """A model: a producer, a network that loses and doubles, a server that takes what it likes."""
    chance = random.Random(seed)
    count = chance.choice([0, 1, 7, 250, 2600])
    state = Calling(HERE, "3.11")
    server: List[bytes] = []
    results: List[Dict[str, Any]] = []
    fed, last, got = 0, False, []  # type: ignore[var-annotated]
    for _ in range(200_000):
        if state.over:
            break
        step = chance.randrange(4)
        if step == 0 and fed < count:
            if state.room():
                state.feed(_calls.pack(HERE, (fed,), {}))
                fed += 1
        elif step == 0 and not state.closed:
            state.close()
        elif step == 1:
            out = state.outgoing()
            if out is None:
                continue
            first, inputs, ends = out
            assert first <= len(server)
            taken = inputs[: chance.randint(0, len(inputs))]
            server += taken[len(server) - first :]  # what is known is passed over
            last = last or (ends and len(server) == fed)
            if chance.random() < 0.8:  # else the answer is lost, and the same goes out again
                state.accepted(len(server), ends)
        elif step == 2 and len(results) < len(server):
            results.append(message(len(results), len(results), pickle.loads(server[len(results)])[0][0] * 2))
        elif step == 3:
            start = max(0, state.next - chance.randint(0, 3))  # a stream that began again gives some twice
            for m in results[start:]:
                found = state.take(m)
                if found is not None:
                    got.append(found)
            if last and len(results) == len(got) == fed:
                state.take({"call": {}})
        assert fed - len(got) <= _calls.WINDOW
    assert state.over
    assert [(r.number, r.value) for r in got] == [(i, i * 2) for i in range(count)]


def test_bytes_bound_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_calls, "WINDOW_BYTES", 100)
    monkeypatch.setattr(_calls, "BATCH_BYTES", 100)
    state = Calling(HERE)
    state.feed(b"x" * 90)
    assert state.room()
    state.feed(b"x" * 90)
    assert not state.room()
    assert state.outgoing() == (0, [b"x" * 90], False)
    state.accepted(1, False)
    state.take(message(0, 0, None))
    assert state.room()


def test_a_server_that_is_wrong() -> None:
    state = Calling(HERE)
    state.feed(b"x")
    with pytest.raises(tarn.errors.InternalError, match="expects input 2 of 1"):
        state.accepted(2, False)


def test_what_cannot_be_sent_is_named() -> None:
    with pytest.raises(tarn.errors.InvalidArgumentError, match=r"f\(\) cannot get 'y', a function: .*Pass what pickle can copy") as e:
        _calls.pack(HERE, (1, lambda: 0), {})
    assert e.value.details == {"argument": "y"}
    with pytest.raises(tarn.errors.InvalidArgumentError, match=r"'where'"):
        _calls.pack(HERE, (1,), {"where": open(__file__)})
    with pytest.raises(tarn.errors.InvalidArgumentError, match=r"'argument 3'"):
        _calls.pack(HERE, (1, 2, (i for i in ())), {})


class Own(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b

    def __reduce__(self) -> Any:
        return Own, (self.a, self.b)


def test_an_exception_comes_back_as_itself() -> None:
    wire = {"class": "Own", "module": "jobs.a", "message": "1 and 2", "traceback": "Traceback:\n  here\n", "pickle": base64.b64encode(pickle.dumps(Own(1, 2))).decode()}
    found: Any = _calls.exception_of(HERE, wire)
    assert type(found) is Own and (found.a, found.b) == (1, 2)
    assert str(found.__cause__) == '\n"""\nTraceback:\n  here\n"""'
    for broken in ("", base64.b64encode(b"\x80\x05cnowhere\nNothing\n.").decode(), base64.b64encode(pickle.dumps(SystemExit(3))).decode()):
        found = _calls.exception_of(HERE, {**wire, "pickle": broken})
        assert type(found) is tarn.RemoteError
        assert (str(found), found.details["module"], str(found.__cause__)[-8:]) == ("Own: 1 and 2", "jobs.a", 'here\n"""')
    server = _calls.exception_of(HERE, {"code": "deadline_exceeded", "reason": "call.timeout", "message": "f took longer than 1 s"})
    assert type(server) is tarn.errors.DeadlineError and server.reason == "call.timeout"


def test_a_result_that_cannot_be_read_names_both_versions() -> None:
    with pytest.raises(tarn.errors.PreconditionError, match=r"f\(\) returned what cannot be read here \(it comes from Python 2\.7, this is 3\.\d+\): ModuleNotFoundError"):
        _calls.unpack(HERE, b"\x80\x05cnowhere\nNothing\n.", "2.7")


def test_the_script_that_was_started_is_a_module_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    main = HERE._replace(module="jobs_a", here=__name__)
    raw = pickle.dumps(Own(1, 2), protocol=2).replace(f"c{__name__}\n".encode(), b"cjobs_a\n")
    assert b"jobs_a" in raw
    assert type(_calls.unpack(main, raw, "")) is Own


def test_output_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    state = Calling(HERE)
    lines = [{"output": {"stream": s, "text": t}} for s, t in (("stdout", "a\n"), ("stderr", "b\n"), ("stdout", "c\n"))]
    for m in lines[:2]:
        state.take(m)
    state.again()
    for m in lines:
        state.take(m)
    assert capsys.readouterr() == ("a\nc\n", "b\n")


def test_a_slow_beginning_says_why_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = threading.Event()
    show = _calls.show
    monkeypatch.setattr(_remote, "_SLOW", 0.0)
    monkeypatch.setattr(_calls, "show", lambda output: (show(output), said.set()))
    t = Target("fit", "/p", "f.py", "fit", "f", "f", (), False)
    with _remote._said_when_slow(t):
        assert said.wait(60)
    assert capsys.readouterr() == ("", "fit is being made ready: the first call resolves and fetches its packages.\n")
    monkeypatch.setattr(threading, "Timer", None)
    with _remote._said_when_slow(t):  # its packages are here: nothing to be said
        pass
