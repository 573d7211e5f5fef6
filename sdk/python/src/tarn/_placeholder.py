"""Stand-ins for modules that an environment lacks.

One project file may hold functions of several environments, so its top-level imports need not all
succeed. A missing module becomes a module of placeholder classes, which may be imported, read,
subclassed, named in annotations and used as decorators. Every other use would invent a result, and
is an error that names the file, the line and the way out. An import inside `try` really fails.
"""

from __future__ import annotations

import abc
import ast
import builtins
import functools
import importlib.machinery
import linecache
import sys
import types
from typing import Any, Callable, List, Optional, Sequence, Tuple

# Distributions whose name is not the name of their module.
DISTRIBUTIONS = {
    "PIL": "pillow", "cv2": "opencv-python", "sklearn": "scikit-learn", "skimage": "scikit-image", "yaml": "pyyaml", "bs4": "beautifulsoup4",
    "dateutil": "python-dateutil", "dotenv": "python-dotenv", "Crypto": "pycryptodome", "git": "gitpython", "jwt": "pyjwt", "magic": "python-magic",
    "google": "protobuf", "psycopg2": "psycopg2-binary", "serial": "pyserial", "usb": "pyusb", "attr": "attrs", "fitz": "pymupdf",
}  # fmt: skip


class Missing(ModuleNotFoundError):
    """A placeholder was used as if its module were there."""


# In a traceback it is what Python itself would say.
Missing.__module__, Missing.__qualname__ = "builtins", "ModuleNotFoundError"


# What to say when a placeholder is used; discovery and the runner each put their own sentence here.
explain: Callable[[str, str, str], str] = lambda dotted, use, place: f"{place}: {dotted} is {use}, but {dotted.partition('.')[0]} is not installed."  # noqa: E731


class _Meta(abc.ABCMeta):
    """The class of placeholder classes and, through inheritance, of user classes derived from one."""

    _dotted: str

    def __new__(mcs, name: str, bases: Tuple[type, ...], space: Any, **_: Any) -> _Meta:
        return super().__new__(mcs, name, bases, space)

    def __init__(cls, name: str, bases: Tuple[type, ...], space: Any, **_: Any) -> None:
        super().__init__(name, bases, space)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return placeholder(f"{cls._dotted}.{name}")

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        frame = sys._getframe(1)
        if _in_decorator(frame.f_code.co_filename, frame.f_lineno, args):
            return args[0] if len(args) == 1 and not kwargs and callable(args[0]) and not isinstance(args[0], _Meta) else cls
        if len(args) == 3 and isinstance(args[0], str) and isinstance(args[1], tuple) and isinstance(args[2], dict):
            return _Meta(*args)  # used as a metaclass
        return _refuse(cls, "called")

    def __getitem__(cls, _: Any) -> Any:
        return cls

    def __setattr__(cls, name: str, value: Any) -> None:
        if not name.startswith("_") and cls.__dict__.get("_placeholder"):
            _refuse(cls, f"changed (.{name} = ...)")
        super().__setattr__(name, value)

    def __eq__(cls, other: object) -> bool:
        if cls is other or other is None or isinstance(other, type) or type(other).__module__ == "typing":
            return cls is other
        return bool(_refuse(cls, "compared"))

    def __hash__(cls) -> int:
        return type.__hash__(cls)

    def __repr__(cls) -> str:
        return f"<{cls._dotted}, which is not installed>"


def _forbid(name: str, use: str) -> None:
    def refuse(cls: Any, *_: Any) -> Any:
        return _refuse(cls, use)

    setattr(_Meta, name, refuse)


for _use, _names in {
    "used as a condition": "bool",
    "iterated": "iter next len contains reversed aiter anext",
    "used as a context manager": "enter exit aenter aexit",
    "awaited": "await",
    "used as a number": "int float complex index round trunc neg pos abs invert",
    "compared": "lt le gt ge",
    "changed": "delattr setitem delitem",
    "used in an expression": "add radd sub rsub mul rmul matmul rmatmul truediv rtruediv floordiv rfloordiv mod rmod "
    "divmod rdivmod pow rpow lshift rlshift rshift rrshift and rand xor rxor",
}.items():
    for _name in _names.split():
        _forbid(f"__{_name}__", _use)


@functools.cache
def placeholder(dotted: str) -> Any:
    """The placeholder class of a dotted name; one per name."""
    module, _, name = dotted.rpartition(".")
    return _Meta(name, (), {"__module__": module, "__qualname__": name, "_dotted": dotted, "_placeholder": True})


def _refuse(cls: Any, use: str) -> Any:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith("<"):
        frame = frame.f_back
    error = Missing(explain(cls._dotted, use, f"{frame.f_code.co_filename}:{frame.f_lineno}"), name=cls._dotted.partition(".")[0])
    raise error


class _Module(types.ModuleType):
    """A module that is not there."""

    def __getattr__(self, name: str) -> Any:
        if name == "__all__" and _imports_star(sys._getframe(1)):
            _refuse(placeholder(self.__name__), "imported with *")
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return placeholder(f"{self.__name__}.{name}")

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not isinstance(value, types.ModuleType):
            _refuse(placeholder(self.__name__), f"changed (.{name} = ...)")
        super().__setattr__(name, value)


def _imports_star(frame: Any) -> bool:
    for node in ast.walk(_tree(frame.f_code.co_filename)):
        if isinstance(node, ast.ImportFrom) and node.lineno <= frame.f_lineno <= _end(node) and any(a.name == "*" for a in node.names):
            return True
    return bool(frame.f_code.co_filename.startswith("<frozen importlib")) and frame.f_code.co_name == "_handle_fromlist" and _imports_star(frame.f_back)


class Finder:
    """Finds placeholders for what project files import and nothing else found.
    It has no base of `importlib.abc`: from Python 3.11 on that imports tempfile, shutil and two compressors.

    Only imports that project code executes count: libraries probe for optional modules, and must
    see the truth. `in_functions` says whether an import in a function body counts as well.
    """

    def __init__(self, is_project: Callable[[str], bool]) -> None:
        self.is_project = is_project
        self.in_functions = True
        self.made: List[str] = []

    def find_spec(self, fullname: str, path: Optional[Sequence[str]], target: Any = None) -> Optional[importlib.machinery.ModuleSpec]:
        parent = sys.modules.get(fullname.rpartition(".")[0])
        if parent is not None and not isinstance(parent, _Module) and self.is_project(getattr(parent, "__file__", None) or ""):
            return None
        site = _import_site(sys._getframe(1))
        if site is None or not self.is_project(site.f_code.co_filename):
            return None
        if _in_try(site.f_code.co_filename, site.f_lineno):
            return None
        if not self.in_functions and site.f_code.co_flags & 1:  # CO_OPTIMIZED: a function body, which needs the real thing
            dotted = fullname.partition(".")[0]
            raise Missing(explain(dotted, "imported", f"{site.f_code.co_filename}:{site.f_lineno}"), name=dotted)
        loader: Any = self
        return importlib.machinery.ModuleSpec(fullname, loader, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        self.made.append(spec.name)
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def judge_every_import() -> None:
    """Let the finder see every import statement, not only the first of a module: one may be in `try`,
    or in a library, and another not."""
    original = builtins.__import__

    def judged(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        top = name.partition(".")[0]
        if level == 0 and isinstance(sys.modules.get(top), _Module):
            for known in [n for n, m in sys.modules.items() if isinstance(m, _Module) and n.partition(".")[0] == top]:
                del sys.modules[known]
        return original(name, globals, locals, fromlist, level)

    builtins.__import__ = judged


def _import_site(frame: Any) -> Optional[Any]:
    """The frame that imports, or None when somebody only asks whether a module exists."""
    loading = False
    while frame is not None:
        name = frame.f_code.co_filename
        if name == __file__:
            pass
        elif name.startswith("<frozen importlib"):
            loading = loading or frame.f_code.co_name == "_find_and_load"
        elif "importlib" in name and name.endswith(("importlib/__init__.py", "importlib/util.py", "importlib\\__init__.py", "importlib\\util.py")):
            if frame.f_code.co_name == "find_spec":
                return None
        else:
            return frame if loading else None
        frame = frame.f_back
    return None


@functools.lru_cache(maxsize=256)
def _tree(file: str) -> ast.AST:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return ast.Module([], [])


def _end(node: Any) -> int:
    return int(node.end_lineno or node.lineno)


def _in_try(file: str, line: int) -> bool:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Try) and node.handlers and node.body[0].lineno <= line <= _end(node.body[-1]):
            return True
    return False


def _in_decorator(file: str, line: int, args: Tuple[Any, ...]) -> bool:
    for node in _decorated(file):
        if any(d.lineno <= line <= _end(d) for d in node.decorator_list):
            return True
        # Python 3.9 says that a decorator is applied on the line of the definition.
        if line == node.lineno and len(args) == 1 and getattr(args[0], "__name__", None) == node.name:
            return True
    return False


@functools.lru_cache(maxsize=256)
def _decorated(file: str) -> Tuple[Any, ...]:
    return tuple(node for node in ast.walk(_tree(file)) if getattr(node, "decorator_list", None))
