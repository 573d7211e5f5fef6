"""The public names, and what a call of a decorated function does."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from conftest import SRC

import tarn

NOT_AT_IMPORT = {"asyncio", "http.client", "json", "socket", "ssl", "subprocess", "pyarrow", "pandas", "polars", "duckdb", "numpy", "urllib.request", "tarn._client", "tarn._aio", "tarn._runner", "tarn._discover", "tempfile"}  # fmt: skip


def test_exported_names() -> None:
    assert tarn.__all__ == sorted(tarn.__all__)
    for name in tarn.__all__:
        assert getattr(tarn, name) is not None
        assert inspect.getdoc(getattr(tarn, name)), f"{name} has no docstring"
    public = {n for n in vars(tarn) if not n.startswith("_")} - {"annotations", "TYPE_CHECKING", "Any"}
    assert public <= set(tarn.__all__)
    assert dir(tarn) == tarn.__all__
    with pytest.raises(AttributeError):
        tarn.nothing  # type: ignore[attr-defined]


def test_import_stays_small() -> None:
    program = "import sys; old = set(sys.modules); import tarn; print(' '.join(sorted(set(sys.modules) - old)))"
    loaded = subprocess.run([sys.executable, "-S", "-c", program], env={"PYTHONPATH": SRC}, capture_output=True, text=True, check=True).stdout.split()
    assert not NOT_AT_IMPORT & set(loaded), NOT_AT_IMPORT & set(loaded)
    assert len(loaded) < 80, loaded


def test_the_runner_imports_nothing_of_the_client() -> None:
    program = "import sys, tarn._runner, tarn._discover; print(' '.join(m for m in sys.modules if m.startswith('tarn')))"
    loaded = subprocess.run([sys.executable, "-S", "-c", program], env={"PYTHONPATH": SRC}, capture_output=True, text=True, check=True).stdout.split()
    assert not {"tarn._client", "tarn._wire", "tarn._ops", "tarn._home", "tarn.errors"} & set(loaded)


def test_the_runner_imports_only_what_each_step_needs() -> None:
    program = "import sys, tarn._runner; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-S", "-c", program], env={"PYTHONPATH": SRC}, capture_output=True, text=True, check=True).stdout.split()
    assert not {"difflib", "lzma", "tempfile", "tarn._plain"} & set(loaded)


@tarn.asset
def delays(flights: list, airports: list, top: int = 20) -> list:  # type: ignore[type-arg]
    """Mean delay by airport."""
    return [*flights, *airports, top]


@tarn.asset
def pictures(image: Annotated[Path, tarn.files("*.png", each=True)], out: tarn.OutputDir, note: str = tarn.secret("NOTE")) -> None: ...


@tarn.asset
def marked(x: Any = tarn.table("other"), n: int = 1) -> Any:
    return x


def test_calls_are_plain() -> None:
    assert delays([1], [2]) == [1, 2, 20]
    assert delays([1], airports=[2], top=3) == [1, 2, 3]
    assert marked([5]) == [5]
    assert (delays.__name__, delays.__doc__, delays.name) == ("delays", "Mean delay by airport.", "delays")
    assert list(inspect.signature(delays).parameters) == ["flights", "airports", "top"]
    assert pickle.loads(pickle.dumps(delays)) is delays


def test_a_call_without_an_input() -> None:
    with pytest.raises(TypeError) as e:
        delays(airports=[])  # type: ignore[call-arg]
    assert str(e.value) == "delays() needs 'flights'. Pass a frame, or delays.local() to load it from main."
    with pytest.raises(TypeError, match=r"delays\(\) needs 'flights' and 'airports'. Pass them, or delays.local\(\) to load them from main."):
        delays()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"pictures\(\) needs 'image'. Pass a path, or"):
        pictures(out=tarn.OutputDir("."), note="x")  # type: ignore[call-arg]


def test_a_marker_never_reaches_the_body() -> None:
    with pytest.raises(TypeError, match="needs 'x'"):
        marked(n=3)
    with pytest.raises(TypeError, match="declaration for 'x'"):
        marked(tarn.table("t"))


def test_branch_is_named_in_the_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TARN_BRANCH", "dev")
    with pytest.raises(TypeError, match="to load it from dev"):
        delays(airports=[])  # type: ignore[call-arg]


def test_python_says_the_rest() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'tip'"):
        delays([], [], tip=3)  # type: ignore[call-arg]


def test_classes() -> None:
    seen = []

    @tarn.cls
    class Model:
        @tarn.enter
        def load(self) -> None:
            seen.append("enter")

        @tarn.exit
        def drop(self) -> None:
            seen.append("exit")

        @tarn.method
        def predict(self, x: int) -> int:
            return x + 1

    with Model() as m:  # type: ignore[attr-defined]
        assert m.predict(1) == 2
    assert seen == ["enter", "exit"]
    assert Model().predict(1) == 2
    with pytest.raises(TypeError, match="env"):  # nothing would come of it: a class runs where it is made
        tarn.cls(env="gpu")  # type: ignore[call-arg]


def test_context_alone(capsys: pytest.CaptureFixture[str]) -> None:
    tarn.Context().log("hello", n=1)
    assert capsys.readouterr().err == "log: level=info hello fields={'n': 1}\n"


def test_output_dir_is_a_path(tmp_path: Path) -> None:
    out = tarn.OutputDir(tmp_path) / "a" / "b.txt"
    out.parent.mkdir()
    out.write_text("x")
    assert (tmp_path / "a" / "b.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tarn.files("*", each=True, group_by="(a)"), "Keep one"),
        (lambda: tarn.files("*", group_by="a"), "group in parentheses"),
        (lambda: tarn.files("*", group_by="("), "regular expression"),
        (lambda: tarn.files("*", batch=3), "needs each="),
        (lambda: tarn.local("../x"), "inside the project"),
        (lambda: tarn.local("/etc/passwd"), "inside the project"),
        (lambda: tarn.table("a@b", ref="c"), "two refs"),
        (lambda: tarn.table(rows="aded"), "Did you mean 'added'"),
        (lambda: tarn.daily("yesterday"), "like '2024-01-01'"),
        (lambda: tarn.Resources(cpu=0), "positive"),
        (lambda: tarn.join(on="a", how="inne"), "Did you mean 'inner'"),
        (lambda: tarn.command(outputs="a"), "needs the command line"),
        (lambda: tarn.command("x", outputs={"a": "cvs"}), "Did you mean 'csv'"),
        (lambda: tarn.asset(3), "decorates a function"),
        (lambda: tarn.check(3), "name the asset or table"),
    ],
)
def test_declarations_are_checked_at_once(make: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_units() -> None:
    from tarn._units import seconds

    assert [seconds(t, "t") for t in ("90s", "1h30m", "1 day", "2 hours", "500ms", 3, 0.5)] == [90, 5400, 86400, 7200, 0.5, 3, 0.5]
    for bad in ("", "5", "5x", "s5", "-1s", -1, float("nan"), True and "1 fortnight"):
        with pytest.raises(ValueError, match="is no duration"):
            seconds(bad, "t")
