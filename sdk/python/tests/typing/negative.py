"""What must not type-check: each marked line is an error for mypy and pyright."""

from __future__ import annotations

import tarn


class Frame: ...


@tarn.asset
def bare(flights: Frame, top: int = 20) -> Frame:
    return flights


@tarn.function(cache=True)
def add(a: int, b: int = 1) -> int:
    return a + b


@tarn.cls
class Model:
    @tarn.method
    def predict(self, x: int) -> str:
        return str(x)


bare(Frame(), top="many")  # error
bare(Frame(), tip=3)  # error
text: str = bare(Frame())  # error
add("a")  # error
add()  # error
add.local("a")  # error
add.remote("a")  # error
number: str = add.remote(1)  # error
add.map([1], order=True)  # error
names: list[str] = list(add.map([1]))  # error
add.spawn()  # error
label: str = add.spawn(1).get()  # error
add.spawn(1).get("1 s")  # error
frames: int = bare.remote(Frame())  # error
Model().predict("x")  # error
tarn.Env(packages=3)  # error
tarn.asset(retires=3)  # error
tarn.asset(retry="x")  # error
tarn.Nothing  # error
tarn.Client().query(3)  # error
tarn.Client().query("select 1", timeout="3")  # error
tarn.Client().table("t").write([], mod="append")  # error
tarn.Client().table("t").write([], key=3)  # error
tarn.Client().run(params=[1])  # error
tarn.Client().run().wait("1 minute")  # error
tarn.Client().plan().commit  # error
tarn.Client().at(3)  # error
[line.txt for line in tarn.Client().logs()]  # error
tarn.AsyncClient().at("dev").table("t").batches().read_all()  # error
