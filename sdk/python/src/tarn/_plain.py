"""Whether importing a module does nothing but bind names to definitions and literals.

Only then may a function depend on some of its names instead of on all of it. The test is a list of
what is known to be harmless; everything else makes the module not plain, with a reason.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, Set, Tuple

# Calls that only make a value. Third-party code is never on these lists.
_BUILTINS = {"frozenset", "set", "dict", "tuple", "list", "int", "float", "str", "bytes", "range", "object", "bool", "complex", "bytearray"}
_VALUES = {
    "re.compile", "logging.getLogger", "pathlib.Path", "pathlib.PurePath", "pathlib.PurePosixPath", "datetime.timedelta", "datetime.date", "datetime.datetime",
    "datetime.time", "datetime.timezone", "decimal.Decimal", "fractions.Fraction", "typing.TypeVar", "typing.NewType", "typing.ParamSpec", "typing.NamedTuple",
    "typing.TypedDict", "collections.namedtuple", "collections.defaultdict", "collections.OrderedDict", "collections.Counter", "collections.deque",
    "operator.itemgetter", "operator.attrgetter", "functools.partial", "uuid.UUID", "zoneinfo.ZoneInfo", "string.Template", "struct.Struct",
    "threading.Lock", "threading.RLock", "dataclasses.field", "enum.auto", "types.MappingProxyType",
}  # fmt: skip
_DECORATORS = {
    "functools.cache", "functools.lru_cache", "functools.cached_property", "functools.total_ordering", "functools.wraps", "contextlib.contextmanager",
    "contextlib.asynccontextmanager", "dataclasses.dataclass", "typing.overload", "typing.final", "typing.runtime_checkable", "typing.no_type_check",
    "abc.abstractmethod", "enum.unique", "property", "staticmethod", "classmethod",
}  # fmt: skip
_BASES = {
    "typing.NamedTuple", "typing.TypedDict", "typing.Protocol", "typing.Generic", "abc.ABC", "enum.Enum", "enum.IntEnum", "enum.Flag", "enum.IntFlag", "enum.StrEnum",
    "object", "str", "int", "float", "dict", "list", "tuple", "set", "bytes",
    "Exception", "BaseException", "ValueError", "TypeError", "RuntimeError", "KeyError", "LookupError", "OSError", "ArithmeticError", "AttributeError",
    "NotImplementedError", "UserWarning", "Warning",
}  # fmt: skip
# Ways to reach a module's names without writing them. With the second set, also other modules.
_REFLECTION = {"globals", "locals", "vars", "__dict__", "__globals__", "__subclasses__", "_getframe", "currentframe", "getmodule", "get_objects", "get_referrers"}
_IMPORTING = {"eval", "exec", "compile", "__import__", "import_module", "__builtins__", "__loader__", "__spec__", "run_path", "run_module", "exec_module", "execfile"}
_REFLECTING_MODULES = {"inspect", "gc"}
_IMPORTING_MODULES = {"importlib", "runpy", "pkgutil", "imp", "zipimport", "code", "builtins"}


@dataclass
class Found:
    """What examine saw."""

    reasons: List[Tuple[int, str]] = field(default_factory=list)
    dynamic: bool = False
    names: Dict[str, str] = field(default_factory=dict)


def is_type_checking(test: ast.expr) -> bool:
    """Whether an `if` condition is TYPE_CHECKING."""
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING")


def bound_names(statement: ast.stmt) -> Set[str]:
    """Names that a top-level statement binds, other than by import."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def examine(tree: ast.Module, in_project: Callable[[str], bool]) -> Found:
    """Judge a module."""
    judge = _Judge(tree, in_project)
    for statement in tree.body:
        judge.statement(statement)
    judge.dynamic(tree)
    judge.found.reasons.sort()
    return judge.found


class _Judge:
    def __init__(self, tree: ast.Module, in_project: Callable[[str], bool]) -> None:
        self.found = Found()
        self.in_project = in_project
        self.own: Set[str] = set()
        self.made: Set[str] = set()  # names of tarn values
        for statement in tree.body:
            if isinstance(statement, ast.Import):
                for a in statement.names:
                    self.found.names[a.asname or a.name.partition(".")[0]] = a.name if a.asname else a.name.partition(".")[0]
            elif isinstance(statement, ast.ImportFrom) and not statement.level:
                self.found.names.update({a.asname or a.name: f"{statement.module}.{a.name}" for a in statement.names})
            else:
                self.own |= bound_names(statement)

    def no(self, node: Any, text: str) -> None:
        reason = (getattr(node, "lineno", 1), text)
        if reason not in self.found.reasons:
            self.found.reasons.append(reason)

    def dotted(self, node: ast.expr) -> str:
        """The dotted name an expression stands for through this module's imports; "" if none."""
        parts: List[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id in self.own:
            return ""
        return ".".join([self.found.names.get(node.id, node.id), *reversed(parts)])

    def known(self, node: ast.expr, allowed: Set[str]) -> bool:
        dotted = self.dotted(node)
        return dotted in allowed and not ("." in dotted and self.in_project(dotted.partition(".")[0]))

    def is_tarn(self, node: ast.expr) -> bool:
        return self.dotted(node).startswith("tarn.") and not self.in_project("tarn")

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self.function(node)
            if node.name in ("__getattr__", "__dir__"):
                self.no(node, f"module {node.name}")
        elif isinstance(node, ast.ClassDef):
            self.klass(node)
        elif isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names):
            self.no(node, f"from {'.' * node.level}{node.module or ''} import *")
        elif isinstance(node, (ast.Import, ast.ImportFrom, ast.Pass)) or type(node).__name__ == "TypeAlias":
            return
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and self.inert(node.value):
            return
        elif isinstance(node, ast.Assign):
            self.assign(node, node.targets, node.value)
        elif isinstance(node, ast.AnnAssign):
            self.annotation(node.annotation)
            self.assign(node, [node.target], node.value)
        elif isinstance(node, ast.If) and is_type_checking(node.test) and not node.orelse:
            for child in node.body:
                if not isinstance(child, (ast.Import, ast.ImportFrom, ast.Pass)):
                    self.no(child, "more than imports under TYPE_CHECKING")
        elif isinstance(node, ast.If) and _is_main(node.test) and not node.orelse:
            return
        else:
            self.no(node, f"{_describe(node)} at module level")

    def assign(self, node: ast.stmt, targets: List[ast.expr], value: Any) -> None:
        for target in targets:
            for name in ast.walk(target):
                if isinstance(name, (ast.Attribute, ast.Subscript)):
                    self.no(node, "assignment to part of an object at module level")
                    return
        if value is None:
            return
        if not self.inert(value):
            self.no(node, f"{self.culprit(value)} at module level")
        elif isinstance(value, ast.Call) and (self.is_tarn(value.func) or isinstance(value.func, ast.Attribute)):
            self.made |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}

    def culprit(self, value: ast.expr) -> str:
        for node in ast.walk(value):
            if isinstance(node, ast.Call) and not self.inert(node):
                return f"call of {ast.unparse(node.func)}"
        return f"{type(value).__name__}"

    def inert(self, node: Any) -> bool:
        """Whether evaluating an expression only makes a value."""
        if node is None or isinstance(node, (ast.Constant, ast.Name)):
            return True
        if isinstance(node, ast.Attribute):
            return self.inert(node.value)
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return all(map(self.inert, node.elts))
        if isinstance(node, ast.Dict):
            return all(map(self.inert, (*node.keys, *node.values)))
        if isinstance(node, ast.Starred):
            return self.inert(node.value)
        if isinstance(node, ast.UnaryOp):
            return _literal(node.operand)
        if isinstance(node, ast.BinOp):
            return _literal(node.left) and _literal(node.right)
        if isinstance(node, ast.Subscript):
            return self.inert(node.value) and self.inert(node.slice)
        if isinstance(node, ast.Slice):
            return all(map(self.inert, (node.lower, node.upper, node.step)))
        if isinstance(node, ast.JoinedStr):
            return all(map(self.inert, node.values))
        if isinstance(node, ast.FormattedValue):
            return self.inert(node.value) and self.inert(node.format_spec)
        if isinstance(node, ast.Lambda):
            return all(map(self.inert, (*node.args.defaults, *node.args.kw_defaults)))
        if isinstance(node, ast.Call):
            adds = isinstance(node.func, ast.Attribute) and node.func.attr == "add" and isinstance(node.func.value, ast.Name) and node.func.value.id in self.made
            if not (adds or self.is_tarn(node.func) or self.known(node.func, _VALUES | _BUILTINS)):
                return False
            return all(map(self.inert, (*node.args, *(k.value for k in node.keywords))))
        return False

    def annotation(self, node: Any) -> None:
        for child in ast.walk(node) if node is not None else ():
            if isinstance(child, ast.Call) and not self.inert(child):
                self.no(child, f"call of {ast.unparse(child.func)} in an annotation")

    def decorators(self, node: Any) -> None:
        for d in node.decorator_list:
            call = d.func if isinstance(d, ast.Call) else d
            setter = isinstance(d, ast.Attribute) and d.attr in ("setter", "getter", "deleter") and isinstance(d.value, ast.Name)
            if not (setter or self.is_tarn(call) or self.known(call, _DECORATORS)):
                self.no(d, f"decorator {ast.unparse(call)}")
            elif isinstance(d, ast.Call) and not all(map(self.inert, (*d.args, *(k.value for k in d.keywords)))):
                self.no(d, f"computed argument of {ast.unparse(call)}")

    def function(self, node: Any) -> None:
        self.decorators(node)
        a = node.args
        for default in (*a.defaults, *a.kw_defaults):
            if not self.inert(default):
                self.no(default, f"{self.culprit(default)} in a default")
        for argument in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))):
            self.annotation(argument.annotation)
        self.annotation(node.returns)

    def klass(self, node: ast.ClassDef) -> None:
        self.decorators(node)
        for base in node.bases:
            opened = base.value if isinstance(base, ast.Subscript) else base
            if not self.known(opened, _BASES):
                self.no(base, f"base class {ast.unparse(base)}")
        for keyword in node.keywords:
            if keyword.arg == "metaclass" or not self.inert(keyword.value):
                self.no(node, f"class keyword {keyword.arg}")
        for child in node.body:
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self.function(child)
            elif isinstance(child, ast.ClassDef):
                self.klass(child)
            elif isinstance(child, (ast.Assign, ast.AnnAssign)):
                if isinstance(child, ast.AnnAssign):
                    self.annotation(child.annotation)
                if not self.inert(child.value):
                    self.no(child, f"{self.culprit(child.value)} in a class body")  # type: ignore[arg-type]
            elif not (isinstance(child, ast.Pass) or (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant))):
                self.no(child, f"{_describe(child)} in a class body")

    def dynamic(self, tree: ast.Module) -> None:
        """Look for reflection anywhere, also in function bodies."""
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self.reflecting_import(node)
                continue
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
            if name in _IMPORTING and not (isinstance(node, ast.Attribute) and name in ("compile", "eval", "exec")) and name not in self.own:
                self.found.dynamic = True
                self.no(node, f"uses {name}")
            elif isinstance(node, ast.Attribute) and name == "modules" and self.dotted(node) == "sys.modules":
                self.found.dynamic = True
                self.no(node, "uses sys.modules")
            elif name in _REFLECTION and name not in self.own:
                self.no(node, f"uses {name}")

    def reflecting_import(self, node: Any) -> None:
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [] if node.level else [f"{node.module}.{a.name}" for a in node.names]
        for module in modules:
            top = module.partition(".")[0]
            if module in ("sys.modules", "sys._getframe") or (top in _IMPORTING_MODULES and not module.startswith("importlib.metadata")):
                self.found.dynamic = True
                self.no(node, f"imports {module}")
            elif top in _REFLECTING_MODULES:
                self.no(node, f"imports {module}")


def _literal(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.UnaryOp):
        return _literal(node.operand)
    if isinstance(node, ast.BinOp):
        return _literal(node.left) and _literal(node.right)
    return isinstance(node, (ast.Tuple, ast.List)) and all(map(_literal, node.elts))


def _is_main(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def _describe(node: ast.stmt) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return f"call of {ast.unparse(node.value.func)}"
    return {"AugAssign": "augmented assignment", "AsyncFor": "for", "AsyncWith": "with"}.get(type(node).__name__, type(node).__name__.lower())


def strip_declarations(tree: ast.Module, found: Found) -> None:
    """Remove tarn's decorators: their options reach the key by themselves, or are no part of it."""

    def is_tarn(node: ast.expr) -> bool:
        root: Any = node.func if isinstance(node, ast.Call) else node
        while isinstance(root, ast.Attribute):
            root = root.value
        dotted = found.names.get(root.id, "") if isinstance(root, ast.Name) else ""
        return dotted == "tarn" or dotted.startswith("tarn.")

    for node in _functions(tree.body):
        node.decorator_list = [d for d in node.decorator_list if not is_tarn(d)]


def _functions(body: Iterable[ast.stmt]) -> Iterator[Any]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
