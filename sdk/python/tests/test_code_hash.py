"""What changes a function's code hash, and what does not. The unsound cases come first: each names
an edit that changes what `f` of `pipeline.py` computes, so its hash must change."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import dedent
from typing import Any, Dict, Mapping

import pytest

from tarn._hash import Closures, digest, normal

Files = Mapping[str, str]


def closure(root: Path, files: Files) -> Dict[str, Any]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(dedent(text).lstrip("\n"))
    return Closures(str(root)).of("pipeline", "pipeline.py", "f")


def edited(tmp_path: Path, files: Files, name: str, old: str, new: str) -> Any:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert old in files[name], "the edit does nothing"
    before = closure(tmp_path / "a", files)
    after = closure(tmp_path / "b", {**files, name: files[name].replace(old, new)})
    return before, after


HEAD = "import tarn\n"

MUST_CHANGE = {
    "own body": ({"pipeline.py": HEAD + "@tarn.asset\ndef f(x): return 1\n"}, "pipeline.py", "1", "2"),
    "docstring as a prompt": ({"pipeline.py": HEAD + '@tarn.asset\ndef f(x):\n  "Be kind."\n  return f.__doc__\n'}, "pipeline.py", "kind", "rude"),
    "constant": ({"pipeline.py": HEAD + "N = 1\n@tarn.asset\ndef f(x): return N\n"}, "pipeline.py", "N = 1", "N = 2"),
    "constant of a constant": ({"pipeline.py": HEAD + "M = 1\nN = (M, 5)\n@tarn.asset\ndef f(x): return N\n"}, "pipeline.py", "M = 1", "M = 2"),
    "callee": ({"pipeline.py": HEAD + "def g(): return 1\n@tarn.asset\ndef f(x): return g()\n"}, "pipeline.py", "1", "2"),
    "callee's callee": ({"pipeline.py": HEAD + "def h(): return 1\ndef g(): return h()\n@tarn.asset\ndef f(x): return g()\n"}, "pipeline.py", "1", "2"),
    "default argument": ({"pipeline.py": HEAD + "N = 1\n@tarn.asset\ndef f(x, n=N): return n\n"}, "pipeline.py", "N = 1", "N = 2"),
    "default argument of a callee": ({"pipeline.py": HEAD + "N = 1\ndef g(n=N): return n\n@tarn.asset\ndef f(x): return g()\n"}, "pipeline.py", "N = 1", "N = 2"),
    "side effect at import": ({"pipeline.py": HEAD + "STATE = {}\nSTATE['n'] = 1\n@tarn.asset\ndef f(x): return STATE\n"}, "pipeline.py", "= 1", "= 2"),
    "side effect of an import of an import": (
        {"pipeline.py": HEAD + "import a\n@tarn.asset\ndef f(x): return 1\n", "a.py": "import b\n", "b.py": "import os\nos.environ['TZ'] = 'UTC'\n"},
        "b.py", "UTC", "CET",
    ),
    "side effect of a package's __init__": (
        {"pipeline.py": HEAD + "from p.q import g\n@tarn.asset\ndef f(x): return g()\n", "p/__init__.py": "import os\nos.environ['TZ'] = 'UTC'\n", "p/q.py": "def g(): return 1\n"},
        "p/__init__.py", "UTC", "CET",
    ),
    "registry": (
        {"pipeline.py": HEAD + "from r import REG\nimport plugins\n@tarn.asset\ndef f(x): return [g() for g in REG]\n",
         "r.py": "REG = []\ndef register(g):\n  REG.append(g)\n  return g\n",
         "plugins.py": "from r import register\n@register\ndef one(): return 1\n"},
        "plugins.py", "return 1", "return 2",
    ),
    "registry by subclass": ({"pipeline.py": HEAD + "class B:\n  pass\nclass C(B):\n  n = 1\n@tarn.asset\ndef f(x): return [c.n for c in B.__subclasses__()]\n"}, "pipeline.py", "n = 1", "n = 2"),
    "registry by init_subclass": (
        {"pipeline.py": HEAD + "R = []\nclass B:\n  def __init_subclass__(cls): R.append(cls)\nclass C(B):\n  n = 1\n@tarn.asset\ndef f(x): return R\n"}, "pipeline.py", "n = 1", "n = 2",
    ),
    "own decorator": ({"pipeline.py": HEAD + "def d(g): return lambda *a: 1\n@tarn.asset\n@d\ndef f(x): return 0\n"}, "pipeline.py", ": 1", ": 2"),
    "own decorator of a callee": ({"pipeline.py": HEAD + "from d import d\n@d\ndef g(): return 0\n@tarn.asset\ndef f(x): return g()\n", "d.py": "def d(g): return lambda: 1\n"}, "d.py", ": 1", ": 2"),
    "argument of a decorator": ({"pipeline.py": HEAD + "import functools\n@functools.lru_cache(maxsize=1)\ndef g(): return 0\n@tarn.asset\ndef f(x): return g()\n"}, "pipeline.py", "=1", "=2"),
    "star import": ({"pipeline.py": HEAD + "from c import *\n@tarn.asset\ndef f(x): return N\n", "c.py": "N = 1\n"}, "c.py", "1", "2"),
    "star import through a package": (
        {"pipeline.py": HEAD + "from p import N\n@tarn.asset\ndef f(x): return N\n", "p/__init__.py": "from .c import *\n", "p/c.py": "N = 1\n"}, "p/c.py", "1", "2",
    ),
    "from import": ({"pipeline.py": HEAD + "from c import g\n@tarn.asset\ndef f(x): return g()\n", "c.py": "def g(): return 1\n"}, "c.py", "1", "2"),
    "from import under another name": ({"pipeline.py": HEAD + "from c import g as k\n@tarn.asset\ndef f(x): return k()\n", "c.py": "def g(): return 1\n"}, "c.py", "1", "2"),
    "what an import means": ({"pipeline.py": HEAD + "from c import g as k\n@tarn.asset\ndef f(x): return k()\n", "c.py": "def g(): return 1\ndef h(): return 2\n"}, "pipeline.py", "import g", "import h"),
    "module attribute": ({"pipeline.py": HEAD + "import c\n@tarn.asset\ndef f(x): return c.g()\n", "c.py": "def g(): return 1\n"}, "c.py", "1", "2"),
    "attribute of a submodule": ({"pipeline.py": HEAD + "import p.c\n@tarn.asset\ndef f(x): return p.c.g()\n", "p/__init__.py": "", "p/c.py": "def g(): return 1\n"}, "p/c.py", "1", "2"),
    "namespace package": ({"pipeline.py": HEAD + "from p import c\n@tarn.asset\ndef f(x): return c.g()\n", "p/c.py": "def g(): return 1\n"}, "p/c.py", "1", "2"),
    "namespace package by dots": ({"pipeline.py": HEAD + "import p.c\n@tarn.asset\ndef f(x): return p.c.g()\n", "p/c.py": "def g(): return 1\n"}, "p/c.py", "1", "2"),
    "re-export": ({"pipeline.py": HEAD + "from p import g\n@tarn.asset\ndef f(x): return g()\n", "p/__init__.py": "from .c import g\n", "p/c.py": "def g(): return 1\n"}, "p/c.py", "1", "2"),
    "relative import upwards": (
        {"pipeline.py": HEAD + "from p.q import g\n@tarn.asset\ndef f(x): return g()\n", "p/__init__.py": "", "p/q/__init__.py": "from ..c import g\n", "p/c.py": "def g(): return 1\n"},
        "p/c.py", "1", "2",
    ),
    "getattr of a module": ({"pipeline.py": HEAD + "import c\n@tarn.asset\ndef f(x): return getattr(c, x)()\n", "c.py": "def g(): return 1\n"}, "c.py", "1", "2"),
    "module passed on": ({"pipeline.py": HEAD + "import c\ndef call(m): return m.g()\n@tarn.asset\ndef f(x): return call(c)\n", "c.py": "def g(): return 1\n"}, "c.py", "1", "2"),
    "module under another name": ({"pipeline.py": HEAD + "import c\nm = c\n@tarn.asset\ndef f(x): return m.g()\n", "c.py": "def g(): return 1\n"}, "c.py", "1", "2"),
    "globals": ({"pipeline.py": HEAD + "def g(): return 1\n@tarn.asset\ndef f(x): return globals()[x]()\n"}, "pipeline.py", "1", "2"),
    "eval": ({"pipeline.py": HEAD + "def g(): return 1\n@tarn.asset\ndef f(x): return eval('g()')\n"}, "pipeline.py", "1", "2"),
    "importlib": ({"pipeline.py": HEAD + "import importlib\n@tarn.asset\ndef f(x): return importlib.import_module('plug' + x).g()\n", "plugin.py": "def g(): return 1\n"}, "plugin.py", "1", "2"),
    "importlib in a helper": (
        {"pipeline.py": HEAD + "from h import load\n@tarn.asset\ndef f(x): return load(x)\n", "h.py": "from importlib import import_module\ndef load(x): return import_module(x)\n", "plugin.py": "N = 1\n"},
        "plugin.py", "1", "2",
    ),
    "sys.modules": ({"pipeline.py": HEAD + "import sys\ndef g(): return 1\n@tarn.asset\ndef f(x): return sys.modules[__name__].g()\n"}, "pipeline.py", "1", "2"),
    "import in the body": ({"pipeline.py": HEAD + "@tarn.asset\ndef f(x):\n  from c import g\n  return g()\n", "c.py": "def g(): return 1\n"}, "c.py", "1", "2"),
    "import of itself in the body": ({"pipeline.py": HEAD + "def g(): return 1\n@tarn.asset\ndef f(x):\n  import pipeline\n  return pipeline.g()\n"}, "pipeline.py", "1", "2"),
    "conditional import": (
        {"pipeline.py": HEAD + "try:\n  from fast import g\nexcept ImportError:\n  from c import g\n@tarn.asset\ndef f(x): return g()\n", "c.py": "def g(): return 1\n"}, "c.py", "1", "2",
    ),
    "class body": ({"pipeline.py": HEAD + "class K:\n  n = 1\n@tarn.asset\ndef f(x): return K.n\n"}, "pipeline.py", "1", "2"),
    "name used in a class body": ({"pipeline.py": HEAD + "N = 1\nclass K:\n  n = N\n@tarn.asset\ndef f(x): return K.n\n"}, "pipeline.py", "N = 1", "N = 2"),
    "name used in a method": ({"pipeline.py": HEAD + "N = 1\nclass K:\n  def m(self): return N\n@tarn.asset\ndef f(x): return K().m()\n"}, "pipeline.py", "N = 1", "N = 2"),
    "base class": ({"pipeline.py": HEAD + "class B:\n  n = 1\nclass K(B):\n  pass\n@tarn.asset\ndef f(x): return K.n\n"}, "pipeline.py", "1", "2"),
    "closure": ({"pipeline.py": HEAD + "def make(n):\n  def g(): return n + 1\n  return g\n@tarn.asset\ndef f(x): return make(3)()\n"}, "pipeline.py", "1", "2"),
    "factory": ({"pipeline.py": HEAD + "def make(n):\n  def g(): return n\n  return g\ng = make(1)\n@tarn.asset\ndef f(x): return g()\n"}, "pipeline.py", "make(1)", "make(2)"),
    "inner function": ({"pipeline.py": HEAD + "N = 1\n@tarn.asset\ndef f(x):\n  def g(): return N\n  return g()\n"}, "pipeline.py", "N = 1", "N = 2"),
    "lambda": ({"pipeline.py": HEAD + "N = 1\ng = lambda: N\n@tarn.asset\ndef f(x): return g()\n"}, "pipeline.py", "N = 1", "N = 2"),
    "outer iterable of a comprehension": ({"pipeline.py": HEAD + "x = [1]\n@tarn.asset\ndef f(): return [x for x in x]\n"}, "pipeline.py", "1", "2"),
    "declared global": ({"pipeline.py": HEAD + "N = 1\n@tarn.asset\ndef f(x):\n  global N\n  N += 1\n  return N\n"}, "pipeline.py", "N = 1", "N = 5"),
    "bound twice": ({"pipeline.py": HEAD + "N = 1\nN = 2\n@tarn.asset\ndef f(x): return N\n"}, "pipeline.py", "N = 2", "N = 3"),
    "redefined function": ({"pipeline.py": HEAD + "def g(): return 1\ndef g(): return 2\n@tarn.asset\ndef f(x): return g()\n"}, "pipeline.py", "2", "3"),
    "augmented": ({"pipeline.py": HEAD + "N = [1]\nN += [2]\n@tarn.asset\ndef f(x): return N\n"}, "pipeline.py", "[2]", "[3]"),
    "monkeypatch at import": ({"pipeline.py": HEAD + "import c\nc.g = lambda: 1\n@tarn.asset\ndef f(x): return c.g()\n", "c.py": "def g(): return 0\n"}, "pipeline.py", ": 1", ": 2"),
    "monkeypatch by another module": (
        {"pipeline.py": HEAD + "import c\nimport patch\n@tarn.asset\ndef f(x): return c.g()\n", "c.py": "def g(): return 0\n", "patch.py": "import c\nc.g = lambda: 1\n"}, "patch.py", ": 1", ": 2",
    ),
    "module __getattr__": ({"pipeline.py": HEAD + "import c\n@tarn.asset\ndef f(x): return c.n\n", "c.py": "V = 1\ndef __getattr__(name): return V\n"}, "c.py", "V = 1", "V = 2"),
    "cyclic imports": (
        {"pipeline.py": HEAD + "import a\n@tarn.asset\ndef f(x): return a.g()\n", "a.py": "import b\ndef g(): return b.h()\n", "b.py": "import a\ndef h(): return 1\n"}, "b.py", "1", "2",
    ),
    "script by literal name": ({"pipeline.py": HEAD + "import subprocess\n@tarn.asset\ndef f(x): subprocess.run(['python', 'tool.py'])\n", "tool.py": "import c\n", "c.py": "print(1)\n"}, "c.py", "1", "2"),
    "text annotation": ({"pipeline.py": HEAD + "from typing import Annotated\nA = Annotated[int, 1]\n@tarn.asset\ndef f(x: 'A'): return 1\n"}, "pipeline.py", "int, 1", "int, 2"),
    "future import": ({"pipeline.py": "from __future__ import annotations\n" + HEAD + "@tarn.asset\ndef f(x: int): return f.__annotations__\n"}, "pipeline.py", "from __future__ import annotations\n", ""),
    "name of a shadowing builtin": ({"pipeline.py": HEAD + "def dict(): return [1]\nN = dict()\n@tarn.asset\ndef f(x): return N\n"}, "pipeline.py", "[1]", "[2]"),
    "walrus in a comprehension": ({"pipeline.py": HEAD + "N = 1\ndef g(): return [N for _ in 'a']\n@tarn.asset\ndef f(x): return g()\n"}, "pipeline.py", "N = 1", "N = 2"),
    "relative name beside a script": ({"pipeline.py": HEAD + "import jobs.a\n@tarn.asset\ndef f(x): return jobs.a.g()\n", "jobs/a.py": "from b import g\n", "jobs/b.py": "def g(): return 1\n"}, "jobs/b.py", "1", "2"),
    "match": ({"pipeline.py": HEAD + "N = 1\ndef g(v):\n  return {'a': N}[v]\n@tarn.asset\ndef f(x): return g(x)\n"}, "pipeline.py", "N = 1", "N = 2"),
    "type of a number": ({"pipeline.py": HEAD + "N = 1\n@tarn.asset\ndef f(x): return N\n"}, "pipeline.py", "N = 1", "N = 1.0"),
    "bool for a number": ({"pipeline.py": HEAD + "N = 1\n@tarn.asset\ndef f(x): return N\n"}, "pipeline.py", "N = 1", "N = True"),
    "return of None": ({"pipeline.py": HEAD + "@tarn.asset\ndef f(x): return None\n"}, "pipeline.py", "return None", "return"),
    "negative zero": ({"pipeline.py": HEAD + "N = 0.0\n@tarn.asset\ndef f(x): return N\n"}, "pipeline.py", "0.0", "-0.0"),
    "function attribute": ({"pipeline.py": HEAD + "def g(): return g.n\ng.n = 1\n@tarn.asset\ndef f(x): return g()\n"}, "pipeline.py", "n = 1", "n = 2"),
}  # fmt: skip

MUST_NOT_CHANGE = {
    "another function": ({"pipeline.py": HEAD + "@tarn.asset\ndef f(x): return 1\n@tarn.asset\ndef g(x): return 2\n"}, "pipeline.py", "2", "3"),
    "another asset named like an input": ({"pipeline.py": HEAD + "@tarn.asset\ndef flights(x): return 2\n@tarn.asset\ndef f(flights): return flights\n"}, "pipeline.py", "2", "3"),
    "comment and layout": ({"pipeline.py": HEAD + "@tarn.asset\ndef f(x): return 1\n"}, "pipeline.py", "return 1", "\n    # why\n    return (1)"),
    "options of the decorator": ({"pipeline.py": HEAD + "@tarn.asset(tags=['a'])\ndef f(x): return 1\n"}, "pipeline.py", "'a'", "'b'"),
    "its environment": ({"pipeline.py": HEAD + "E = tarn.Env(packages=['a'])\n@tarn.asset(env=E)\ndef f(x): return 1\n"}, "pipeline.py", "'a'", "'b'"),
    "an unused import": ({"pipeline.py": HEAD + "import json\n@tarn.asset\ndef f(x): return 1\n"}, "pipeline.py", "import json", "import csv"),
    "an unused name of a used import": ({"pipeline.py": HEAD + "from json import dumps, loads\n@tarn.asset\ndef f(x): return dumps(x)\n"}, "pipeline.py", ", loads", ""),
    "another function of a plain module": ({"pipeline.py": HEAD + "import c\n@tarn.asset\ndef f(x): return c.g()\n", "c.py": "def g(): return 1\ndef h(): return 2\n"}, "c.py", "2", "3"),
    "unused constant": ({"pipeline.py": HEAD + "N = 1\n@tarn.asset\ndef f(x): return 1\n"}, "pipeline.py", "N = 1", "N = 2"),
    "the main block": ({"pipeline.py": HEAD + "@tarn.asset\ndef f(x): return 1\nif __name__ == '__main__':\n  print(2)\n"}, "pipeline.py", "2", "3"),
    "a module nobody imports": ({"pipeline.py": HEAD + "@tarn.asset\ndef f(x): return 1\n", "c.py": "print(1)\n"}, "c.py", "1", "2"),
    "spelling of a literal": ({"pipeline.py": HEAD + "@tarn.asset\ndef f(x): return 'a', 16, 1000\n"}, "pipeline.py", "'a', 16, 1000", 'u"a", 0x10, 1_000'),
    "a module only type checkers import": (
        {"pipeline.py": HEAD + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from c import K\n@tarn.asset\ndef f(x: 'K'): return 1\n", "c.py": "class K: n = 1\n"}, "c.py", "1", "2",
    ),
    "a logger beside it": ({"pipeline.py": HEAD + "import logging\nlog = logging.getLogger('a')\n@tarn.asset\ndef f(x): return 1\n"}, "pipeline.py", "'a'", "'b'"),
}  # fmt: skip


@pytest.mark.parametrize("case", MUST_CHANGE)
def test_edit_reaches_the_hash(tmp_path: Path, case: str) -> None:
    before, after = edited(tmp_path, *MUST_CHANGE[case])
    assert (before["parts"], before["files"]) != (after["parts"], after["files"])


@pytest.mark.parametrize("case", MUST_NOT_CHANGE)
def test_edit_elsewhere_does_not(tmp_path: Path, case: str) -> None:
    before, after = edited(tmp_path, *MUST_NOT_CHANGE[case])
    assert before["parts"] == after["parts"]
    assert before["plain"], before["why"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("print(1)", "pipeline.py:2: call of print at module level"),
        ("for i in []: pass", "pipeline.py:2: for at module level"),
        ("N = load()", "pipeline.py:2: call of load at module level"),
        ("def g(n=load()): pass", "pipeline.py:2: call of load in a default"),
        ("@deco\ndef g(): pass", "pipeline.py:2: decorator deco"),
        ("class K(Base): pass", "pipeline.py:2: base class Base"),
        ("class K(metaclass=M): pass", "pipeline.py:2: class keyword metaclass"),
        ("class K:\n  n = load()", "pipeline.py:3: call of load in a class body"),
        ("from c import *", "pipeline.py:2: from c import *"),
        ("import inspect", "pipeline.py:2: imports inspect"),
        ("def g(): return globals()", "pipeline.py:2: uses globals"),
        ("def __getattr__(n): pass", "pipeline.py:2: module __getattr__"),
        ("a.b = 1", "pipeline.py:2: assignment to part of an object at module level"),
        ("if x: y = 1", "pipeline.py:2: if at module level"),
    ],
)
def test_why_names_the_place(tmp_path: Path, source: str, reason: str) -> None:
    found = closure(tmp_path, {"pipeline.py": f"import tarn\n{source}\n@tarn.asset\ndef f(x): return 1\n"})
    assert not found["plain"]
    assert reason in found["why"]


def test_plain_declarations(tmp_path: Path) -> None:
    source = """
    import logging, re
    from datetime import timedelta
    from pathlib import Path
    from tarn import Env, asset, check
    import tarn as t

    log = logging.getLogger(__name__)
    WORD = re.compile(r"\\w+")
    DAY = timedelta(days=1)
    HERE = Path("x")
    base = Env(packages=["a"])
    more = base.add("b")
    clean = t.command("bash", "clean.sh", outputs={"clean": "csv"})

    @asset(env=more, retry=t.Retry(times=2, on=(TimeoutError,)))
    def f(x, n: int = -1, k=("a", 2 * 60)): return WORD

    @check(f)
    def c(f): return f
    """
    found = closure(tmp_path, {"pipeline.py": source})
    assert found["plain"], found["why"]
    assert [p["name"] for p in found["parts"]] == ["WORD", "f", "re"]


def test_files_named_in_the_code(tmp_path: Path) -> None:
    files = {
        "pipeline.py": "import tarn, sub.m\n@tarn.asset\ndef f(x): return open('data/x.csv'), 'no/such', '../out', sub.m.g()\n",
        "sub/__init__.py": "",
        "sub/m.py": "def g(): return 'prompt.txt'\ndef h(): return 'data/y.csv'\n",
        "sub/prompt.txt": "",
        "data/x.csv": "",
        "data/y.csv": "",
    }
    assert closure(tmp_path, files)["files"] == ["data/x.csv", "no/such", "prompt.txt", "sub/prompt.txt"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("data/x.csv", True),
        ("x.csv", True),
        ("my file.csv", True),
        ("data/*.csv", True),
        ("a/b", True),
        ("https://x.com/a.csv", False),
        ("origin", False),
        ("a, b and c.", False),
        ("/etc/passwd", False),
        ("../x.csv", False),
        ("a\nb.csv", False),
        ("{x}.csv", False),
    ],
)
def test_texts_that_may_be_files(tmp_path: Path, text: str, named: bool) -> None:
    found = closure(tmp_path, {"pipeline.py": f"import tarn\n@tarn.asset\ndef f(x): return {text!r}\n"})
    assert found["files"] == ([text] if named else [])


def test_hash_is_the_same_on_every_python() -> None:
    """The tree differs between versions in fields, f-strings and slices; the text must not."""
    source = '''
class K(Base, metaclass=M):
    """Doc."""
    x: int = 1
    def m(self, a, /, b=2, *c, d=None, **e) -> "K": return self.x[1:2, ..., -1]
async def g(n):
    async with a as b, c: await d
    return [i async for i in n if i], {**a, "k": 1}, {1, 2}, (yield)
h = lambda: f"a{x!r:>{w}}b" "c" f"{y=}" f"{z}"
try: pass
except (A, B) as e: raise C from e
else: pass
finally: del x
with a as (b, c): pass
while (n := f()): continue
s = "\\ud800 \\N{SNOWMAN} é" if 0 else b"\\x00"; big = 10 ** 5; i = 123456789012345678901234567890; j = 1j; t = 1.5e300
'''
    assert digest(normal(ast.parse(source))) == GOLDEN


GOLDEN = "f3073a9b3af9c51db4846428d17f12e93f595b7b4b2a52f6fd87913daf84da71"
