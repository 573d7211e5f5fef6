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


@tarn.entrypoint
def main(n: int = 1) -> None: ...


@tarn.asset
def files(image: Annotated[Path, tarn.files("*.png", each=True)], out: tarn.OutputDir, ctx: tarn.Context) -> None:
    (out / image.name).write_bytes(b"")
    ctx.metric("n", 1)


@tarn.cls(env="gpu")
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
text: str = Model(3).predict(1)
verdict: bool = judge(Frame())
name: str = bare.name
client: tarn.Client = tarn.Client().at("dev")
