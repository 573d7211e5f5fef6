"""Writes docs/reference/python.md from the docstrings and signatures of the package."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any, Iterator, List

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "python.md"
sys.path.insert(0, str(Path(__file__).parent / "src"))

import tarn  # noqa: E402
from tarn import _aio, _client, _function, _result, _types  # noqa: E402

SECTIONS: List[Any] = [
    ("Declaring", [tarn.asset, tarn.check, tarn.function, tarn.cls, tarn.enter, tarn.method, tarn.exit, tarn.entrypoint, tarn.command]),
    ("Decorated functions", [_function.Asset, _function.Check, _function.PlainFunction]),
    ("Calls", [tarn.FunctionCall, tarn.gather]),
    ("Inputs", [tarn.table, tarn.files, tarn.local, tarn.secret, tarn.OutputDir, tarn.Context, tarn.Partition]),
    ("Options", [tarn.Env, tarn.Resources, tarn.Retry, tarn.Concurrency, tarn.CheckResult]),
    ("Partitions and items", [tarn.daily, tarn.hourly, tarn.weekly, tarn.monthly, tarn.keys, tarn.cross, tarn.join, tarn.union]),
    ("Client", [_client.Client, _client.Table, _result.Result, _client.Run, _client.Branches, _client.Tags, _client.Files, _client.Tables, _client.Secrets]),
    ("Asynchronous client", [_aio.AsyncClient, _aio.AsyncTable, _aio.AsyncResult, _aio.AsyncRun]),
    ("Answers", [v for v in vars(_types).values() if inspect.isclass(v) and v.__module__ == "tarn._types"]),
]
INTRO = """<!-- Generated from docstrings by sdk/python/reference.py. Do not edit. -->
# Python

`import tarn` needs the standard library only; pyarrow is needed where tables are touched, or polars where only
polars is used. `tarn run` needs nothing installed: the binary carries this package.

Errors are classes of `tarn.errors`, one for each code of [errors](errors.md), all of them `tarn.Error`, with `reason`,
`message`, `details` and `next`. `tarn.RunFailed` is what `Run.wait` raises.
"""


class _Unions(ast.NodeTransformer):
    """`Optional[A]` and `Union[A, B]` as `A | B`, and the names of typing as the builtin ones."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(node.id.lower()) if node.id in ("Dict", "List", "Tuple", "Type") else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        name = getattr(node.value, "id", "")
        if name not in ("Optional", "Union"):
            return node
        names = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        names += [ast.Constant(None)] if name == "Optional" else []
        found = names[0]
        for other in names[1:]:
            found = ast.BinOp(found, ast.BitOr(), other)
        return found


def type_of(annotation: Any) -> str:
    """An annotation as one writes it today."""
    text = annotation if isinstance(annotation, str) else annotation.__name__
    return ast.unparse(_Unions().visit(ast.parse(text, mode="eval")))


def signature(name: str, value: Any, method: bool = False) -> str:
    """One line if it fits, else one parameter a line."""
    found = inspect.signature(value)
    shown: List[str] = []
    star = False
    for p in list(found.parameters.values())[1 if method else 0 :]:
        if p.kind is p.KEYWORD_ONLY and not star:
            shown.append("*")
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        text = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name
        text += "" if p.annotation is p.empty else f": {type_of(p.annotation)}"
        shown.append(text if p.default is p.empty else f"{text} = {p.default!r}")
    back = "" if found.return_annotation in (found.empty, None, "None") else f" -> {type_of(found.return_annotation)}"
    start = f"{'async ' if inspect.iscoroutinefunction(value) else ''}{name}("
    line = f"{start}{', '.join(shown)}){back}"
    return line if len(line) <= 118 else f"{start}\n" + "".join(f"    {text},\n" for text in shown) + f"){back}"


def prose(value: Any) -> str:
    """A docstring; what is indented in it is code."""
    blocks = []
    for block in (inspect.getdoc(value) or "").split("\n\n"):
        if block.startswith("    "):
            code = textwrap.dedent(block)
            blocks.append(f"```python\n{code}\n```")
        else:
            blocks.append(block)
    return "\n\n".join(blocks)


def members(kind: type) -> Iterator[str]:
    """The public methods and properties of a class."""
    for base in reversed(kind.__mro__[:-1]):
        for name, value in vars(base).items():
            if base.__module__.startswith("tarn.") and not name.startswith("_") and getattr(kind, name, None) is not None:
                if inspect.isfunction(value):
                    yield f"#### `{kind.__name__}.{name}`\n\n```python\n{signature(name, value, method=True)}\n```\n\n{prose(value)}"
                elif isinstance(value, property):
                    yield f"#### `{kind.__name__}.{name}`\n\n{prose(value)}"


def entry(value: Any) -> str:
    """All about one name."""
    name = value.__name__ if value.__name__ not in tarn.__all__ else f"tarn.{value.__name__}"
    if value.__module__ == "tarn._types":
        fields = "\n".join(f"    {n}: {type_of(a)}" for n, a in value.__annotations__.items())
        return f"### `{name}`\n\n{prose(value)}\n\n```python\nclass {value.__name__}:\n{fields}\n```"
    made_by_users = inspect.isclass(value) and name.startswith("tarn.") and value is not tarn.OutputDir
    parts = [f"### `{name}`"]
    if made_by_users or not inspect.isclass(value):
        parts.append(f"```python\n{signature(name, value.__init__ if made_by_users else value, made_by_users)}\n```")
    return "\n\n".join([*parts, prose(value), *(members(value) if inspect.isclass(value) else ())])


def page() -> str:
    """The whole page."""
    parts = [INTRO.rstrip()]
    for title, names in SECTIONS:
        parts.append(f"## {title}")
        parts.extend(map(entry, names))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
