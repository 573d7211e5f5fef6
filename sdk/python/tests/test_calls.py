"""Calls of plain functions through the real server, in sandboxes."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import linecache
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Iterator, List

import pytest
from conftest import BINARY, SRC

import tarn

pytestmark = pytest.mark.skipif(not os.path.exists(BINARY), reason="no tarn binary: make build, or set TARN_BIN")

JOBS = """
import os, sys, threading
from typing import NamedTuple
import pandas as pd
import tarn

class Pair(NamedTuple):
    a: int
    b: int

class Bad(Exception):
    def __init__(self, n, why):
        super().__init__(f"{n}: {why}")
        self.n, self.why = n, why
    def __reduce__(self):
        return Bad, (self.n, self.why)

@tarn.function
def add(a: int, b: int = 1) -> int:
    return a + b

@tarn.function
def turned(pair):
    return Pair(pair.b, pair.a)

@tarn.function
def picky(n):
    if n == 3:
        raise Bad(n, "three")
    return n

@tarn.function
def count(n):
    for i in range(n):
        print("yields", i)
        yield i
    if n == 13:
        raise Bad(n, "unlucky")

@tarn.function
async def later(n):
    return n * 2

@tarn.function
def forever(n):
    print("waits")
    threading.Event().wait()

@tarn.function
def hidden():
    class Local(Exception): pass
    raise Local("from inside")

@tarn.function
def mute():
    class Mute(Exception):
        def __str__(self): return self.never_set
        def __reduce__(self): raise RuntimeError("not I")
    raise Mute()

@tarn.function
def unpicklable():
    return threading.Lock()

@tarn.function
def dies(n):
    if n == 1:
        os._exit(3)
    return n

@tarn.function
def talks():
    print("to stdout")
    print("to stderr", file=sys.stderr)

@tarn.function
def big(data):
    return data * 2

@tarn.function
def halves(data):
    middle = len(data) // 2
    yield bytearray(data[:middle])
    yield bytearray(data[middle:])

@tarn.function
def touched(data):
    data[0] = 7
    return data[0], len(data)

@tarn.function(env=tarn.Env(packages=["numpy"]))
def scaled(a, by):
    a *= by  # its own: the caller's stays as it is
    return a

@tarn.function
def reads(folder, n):
    from pathlib import Path
    return open(f"{folder}/{n}.csv").read() + (Path(__file__).parent / folder / f"{n}.csv").read_text()

@tarn.function
def foreign():
    import jobs_only_there
    return jobs_only_there.Thing()

@tarn.function(timeout="2s", resources=tarn.Resources(memory="256MiB"), concurrency=1)
def hostile(kind):
    if kind == "segfault":
        import ctypes
        ctypes.string_at(0)
    if kind == "memory":
        hoard = []
        while True:
            hoard.append(bytearray(10**7))
    if kind == "sleeps":
        threading.Event().wait()
    if kind == "forks":
        while True:
            try:
                os.fork()
            except OSError:
                pass
    if kind == "ignores signals":
        import signal
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        threading.Event().wait()
    if kind == "closes its output":
        os.close(1)
        os.close(2)
    if kind == "leaves a daemon" and os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            threading.Event().wait()
        os._exit(0)
    if kind == "leaves a thread":
        threading.Thread(target=threading.Event().wait).start()
    if kind == "reads stdin":
        return sys.stdin.read()
    if kind == "raises":
        raise SystemExit(3)
    print(kind)
    return kind

@tarn.function(concurrency=1)
def turns_deaf(deaf):
    import fcntl, stat
    silent, _ = os.pipe()
    for fd in range(200, 300) if deaf else ():
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                os.dup2(silent, fd)
        except OSError:
            pass
    return deaf

@tarn.function(concurrency=1)
def forks_and_comes_back(kind, n):
    child = os.fork() == 0
    if kind == "raises":
        raise ValueError(f"{n} {child}")
    return n, child

@tarn.function(concurrency=1)
def forks_and_yields(n):
    child = os.fork() == 0
    yield n, child
    yield n, child

@tarn.function
def nested(spawned):
    assert spawned.get() == 3 # one of ours
    return add.spawn(2, 3), list(add.map(count.remote(3))), isinstance(turned.remote(Pair(1, 2)), Pair)

@tarn.function
def begins():
    return nested.remote(add.spawn(1, 2))

@tarn.function
def nested_error(n):
    try:
        return picky.remote(n)
    except Bad as error:
        raise Bad(error.n, "again") from error

@tarn.function
async def nested_aio(n):
    import asyncio
    found = await asyncio.gather(*(later.remote.aio(i) for i in range(n)))
    call = await add.spawn.aio(n)
    return found, [i async for i in add.map.aio(found)], [i async for i in count.remote.aio(n)], await call.get.aio()

@tarn.function
def nested_assets():
    try:
        summed.remote(times=1)
    except TypeError as error:
        return pictures.__name__, str(error)

@tarn.asset(env=tarn.Env(packages=["pyarrow"]))
def calling_asset():
    return [{"n": add.remote(1)}]

@tarn.asset(env=tarn.Env(packages=["pyarrow"]))
def table():
    return [{"a": 1}, {"a": 3}]

@tarn.asset(env=tarn.Env(packages=["pandas", "pyarrow"]))
def summed(table: "pd.DataFrame", context: tarn.Context, times: int = 2, setting=tarn.local("set*.txt")):
    return int(table.a.sum()) * times, type(table).__name__, setting[0].read_text()

@tarn.asset
def pictures(out: tarn.OutputDir):
    pass
"""


@pytest.fixture(scope="module")
def jobs(server: Callable[[str], Path]) -> Iterator[Any]:
    folder = server("calls")
    (folder / "sdk_jobs.py").write_text(JOBS)
    (folder / "lib").mkdir()
    sys.path.insert(0, str(folder))
    yield importlib.import_module("sdk_jobs")
    sys.path.remove(str(folder))
    del sys.modules["sdk_jobs"]


def test_remote(jobs: Any) -> None:
    assert jobs.add(1) == jobs.add.local(1) == jobs.add.remote(1) == 2
    assert jobs.add.remote(1, b=5) == 6
    assert jobs.turned.remote(jobs.Pair(1, 2)) == jobs.Pair(2, 1)
    assert type(jobs.turned.remote(jobs.Pair(1, 2))) is jobs.Pair
    assert jobs.later.remote(4) == 8
    with pytest.raises(TypeError, match=r"add\(\) needs 'a'"):
        jobs.add.remote()


def test_map(jobs: Any) -> None:
    assert list(jobs.add.map(range(300))) == list(range(1, 301))
    assert sorted(jobs.add.map(range(20), range(20), ordered=False, concurrency=2)) == list(range(0, 40, 2))
    assert list(jobs.add.starmap([(1, 2), (3,)])) == [3, 4]
    assert list(jobs.add.map([])) == []
    assert jobs.add.for_each([1, 2]) is None
    with pytest.raises(tarn.errors.InvalidArgumentError, match="concurrency=0"):
        list(jobs.add.map([1], concurrency=0))
    with pytest.raises(tarn.errors.InvalidArgumentError, match="generator function"):
        jobs.count.map([1])


def test_exceptions(jobs: Any) -> None:
    with pytest.raises(jobs.Bad, match="3: three") as e:
        jobs.picky.remote(3)
    assert (e.value.n, e.value.why) == (3, "three")
    assert 'File "sdk_jobs.py"' in str(e.value.__cause__) and "_serve" not in str(e.value.__cause__)
    got = jobs.picky.map(range(5))
    assert [next(got), next(got), next(got)] == [0, 1, 2]
    with pytest.raises(jobs.Bad):
        next(got)
    *fine, bad, last = jobs.picky.map(range(5), return_exceptions=True)
    assert (fine, type(bad), last) == ([0, 1, 2], jobs.Bad, 4)
    with pytest.raises(jobs.Bad):
        jobs.picky.for_each(range(5))
    jobs.picky.for_each(range(5), ignore_exceptions=True)
    with pytest.raises(tarn.RemoteError, match="from inside") as hidden:
        jobs.hidden.remote()
    assert "Local" in hidden.value.details["class"]
    with pytest.raises(tarn.RemoteError, match=r"^Mute: its text is not to be had, for str\(\) raised AttributeError$") as mute:
        jobs.mute.remote()
    assert "in mute" in str(mute.value.__cause__)


def test_what_cannot_cross(jobs: Any) -> None:
    with pytest.raises(tarn.errors.InvalidArgumentError, match=r"add\(\) cannot get 'b', a lock"):
        jobs.add.remote(1, threading.Lock())
    with pytest.raises(tarn.errors.InvalidArgumentError, match=r"add\(\) cannot get 'a', a lock"):
        list(jobs.add.map([1, threading.Lock()]))
    with pytest.raises(TypeError, match="cannot be pickled"):
        jobs.unpicklable.remote()


def test_a_worker_that_dies(jobs: Any) -> None:
    zero, one, two = jobs.dies.map(range(3), return_exceptions=True)
    assert (zero, two) == (0, 2)
    assert isinstance(one, tarn.Error) and "exit status 3 before it returned. os._exit() does that" in str(one)


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("segfault", "run.killed"),
        ("memory", "run.out_of_memory"),
        ("sleeps", "call.timeout"),
        ("forks", "call.timeout"),
        ("ignores signals", "call.timeout"),
    ],
)
def test_hostile_inputs_end(jobs: Any, kind: str, reason: str) -> None:
    with pytest.raises(tarn.Error) as caught:
        jobs.hostile.remote(kind)
    assert caught.value.reason == reason
    assert jobs.hostile.remote("fine") == "fine"


def test_what_an_input_leaves_disturbs_no_other(jobs: Any) -> None:
    for kind in ("leaves a daemon", "leaves a thread"):
        assert jobs.hostile.remote(kind) == kind
    assert jobs.hostile.remote("reads stdin") == ""
    with pytest.raises(OSError):
        jobs.hostile.remote("closes its output")  # and then prints
    with pytest.raises(tarn.RemoteError):
        jobs.hostile.remote("raises")
    assert list(jobs.hostile.map(["a", "b", "c"])) == ["a", "b", "c"]


def test_a_forked_child_that_comes_back_answers_nothing(jobs: Any) -> None:
    assert list(jobs.forks_and_comes_back.starmap([("returns", n) for n in range(30)])) == [(n, False) for n in range(30)]
    errors = jobs.forks_and_comes_back.starmap([("raises", n) for n in range(10)], return_exceptions=True)
    assert [str(e) for e in errors] == [f"{n} False" for n in range(10)]
    for n in range(5):
        assert list(jobs.forks_and_yields.remote(n)) == [(n, False)] * 2


def test_a_worker_that_reads_no_more_inputs(jobs: Any) -> None:
    assert jobs.turns_deaf.remote(True) is True
    with pytest.raises(tarn.Error, match="reads no more inputs") as caught:
        jobs.turns_deaf.remote(False)
    assert caught.value.reason == "call.worker_deaf"
    assert jobs.turns_deaf.remote(False) is False


def test_calls_from_inside(jobs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.path.dirname(jobs.__file__))
    call, mapped, is_pair = jobs.begins.remote()
    assert (call.get(), mapped, is_pair) == (5, [1, 2, 3], True)
    assert jobs.nested_aio.remote(3) == ([0, 2, 4], [1, 3, 5], [0, 1, 2], 4)
    with pytest.raises(jobs.Bad, match="3: again") as caught:
        jobs.nested_error.remote(3)
    said = str(caught.value.__cause__)
    assert "in picky" in said and "in nested_error" in said and "direct cause" in said
    with pytest.raises(tarn.errors.NotFoundError):  # nobody's below this root
        jobs.nested.remote(jobs.add.spawn(1, 2))
    assert "reaches no tables from its sandbox" in jobs.nested_assets.remote()[1]


def test_a_call_in_a_run_is_refused(jobs: Any) -> None:
    assert jobs.calling_asset.remote() == [{"n": 2}]  # nothing is published
    folder = os.path.dirname(jobs.__file__)
    with pytest.raises(tarn.RunFailed, match="what a result is made from is in its key"):
        tarn.Client(folder=folder).run(folder, select="calling_asset").wait()


def test_an_endless_producer_is_held_back(jobs: Any) -> None:
    taken: List[int] = []

    def numbers() -> Iterator[int]:
        for n in itertools.count():
            taken.append(n)
            yield n

    results = jobs.add.map(numbers())
    assert [next(results) for _ in range(5)] == [1, 2, 3, 4, 5]
    results.close()
    assert len(taken) < 5_000
    assert tarn.Client(folder=str(Path(jobs.__file__).parent)).project == "calls"


def test_a_producer_that_waits_for_results(jobs: Any) -> None:
    seen = threading.Event()

    def numbers() -> Iterator[int]:
        yield 1
        assert seen.wait(60)
        yield 2

    results = jobs.add.map(numbers())
    assert next(results) == 2
    seen.set()
    assert list(results) == [3]


def test_a_producer_that_fails(jobs: Any) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(jobs.add.map(numbers()))


def test_generators(jobs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(jobs.count.remote(4)) == [0, 1, 2, 3]
    assert list(jobs.count.remote(0)) == []
    stream = jobs.count.remote(1_000_000)
    assert [next(stream), next(stream)] == [0, 1]
    stream.close()
    stream = jobs.count.remote(13)
    with pytest.raises(jobs.Bad, match="unlucky"):
        for _ in stream:
            pass


def test_output(jobs: Any, capfd: pytest.CaptureFixture[str]) -> None:
    jobs.talks.remote()
    assert capfd.readouterr() == ("to stdout\n", "to stderr\n")


def test_spawn(jobs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    call = jobs.add.spawn(1)
    assert call.get() == call.get(timeout=60) == 2
    monkeypatch.chdir(Path(jobs.__file__).parent)
    assert tarn.FunctionCall.from_id(call.id).get() == 2
    assert tarn.gather(jobs.add.spawn(1), jobs.add.spawn(2)) == [2, 3]
    waits = jobs.forever.spawn(1)
    with pytest.raises(tarn.errors.DeadlineError, match=r"still going after 0\.2 s"):
        waits.get(timeout=0.2)
    waits.cancel()
    with pytest.raises(tarn.errors.CanceledError):
        waits.get()
    with pytest.raises(tarn.errors.NotFoundError, match="c-nope"):
        tarn.FunctionCall.from_id("c-nope").get()
    with pytest.raises(jobs.Bad):
        tarn.gather(jobs.add.spawn(1), jobs.picky.spawn(3))


def test_output_of_a_call_is_shown_once(jobs: Any, capfd: pytest.CaptureFixture[str]) -> None:
    call = jobs.talks.spawn()
    call.get()
    call.get()
    asyncio.run(call.get.aio())
    assert capfd.readouterr() == ("to stdout\n", "to stderr\n")
    with pytest.raises(TypeError, match=r"gather\(\) takes calls"):
        tarn.gather([call])  # type: ignore[arg-type]


def test_big_values(jobs: Any) -> None:
    data = os.urandom(5 << 20)
    assert jobs.big.remote(data) == data * 2
    assert [len(d) for d in jobs.big.map([data[: 1 << 20]] * 8)] == [2 << 20] * 8


def values_left() -> List[str]:
    """Files and folders of calls' values, but those of workers, which are empty."""
    return [str(p) for p in Path(os.environ["TARN_HOME"]).glob("scratch/projects/*/calls/**/*") if p.is_file() or p.name.startswith("c-")]


def test_an_asset(jobs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(jobs.__file__).parent
    (folder / "setting.txt").write_text("on")
    assert jobs.table.remote() == jobs.table() == [{"a": 1}, {"a": 3}]
    with pytest.raises(tarn.errors.NotFoundError, match="table"):
        jobs.summed.remote()
    tarn.Client(folder=str(folder)).table("table").write([{"a": 5}])
    assert jobs.summed.remote() == (10, "DataFrame", "on")
    assert asyncio.run(jobs.summed.remote.aio(times=3)) == (15, "DataFrame", "on")
    with pytest.raises(TypeError, match=r"tarn run pictures, or pictures.local\(\)"):
        jobs.pictures.remote()


CELLS = [
    "import math as m\nfrom collections import OrderedDict\nimport tarn\nenv = tarn.Env(packages=[])\nfactor = {'by': 3}",
    "class Thing:\n    def __init__(self, n):\n        self.n = n\nthing = Thing(4)",
    "def helper(n):\n    return m.floor(n) * factor['by']",
    "@tarn.function(env=env)\ndef scaled(t):\n    return Thing(helper(t.n) + thing.n), list(OrderedDict(a=1)), open('setting.txt').read()",
]


def test_a_notebook(jobs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(jobs.__file__).parent
    (folder / "setting.txt").write_text("on")
    monkeypatch.chdir(folder)
    notebook = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    space = vars(notebook)

    def cell(text: str) -> None:  # as a notebook runs one
        name = f"<cell {len(linecache.cache)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), space)

    for text in CELLS:
        cell(text)
    for by in (3, 5):  # the cell above is run again
        cell(f"factor = {{'by': {by}}}")
        thing, names, setting = space["scaled"].remote(space["Thing"](2.5))
        assert (type(thing), thing.n, names, setting) == (space["Thing"], 2 * by + 4, ["a"], "on")
    assert [t.n for t, _, _ in space["scaled"].map([space["Thing"](n) for n in range(3)])] == [4, 9, 14]
    cell("import threading\nlock = threading.Lock()\n@tarn.function\ndef locked():\n    return lock")
    with pytest.raises(tarn.errors.PreconditionError, match="locked cannot go to a sandbox: it names lock, a lock that cannot be pickled"):
        space["locked"].remote()
    exec("import tarn\n@tarn.function\ndef lost(): pass", space)
    with pytest.raises(tarn.errors.PreconditionError, match="the source of lost is not kept here"):
        space["lost"].remote()


def test_the_whole_folder_is_there(jobs: Any) -> None:
    folder = Path(jobs.__file__).parent
    (folder / "data").mkdir()
    for n in range(3):
        (folder / "data" / f"{n}.csv").write_text(str(n))
    assert list(jobs.reads.starmap([("data", n) for n in range(3)])) == ["00", "11", "22"]
    (folder / "data" / "1.csv").write_text("new")
    assert jobs.reads.remote("data", 1) == "newnew"
    (folder / ".gitignore").write_text("data/2.csv\n")
    with pytest.raises(FileNotFoundError):
        jobs.reads.remote("data", 2)


def test_a_file_that_is_too_big_to_come_along(jobs: Any, capfd: pytest.CaptureFixture[str]) -> None:
    big = Path(jobs.__file__).parent / "data" / "big.csv"
    with big.open("wb") as f:
        f.truncate(1 << 31)
    try:
        with pytest.raises(FileNotFoundError):
            jobs.reads.remote("data", "big")
        assert "data/big.csv is not in the sandbox: files of the project beside code come along up to 1.0 GiB" in capfd.readouterr().err
    finally:
        big.unlink()


def test_values_go_through_files(jobs: Any) -> None:
    data = bytearray(os.urandom(70 << 20))  # more than a message holds
    assert jobs.big.remote(bytes(data[: 40 << 20])) == bytes(data[: 40 << 20]) * 2
    assert b"".join(jobs.halves.remote(data)) == data
    assert jobs.touched.remote(data) == (7, len(data))
    assert jobs.touched.remote(bytearray(9)) == (7, 9)
    assert [bytes(d) for d in jobs.big.map(data[i << 20 : (i + 2) << 20] for i in range(20))] == [bytes(data[i << 20 : (i + 2) << 20]) * 2 for i in range(20)]
    call = jobs.big.spawn(data)
    assert call.get() == call.get() == data * 2

    async def work() -> None:
        assert await jobs.big.remote.aio(data) == data * 2
        assert [len(d) async for d in jobs.big.map.aio([data, data])] == [2 * len(data)] * 2

    asyncio.run(work())


def test_an_array_keeps_its_place(jobs: Any) -> None:
    np = pytest.importorskip("numpy")
    a = np.arange(4 << 20, dtype=np.float64).reshape(2048, -1)
    out = jobs.scaled.remote(a, 3)
    assert np.array_equal(out, a * 3) and out.flags.writeable
    strided = jobs.scaled.remote(a[:, ::2], 2)
    assert np.array_equal(strided, a[:, ::2] * 2)

    def reused() -> Iterator[Any]:  # one buffer for all items
        for i in range(4):
            a[:] = i
            yield a, 1

    assert [float(x.max()) for x in jobs.scaled.starmap(reused())] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk(jobs: Any) -> None:
    assert jobs.touched.remote(bytearray(1 << 20)) == (7, 1 << 20)
    (folder,) = Path(os.environ["TARN_HOME"]).glob("scratch/projects/calls/calls")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tarn-test", str(folder)], capture_output=True).returncode:
        pytest.skip("no mounts here")
    try:
        with pytest.raises(tarn.errors.ResourceExhaustedError, match="does not fit on the server's disk") as caught:
            jobs.big.remote(bytes(16 << 20))
        assert caught.value.reason == "call.disk_full" and caught.value.next
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    assert jobs.add.remote(1) == 2


def test_a_killed_caller_leaves_nothing(jobs: Any) -> None:
    folder = Path(jobs.__file__).parent
    program = "import sdk_jobs\nfor _ in sdk_jobs.forever.map(bytearray(5 << 20) for _ in range(9)): pass"
    before = set(values_left())
    child = subprocess.Popen([sys.executable, "-c", program], cwd=folder, env={**os.environ, "PYTHONPATH": SRC}, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "waits\n"
    assert set(values_left()) - before
    child.kill()
    child.communicate()
    end = time.monotonic() + 90
    while set(values_left()) - before and time.monotonic() < end:
        time.sleep(0.2)
    assert not set(values_left()) - before


def test_asynchronous(jobs: Any) -> None:
    async def numbers() -> AsyncIterator[int]:
        for n in itertools.count():
            yield n

    async def work() -> None:
        assert await jobs.add.remote.aio(1, b=2) == 3
        assert await asyncio.gather(*(jobs.add.remote.aio(i) for i in range(4))) == [1, 2, 3, 4]
        assert [x async for x in jobs.add.map.aio(range(200))] == list(range(1, 201))
        assert [x async for x in jobs.add.starmap.aio([(1, 2)])] == [3]
        assert [x async for x in jobs.count.remote.aio(3)] == [0, 1, 2]
        got = jobs.add.map.aio(numbers(), ordered=True)
        assert [await got.__anext__() for _ in range(3)] == [1, 2, 3]
        await got.aclose()
        with pytest.raises(jobs.Bad):
            await jobs.picky.remote.aio(3)
        await jobs.picky.for_each.aio(range(5), ignore_exceptions=True)
        call = await jobs.add.spawn.aio(5)
        assert await tarn.gather.aio(call, jobs.add.spawn(6)) == [6, 7]
        waits = await jobs.forever.spawn.aio(1)
        await waits.cancel.aio()
        with pytest.raises(tarn.errors.CanceledError):
            await waits.get.aio()
        with pytest.raises(asyncio.TimeoutError):  # cancelling the task cancels the call
            await asyncio.wait_for(jobs.forever.remote.aio(1), 0.3)

    asyncio.run(work())


def test_a_script_calls_its_own_functions(jobs: Any, tmp_path: Path) -> None:
    folder = Path(jobs.__file__).parent
    (folder / "script.py").write_text(
        "import tarn\n\nclass Thing:\n    def __init__(self, n): self.n = n\n\n@tarn.function\ndef more(thing):\n    return Thing(thing.n + 1)\n\n"
        "if __name__ == '__main__':\n    for thing in more.map([Thing(1), Thing(2)]):\n        assert type(thing) is Thing\n        print(thing.n)\n"
    )
    env = {**os.environ, "PYTHONPATH": SRC}
    done = subprocess.run([sys.executable, str(folder / "script.py")], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "2\n3\n"), done.stderr
    done = subprocess.run([BINARY, "run", "sdk_jobs.py::add", "--a", "3", "--b", "4"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


def test_ctrl_c_cancels(jobs: Any) -> None:
    folder = Path(jobs.__file__).parent
    program = "import sdk_jobs\nsdk_jobs.forever.for_each([1])"
    child = subprocess.Popen([sys.executable, "-c", program], cwd=folder, env={**os.environ, "PYTHONPATH": SRC}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "waits\n"
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert child.returncode != 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_closed_terminal_cancels(jobs: Any, number: signal.Signals) -> None:
    folder = Path(jobs.__file__).parent
    child = subprocess.Popen([BINARY, "run", "sdk_jobs.py::forever", "--n", "1"], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "waits\n"
    child.send_signal(number)
    child.communicate(timeout=60)
    assert child.returncode == 128 + number
    listed = subprocess.run([BINARY, "runs", "--json"], cwd=folder, check=True, capture_output=True, text=True)
    assert json.loads(listed.stdout)["calls"][0]["state"] == "canceled"  # at once


@pytest.mark.parametrize("how", ["sdk_jobs.forever.for_each([1])", "import asyncio; asyncio.run(sdk_jobs.forever.remote.aio(1))"])
def test_a_server_that_is_killed_is_named(jobs: Any, how: str) -> None:
    folder = Path(jobs.__file__).parent
    child = subprocess.Popen(
        [sys.executable, "-c", f"import sdk_jobs\n{how}"], cwd=folder, env={**os.environ, "PYTHONPATH": SRC}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "waits\n"
    status = subprocess.run([BINARY, "server", "status", "--json"], cwd=folder, check=True, capture_output=True, text=True)
    os.kill(json.loads(status.stdout)["pid"], signal.SIGKILL)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "UnavailableError: the server ended during call c-" in said
    assert jobs.add.remote(1) == 2


def test_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alone.py").write_text("import tarn\n\n@tarn.function\ndef f(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(tarn.errors.PreconditionError, match=r"no tarn\.toml in a folder above it"):
        importlib.import_module("alone").f.remote()
