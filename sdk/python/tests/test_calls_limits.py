"""Retries, timeouts and limits of calls through the real server."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import BINARY

import tarn

pytestmark = pytest.mark.skipif(not os.path.exists(BINARY), reason="no tarn binary: make build, or set TARN_BIN")

LIMITED = """
import tarn

tries = 0

@tarn.function(concurrency=1, retry=tarn.Retry(times=2, on=(LookupError,), delay=0.01, jitter=1))
def third_time(error):
    global tries
    tries += 1
    if tries % 3:
        raise error
    return tries

@tarn.function(timeout="200ms", start_timeout="60s")
def runs_long():
    import threading
    threading.Event().wait()

@tarn.function
def says(what):
    print("says", what)
    print("to itself", end="")

@tarn.function
def waits():
    import threading
    print("waits")
    threading.Event().wait()

@tarn.function(concurrency=tarn.Concurrency(2, key="api"), priority=5)
def limited(n):
    return n
"""
HANGS = """
import os, threading
import tarn

if "TARN_MESSAGES_FD" in os.environ and os.environ.get("TARN_CONTEXT", "").endswith(".tarn-context.json"):
    threading.Event().wait()

@tarn.function(start_timeout="1s")
def never():
    return 1
"""


@pytest.fixture(scope="module")
def limits(server: Callable[[str], Path]) -> Iterator[Any]:
    folder = server("limits")
    (folder / "sdk_limits.py").write_text(LIMITED)
    (folder / "sdk_hangs.py").write_text(HANGS)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("sdk_limits")
    sys.path.remove(str(folder))
    sys.modules.pop("sdk_hangs", None)
    del sys.modules["sdk_limits"]


def test_retries(limits: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert limits.third_time.remote(KeyError("again")) == 3
    said = capfd.readouterr().err
    assert re.search(r"^third_time: attempt 1 failed, again in \S{1,6}: ", said) and "third_time: attempt 2 failed, again in" in said
    with pytest.raises(ValueError, match="not again"):
        limits.third_time.remote(ValueError("not again"))


def test_the_two_timeouts(limits: Any) -> None:
    with pytest.raises(tarn.errors.DeadlineError, match="ran longer than 200ms") as ran:
        limits.runs_long.remote()
    assert ran.value.reason == "call.timeout"
    hangs = importlib.import_module("sdk_hangs")
    with pytest.raises(tarn.errors.DeadlineError, match=r"no worker of never began with the input in 1s.*start_timeout=") as started:
        hangs.never.remote()
    assert started.value.reason == "call.start_timeout"


def test_a_limit_by_key(limits: Any) -> None:
    assert list(limits.limited.map(range(20), concurrency=8)) == list(range(20))


def test_the_command_line_knows_calls(limits: Any) -> None:
    folder = Path(limits.__file__).parent

    def cli(*args: str, code: int = 0) -> str:
        done = subprocess.run([BINARY, *args], cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    said = limits.says.spawn("a\x1b[0mb")
    said.get()
    assert cli("logs", said.id) == '"says a\\x1b[0mb"\nto itself\n'
    first, second, end = map(json.loads, cli("logs", "--json", said.id).splitlines())
    assert (first["call"], first["input"], first["stream"], second["message"], end["event"]) == (said.id, 0, "stdout", "to itself", "result")
    assert said.get() is None  # its result is still there

    waits = limits.waits.spawn()
    with subprocess.Popen([BINARY, "logs", "-f", waits.id], cwd=folder, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "waits\n"
        listed = cli("runs")
        assert f"{waits.id}  running" in listed and f"{said.id}  succeeded" in listed
        assert "is canceled" in cli("cancel", waits.id)
        assert follower.wait(60) == 0
    calls = {c["id"]: c for c in json.loads(cli("runs", "--json"))["calls"]}
    assert (calls[waits.id]["state"], calls[waits.id]["function"]) == ("canceled", "waits")
    assert calls[said.id]["inputs"] == calls[said.id]["done"] == 1
    assert "had ended before: it succeeded" in cli("cancel", said.id)
    assert "no call 'c-000000000000'" in cli("logs", "c-000000000000", code=6)
    assert "no call 'c-000000000000'" in cli("show", "c-000000000000", code=6)
    assert "inputs   0 of 1\n" in cli("show", waits.id)

    bad = limits.third_time.spawn(ValueError("not\x1bagain"))
    with pytest.raises(ValueError):
        bad.get()
    shown = cli("show", bad.id)
    assert f"call {bad.id}\nfunction third_time\nstate    failed\n" in shown and "inputs   1 of 1, 1 failed\n" in shown
    assert "input 0 failed: " in shown and 'File "sdk_limits.py"' in shown and "\x1b" not in shown
    (failure,) = json.loads(cli("show", "--json", bad.id))["failures"]
    assert (failure["input"], failure["class"]) == (0, "ValueError") and "in third_time" in failure["traceback"]


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: tarn.Concurrency(0, key="api"), "limit=0"),
        (lambda: tarn.Concurrency(1, key=""), "key"),
        (lambda: tarn.function(concurrency=True), "concurrency=True"),
        (lambda: tarn.function(priority=5000), "priority=5000"),
        (lambda: tarn.function(start_timeout="soon"), "start_timeout"),
        (lambda: tarn.asset(start_timeout="1s"), "start_timeout"),
        (lambda: tarn.Retry(jitter=-1), "jitter=-1"),
    ],
)
def test_wrong_options(wrong: Callable[[], Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        wrong()
