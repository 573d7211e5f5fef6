"""A function of a notebook's cell as source: its own, and that of what it names.

Source crosses versions of Python, where code objects do not; and the server finds declarations in it as in any file of the project. Modules
are imported, functions and classes of the notebook come as their source, other values pickled.
"""

from __future__ import annotations

import ast
import base64
import io
import linecache
import os
import pickle
import sys
import types
from typing import Any, Dict, List, Mapping

from tarn import _discover, _function, errors

FILE = _discover.CELLS
MODULE = "tarn_cell"
MOST = 1 << 20  # of one value: a bigger one is an argument
_FUTURE = 0x1000000  # CO_FUTURE_ANNOTATIONS


def source(decl: Any) -> str:
    """The module that defines a function, and nothing that it does not name."""
    cell = _Cell(decl)
    cell.define(decl.__name__, decl)
    future = ["from __future__ import annotations"] if decl._plain().__code__.co_flags & _FUTURE else []
    return "\n".join([*future, *cell.imports, "from tarn._cell import value as _tarn_value", *cell.parts, ""])


def value(text: str, names: Mapping[str, Any]) -> Any:
    """A value that the notebook had. Discovery reads declarations only, and lacks the packages."""
    try:
        return _Reader(text, names).load()
    except Exception:
        if "TARN_DISCOVER" in os.environ:
            return None
        raise


class _Reader(pickle.Unpickler):
    def __init__(self, text: str, names: Mapping[str, Any]) -> None:
        super().__init__(io.BytesIO(base64.b64decode(text)))
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        return self._names[name] if module == "__main__" and name in self._names else super().find_class(module, name)


class _Cell:
    def __init__(self, decl: Any) -> None:
        self.owner = decl.name
        self.names: Dict[str, Any] = decl._plain().__globals__
        self.seen: Dict[str, None] = {}
        self.imports: List[str] = []
        self.parts: List[str] = []

    def define(self, name: str, found: Any) -> None:
        """What a name stands for, after what it needs itself."""
        if name in self.seen:
            return
        self.seen[name] = None
        own = getattr(found, "__module__", None) == self.names["__name__"]
        plain = found._plain() if isinstance(found, _function.Function) else found
        if isinstance(found, types.ModuleType):
            self.imports.append(f"import {found.__name__} as {name}" if "." in found.__name__ or found.__name__ != name else f"import {name}")
        elif own and isinstance(plain, (types.FunctionType, type)):
            text = self.text(plain)
            self.need(text)
            self.parts.append(text)
            if plain.__name__ != name:
                self.parts.append(f"{name} = {plain.__name__}")
        elif isinstance(plain, (types.FunctionType, types.BuiltinFunctionType, type)) and getattr(sys.modules.get(plain.__module__ or ""), plain.__name__, None) is found:
            self.imports.append(f"from {plain.__module__} import {plain.__name__} as {name}")
        else:
            self.pickled(name, found)

    def need(self, text: str) -> None:
        """Define what a piece of source names."""
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Name) and node.id in self.names:
                self.define(node.id, self.names[node.id])

    def text(self, found: Any) -> str:
        """The source of a function or class of the notebook."""
        kinds = (ast.ClassDef,) if isinstance(found, type) else (ast.FunctionDef, ast.AsyncFunctionDef)
        if "<locals>" in found.__qualname__:
            raise self.error(f"{found.__qualname__} is defined inside of a function. Define it in the cell itself")
        if isinstance(found, type):
            files = list({m.__code__.co_filename: None for m in vars(found).values() if isinstance(m, types.FunctionType)})
            files += [f for f in reversed(list(linecache.cache)) if f not in files and not os.path.isfile(f)]
        else:
            files = [found.__code__.co_filename]
        for file in files:
            text = "".join(linecache.getlines(file))
            try:
                nodes = [n for n in ast.parse(text).body if isinstance(n, kinds) and n.name == found.__name__]
            except SyntaxError:  # a cell with lines that are IPython's own
                continue
            if nodes:
                first = min([nodes[-1].lineno, *(d.lineno for d in nodes[-1].decorator_list)])
                return "\n".join(text.splitlines()[first - 1 : nodes[-1].end_lineno])
        raise self.error(f"the source of {found.__name__} is not kept here. Put it in a file of the project")

    def pickled(self, name: str, found: Any) -> None:
        own = type(found)
        if own.__module__ == self.names["__name__"]:
            self.define(own.__name__, own)
        try:
            raw = pickle.dumps(found, protocol=4)
        except Exception as error:
            raise self.error(f"it names {name}, a {own.__name__} that cannot be pickled: {error}. Make it inside of the function") from error
        if len(raw) > MOST:
            raise self.error(f"it names {name}, which has {len(raw):,} bytes. Pass it as an argument")
        self.parts.append(f"{name} = _tarn_value({base64.b64encode(raw).decode()!r}, globals())")

    def error(self, text: str) -> errors.Error:
        return errors.PreconditionError(f"{self.owner} cannot go to a sandbox: {text}.", reason="call.cell")
