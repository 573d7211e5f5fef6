"""Which code a function's result depends on, as hashes of normalised syntax trees.

The closure of a function is every project module it can reach by static imports. Inside a *plain*
module (only imports, definitions, literal constants and tarn declarations, nothing dynamic) the unit
is the name: editing one function touches one function. A module that is not plain counts whole,
and one that imports by computed names drags in every module of the project, because the alternative
is a stale result. Comments and layout do not count; docstrings do, for they may be prompts.

Every rule errs towards too much code. `why` names what made a module not plain.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
from typing import Any, Dict, Iterable, Iterator, List, Optional, Set, Tuple

from tarn import _plain
from tarn._scope import uses

# A name with an ending, or a path without spaces; no URL, no sentence, no markup.
_FILE = re.compile(r"[^:<>|\"\\\t{}()=;]{1,200}\.[A-Za-z0-9_]{1,12}|[^:<>|\"\\\s{}()=;]+/[^:<>|\"\\\s{}()=;]+")


def digest(*texts: str) -> str:
    """Hash of a few texts, in order."""
    h = hashlib.blake2b(digest_size=32, person=b"tarn-code-1")
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        h.update(len(raw).to_bytes(8, "little") + raw)
    return h.hexdigest()


def normal(node: Any) -> str:
    """A syntax tree as text that is equal across the Python versions we run on.

    Left out: positions, contexts, type comments, string prefixes, and fields that are empty, as
    those a newer Python added are for older code.
    """
    if isinstance(node, ast.AST):
        if isinstance(node, ast.JoinedStr):
            return f"JoinedStr(values={_joined(node.values)})"
        fields = ((name, getattr(node, name, None)) for name in node._fields if name not in ("ctx", "type_comment", "kind", "type_ignores"))
        return f"{type(node).__name__}({','.join(f'{name}={normal(value)}' for name, value in fields if (value is not None and value != []) or (name == 'value' and isinstance(node, ast.Constant)))})"
    if isinstance(node, list):
        return f"[{','.join(map(normal, node))}]"
    if isinstance(node, int) and not isinstance(node, bool):
        return hex(node)
    return f"{type(node).__name__}:{node!a}"


def _joined(values: List[ast.expr]) -> str:
    """Parts of an f-string; how its text is cut into constants differs between versions."""
    parts: List[str] = []
    text = ""
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            text += value.value
            continue
        if text:
            parts.append(ascii(text))
        text = ""
        parts.append(normal(value))
    return f"[{','.join([*parts, ascii(text)] if text else parts)}]"


class Module:
    """A project module, parsed."""

    def __init__(self, name: str, file: str, source: str, resolve: Any) -> None:
        self.name = name
        self.file = file
        self.package = name if file.endswith("__init__.py") else name.rpartition(".")[0]
        self.tree = ast.parse(source)
        found = _plain.examine(self.tree, lambda dotted: resolve(dotted, file) is not None)
        self.why: List[str] = [f"{file}:{line}: {text}" for line, text in found.reasons]
        self.dynamic = found.dynamic
        self.plain = not found.reasons
        _plain.strip_declarations(self.tree, found)
        self.bound: Dict[str, List[ast.stmt]] = {}
        self.imports: Dict[str, Tuple[str, Optional[str]]] = {}
        self.future = ""
        for statement in self.tree.body:
            self._bind(statement)

    def _bind(self, statement: ast.stmt, executed: bool = True) -> None:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            self.future = normal(statement)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            for name, target in self.targets(statement):
                self.bound.setdefault(name, []).append(statement)
                if executed:
                    self.imports[name] = target
        elif isinstance(statement, ast.If) and _plain.is_type_checking(statement.test):
            for child in statement.body:
                self._bind(child, executed=False)
        else:
            for name in _plain.bound_names(statement):
                self.bound.setdefault(name, []).append(statement)

    def targets(self, node: ast.stmt) -> Iterator[Tuple[str, Tuple[str, Optional[str]]]]:
        """Each name an import binds, with the module and attribute it is."""
        if isinstance(node, ast.Import):
            for a in node.names:
                yield a.asname or a.name.partition(".")[0], (a.name if a.asname else a.name.partition(".")[0], None)
        elif isinstance(node, ast.ImportFrom):
            base = self.absolute(node)
            for a in node.names:
                yield a.asname or a.name, (base, a.name)

    def absolute(self, node: ast.ImportFrom) -> str:
        """The module of a `from ... import`, dots resolved."""
        if not node.level:
            return node.module or ""
        parts = self.package.split(".") if self.package else []
        parts = parts[: len(parts) - (node.level - 1)] if node.level > 1 else parts
        return ".".join([*parts, node.module] if node.module else parts)

    def loads(self) -> Iterator[str]:
        """Modules that are imported when this one is."""
        for node in _executed(self.tree.body):
            yield from self.mentions(node)

    def mentions(self, node: ast.AST) -> Iterator[str]:
        """Modules that an import statement may load."""
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = self.absolute(node)
            yield base
            yield from (f"{base}.{a.name}" for a in node.names if a.name != "*")

    def part(self, name: str) -> str:
        """Hash of what a name is bound to; `*` is the whole module."""
        if name == "*":
            return digest("module", normal(self.tree))
        return digest("name", self.future, name, *(self._one(s, name) for s in self.bound[name]))

    def _one(self, statement: ast.stmt, name: str) -> str:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):  # the line's other names do not count
            dump = next(normal(a) for a in statement.names if name in (a.asname, a.name, a.name.partition(".")[0]))
            return f"{type(statement).__name__}:{self.absolute(statement) if isinstance(statement, ast.ImportFrom) else ''}:{dump}"
        return normal(statement)


def _executed(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements that run when the module is imported, also inside `if`, `try`, `with` and classes."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and _plain.is_type_checking(node.test):
            yield from _executed(node.orelse)
            continue
        yield node
        yield from _executed(ast.iter_child_nodes(node))


class Closures:
    """Code closures of the functions of one project; parses each module once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.read: Set[str] = set()
        self._modules: Dict[str, Optional[Module]] = {}
        self._parts: Dict[Tuple[str, str], str] = {}

    def of(self, module: str, file: str, qualname: str) -> Dict[str, Any]:
        """The manifest's `code` of a function, by its qualified name."""
        walk = _Walk(self)
        home = self._load(module, file)
        if home is not None:
            walk.name(home, qualname.partition(".")[0])
        return walk.result(home is not None and home.plain)

    def of_command(self, argv: Iterable[str]) -> Dict[str, Any]:
        """The manifest's `code` of a command line: the project files it names."""
        walk = _Walk(self)
        for word in argv:
            walk.literal(word, "")
        return walk.result(True)

    def resolve(self, dotted: str, importer: str) -> Optional[Tuple[str, str]]:
        """Module name and file of a project module, as a file in `importer`'s place would import it."""
        folders = [""]
        here = os.path.dirname(importer)
        if here and not self._exists(f"{here}/__init__.py"):
            folders.append(here + "/")
        path = dotted.replace(".", "/")
        for folder in folders:
            for candidate in (f"{folder}{path}/__init__.py", f"{folder}{path}.py"):
                if path and self._exists(candidate):
                    return (folder.replace("/", ".") + dotted, candidate)
        return None

    def _exists(self, relative: str) -> bool:
        return os.path.isfile(os.path.join(self.root, relative))

    def module(self, dotted: str, importer: str) -> Optional[Module]:
        """The project module of a dotted name."""
        found = self.resolve(dotted, importer)
        return self._load(*found) if found else None

    def _load(self, name: str, file: str) -> Optional[Module]:
        if file not in self._modules:
            self.read.add(file)
            with open(os.path.join(self.root, file), "rb") as f:
                raw = f.read()
            try:
                self._modules[file] = Module(name, file, _decode(raw), self.resolve)
            except (SyntaxError, ValueError):
                self._modules[file] = None  # importing it is what fails, and says so
        return self._modules[file]

    def part(self, module: Module, name: str) -> str:
        """Hash of one name of a module."""
        key = (module.file, name)
        if key not in self._parts:
            self._parts[key] = module.part(name)
        return self._parts[key]

    def everything(self) -> Iterator[Module]:
        """Every module of the project."""
        for folder, folders, files in os.walk(self.root):
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in ("__pycache__", "node_modules", "venv"))
            for file in sorted(files):
                if file.endswith(".py"):
                    relative = os.path.relpath(os.path.join(folder, file), self.root).replace(os.sep, "/")
                    name = relative[:-3].replace("/", ".")
                    module = self._load(name[: -len(".__init__")] if name.endswith(".__init__") else name, relative)
                    if module is not None:
                        yield module


def _decode(raw: bytes) -> str:
    import io
    import tokenize

    encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
    return io.TextIOWrapper(io.BytesIO(raw), encoding).read()


class _Walk:
    """One closure being collected."""

    def __init__(self, closures: Closures) -> None:
        self.closures = closures
        self.parts: Dict[Tuple[str, str], str] = {}
        self.files: Set[str] = set()
        self.why: Dict[str, None] = {}
        self.touched: Set[str] = set()

    def result(self, plain: bool) -> Dict[str, Any]:
        whole = {module for module, name in self.parts if name == "*"}
        parts = [{"module": m, "name": n, "hash": h} for (m, n), h in sorted(self.parts.items()) if n == "*" or m not in whole]
        return {"parts": parts, "files": sorted(self.files), "plain": plain and not self.why, "why": list(self.why)}

    def name(self, module: Module, name: str) -> None:
        """Depend on one name of a module."""
        if not module.plain or name not in module.bound:
            if module.plain and self.submodule(module, name):
                return
            self.whole(module)
            return
        key = (module.name, name)
        if key in self.parts:
            return
        self.parts[key] = self.closures.part(module, name)
        self.touch(module)
        if name in module.imports:
            base, attribute = module.imports[name]
            self.imported(module, base, attribute)
            for dotted in module.loads() if attribute is None else ():
                if dotted.startswith(base + "."):  # `import a.b` binds a, and a.b as its attribute
                    self.imported(module, dotted, None)
            return
        for statement in module.bound[name]:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                continue  # for type checkers only: never executed
            self.literals(statement, module)
            self.inner_imports(statement, module)
            for used, chains in uses(statement).items():
                self.used(module, used, chains)

    def used(self, module: Module, name: str, chains: Set[Tuple[str, ...]]) -> None:
        """Depend on how a statement uses a global name: bare, or some attributes of it."""
        if name not in module.bound:
            return
        target = module.imports.get(name)
        if target is None or () in chains or not module.plain:
            self.name(module, name)
            return
        base, attribute = target
        found = self.target(module, base, attribute)
        for chain in chains:
            reached, rest = found, chain
            dotted = base if attribute is None else f"{base}.{attribute}"
            while reached is None and len(rest) > 1:  # through folders without __init__.py
                dotted, rest = f"{dotted}.{rest[0]}", rest[1:]
                reached = self.closures.module(dotted, module.file)
            if isinstance(reached, Module):
                self.parts.setdefault((module.name, name), self.closures.part(module, name))
                self.attribute(reached, rest)
            else:
                self.name(module, name)

    def attribute(self, module: Module, chain: Tuple[str, ...]) -> None:
        """Depend on `module.a.b.c`."""
        first = chain[0]
        self.touch(module)
        if module.plain and first not in module.bound:
            below = self.closures.module(f"{module.name}.{first}", module.file)
            if below is not None and len(chain) > 1:
                self.attribute(below, chain[1:])
                return
        self.name(module, first)

    def submodule(self, module: Module, name: str) -> bool:
        below = self.closures.module(f"{module.name}.{name}", module.file) if module.file.endswith("__init__.py") else None
        if below is not None:
            self.whole(below)
        return below is not None

    def target(self, module: Module, base: str, attribute: Optional[str]) -> Any:
        """What an import binds: a Module, a (Module, name) pair, or None when it is not the project's."""
        if attribute is None:
            return self.closures.module(base, module.file)
        home = self.closures.module(base, module.file)
        if home is not None and (attribute in home.bound or not home.plain):
            return home, attribute
        below = self.closures.module(f"{base}.{attribute}" if base else attribute, module.file)
        return below if below is not None else (home, attribute) if home is not None else None

    def imported(self, module: Module, base: str, attribute: Optional[str]) -> None:
        """Depend on what an import binds."""
        found = self.target(module, base, attribute)
        if isinstance(found, Module):
            self.whole(found)
        elif found is not None:
            self.name(*found)
            below = self.closures.module(f"{base}.{attribute}", module.file)
            if below is not None:
                self.whole(below)

    def inner_imports(self, node: ast.AST, module: Module) -> None:
        """Depend on imports inside a statement, such as in a function's body."""
        for child in ast.walk(node):
            if not isinstance(child, (ast.Import, ast.ImportFrom)):
                continue
            self.load(module, child)
            if isinstance(child, ast.Import):
                for a in child.names:
                    self.imported(module, a.name, None)
            for _, (base, attribute) in module.targets(child):
                if attribute == "*":
                    self.imported(module, base, None)
                else:
                    self.imported(module, base, attribute)

    def whole(self, module: Module) -> None:
        """Depend on all of a module and on all it imports."""
        key = (module.name, "*")
        if key in self.parts:
            return
        self.parts[key] = self.closures.part(module, "*")
        self.why.update(dict.fromkeys(module.why))
        self.touch(module)
        self.literals(module.tree, module)
        self.inner_imports(module.tree, module)
        if module.dynamic:
            for other in self.closures.everything():
                self.whole(other)

    def touch(self, module: Module) -> None:
        """A module in the closure is imported, and with it all it imports: those that do something
        at import time count, whichever of their names is used."""
        if module.file in self.touched:
            return
        self.touched.add(module.file)
        self.parents(module.name, module)
        for dotted in module.loads():
            self.parents(dotted, module)
            self.loaded(dotted, module)

    def load(self, module: Module, statement: ast.AST) -> None:
        for dotted in module.mentions(statement):
            self.parents(dotted, module)
            self.loaded(dotted, module)

    def parents(self, dotted: str, module: Module) -> None:
        parts = dotted.split(".")
        for i in range(1, len(parts)):
            self.loaded(".".join(parts[:i]), module)

    def loaded(self, dotted: str, module: Module) -> None:
        other = self.closures.module(dotted, module.file)
        if other is None or other is module:
            return
        if other.plain:
            self.touch(other)
        else:
            self.whole(other)

    def literals(self, node: ast.AST, module: Module) -> None:
        """Depend on project files whose names stand in the code."""
        for child in ast.walk(node):
            if isinstance(child, ast.Constant) and isinstance(child.value, str):
                self.literal(child.value, os.path.dirname(module.file))

    def literal(self, text: str, folder: str) -> None:
        """Depend on the project file that a text names, from the root or from the module's folder.

        Only code is laid out for discovery, so whatever looks like a file's name is listed; whoever
        has the whole folder keeps those that exist.
        """
        if not text or len(text) > 400 or "\n" in text or "\0" in text or os.path.isabs(text):
            return
        for base in {"", folder}:
            relative = os.path.normpath(os.path.join(base, text)).replace(os.sep, "/")
            exists = self.closures._exists(relative)
            if relative.startswith("../") or (not exists and not _FILE.fullmatch(text)):
                continue
            self.files.add(relative)
            if exists:
                self.closures.read.add(relative)
            if exists and relative.endswith(".py"):
                script = self.closures.module(relative[:-3].replace("/", "."), "")
                if script is not None:
                    self.whole(script)
