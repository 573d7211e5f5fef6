"""Parameters of a declared function: which are inputs, of which kind, in which format.

A type is recognised by its dotted name, never by identity, so that a function whose pandas is not
installed here still says that it wants a pandas frame.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import datetime
import inspect
import linecache
import typing
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from tarn._declare import Files, Local, Marker, OutputDir, Partition, Secret, Table
from tarn._placeholder import placeholder

FORMATS: Mapping[Tuple[str, str], str] = {
    ("pyarrow", "Table"): "arrow",
    ("pyarrow", "RecordBatchReader"): "batches",
    ("pandas", "DataFrame"): "pandas",
    ("polars", "DataFrame"): "polars",
    ("polars", "LazyFrame"): "polars_lazy",
    ("duckdb", "DuckDBPyRelation"): "duckdb",
}
NOUNS = {"files": "a path", "local": "a path", "secret": "its text", "output_dir": "a folder", "context": "tarn.Context()", "partition": "a tarn.Partition"}
MISSING = object()
_TIMES = (datetime.date, datetime.datetime)


class ParamError(TypeError):
    """A parameter that cannot be an input nor a run parameter."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Param:
    """One parameter. `kind` is a manifest input kind, or "param" for a run parameter, or "fixed" for
    one whose default is no JSON: the body uses it, nobody can set it."""

    name: str
    kind: str
    marker: Optional[Marker] = None
    format: str = "arrow"
    default: Any = MISSING
    type: str = ""
    many: bool = False

    @property
    def noun(self) -> str:
        """What a person passes for it."""
        return NOUNS.get(self.kind, "a value" if self.kind == "param" else "a frame")


def of(decl: Any) -> List[Param]:
    """The parameters of a declared function, in order."""
    fn = decl._plain()
    loads = decl.kind in ("asset", "check")
    found = []
    for p in inspect.signature(fn).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            if loads:
                raise ParamError(p.name, f"{decl.name} takes *{p.name}; each input needs a name of its own.")
            continue
        annotation = annotation_of(fn, p.annotation)
        found.append(_param(decl.name, p.name, annotation, p.default, loads))
    return found


def _param(owner: str, name: str, annotation: Any, default: Any, loads: bool) -> Param:
    kind, marker = split(annotation)
    if isinstance(default, Marker):
        marker, default = default, inspect.Parameter.empty
    if isinstance(marker, Table) or (marker is None and default is inspect.Parameter.empty and loads and not _special(kind)):
        table = marker or Table()
        form = format_of(kind)
        if form is None:
            if marker is None:
                raise ParamError(
                    name,
                    f"{owner} takes {name}: {_show(kind)} without a default. Give it one to make it a run parameter, "
                    "or annotate it as a frame, tarn.files(...), tarn.local(...) or tarn.secret(...).",
                )
            raise ParamError(name, f"{owner} wants {name} as {_show(kind)}. A table comes as {_accepted()}.")
        return Param(name, "table", table, form)
    if isinstance(marker, Files):
        many = marker.batch is not None or marker.group_by is not None or not marker.each
        return Param(name, "files", marker, many=many)
    if isinstance(marker, Local):
        return Param(name, "local", marker, many=_is_list(kind) or (kind is inspect.Parameter.empty and any(c in marker.glob for c in "*?[")))
    if isinstance(marker, Secret):
        return Param(name, "secret", marker)
    special = _special(kind)
    if special:
        return Param(name, special)
    if default is inspect.Parameter.empty:
        return Param(name, "param", type=_type_name(kind, MISSING))
    if not _is_json(default) and type(default) not in _TIMES:
        return Param(name, "fixed", default=default)
    return Param(name, "param", default=default, type=_type_name(kind, default))


def split(annotation: Any) -> Tuple[Any, Optional[Marker]]:
    """The type and the marker of an annotation: `Annotated[T, marker]` and `Optional[T]` are opened."""
    marker = None
    while True:
        origin = typing.get_origin(annotation)
        if hasattr(annotation, "__metadata__"):
            marker = marker or next((m for m in annotation.__metadata__ if isinstance(m, Marker)), None)
            annotation = annotation.__origin__
        elif origin is Union or type(annotation).__name__ == "UnionType":
            rest = [a for a in typing.get_args(annotation) if a is not type(None)]
            if len(rest) != 1:
                return annotation, marker
            annotation = rest[0]
        elif isinstance(annotation, Marker):
            return inspect.Parameter.empty, annotation
        else:
            return annotation, marker


def _special(kind: Any) -> Optional[str]:
    if not isinstance(kind, type):
        return None
    if kind is OutputDir:
        return "output_dir"
    if kind is Partition:
        return "partition"
    if (kind.__module__, kind.__name__) == ("tarn._context", "Context"):
        return "context"
    return None


def format_of(kind: Any) -> Optional[str]:
    """The table format that an annotation asks for; None when it asks for no table."""
    if kind in (inspect.Parameter.empty, Any, object):
        return "arrow"
    if isinstance(kind, type) and typing.get_origin(kind) is None:
        for base in kind.__mro__:
            form = FORMATS.get((_package(base), base.__qualname__.rpartition(".")[2]))
            if form:
                return form
    origin = typing.get_origin(kind) or kind
    inner = next(iter(typing.get_args(kind)), None)
    if origin is list:
        inner = typing.get_origin(inner) or inner
        return "dicts" if inner is None or inner is dict or inner is collections.abc.Mapping or hasattr(inner, "__total__") else None
    if origin in (collections.abc.Iterator, collections.abc.Iterable, collections.abc.Generator) and isinstance(inner, type):
        return "batches" if (_package(inner), inner.__name__) == ("pyarrow", "RecordBatch") else None
    return None


def _package(kind: type) -> str:
    top = (kind.__module__ or "").partition(".")[0]
    return top.lstrip("_")  # duckdb's classes live in _duckdb


def _is_list(kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    return origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable)


def _is_json(value: Any) -> bool:
    if value is None or (isinstance(value, (bool, int, str)) and type(value) in (bool, int, str)):
        return True
    if type(value) is float:
        return value == value and value not in (float("inf"), float("-inf"))
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return all(map(_is_json, value))
    return type(value) is dict and all(type(k) is str and _is_json(v) for k, v in value.items())


def _type_name(kind: Any, default: Any) -> str:
    origin = typing.get_origin(kind) or kind
    if origin in (int, float, str, bool, *_TIMES):
        return str(origin.__name__)
    if type(default) in (int, float, str, bool, *_TIMES):
        return type(default).__name__
    return "json"


def to_json(value: Any) -> Any:
    """A default as the manifest holds it."""
    return None if value is MISSING else value.isoformat() if type(value) in _TIMES else value


def from_json(p: Param, value: Any) -> Any:
    """A run parameter's value as the function wants it."""
    if value is None:
        return None
    if p.type == "date":
        return datetime.date.fromisoformat(value)
    if p.type == "datetime":
        return datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    if p.type == "float" and isinstance(value, int):
        return float(value)
    return tuple(value) if isinstance(p.default, tuple) and isinstance(value, list) else value


def _show(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and typing.get_origin(kind) is None else str(kind).replace("typing.", "")


def _accepted() -> str:
    return "pa.Table, pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.RecordBatchReader, duckdb.DuckDBPyRelation or list[dict]"


def annotation_of(fn: Any, annotation: Any) -> Any:
    """Resolve an annotation that is text, also when it names what only a type checker imports."""
    while isinstance(annotation, str):  # text in a file with `from __future__ import annotations` is text twice
        try:
            tree = ast.fix_missing_locations(_Unions().visit(ast.parse(annotation.strip(), mode="eval")))
            annotation = eval(compile(tree, "<annotation>", "eval"), fn.__globals__, _Names(fn))
        except (SyntaxError, NameError, AttributeError, TypeError) as error:
            raise TypeError(f"annotation {annotation!r} cannot be read: {error}") from None
    return annotation


class _Unions(ast.NodeTransformer):
    """`A | B` as `Union[A, B]`: the former is a TypeError before Python 3.10."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.BitOr):
            return node
        pair = ast.Tuple([node.left, node.right], ast.Load())
        return ast.Subscript(ast.Name("__tarn_union__", ast.Load()), pair, ast.Load())

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return node


class _Names(Dict[str, Any]):
    """Names an annotation may use beyond the module's own: its closure, and imports that only a type
    checker executes, which become placeholders."""

    def __init__(self, fn: Any) -> None:
        super().__init__(__tarn_union__=Union)
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or ()):
            try:
                self[name] = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        self._fn = fn

    def __missing__(self, name: str) -> Any:
        if name in self._fn.__globals__ or hasattr(builtins, name):
            raise KeyError(name)
        dotted = imports_for_checkers(self._fn.__code__.co_filename).get(name)
        if dotted is None:
            raise KeyError(name)
        return placeholder(dotted)


def imports_for_checkers(file: str) -> Dict[str, str]:
    """Names bound below `if TYPE_CHECKING:` in a file, with the dotted names they stand for."""
    from tarn._plain import is_type_checking  # few steps come here, and each starts an interpreter

    found: Dict[str, str] = {}
    for node in ast.walk(ast.parse("".join(linecache.getlines(file)))):
        if isinstance(node, ast.If) and is_type_checking(node.test):
            for child in node.body:
                if isinstance(child, ast.Import):
                    for a in child.names:
                        found[a.asname or a.name.partition(".")[0]] = a.name if a.asname else a.name.partition(".")[0]
                elif isinstance(child, ast.ImportFrom):
                    found.update({a.asname or a.name: f"{child.module or ''}.{a.name}" for a in child.names})
    return found
