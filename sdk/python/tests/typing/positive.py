"""What must type-check: decorators keep the type of what they decorate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Iterator

import tarn


class Frame:
    n: int


@tarn.asset
def bare(flights: Frame, top: int = 20) -> Frame:
    return flights


@tarn.asset(env=tarn.Env(packages=["a"]), checks=["unique(id)"], retry=tarn.Retry(times=2, on=(TimeoutError,)), timeout="5m", key="id", mode="merge")
def full(flights: Annotated[Frame, tarn.table(columns=["a"])], other: Frame = tarn.table("x")) -> Iterator[dict[str, Any]]:
    yield {}


@tarn.check(bare, severity="warn")
def judge(bare: Frame) -> bool:
    return True


@tarn.check("orders")
def by_name(orders: Frame) -> tarn.CheckResult:
    return tarn.CheckResult(True)


@tarn.function(cache=True)
def add(a: int, b: int = 1) -> int:
    return a + b


@tarn.function
def count(n: int) -> Iterator[str]:
    yield str(n)


@tarn.function
async def later(n: int) -> str:
    return str(n)


@tarn.entrypoint
def main(n: int = 1) -> None: ...


@tarn.asset
def files(image: Annotated[Path, tarn.files("*.png", each=True)], out: tarn.OutputDir, ctx: tarn.Context) -> None:
    (out / image.name).write_bytes(b"")
    ctx.metric("n", 1)


@tarn.cls
class Model:
    def __init__(self, size: int) -> None:
        self.size = size

    @tarn.enter
    def load(self) -> None: ...

    @tarn.method
    def predict(self, x: int) -> str:
        return str(x)


frame: Frame = bare(Frame())
frame = bare(Frame(), top=3)
frame = bare.local(ref="dev")
number: int = add(1, b=2)
number = add.local(1) + add.remote(1, b=2) + sum(add.map([1], [2], ordered=False)) + sum(add.starmap([(1, 2)], return_exceptions=True, concurrency=3))
add.for_each([1], ignore_exceptions=True)
letters: list[str] = list(count.remote(3))
call: tarn.FunctionCall[int] = add.spawn(1, b=2)
number = call.get(timeout=2) + call.get()
call.cancel()
identity: str = tarn.FunctionCall.from_id(call.id).id
several: list[Any] = tarn.gather(call, add.spawn(2))
text: str = later.remote(3)
text = Model(3).predict(1)
verdict: bool = judge(Frame())
name: str = bare.name
client: tarn.Client = tarn.Client().at("dev")

with client.query("select $x as x", params={"x": 1}, timeout=2.5) as result:
    written = result.written()
branch: str = written.branch if written is not None else ""
key: tuple[str, ...] = client.table("t").describe().key
versions: list[int] = [v.rows for v in client.table("t").history(limit=3)]
state: str = client.run("here", select="delays+", params={"top": 5}, id="nightly").wait(timeout=60).state
texts: list[str] = [line.text for line in client.run().logs("delays", follow=True)]
sentence: str = client.why("delays").sentence
actions: list[str] = [step.action for step in client.plan(select=["a", "b"]).steps]
parents: list[tuple[str, ...]] = [node.inputs for node in client.provenance("delays", forward=True)]


async def asynchronous() -> None:
    n: int = await add.remote.aio(1) + sum([x async for x in add.map.aio([1])]) + await add.spawn(1).get.aio(timeout=1)
    words: list[str] = [s async for s in count.remote.aio(n)]
    words.append(await later.remote.aio(n))
    await add.for_each.aio([1])
    await (await add.spawn.aio(1)).cancel.aio()
    await tarn.gather.aio(add.spawn(1))
    c: tarn.AsyncClient = tarn.AsyncClient(ref="main", into="dev").at("dev")
    async for _ in c.table("t").batches():
        pass
    async for line in c.logs():
        line.text.upper()
    w = await c.table("t").write([{"id": 1}], mode="append", key=["id"], into="dev", message="m")
    w.commit.id.upper()
    (await (await c.run(id="x")).wait(timeout=3)).commit.upper()
    async for _ in (await c.query("select 1")).batches():
        pass
