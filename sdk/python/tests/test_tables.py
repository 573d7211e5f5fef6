"""Tables and queries through the clients, against the real binary."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import BINARY, SRC, write_files

import tarn

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pytestmark = pytest.mark.skipif(not os.path.exists(BINARY), reason="no tarn binary: make build, or set TARN_BIN")

RULES = """
protected = ["locked"]

[project]
name = "tables"

[table.orders]
checks = ["unique(id)"]
"""


@pytest.fixture(scope="module")
def home(server: Any) -> Path:
    folder: Path = server("tables")
    return write_files(folder, {"tarn.toml": RULES})


@pytest.fixture
def client(home: Path, branch: str) -> tarn.Client:
    c = tarn.Client(folder=str(home))
    c.branches.create(branch, base="main")
    return c.at(branch)


FRAMES = {
    "pandas": lambda: pd.DataFrame({"id": [1, 2], "s": ["a", None]}),
    "polars": lambda: pl.DataFrame({"id": [1, 2], "s": ["a", None]}),
    "lazy": lambda: pl.LazyFrame({"id": [1, 2], "s": ["a", None]}),
    "arrow": lambda: pa.table({"id": [1, 2], "s": ["a", None]}),
    "batches": lambda: pa.table({"id": [1, 2], "s": ["a", None]}).to_reader(1),
    "dicts": lambda: [{"id": 1, "s": "a"}, {"id": 2, "s": None}],
    "generator": lambda: ({"id": i, "s": s} for i, s in ((1, "a"), (2, None))),
}


@pytest.mark.parametrize("form", FRAMES)
def test_every_frame_goes_in(client: tarn.Client, form: str) -> None:
    written = client.table("t").write(FRAMES[form](), message="rows")
    assert (written.branch, written.changed, written.commit.message) == (client._ref, True, "rows")
    assert client.table("t").to_dicts() == [{"id": 1, "s": "a"}, {"id": 2, "s": None}]


def test_every_frame_comes_out(client: tarn.Client) -> None:
    client.table("t").write(FRAMES["arrow"]())
    t = client.table("t", columns=["s"], where="id = 1")
    assert t.to_arrow().to_pylist() == t.to_dicts() == t.to_polars().to_dicts() == t.to_pandas().to_dict("records") == [{"s": "a"}]
    assert isinstance(t.to_pandas(), pd.DataFrame)
    assert [b.num_rows for b in t.batches()] == [1]
    assert client.table(f"t@{client._ref}").to_arrow().num_rows == 2


def test_modes_key_history_and_removal(client: tarn.Client) -> None:
    t = client.table("t")
    t.write([{"id": 1, "n": 1}], key="id")
    t.write([{"id": 2, "n": 2}], mode="append")
    t.write([{"id": 2, "n": 3}, {"id": 4, "n": 4}], mode="merge", key=["id"])
    assert sorted((r["id"], r["n"]) for r in t.to_dicts()) == [(1, 1), (2, 3), (4, 4)]
    assert not t.write(t.to_arrow()).changed
    info = t.describe()
    assert (info.name, info.rows, info.key, [(c.name, c.type) for c in info.columns]) == ("t", 3, ("id",), [("id", "int64"), ("n", "int64")])
    assert os.path.exists(info.metadata.replace("file://", ""))
    assert [(v.rows, v.present) for v in t.history()] == [(3, True), (2, True), (1, True)]
    assert [(e.name, e.rows) for e in client.tables.list()] == [("t", 3)]
    assert client.tables.delete("t").changed
    assert client.tables.list() == []
    with pytest.raises(tarn.errors.NotFoundError, match="no table 't'"):
        client.tables.delete("t")


def test_refs(client: tarn.Client) -> None:
    name = client._ref or ""
    client.table("t").write([{"id": 1}])
    client.tags.create(f"v-{name}")
    client.table("t").write([{"id": 2}])
    assert client.at(f"v-{name}").table("t").to_dicts() == client.query("from t", ref=f"v-{name}").to_dicts() == [{"id": 1}]
    assert client.query(f'from "t@v-{name}" union all from t order by id').to_dicts() == [{"id": 1}, {"id": 2}]
    client.branches.create(name + "-dev")
    client.table("t").write([{"id": 3}], into=name + "-dev")
    assert client.table("t").to_dicts() == [{"id": 2}]
    assert client.at(name + "-dev").table("t").to_dicts() == [{"id": 3}]
    client.merge(name + "-dev", into=name)
    assert client.table("t").to_dicts() == [{"id": 3}]
    with pytest.raises(tarn.errors.InvalidArgumentError, match="two refs"):
        client.table("t@a", ref="b").to_arrow()
    with pytest.raises(tarn.errors.InvalidArgumentError, match="two branches"):
        client.table("t@a").write([{"id": 1}], into="b")


def test_errors_say_what_to_do(client: tarn.Client) -> None:
    client.table("orders").write([{"id": 1}])
    with pytest.raises(tarn.errors.NotFoundError, match=r"'order'.*orders") as missing:
        client.table("order").to_pandas()
    assert (missing.value.reason, missing.value.code) == ("table.not_found", "not_found")
    with pytest.raises(tarn.errors.NotFoundError, match="'nowhere'"):
        client.table("orders", ref="nowhere").to_pandas()
    for sql, said in (("selec 1", "syntax error"), ("select idd from orders", '"idd"'), ("", "statement"), ("select 1; select 2", "one statement")):
        with pytest.raises(tarn.errors.InvalidArgumentError, match=said):
            client.query(sql)
    with pytest.raises(tarn.errors.InvalidArgumentError, match="'replce'"):
        client.table("orders").write([{"id": 1}], mode="replce")
    with pytest.raises(TypeError, match="returned int"):
        client.table("orders").write(3)
    with pytest.raises(tarn.errors.InvalidArgumentError, match="column"):
        client.table("orders").write(pd.DataFrame())
    with pytest.raises(tarn.errors.InvalidArgumentError, match="timeout=0"):
        client.query("select 1", timeout=0)

    t = client.table("orders")
    for refused, said in (
        (lambda: client.table("").to_arrow(), "must not be empty"),
        (lambda: client.table("orders", columns=[]).to_arrow(), "chooses nothing"),
        (lambda: client.query("select $x", params={"x": object()}), "a parameter cannot be"),
        (lambda: client.query("select $x"), "has no value"),
    ):
        with pytest.raises(tarn.errors.InvalidArgumentError, match=said):
            refused()
    assert client.table("orders", columns="id").to_dicts() == t.to_dicts()
    numpy = pytest.importorskip("numpy")
    assert client.query("select $x + 1 as x", params={"x": numpy.int64(3)}).to_dicts() == [{"x": 4}]
    result = client.query("from orders")
    assert result.to_dicts() == [{"id": 1}]
    for again in (result.to_dicts, result.to_polars, result.batches):
        with pytest.raises(ValueError, match="read once"):
            again()

    def broken() -> Iterator[Any]:
        yield {"id": 2}
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        client.table("orders").write(broken())
    assert client.table("orders").to_dicts() == [{"id": 1}]


def test_checks_gate_a_write(client: tarn.Client) -> None:
    good = client.table("orders").write([{"id": 1}])
    assert [(c.check, c.passed) for c in good.checks] == [("unique(id)", True)]
    with pytest.raises(tarn.errors.UserCodeError, match=r"unique\(id\) failed on orders") as failed:
        client.table("orders").write([{"id": 1}, {"id": 1}])
    assert failed.value.reason.startswith("check.")
    with pytest.raises(tarn.errors.UserCodeError, match=r"unique\(id\)"):
        client.query("insert into orders values (1)")
    assert client.table("orders").to_dicts() == [{"id": 1}]


def test_protected_branches(home: Path, client: tarn.Client) -> None:
    if "locked" not in [b.name for b in client.branches.list()]:
        client.branches.create("locked", base="main")
    with pytest.raises(tarn.errors.PermissionDeniedError, match="locked is protected") as refused:
        client.table("t").write([{"id": 1}], into="locked")
    assert refused.value.reason == "branch.protected"
    assert any("tarn merge" in n for n in refused.value.next)
    with pytest.raises(tarn.errors.PermissionDeniedError):
        client.files.put("a", b"", into="locked")
    with pytest.raises(tarn.errors.PermissionDeniedError):
        client.query("create table t as select 1 as x", into="locked")


def test_statements_that_write(client: tarn.Client) -> None:
    made = client.query("create table t as select 1 as id, $name as name", params={"name": "x"}, message="made").written()
    assert made is not None and (made.branch, made.commit.message) == (client._ref, "made")
    added = client.query("insert into t values (2, 'y')").written()
    assert added is not None and added.commit.parents == (made.commit.id,)
    assert client.query("from t order by id").to_dicts() == [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}]
    assert client.query("select 1").written() is None


def test_large_results_stream(client: tarn.Client) -> None:
    """The whole would be 1.6 TB: the first batches come at once, and leaving ends the query."""
    with client.query("select i, i * 2 as j from range(100000000000) t(i)") as result:
        batches = result.batches()
        seen = sum(batches.read_next_batch().num_rows for _ in range(3))
    assert seen > 1000
    with pytest.raises((ValueError, OSError)):
        batches.read_next_batch()
        batches.read_next_batch()


def test_timeout_ends_a_query(client: tarn.Client) -> None:
    began = time.monotonic()
    with pytest.raises(tarn.errors.DeadlineError):
        client.query("select count(*) from range(100000000000) a(i) where hash(i) = 1", timeout=0.3)
    assert time.monotonic() - began < 30


def test_many_rows(client: tarn.Client) -> None:
    big = pa.table({"i": pa.array(range(100_000)), "s": [f"row {i}" for i in range(100_000)]})
    client.table("big").write(big)
    assert client.table("big").to_arrow().sort_by("i").equals(big)
    assert client.query("select sum(i) as s from big").to_dicts() == [{"s": sum(range(100_000))}]
    client.table("many").write({"i": i} for i in range(100_000))
    assert client.table("many").describe().rows == 100_000


def test_types_survive(client: tarn.Client) -> None:
    from datetime import date, datetime, timezone
    from decimal import Decimal

    rows = pa.table(
        {
            "b": [True, None], "f": [0.5, float("inf")], "day": [date(2024, 1, 2), None], "d": pa.array([Decimal("1.50"), None], pa.decimal128(12, 2)),
            "t": pa.array([datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc), None], pa.timestamp("us", "UTC")), "raw": [b"\x00\xff", b""],
            "list": [[1, None], []], "struct": [{"a": 1, "b": "é"}, None], "weird name; \"x\"": ["", "日本"],
        }
    )  # fmt: skip
    client.table("t").write(rows)
    assert client.table("t").to_arrow().to_pylist() == rows.to_pylist()
    assert client.table("t", columns=['weird name; "x"']).to_arrow().num_columns == 1


def test_asynchronous(home: Path, client: tarn.Client) -> None:
    ref = client._ref or ""

    async def work() -> None:
        c = tarn.AsyncClient(folder=str(home)).at(ref)
        await asyncio.gather(*(c.table(f"t{i}").write(pd.DataFrame({"i": range(i)}, dtype="int64")) for i in range(1, 4)))
        assert [e.rows for e in await c.tables.list()] == [1, 2, 3]
        t = c.table("t3")
        assert (await t.to_pandas()).i.tolist() == (await t.to_polars())["i"].to_list() == [r["i"] for r in await t.to_dicts()] == [0, 1, 2]
        assert [b.num_rows async for b in t.batches()] == [3]
        assert (await t.describe()).rows == (await t.history())[0].rows == 3
        empty = [b.num_rows async for b in (await c.query("from t3 where i > 9")).batches()]
        assert sum(empty) == 0
        texts = [
            x
            for b in [b async for b in (await c.query("select (case when i % 2 = 0 then 'a' else 'b' end)::enum('a', 'b') as e from range(5000) t(i)")).batches()]
            for x in b["e"].to_pylist()
        ]
        assert texts == ["a", "b"] * 2500
        written = await (await c.query("insert into t3 values (7)")).written()
        assert written is not None and written.changed
        assert (await c.tables.delete("t1", "t2")).changed
        with pytest.raises(tarn.errors.NotFoundError):
            await c.table("t1").to_arrow()
        with pytest.raises(tarn.errors.UserCodeError):
            await c.table("orders").write([{"id": 1}, {"id": 1}])
        with pytest.raises(tarn.errors.DeadlineError):
            await c.query("select count(*) from range(100000000000) a(i) where hash(i) = 1", timeout=0.3)

        seen = 0
        batches = (await c.query("select i, i * 2 as j from range(100000000000) t(i)")).batches()
        async for batch in batches:
            seen += batch.num_rows
            if seen > 5000:
                break
        await batches.aclose()

        slow = asyncio.ensure_future(c.query("select count(*) from range(100000000000) a(i) where hash(i) = 1"))
        done, _ = await asyncio.wait([slow], timeout=0.3)
        assert not done
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert (await (await c.query("select 1 as x")).to_dicts()) == [{"x": 1}]

    asyncio.run(work())


def test_a_long_lived_client_outlives_the_server(home: Path, client: tarn.Client) -> None:
    client.table("t").write([{"id": 1}])
    subprocess.run([BINARY, "server", "stop"], cwd=home, check=True, capture_output=True)
    assert client.table("t").to_dicts() == [{"id": 1}]
    subprocess.run([BINARY, "server", "stop"], cwd=home, check=True, capture_output=True)

    async def work() -> Any:
        c = tarn.AsyncClient(folder=str(home)).at(client._ref or "")
        first = await c.table("t").to_dicts()
        subprocess.run([BINARY, "server", "stop"], cwd=home, check=True, capture_output=True)
        return first, await c.table("t").to_dicts()

    assert asyncio.run(work()) == ([{"id": 1}], [{"id": 1}])


PIPELINE = """
import tarn
import pandas as pd
from pathlib import Path
from typing import Annotated

@tarn.asset
def delays(flights: Annotated[pd.DataFrame, tarn.table(columns=["n"], where="n > 1")], out: tarn.OutputDir, note: Annotated[Path, tarn.local("note.txt")], pictures: Annotated[list, tarn.files("img/*")], ctx: tarn.Context, top: int = 20) -> pd.DataFrame:
    ctx.log("here")
    return flights.assign(top=top, note=note.read_text(), pictures=",".join(p.name for p in pictures))

@tarn.asset
def rows(flights: list[dict]): return flights
"""


def test_local_loads_what_is_missing(home: Path, client: tarn.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a function that a notebook cell defined: it has no file."""
    ref = client._ref or ""
    client.table("flights").write(pd.DataFrame({"n": [1, 2, 3], "x": [0, 0, 0]}))
    client.files.put("img/a.png", b"a")
    client.files.put("img/b.png", b"b")
    write_files(home, {"note.txt": "hi", "pipeline.py": PIPELINE})
    monkeypatch.chdir(home)
    saved = list(tarn._function.declared)
    try:
        for file in (str(home / "pipeline.py"), "<ipython-input-3>", "/tmp/ipykernel_1/2.py"):
            cell: dict[str, Any] = {"__name__": "__main__"}
            exec(compile(PIPELINE, file, "exec"), cell)
            with pytest.raises(TypeError, match=r"^rows\(\) needs 'flights'\. Pass a frame, or rows\.local\(\) to load it from main\.$"):
                cell["rows"]()
            frame = cell["delays"].local(ref=ref, top=5)
            assert frame.to_dict("list") == {"n": [2, 3], "top": [5, 5], "note": ["hi", "hi"], "pictures": ["a.png,b.png"] * 2}
            assert cell["rows"].local(ref=ref) == [{"n": n, "x": 0} for n in (1, 2, 3)]
            assert cell["rows"].local(["mine"]) == ["mine"]
            with pytest.raises(tarn.errors.NotFoundError, match="flights"):
                cell["rows"].local()
    finally:
        tarn._function.declared[:] = saved
        (home / "pipeline.py").unlink()


def test_reading_outside_of_a_function(home: Path, client: tarn.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.table("flights").write(pd.DataFrame({"n": [1, 2]}))
    monkeypatch.chdir(home)
    t = tarn.table("flights", ref=client._ref, where="n = 2")
    assert t.to_pandas().n.tolist() == t.to_polars()["n"].to_list() == t.to_arrow()["n"].to_pylist() == [r["n"] for r in t.to_dicts()] == [2]
    assert [b.num_rows for b in t.batches()] == [1]
    with pytest.raises(TypeError, match="needs a name"):
        tarn.table().to_pandas()


WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "pyarrow" else find(name, *rest)
import polars as pl, tarn
sys.modules.pop("pyarrow")
c = tarn.Client().at(sys.argv[1])
c.table("p").write(pl.DataFrame({"i": [1, 2], "s": ["a", None]}))
c.table("p").write([{"i": 3, "s": "c"}], mode="append")
print(c.table("p").to_polars().sort("i").rows(), c.table("p", where="i = 3").to_dicts())
"""


def test_polars_is_enough(home: Path, client: tarn.Client) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_PYARROW, client._ref or ""], cwd=home, env={**os.environ, "PYTHONPATH": SRC}, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[(1, 'a'), (2, None), (3, 'c')] [{'i': 3, 's': 'c'}]\n", done.stderr
