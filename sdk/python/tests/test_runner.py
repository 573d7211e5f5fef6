"""The runner as a process: arguments in, results out, and user code that misbehaves."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from conftest import Run

pa = pytest.importorskip("pyarrow")
pytest.importorskip("pandas")
pytest.importorskip("polars")
pytest.importorskip("duckdb")

Start = Callable[..., Run]
HEAD = "import tarn\nfrom typing import *\nfrom pathlib import Path\n"


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Dict[str, Any]]:
    def make(name: str, form: str, data: Any) -> Dict[str, Any]:
        t = data if isinstance(data, pa.Table) else pa.table(data)
        path = tmp_path / f"{name}.arrow"
        with pa.ipc.new_file(path, t.schema) as w:
            w.write_table(t, max_chunksize=2)
        return {"param": name, "kind": "table", "path": str(path), "format": form, "name": name}

    return make


def result(run: Run, index: int = 0) -> Any:
    assert run.code == 0, run.messages
    return pa.ipc.open_file(pa.memory_map(run.of("output")[index]["path"])).read_all()


ROWS = {"id": [1, 2, 3], "name": ["a", None, "c"]}


@pytest.mark.parametrize(
    ("form", "check"),
    [
        ("arrow", "isinstance(x, pa.Table)"),
        ("pandas", "isinstance(x, pd.DataFrame)"),
        ("polars", "isinstance(x, pl.DataFrame)"),
        ("polars_lazy", "isinstance(x, pl.LazyFrame)"),
        ("batches", "isinstance(x, pa.RecordBatchReader)"),
        ("duckdb", "isinstance(x, duckdb.DuckDBPyRelation)"),
        ("dicts", "x == [{'id': 1, 'name': 'a'}, {'id': 2, 'name': None}, {'id': 3, 'name': 'c'}]"),
    ],
)
def test_every_format_in_and_out(run: Start, table: Any, form: str, check: str) -> None:
    source = f"{HEAD}import pyarrow as pa, pandas as pd, polars as pl, duckdb\n@tarn.asset\ndef f(x):\n  assert {check}, x\n  return x\n"
    done = run(source, "f", inputs=[table("x", form, ROWS)])
    assert result(done).to_pydict() == ROWS
    assert done.messages[-1] == {"type": "closed"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return [{'a': 1}, {'b': 'x'}]", {"a": [1, None], "b": [None, "x"]}),
        ("yield {'a': None}\n  yield {'a': 2, 'b': 1.5}", {"a": [None, 2], "b": [None, 1.5]}),
        ("import pandas as pd\n  yield pd.DataFrame({'a': [1]})\n  yield pd.DataFrame({'a': [1.5], 'b': ['x']})", {"a": [1.0, 1.5], "b": [None, "x"]}),
        ("import polars as pl\n  return [pl.DataFrame({'a': [1]}), pl.DataFrame({'a': [2]})]", {"a": [1, 2]}),
        ("import pandas as pd\n  return pd.DataFrame({'a': [3, 1]}).sort_values('a')", {"a": [1, 3]}),
        ("import pandas as pd\n  return pd.DataFrame({'k': list('aab'), 'v': [1, 2, 3]}).groupby('k').sum()", {"k": ["a", "b"], "v": [3, 3]}),
        ("import pandas as pd\n  return pd.DataFrame({1: [1]})", {"1": [1]}),
        ("import pandas as pd\n  return pd.DataFrame({'c': pd.Categorical(['x', 'y', 'x'])})", {"c": ["x", "y", "x"]}),
        ("import pyarrow as pa\n  for v in 'xy': yield pa.table({'d': pa.array([v]).dictionary_encode()})", {"d": ["x", "y"]}),
        ("import pyarrow as pa\n  return pa.record_batch({'a': [1]})", {"a": [1]}),
        ("import polars as pl\n  return pl.LazyFrame({'a': ['é', None]})", {"a": ["é", None]}),
        ("import duckdb\n  return duckdb.sql('select 1 as a')", {"a": [1]}),
        ("yield [{'a': 1}]\n  yield [{'a': 2}]", {"a": [1, 2]}),
        ("import pandas as pd\n  return pd.DataFrame({'a': []}, dtype='int64')", {"a": []}),
        ("import pyarrow as pa\n  yield pa.table({'a': pa.array([], 'int64')})", {"a": []}),
    ],
)
def test_results(run: Start, body: str, expected: Dict[str, List[Any]]) -> None:
    assert result(run(f"{HEAD}@tarn.asset\ndef f():\n  {body}\n", "f")).to_pydict() == expected


def test_a_stream_widens_in_bounded_pieces(run: Start) -> None:
    source = f"{HEAD}@tarn.asset\ndef f():\n  for i in range(300_000): yield {{'i': i, 'late': None if i < 299_999 else 'x'}}\n"
    t = result(run(source, "f"))
    assert (t.num_rows, t["i"][299_998].as_py(), t["late"][299_999].as_py(), t["late"].null_count) == (300_000, 299_998, "x", 299_999)


def test_results_are_mapped_not_compressed(run: Start) -> None:
    source = f"{HEAD}import pyarrow as pa\n@tarn.asset\ndef f(): return pa.table({{'a': [0] * 100_000}})\n"
    done = run(source, "f")
    assert done.of("output")[0]["bytes"] > 800_000


def test_pandas_frames_may_be_changed(run: Start, table: Any) -> None:
    source = f"{HEAD}import pandas as pd\n@tarn.asset\ndef f(x: pd.DataFrame):\n  x.loc[x.id > 1, 'id'] = 9\n  x['v'].to_numpy(copy=False)\n  x.iloc[0, 1] = 0.5\n  return x\n"
    given = table("x", "pandas", pa.table({"id": [1, 2, 3], "v": [1.0, 2.0, 3.0]}).combine_chunks())
    assert result(run(source, "f", inputs=[given])).to_pydict() == {"id": [1, 9, 9], "v": [0.5, 2.0, 3.0]}
    assert pa.ipc.open_file(given["path"]).read_all()["id"].to_pylist() == [1, 2, 3]


def test_several_outputs(run: Start, tmp_path: Path) -> None:
    source = f"{HEAD}@tarn.asset(outputs=['a', 'b'])\ndef f(): return {{'b': [{{'y': 2}}], 'a': [{{'x': 1}}]}}\n"
    outputs = [{"name": n, "path": str(tmp_path / "out" / f"{n}.arrow")} for n in "ab"]
    done = run(source, "f", outputs=outputs)
    assert (result(done, 0).to_pydict(), result(done, 1).to_pydict()) == ({"x": [1]}, {"y": [2]})
    wrong = run(source.replace("'b':", "'c':"), "f", outputs=outputs)
    assert wrong.error["message"] == "f returned a dict of c, a. It has several outputs, so it returns a dict of a, b."


@pytest.mark.parametrize(("value", "kind"), [("{}", "dict"), ("None", "None"), ("3", "int"), ("'x'", "str"), ("[1]", "a list with int in it"), ("object", "type")])
def test_return_type(run: Start, value: str, kind: str) -> None:
    done = run(f"{HEAD}@tarn.asset\ndef delays(): return {value}\n", "delays")
    assert done.code == 1
    assert done.error["reason"] == "runner.return_type"
    assert done.error["message"] == f"delays returned {kind}. Accepted: DataFrame, Table, batches, list of dicts, a generator of those, None with OutputDir."


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[{'a': 1}, {'a': 'x'}]", "column 'a' holds values that are no single type"),
        ("[{1: 1}]", "names of columns are text"),
        ("__import__('pandas').DataFrame([[1, 2]], columns=['a', 'a'])", "two columns named 'a'"),
        ("__import__('pandas').DataFrame({'a': [1, 'x']})", "f: "),
        ("(x for x in [1])", "f yielded int"),
    ],
)
def test_results_that_are_no_table(run: Start, value: str, words: str) -> None:
    done = run(f"{HEAD}@tarn.asset\ndef f(): return {value}\n", "f")
    assert words in done.error["message"]
    assert done.error["reason"] == "runner.return_type"


def test_files_secrets_context(run: Start, tmp_path: Path) -> None:
    source = """
    import os
    import tarn
    from pathlib import Path
    from typing import Annotated
    from datetime import date
    @tarn.asset
    def f(
        one: Annotated[Path, tarn.files("*.png", each=True)],
        many: Annotated[list[Path], tarn.files("*.txt")],
        conf: Annotated[Path, tarn.local("conf.toml")],
        key: Annotated[str, tarn.secret("KEY")],
        out: tarn.OutputDir, ctx: tarn.Context, part: tarn.Partition, top: int = 20, pair=(1, 2), fn=len, day=date(2024, 1, 2), ratio: float = 0.5,
    ):
        assert one.name == "a.png" and [p.name for p in many] == ["b.txt", "c.txt"] and conf.read_text() == "x"
        assert (key, top, pair, fn, str(part), day, ratio) == ("s3cret", 5, (3, 4), len, "2024-01-01", date(2025, 1, 1), 1.0)
        assert not [v for v in os.environ.values() if "s3cret" in v]
        assert (ctx.run, ctx.step, ctx.attempt) == ("r-1", "f", 1)
        ctx.log("hi", n=1); ctx.metric("m", 0.5); ctx.metadata(k={"a": 1}); ctx.progress(1, 2)
        (out / "x.txt").write_text(str(top))
    """
    (tmp_path / "files").mkdir()
    (tmp_path / "conf").write_text("x")
    paths = [{"key": n, "path": str(tmp_path / n)} for n in ("a.png", "b.txt", "c.txt")]
    inputs = [
        {"param": "one", "kind": "files", "paths": paths[:1]},
        {"param": "many", "kind": "files", "paths": paths[1:]},
        {"param": "conf", "kind": "local", "paths": [{"key": "conf", "path": str(tmp_path / "conf")}]},
        {"param": "key", "kind": "secret", "name": "KEY"},
    ]
    done = run(
        source, "f", inputs=inputs, output_dir=str(tmp_path / "files"), params={"top": 5, "pair": [3, 4], "day": "2025-01-01", "ratio": 1}, partition="2024-01-01", outputs=[],
        env={"TARN_SECRET_KEY": "s3cret"},
    )  # fmt: skip
    assert done.code == 0, done.messages
    assert (tmp_path / "files" / "x.txt").read_text() == "5"
    assert [m["type"] for m in done.messages] == ["start", "log", "metric", "metadata", "progress", "closed"]


def test_user_error(run: Start) -> None:
    source = f"{HEAD}import helper\nclass Odd(Exception): pass\n@tarn.asset\ndef f():\n  try:\n    helper.g()\n  except KeyError as e:\n    raise Odd('no ' + 'way') from e\n"
    done = run(source, "f", files={"helper.py": "def g():\n  return {}['x']\n"})
    assert done.code == 1
    e = done.error
    assert (e["class"], e["module"], e["message"], e["reason"]) == ("Odd", "pipeline", "no way", None)
    assert 'File "pipeline.py", line 9, in f' in e["traceback"] and "helper.g()" in e["traceback"]
    assert 'File "helper.py", line 2, in g' in e["traceback"]
    assert "_runner" not in e["traceback"] and "/src/tarn/" not in e["traceback"]


def test_error_travels_pickled(run: Start) -> None:
    done = run(f"{HEAD}@tarn.asset\ndef f(): raise ValueError('x', 3)\n", "f")
    assert pickle.loads(base64.b64decode(done.error["pickle"])).args == ("x", 3)
    done = run(f"{HEAD}@tarn.asset\ndef f(): raise ValueError(lambda: 1)\n", "f")
    assert done.error["pickle"] is None


def test_huge_messages_are_cut(run: Start) -> None:
    done = run(f"{HEAD}@tarn.asset\ndef f():\n  raise ValueError('x' * 3_000_000)\n", "f")
    assert len(done.error["message"]) < 70_000 and "characters left out" in done.error["message"]
    assert len(done.error["traceback"]) < 70_000


MODULE = 'ModuleNotFoundError: pandas is not in the environment of thumbnails (pillow). Add it: tarn.Env(packages=["pillow", "pandas"])'


@pytest.mark.parametrize("body", ["return pd.DataFrame()", "import pandas\n  return 1", "import helper\n  return helper.g()", "from pandas.api import types\n  return types"])
def test_missing_module(run: Start, body: str) -> None:
    source = f"import pandas as pd\nimport tarn\n@tarn.asset\ndef thumbnails():\n  {body}\n"
    done = run(source, "thumbnails", packages=False, allowed_packages=["pillow"], files={"helper.py": "import pandas\ndef g(): return pandas.DataFrame()\n"})
    assert (done.error["class"], done.error["message"], done.error["reason"]) == ("ModuleNotFoundError", MODULE, "runner.module_missing")
    assert f"\n{MODULE}\n" in done.error["traceback"] or "\nModuleNotFoundError: No module" in done.error["traceback"]


def test_missing_module_in_try_really_fails(run: Start) -> None:
    source = "import tarn\n@tarn.asset\ndef f(out: tarn.OutputDir):\n  try:\n    import pandas\n  except ImportError:\n    return None\n"
    assert run(source, "f", packages=False, output_dir="/tmp").code == 0


def test_package_is_named_not_the_module(run: Start) -> None:
    done = run("import tarn\n@tarn.asset\ndef f():\n  import sklearn.svm\n", "f", packages=False)
    assert done.error["message"] == 'ModuleNotFoundError: sklearn is not in the environment of f (no packages). Add it: tarn.Env(packages=["scikit-learn"])'


def test_undeclared_file(run: Start) -> None:
    text = 'clean read data/x.csv, which is not in its key. Write its name as a literal, or declare tarn.local("data/*.csv").'
    files = {"data/x.csv": "a\n1\n"}
    for opened in ("Path(__file__).parent.joinpath('data', 'x.csv').read_text()", "open('/'.join(['data', 'x.csv']))", "open(Path(__file__).with_name('data') / 'x.csv', 'rb')"):
        done = run(f"{HEAD}@tarn.asset\ndef clean():\n  {opened}\n  return [{{'a': 1}}]\n", "clean", files=files)
        assert (done.error["message"], done.error["reason"]) == (text, "runner.undeclared_file"), opened
    swallowed = f"{HEAD}@tarn.asset\ndef clean():\n  try: (Path(__file__).parent / 'data' / 'x.csv').read_text()\n  except Exception: pass\n  return [{{'a': 1}}]\n"
    assert run(swallowed, "clean", files=files).error["message"] == text


def test_undeclared_file_read_by_the_import(run: Start) -> None:
    source = f"{HEAD}TEXT = (Path(__file__).parent / 'data' / 'x.csv').read_text()\n@tarn.asset\ndef clean(): return [{{'a': TEXT}}]\n"
    done = run(source, "clean", files={"data/x.csv": "1"})
    assert done.error["message"].startswith("clean read data/x.csv, which is not in its key.")
    assert result(run(source, "clean", files={"data/x.csv": "1"}, local_files=["data/x.csv"])).to_pydict() == {"a": ["1"]}


def test_undeclared_file_of_the_folder_it_came_from(run: Start, tmp_path: Path) -> None:
    """Files that no key names are not in the copy of the project that a function sees."""
    origin = tmp_path / "origin"
    for name in ("data/x.csv", ".cache/x.csv", "venv/lib/x.csv", "store/x.csv", "venv/pyvenv.cfg", "store/format", "store/meta.db"):
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        (origin / name).write_text("a\n1\n")
    (tmp_path / "link").symlink_to(origin)
    text = 'clean read data/x.csv, which is not in its key. Write its name as a literal, or declare tarn.local("data/*.csv").'
    rows = "return [{'a': 1}]"
    readers = (
        "import os.path; open(os.path.join('data', 'x' + '.csv'))",
        "import os.path; open(os.path.join(b'data', b'x.csv'))",
        f"open({str(origin / 'data' / 'x.csv')!r}).read()",
        f"open({str(tmp_path / 'link' / 'data' / 'x.csv')!r}).read()",
        f"open({str(origin)!r} + '/./data/../data/x.csv').read()",
        "import polars; polars.read_csv('data' + '/x.csv')",
        "import pyarrow.csv; pyarrow.csv.read_csv('data' + '/x.csv')",
        "import pandas; pandas.read_csv('data' + '/x.csv')",
    )
    for given in (origin, tmp_path / "link"):
        for reader in readers:
            if str(tmp_path / "link") in reader and given == origin:
                continue  # another name than the project goes by
            for source in (f"@tarn.asset\ndef clean():\n  {reader}\n  {rows}\n", f"{reader}\n@tarn.asset\ndef clean(): {rows}\n"):
                done = run(HEAD + source, "clean", project_origin=str(given))
                assert (done.error["message"], done.error["reason"]) == (text, "runner.undeclared_file"), (given, source)
    for name in (".cache/x.csv", "venv/lib/x.csv", "store/x.csv"):
        assert run(f"{HEAD}@tarn.asset\ndef clean():\n  open({str(origin / name)!r}).read()\n  {rows}\n", "clean", project_origin=str(origin)).code == 0, name
    other = run(f"{HEAD}@tarn.asset\ndef clean(): open('data/y.csv')\n", "clean", project_origin=str(origin))
    assert (other.error["class"], other.error["reason"]) == ("FileNotFoundError", None)


@pytest.mark.parametrize("body", ["return []", "yield from ()", "yield []", "return iter(())"])
def test_no_rows_and_no_columns(run: Start, body: str) -> None:
    source = f"{HEAD}@tarn.asset\ndef f():\n  {body}\n"
    done = run(source, "f")
    assert done.error["message"] == "f returned no rows, and a list has no columns of its own. Return a DataFrame or pa.Table with its columns."
    assert done.error["reason"] == "runner.return_type"
    assert result(run(source.replace("asset", "asset(mode='append')", 1), "f")).num_columns == 0
    frame = run(f"{HEAD}import pandas as pd\n@tarn.asset\ndef f(): return pd.DataFrame()\n", "f")
    assert frame.error["message"] == "f returned a DataFrame without columns. A table needs at least one."


def test_exit_handlers_run(run: Start) -> None:
    done = run("import atexit, tarn\natexit.register(print, 'late')\n@tarn.asset\ndef f(): return [{'a': 1}]\n", "f")
    assert (done.code, done.stdout) == (0, "late\n")


def test_declared_file(run: Start) -> None:
    source = f"{HEAD}@tarn.asset\ndef clean():\n  return [{{'a': open('data/x.csv').read()}}]\n"
    done = run(source, "clean", files={"data/x.csv": "1"}, local_files=["data/x.csv"])
    assert result(done).to_pydict() == {"a": ["1"]}
    assert done.of("opened") == [{"type": "opened", "path": "data/x.csv"}]


@pytest.mark.parametrize(
    ("body", "passed", "offenders", "message"),
    [
        ("return x[x.id > 1]", False, 2, ""),
        ("return x[x.id > 9]", True, 0, ""),
        ("return True", True, 0, ""),
        ("return x.id.max() > 5", False, 0, ""),
        ("assert len(x) == 2, 'three'", False, 0, "three"),
        ("assert len(x) == 3", True, 0, ""),
        ("return tarn.CheckResult(False, 'why', rows=x)", False, 3, "why"),
        ("return tarn.CheckResult(True, 'fine')", True, 0, "fine"),
        ("return []", True, 0, ""),
    ],
)
def test_checks(run: Start, table: Any, body: str, passed: bool, offenders: int, message: str) -> None:
    source = f"{HEAD}import pandas as pd\n@tarn.check('x', severity='warn')\ndef c(x: pd.DataFrame):\n  {body}\n"
    done = run(source, "c", kind="check", inputs=[table("x", "pandas", ROWS)])
    assert done.code == (0 if "assert len(x) == 2" not in body else done.code), done.messages
    (verdict,) = done.of("check")
    assert (verdict["passed"], verdict["offenders"], verdict["message"], verdict["severity"]) == (passed, offenders, message, "warn")
    assert (verdict["offenders_path"] is None) == (offenders == 0)
    assert done.of("error") == []


def test_check_that_breaks_is_an_error(run: Start, table: Any) -> None:
    source = f"{HEAD}import pandas as pd\n@tarn.check('x')\ndef c(x: pd.DataFrame): return x.id > 1\n"
    done = run(source, "c", kind="check", inputs=[table("x", "pandas", ROWS)])
    assert done.code == 1 and "c returned Series. Accepted of a check" in done.error["message"]


def test_random_numbers_follow_the_seed(run: Start) -> None:
    source = f"{HEAD}import random\n@tarn.asset\ndef f():\n  import numpy as np\n  return [{{'a': random.random(), 'b': float(np.random.rand())}}]\n"
    first, again, other = (result(run(source, "f", seed=s)).to_pylist() for s in ("ab12", "ab12", "cd34"))
    assert first == again
    assert first[0]["a"] != other[0]["a"] and first[0]["b"] != other[0]["b"]


ITEMS = """
import os, sys, tarn
from pathlib import Path
from typing import Annotated
print("imported")
STATE = []
@tarn.asset
def f(image: Annotated[Path, tarn.files("*", each=True)]):
    STATE.append(1)
    assert len(STATE) == 1
    if image.name == "bad": raise ValueError("bad one")
    if image.name == "dead": os.kill(os.getpid(), 9)
    if image.name == "gone": os._exit(7)
    if image.name == "quiet": os._exit(0)
    return [{"name": image.name}]
"""


def test_items_fork_from_one_import(run: Start, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    items = [
        {
            "item": n,
            "inputs": [{"param": "image", "kind": "files", "paths": [{"key": n, "path": f"/x/{n}"}]}],
            "outputs": [{"name": "f", "path": str(tmp_path / "out" / f"{n}.arrow")}],
            "seed": "01",
        }
        for n in ("a", "bad", "dead", "gone", "quiet", "b")
    ]
    done = run(ITEMS, "f", items=items)
    assert done.code == 1
    assert done.stdout == "imported\n"
    assert [m["item"] for m in done.of("output")] == ["a", "b"]
    assert [(m["item"], m["message"]) for m in done.of("error")] == [
        ("bad", "bad one"),
        ("dead", "the process of this item ended by signal 9 before it finished"),
        ("gone", "the process of this item ended by exit status 7 before it finished"),
        ("quiet", "the process of this item ended by exit status 0 before it finished"),
    ]
    assert done.messages[-1] == {"type": "closed"}


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("os.close(1); os.close(2); return R", "ok"),
        ("os.closerange(0, 100); return R", "ok"),
        ("sys.stdout = None; return R", "ok"),
        ("sys.stdout.close(); return R", "ok"),
        ("os.write(1, b'raw\\n'); return R", "ok"),
        ("sys.exit(0)", "the function ended the interpreter with 0"),
        ("sys.exit('why')", "the function ended the interpreter with 'why'"),
        ("os._exit(0)", "gone"),
        ("os.fork(); return R", "ok"),
        ("\n  if os.fork() == 0: os._exit(9)\n  return R", "ok"),
        ("threading.Thread(target=threading.Event().wait, daemon=True).start(); return R", "ok"),
        ("threading.Thread(target=lambda: print('thread')).start(); return R", "ok"),
        ("signal.raise_signal(signal.SIGINT)", ""),
        ("atexit.register(print, 'late'); return R", "ok"),
        ("os.chdir('/'); return R", "ok"),
        ("os.environ.clear(); return R", "ok"),
        ("sys.modules.clear(); return R", None),
        ("raise KeyboardInterrupt('stop')", "stop"),
        ("def g(): return g()\n  g()", "maximum recursion depth exceeded"),
    ],
)
def test_hostile_functions(run: Start, body: str, outcome: Any) -> None:
    source = f"import atexit, os, signal, sys, threading, tarn\nR = [{{'a': 1}}]\n@tarn.asset\ndef f():\n  {body}\n"
    done = run(source, "f")
    if outcome == "ok":
        assert done.code == 0, (done.messages, done.stderr)
        assert len(done.of("output")) == 1 and len(done.of("closed")) == 1
    elif outcome == "gone":
        assert done.of("closed") == [], "a process that vanished must not look finished"
    elif outcome is not None:
        assert done.code == 1
        assert done.error["message"].startswith(outcome)
    assert done.stdout.isascii()


def test_output_is_not_ours(run: Start) -> None:
    done = run(f"{HEAD}import sys\n@tarn.asset\ndef f():\n  print('out'); print('err', file=sys.stderr); return []\n", "f")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_async_function(run: Start) -> None:
    source = f"{HEAD}import asyncio\n@tarn.asset\nasync def f():\n  await asyncio.sleep(0)\n  return [{{'a': 1}}]\n"
    assert result(run(source, "f")).to_pydict() == {"a": [1]}


def test_factory_function(run: Start) -> None:
    source = "import tarn\ndef make(n):\n  def f(): return [{'n': n}]\n  f.__name__ = n\n  return tarn.asset(f)\nmade = [make(n) for n in 'ab']\n"
    assert result(run(source, ":b")).to_pydict() == {"n": ["b"]}


def test_import_that_fails(run: Start) -> None:
    done = run("import tarn\n1 / 0\n", "f")
    assert done.code == 1
    assert done.error["class"] == "ZeroDivisionError" and 'File "pipeline.py", line 2' in done.error["traceback"]


def test_function_that_is_gone(run: Start) -> None:
    assert "pipeline.py declares no asset f" in run("import tarn\n", "f").error["message"]


TYPES = {
    "u8": pa.array([1, 255, None], pa.uint8()),
    "ns": pa.array([1, 2, None], pa.timestamp("ns", "Europe/Oslo")),
    "dec": pa.array([None, 1, 2], pa.decimal128(20, 3)),
    "list": pa.array([[1], None, []], pa.list_(pa.int32())),
    "struct": pa.array([{"a": 1}, None, {"a": None}]),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "bin": pa.array([b"\0", None, b""], pa.binary()),
    "date": pa.array([0, None, 1], pa.date32()),
    "dur": pa.array([1, None, 2], pa.duration("us")),
    "null": pa.nulls(3),
    "bool": pa.array([True, None, False]),
    "dict": pa.array(["x", "y", None]).dictionary_encode(),
    "large": pa.array(["x", None, ""], pa.large_string()),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("form", ["arrow", "batches", "polars"])
def test_types_survive(run: Start, table: Any, kind: str, form: str) -> None:
    given = pa.table({"x": TYPES[kind]})
    done = run(f"{HEAD}@tarn.asset\ndef f(t): return t\n", "f", inputs=[table("t", form, given)])
    t = result(done)
    assert t["x"].to_pylist() == given["x"].to_pylist()
    if form != "polars":
        assert t.schema.types == given.schema.types


def test_empty_tables(run: Start, table: Any) -> None:
    for form in ("arrow", "pandas", "polars", "batches", "duckdb"):
        given = pa.table({"a": pa.array([], pa.int64()), "b": pa.array([], pa.string())})
        t = result(run(f"{HEAD}@tarn.asset\ndef f(t): return t\n", "f", inputs=[table("t", form, given)]))
        assert (t.num_rows, t.schema.names) == (0, ["a", "b"]), form
