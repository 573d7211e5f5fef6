"""Runs through the clients, against the real binary."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import BINARY, write_files

import tarn

pytestmark = pytest.mark.skipif(not os.path.exists(BINARY), reason="no tarn binary: make build, or set TARN_BIN")

PIPELINE = """
import os, time
import tarn

@tarn.asset
def numbers(top: int = 3) -> list[dict]:
    "Some numbers."
    print("counting to", top)
    if top < 0:
        raise ValueError(f"{top} is too small")
    return [{"n": i} for i in range(top)]

@tarn.asset
def notes(out: tarn.OutputDir, gate: str = ""):
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    (out / "a.txt").write_text("x")
"""


@pytest.fixture(scope="module")
def client(server: Callable[[str], Path]) -> tarn.Client:
    return tarn.Client(folder=str(write_files(server("runs"), {"pipeline.py": PIPELINE})))


def test_a_run_from_plan_to_provenance(client: tarn.Client) -> None:
    client.branches.create("a")
    c = client.at("a")
    assert [(s.name, s.action) for s in c.plan(select="numbers").steps] == [("numbers", "run")]
    run = c.run(select="numbers", params={"top": 4})
    lines = list(run.logs(follow=True))
    done = run.wait(timeout=60)
    assert (done.state, done.into, [(s.name, s.state, s.rows) for s in done.steps]) == ("succeeded", "a", [("numbers", "succeeded", 4)])
    assert [(x.step, x.stream, x.text) for x in lines] == [("numbers", "stdout", "counting to 4")]
    assert [x.text for x in c.logs()] == [x.text for x in run.logs("numbers")] == ["counting to 4"]
    assert c.resolve().id == done.commit
    assert [(s.name, s.action) for s in c.plan(select=["numbers"], params={"top": 4}).steps] == [("numbers", "reuse")]
    assert c.runs(limit=1)[0].id == run.id
    node = c.provenance("numbers")[0]
    assert (node.name, node.run, node.params, node.inputs) == ("numbers", run.id, {"top": "4"}, ())
    answer = c.why("numbers")
    assert run.id in answer.sentence or "numbers" in answer.sentence
    assert str(answer) == answer.sentence
    with pytest.raises(tarn.errors.NotFoundError):
        c.why("nonsense")
    with pytest.raises(tarn.errors.Error, match="nonsense"):
        c.plan(select="nonsense")


def test_wait_has_an_end_and_the_run_goes_on(client: tarn.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = client.run(select="notes", params={"gate": str(gate)}, id="gated")
    with pytest.raises(tarn.errors.DeadlineError, match="run gated is still going"):
        run.wait(timeout=0.3)
    with pytest.raises(tarn.errors.InvalidArgumentError, match="timeout=0"):
        run.wait(timeout=0)

    async def work() -> None:
        same = await tarn.AsyncClient(folder=client._folder).run(select="notes", params={"gate": str(gate)}, id="gated")
        assert same.id == "gated"
        with pytest.raises(tarn.errors.DeadlineError, match="still going"):
            await same.wait(timeout=0.3)
        assert (await same.cancel()).state in ("canceled", "running")
        with pytest.raises(tarn.RunFailed) as e:
            await same.wait(timeout=60)
        assert e.value.details["state"] == "canceled"

    asyncio.run(work())
    assert run.refresh().state == "canceled"


def test_failures(client: tarn.Client) -> None:
    with pytest.raises(tarn.RunFailed, match="-1 is too small") as e:
        client.run(select="numbers", params={"top": -1}).wait()
    assert isinstance(e.value, tarn.errors.UserCodeError)
    assert e.value.details["failed"] == ["numbers"]
    assert any("tarn debug" in n for n in e.value.next)

    async def work() -> Any:
        c = tarn.AsyncClient(folder=client._folder)
        assert [s.name for s in (await c.plan(select="numbers")).steps] == ["numbers"]
        assert (await c.runs(limit=1))[0].state == "failed"
        assert "counting to -1" in [x.text async for x in c.logs()]
        return (await c.why((await c.runs(limit=1))[0].id)).sentence

    assert "-1 is too small" in asyncio.run(work())


def test_nothing_runs_on_what_a_check_refuses(server: Callable[[str], Path]) -> None:
    source = """
    import tarn

    @tarn.asset
    def orders() -> list[dict]:
        return [{"id": 1}, {"id": 2}, {"id": 2}]

    @tarn.check(orders)
    def no_twins(orders: list[dict]) -> bool:
        return len({row["id"] for row in orders}) == len(orders)

    @tarn.asset
    def behind(orders: list[dict]) -> list[dict]:
        print("behind runs")
        return orders

    @tarn.asset
    def beside() -> list[dict]:
        print("beside runs")
        return [{"one": 1}]
    """
    c = tarn.Client(folder=str(write_files(server("refused"), {"pipeline.py": source})))
    run = c.run()
    with pytest.raises(tarn.RunFailed, match="no_twins failed on orders"):
        run.wait(timeout=120)
    steps = {s.name: s.state for s in run.refresh().steps}
    assert steps == {"orders": "succeeded", "no_twins": "succeeded", "beside": "succeeded", "behind": "skipped"}
    lines = [x.text for x in c.logs()]
    assert "beside runs" in lines and "behind runs" not in lines


def test_polars_is_enough_for_a_function(client: tarn.Client, server: Callable[[str], Path]) -> None:
    """An environment with polars and without pyarrow: inputs and outputs of every kind it can have."""
    pl = pytest.importorskip("polars")
    source = f"""
    import glob
    import polars as pl
    import tarn

    env = tarn.Env(packages=["polars=={pl.__version__}"])

    @tarn.asset(env=env)
    def made() -> pl.DataFrame:
        try:
            import pyarrow
        except ImportError:
            threads = [open(f).read() for f in glob.glob("/proc/self/task/*/comm")]
            assert not any("jemalloc" in name for name in threads), threads  # where it is the only one, polars can be forked
            return pl.DataFrame({{"i": [1, 2, None], "s": ["a", None, "long enough to be no inline string"], "l": [[1], [], None]}})
        raise AssertionError("pyarrow is here")

    @tarn.asset(env=env)
    def eager(made: pl.DataFrame) -> pl.DataFrame:
        return made.with_columns(j=pl.col("i") * 2)

    @tarn.asset(env=env)
    def lazy(eager: pl.LazyFrame) -> pl.LazyFrame:
        return eager.filter(pl.col("j") > 2)

    @tarn.asset(env=env)
    def dicts(made: list[dict]) -> list[dict]:
        return [{{"n": len(made), "s": made[2]["s"]}}]

    @tarn.asset(env=env)
    def pieces(made: pl.DataFrame):
        yield made
        yield {{"i": 9}}
        yield [made.lazy().head(1)]

    @tarn.check("eager")
    def all_there(eager: pl.DataFrame) -> bool:
        return eager.height == 3
    """
    c = tarn.Client(folder=str(write_files(server("polars-only"), {"pipeline.py": source})))
    done = c.run().wait(timeout=120)
    assert {s.name: s.rows for s in done.steps} == {"made": 3, "eager": 3, "lazy": 1, "dicts": 1, "pieces": 5, "all_there": 0}
    assert c.table("lazy").to_polars().select("i", "j", "s").rows() == [(2, 4, None)]
    assert c.table("dicts").to_dicts() == [{"n": 3, "s": "long enough to be no inline string"}]
    assert c.table("pieces").to_polars()["i"].sort(nulls_last=True).to_list() == [1, 1, 2, 9, None]


def test_items_and_additions_without_rows(client: tarn.Client) -> None:
    folder = Path(client._folder or "")
    write_files(
        folder,
        {
            "sparse.py": """
            import tarn
            from pathlib import Path
            from typing import Annotated

            @tarn.asset
            def found(text: Annotated[Path, tarn.files("texts/*.txt", each=True)]) -> list[dict]:
                return [{"name": text.name, "word": w} for w in text.read_text().split()]

            @tarn.asset(mode="append")
            def arrived(n: int = 1) -> list[dict]:
                return [{"n": i} for i in range(n)]
            """
        },
    )
    try:
        client.branches.create("sparse")
        c = client.at("sparse")
        for name, text in {"a": "", "b": "x y", "c": ""}.items():
            c.files.put(f"texts/{name}.txt", text.encode())
        assert c.run(select=["found", "arrived"]).wait(timeout=60).state == "succeeded"
        assert c.query("select count(*) as n from found").to_dicts() == [{"n": 2}]
        assert c.run(select=["arrived"], params={"n": 0}).wait(timeout=60).state == "succeeded"
        assert c.query("select count(*) as n from arrived").to_dicts() == [{"n": 1}]
        c.files.put("texts/b.txt", b"")
        with pytest.raises(tarn.RunFailed, match=r"found returned no rows, and a list has no columns of its own\. Return a DataFrame"):
            c.run(select=["found"]).wait(timeout=60)
    finally:
        (folder / "sparse.py").unlink()
