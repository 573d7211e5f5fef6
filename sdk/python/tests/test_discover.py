"""The manifest, and what bad input gets."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import pytest

Discover = Callable[..., Dict[str, Any]]

PIPELINE = """
from pathlib import Path
from typing import Annotated, Optional
import pandas as pd
import tarn

modern = tarn.Env(python="3.11", packages=["pandas==2.2.3"])

@tarn.asset(env=modern, checks=["unique(origin)", "mean_delay is not null"])
def delays(
    flights: Annotated[pd.DataFrame, tarn.table(columns=["origin", "delay"], where="distance > 100")],
    airports: pd.DataFrame,
    top: int = 20,
) -> pd.DataFrame:
    "Mean delay by airport."
    return flights

@tarn.check(delays, severity="warn")
def plausible(delays: pd.DataFrame):
    return delays[delays.mean_delay > 600]

@tarn.asset(env=tarn.Env(packages=["pillow"]))
def thumbnails(image: Annotated[Path, tarn.files("images/*.png", each=True)], out: tarn.OutputDir):
    ...
"""


def only(manifest: Dict[str, Any]) -> Dict[str, Any]:
    assert manifest["errors"] == []
    (found,) = manifest["functions"]
    return found  # type: ignore[no-any-return]


def error(manifest: Dict[str, Any]) -> Dict[str, Any]:
    (found,) = manifest["errors"]
    return found  # type: ignore[no-any-return]


def test_the_readme_pipeline(discover: Discover) -> None:
    manifest = discover({"pipeline.py": PIPELINE})
    assert manifest["errors"] == []
    delays, plausible, thumbnails = manifest["functions"]
    assert (delays["name"], delays["kind"], delays["line"], delays["module"], delays["qualname"]) == ("delays", "asset", 9, "pipeline", "delays")
    assert delays["description"] == "Mean delay by airport."
    assert delays["env"] == {"python": "3.11", "packages": ["pandas==2.2.3"], "vars": {}, "build": False}
    assert delays["checks"] == ["unique(origin)", "mean_delay is not null"]
    assert delays["outputs"] == ["delays"]
    assert delays["params"] == [{"name": "top", "default": 20, "type": "int", "required": False}]
    flights, airports = delays["inputs"]
    assert (flights["table"], flights["columns"], flights["where"], flights["format"], flights["line"]) == ("flights", ["origin", "delay"], "distance > 100", "pandas", 10)
    assert (airports["table"], airports["columns"], airports["line"]) == ("airports", None, 11)
    assert (plausible["check_of"], plausible["severity"], plausible["env"]) == ("delays", "warn", None)
    assert [i["kind"] for i in thumbnails["inputs"]] == ["files", "output_dir"]
    assert thumbnails["inputs"][0]["each"] is True
    assert thumbnails["outputs"] == []
    assert manifest["trace"] == ["pipeline.py"]


@pytest.mark.parametrize(
    ("annotation", "form"),
    [
        ("", "arrow"),
        (": pa.Table", "arrow"),
        (": pd.DataFrame", "pandas"),
        (": 'pd.DataFrame'", "pandas"),
        (": Optional[pd.DataFrame]", "pandas"),
        (": 'pd.DataFrame | None'", "pandas"),
        (": Annotated[Optional[pl.DataFrame], tarn.table()]", "polars"),
        (": pl.LazyFrame", "polars_lazy"),
        (": pa.RecordBatchReader", "batches"),
        (": Iterator[pa.RecordBatch]", "batches"),
        (": duckdb.DuckDBPyRelation", "duckdb"),
        (": list[dict]", "dicts"),
        (": List[Dict[str, Any]]", "dicts"),
        (": Any", "arrow"),
        (": pd.DataFrame = tarn.table()", "pandas"),
    ],
)
@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_formats(discover: Discover, annotation: str, form: str, future: str) -> None:
    head = "from typing import *\nimport duckdb, tarn\nimport pandas as pd, polars as pl, pyarrow as pa\n"
    (given,) = only(discover({"p.py": f"{future}{head}@tarn.asset\ndef f(x{annotation}): ...\n"}))["inputs"]
    assert (given["kind"], given["table"], given["format"]) == ("table", "x", form)


def test_type_checking_import_still_names_a_format(discover: Discover) -> None:
    source = """
    from __future__ import annotations
    from typing import TYPE_CHECKING
    import tarn
    if TYPE_CHECKING:
        from pandas import DataFrame as Frame
    @tarn.asset
    def f(x: Frame): ...
    """
    assert only(discover({"p.py": source}))["inputs"][0]["format"] == "pandas"


def test_every_input_kind(discover: Discover) -> None:
    source = """
    from pathlib import Path
    from typing import Annotated, Optional
    from datetime import date
    import tarn
    @tarn.function
    def plain(n: int, m=2): ...
    @tarn.asset(outputs=["a", "b"], mode="merge", key="id", retry=2, timeout="1h30m", resources=tarn.Resources(memory="2GiB"))
    def f(
        t: Annotated[list, tarn.table("other@dev", rows="added", each="id", batch=4)],
        g: Annotated[list[Path], tarn.files("i/*", group_by=r"(x)-")],
        l: Annotated[Path, tarn.local("data/*.csv")],
        s: Annotated[str, tarn.secret("KEY")],
        c: tarn.Context, p: tarn.Partition, names=("a", "b"), fn=print, d: dict = {}, q=None, day=date(2024, 1, 2), r: Optional[int] = None,
    ): ...
    """
    f, plain = sorted(discover({"p.py": source})["functions"], key=lambda x: x["name"])
    by = {i["param"]: i for i in f["inputs"]}
    assert (by["t"]["table"], by["t"]["ref"], by["t"]["rows"], by["t"]["each"], by["t"]["batch"], by["t"]["format"]) == ("other", "dev", "added", "id", 4, "dicts")
    assert by["g"]["group_by"] == "(x)-"
    assert by["l"]["glob"] == "data/*.csv"
    assert by["s"]["secret"] == "KEY"
    assert (by["c"]["kind"], by["p"]["kind"]) == ("context", "partition")
    assert [(p["name"], p["default"], p["type"]) for p in f["params"]] == [
        ("names", ["a", "b"], "json"),
        ("d", {}, "json"),
        ("q", None, "json"),
        ("day", "2024-01-02", "date"),
        ("r", None, "int"),
    ]
    assert (f["outputs"], f["mode"], f["key"]) == (["a", "b"], "merge", ["id"])
    assert f["options"]["retry"]["times"] == 2
    assert f["options"]["timeout"] == 5400
    assert f["options"]["resources"]["memory"] == "2GiB"
    assert (plain["kind"], plain["options"]["network"], f["options"]["network"]) == ("function", True, False)
    assert [p["required"] for p in plain["params"]] == [True, False]


def test_placeholders_stand_in(discover: Discover) -> None:
    source = """
    import nolib, nolib.sub.deep
    from nolib import Base, deco, factory, Mixin
    from nolib.other import Thing as T
    import abc, typing, tarn

    try:
        import fastlib
        FAST = True
    except ImportError:
        FAST = False

    class A(Base, Mixin, flag=True): n: T = None
    class B(nolib.sub.Model, abc.ABC): pass
    class C(metaclass=nolib.Meta): pass
    U = typing.Union[T, None]
    P = typing.Optional[nolib.X[int]]
    V = nolib.CONSTANT

    @deco
    def one(x: nolib.a.b.C) -> T: return 1

    @factory(
        1, two=nolib.X)
    def two(): return 2

    @nolib.sub.deco
    class D: pass

    assert one(0) == 1 and two() == 2 and not FAST and D.__name__ == "D"
    assert not isinstance(1, T)
    import importlib.util
    assert importlib.util.find_spec("nolib2") is None

    @tarn.asset
    def f(x): return 1
    """
    only(discover({"p.py": source}))


def test_every_import_is_judged_by_itself(discover: Discover) -> None:
    files = {
        "a.py": "import nolib, nolib.sub.x, helper, tarn\nassert not helper.HAS\nimport nolib.sub.y\nT = nolib.sub.x.T\n@tarn.asset\ndef f(x): ...\n",
        "helper.py": "try:\n  import nolib.sub\n  HAS = True\nexcept ImportError:\n  HAS = False\n",
    }
    only(discover(files))


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("nolib.read('x')", "nolib.read is called"),
        ("X = 1 + nolib.N", "nolib.N is used in an expression"),
        ("if nolib.N: pass", "nolib.N is used as a condition"),
        ("for x in nolib.N: pass", "nolib.N is iterated"),
        ("with nolib.N: pass", "nolib.N is used as a context manager"),
        ("nolib.options.width = 3", "nolib.options is changed"),
        ("nolib.width = 3", "nolib is changed"),
        ("nolib.N == 3", "nolib.N is compared"),
        ("nolib.N < 3", "nolib.N is compared"),
        ("class A(nolib.B): pass\nA()", "nolib.B is called"),
        ("from nolib import *", "nolib is imported with *"),
        ("len(nolib.N)", "nolib.N is iterated"),
    ],
)
def test_placeholders_refuse_to_invent(discover: Discover, use: str, words: str) -> None:
    found = error(discover({"p.py": f"import nolib, tarn\n{use}\n@tarn.asset\ndef f(x): ...\n"}))
    assert found["reason"] == "discover.placeholder_use", found
    assert (found["file"], found["line"]) == ("p.py", 2 + use.count("\n"))
    assert words in found["message"]
    assert "inside the function" in found["message"]


def test_errors_stay_in_their_file(discover: Discover) -> None:
    good = "import tarn\n@tarn.asset\ndef {}(x): ...\n"
    files = {
        "a.py": "import tarn\ndef g():\n  return 1 / 0\ng()\n",
        "b.py": "import tarn\ndef f(:\n",
        "c.py": "import tarn, sys\nsys.exit(3)\n",
        "d.py": good.format("d"),
        "json.py": good.format("j"),
        "pkg/__init__.py": "",
        "pkg/e.py": "import tarn\nfrom .nothere import x\n",
    }
    manifest = discover(files)
    assert [f["name"] for f in manifest["functions"]] == ["d"]
    found = {e["file"]: e for e in manifest["errors"]}
    assert (found["a.py"]["line"], found["a.py"]["message"]) == (3, "a.py:3: ZeroDivisionError: division by zero")
    assert 'File "a.py", line 4, in <module>' in found["a.py"]["traceback"]
    assert "tarn/" not in found["a.py"]["traceback"] and "importlib" not in found["a.py"]["traceback"]
    assert (found["b.py"]["line"], found["b.py"]["reason"]) == (2, "discover.syntax")
    assert "SystemExit" in found["c.py"]["message"]
    assert "Rename it" in found["json.py"]["message"]
    assert "nothere" in found["pkg/e.py"]["message"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("mode='apend'", "Did you mean 'append'?"),
        ("retires=3", "Did you mean 'retry'?"),
        ("timeout='5 parsecs'", "'90s', '5m' or '1h30m'"),
        ("mode='merge'", 'key=["id"]'),
        ("network=True", 'fresh="1h"'),
        ("env=3", "env=3"),
        ("outputs=['a', 'a']", "twice"),
        ("resources=tarn.Resources(memory='2 apples')", "'512MiB' or '2GiB'"),
        ("env=tarn.Env(python=3.1)", "must be text"),
        ("retry=tarn.Retry(on=('x',))", "exception classes"),
        ("retry=tarn.Retry(jitter=2)", "from 0 to 1"),
    ],
)
def test_wrong_options(discover: Discover, options: str, words: str) -> None:
    found = error(discover({"p.py": f"import tarn\n\n@tarn.asset({options})\ndef f(x): ...\n"}))
    assert (found["file"], found["line"]) == ("p.py", 3)
    assert words in found["message"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ("x,\n  n: int", "Give it one to make it a run parameter"),
        ("x,\n  n: Path", "tarn.files(...)"),
        ("x,\n  *n", "a name of its own"),
        ("x,\n  n: Annotated[int, tarn.table()]", "A table comes as"),
        ("x,\n  n: Nowhere.y", "Nowhere"),
    ],
)
def test_wrong_parameters(discover: Discover, params: str, words: str) -> None:
    source = f"from __future__ import annotations\nfrom typing import Annotated\nfrom pathlib import Path\nimport tarn\n@tarn.asset\ndef f({params}): ...\n"
    found = error(discover({"p.py": source}))
    assert words in found["message"]
    assert (found["file"], found["line"]) == ("p.py", 7 if "Nowhere" not in params else 6)


@pytest.mark.parametrize(("head", "outputs"), [("", []), (" -> None", []), (" -> list", ["f"])])
@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_files_only_or_a_table_too(discover: Discover, head: str, outputs: List[str], future: str) -> None:
    assert only(discover({"p.py": f"{future}import tarn\n@tarn.asset\ndef f(out: tarn.OutputDir){head}: ...\n"}))["outputs"] == outputs
    assert only(discover({"p.py": f"{future}import tarn\n@tarn.asset(outputs='g')\ndef f(out: tarn.OutputDir){head}: ...\n"}))["outputs"] == ["g"]


def test_two_assets_of_one_name(discover: Discover) -> None:
    source = "import tarn\n@tarn.asset\ndef f(x): ...\n"
    found = error(discover({"a.py": source, "b/c.py": source}))
    assert found["message"] == "asset f is declared twice: a.py:3 and b/c.py:3. Rename one."


@pytest.mark.parametrize("kind", ["function", "entrypoint"])
def test_what_is_called_by_file_and_name_may_have_the_name_of_another_files(discover: Discover, kind: str) -> None:
    source = f"import tarn\n@tarn.{kind}\ndef main(): ...\n"
    found = discover({"a.py": source, "b.py": source})
    assert [f["file"] for f in found["functions"]] == ["a.py", "b.py"] and not found["errors"]
    assert "declared twice" in error(discover({"a.py": source + source[12:], "b.py": source}))["message"]


def test_scripts_packages_and_neighbours(discover: Discover) -> None:
    asset = "import tarn\n{}\n@tarn.asset\ndef {}(x): ...\n"
    files = {
        "pkg/__init__.py": "",
        "pkg/a.py": asset.format("from .b import N", "a"),
        "pkg/b.py": asset.format("N = 1", "b"),
        "my-jobs/one.py": asset.format("import two\nfrom two import M", "one"),
        "my-jobs/two.py": asset.format("M = 1", "two"),
        "v1.2/three.py": asset.format("", "three"),
    }
    manifest = discover(files)
    assert manifest["errors"] == []
    assert {f["name"]: f["module"] for f in manifest["functions"]} == {"a": "pkg.a", "b": "pkg.b", "one": "my-jobs.one", "two": "my-jobs.two", "three": "v1_2.three"}


def test_factories_and_commands(discover: Discover) -> None:
    source = """
    import tarn
    def make(n):
        def f(x): return n
        f.__name__ = n
        return tarn.asset(f)
    made = [make(n) for n in ("a", "b")]
    clean = tarn.command("bash", "clean.sh", inputs={"raw": "csv"}, outputs={"cleaned": "parquet"})
    @tarn.entrypoint
    def main(n: int = 1): ...
    """
    manifest = discover({"p.py": source, "clean.sh": "true\n"})
    assert manifest["errors"] == []
    a, b, c, main = sorted(manifest["functions"], key=lambda f: f["name"])
    assert (a["name"], a["qualname"], b["qualname"]) == ("a", ":a", ":b")
    assert (c["name"], c["command"], c["out_formats"], c["inputs"][0]["format"]) == ("cleaned", ["bash", "clean.sh"], {"cleaned": "parquet"}, "csv")
    assert c["code"]["files"] == ["clean.sh"]
    assert (main["kind"], main["name"], main["file"], main["line"]) == ("entrypoint", "main", "p.py", 9)


def test_script_block_is_the_environment(discover: Discover) -> None:
    source = '# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#   "pandas<3",  # why\n#   "rich[x]",\n# ]\n# ///\nimport tarn\n@tarn.asset\ndef f(x): ...\n'
    assert only(discover({"p.py": source}))["env"] == {"python": ">=3.11", "packages": ["pandas<3", "rich[x]"], "vars": {}, "build": False}


def test_trace_names_what_was_read(discover: Discover) -> None:
    files = {
        "p.py": "import tarn, helper\nopen(__file__.replace('p.py', 'x.txt')).read()\n@tarn.asset\ndef f(x): return helper.g()\n",
        "helper.py": "def g(): ...\n",
        "x.txt": "",
        "other.py": "",
    }
    assert discover(files)["trace"] == ["helper.py", "p.py", "x.txt"]
