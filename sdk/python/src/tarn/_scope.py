"""Which global names a statement uses, and which attributes of them.

A name wrongly taken for a local one would hide a dependency, a name wrongly taken for a global one
only adds one; so whatever is unclear is global.
"""

from __future__ import annotations

import ast
from typing import Any, Dict, Iterable, List, Set, Tuple

Chain = Tuple[str, ...]


def uses(node: ast.AST) -> Dict[str, Set[Chain]]:
    """Global names used below a node; `()` stands for the bare name, `("a", "b")` for `name.a.b`."""
    found = _Uses()
    found.visit(node)
    return found.names


class _Scope:
    def __init__(self, local: Iterable[str], declared_global: Iterable[str] = ()) -> None:
        self.declared_global = set(declared_global)
        self.local = set(local) - self.declared_global


class _Uses(ast.NodeVisitor):
    def __init__(self) -> None:
        self.names: Dict[str, Set[Chain]] = {}
        self.scopes: List[_Scope] = []

    def add(self, name: str, chain: Chain = ()) -> None:
        for scope in reversed(self.scopes):
            if name in scope.declared_global:
                break
            if name in scope.local:
                return
        self.names.setdefault(name, set()).add(chain)

    def visit_Name(self, node: ast.Name) -> None:
        self.add(node.id)

    def visit_Global(self, node: ast.Global) -> None:
        for name in node.names:
            self.add(name)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain: List[str] = []
        value: ast.expr = node
        while isinstance(value, ast.Attribute):
            chain.append(value.attr)
            value = value.value
        if isinstance(value, ast.Name):
            self.add(value.id, tuple(reversed(chain)))
        else:
            self.visit(value)

    def visit_Constant(self, node: ast.Constant) -> None:
        pass

    def annotation(self, node: Any) -> None:
        """An annotation may be text, which something may evaluate later."""
        if node is None:
            return
        for child in ast.walk(node):
            if isinstance(child, ast.Constant) and isinstance(child.value, str):
                try:
                    self.visit(ast.parse(child.value.strip(), mode="eval"))
                except SyntaxError:
                    continue
        self.visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        self.annotation(node.annotation)
        if node.value is not None:
            self.visit(node.value)

    def function(self, node: Any) -> None:
        a = node.args
        arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        for child in (*a.defaults, *filter(None, a.kw_defaults), *getattr(node, "decorator_list", ())):
            self.visit(child)
        for argument in arguments:
            self.annotation(argument.annotation)
        self.annotation(getattr(node, "returns", None))
        body = node.body if isinstance(node.body, list) else [node.body]
        local, declared_global = _bindings(body)
        self.scopes.append(_Scope({x.arg for x in arguments} | local, declared_global))
        for child in body:
            self.visit(child)
        self.scopes.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = function

    def comprehension(self, node: Any) -> None:
        first, *rest = node.generators
        self.visit(first.iter)  # evaluated outside
        targets = {n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
        self.scopes.append(_Scope(targets))
        for child in (first.target, *first.ifs, *rest):
            self.visit(child)
        for field in ("elt", "key", "value"):
            if hasattr(node, field):
                self.visit(getattr(node, field))
        self.scopes.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = comprehension


def _bindings(body: Iterable[ast.AST]) -> Tuple[Set[str], Set[str]]:
    """Names that a function's statements bind in it, and those it declares global or nonlocal."""
    local: Set[str] = set()
    outer: Set[str] = set()
    outside: Set[str] = set()
    todo = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            local.add(node.name)
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            local.update(n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            local.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            local.update((a.asname or a.name.partition(".")[0]) for a in node.names)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            local.add(node.name)
        elif isinstance(node, ast.Global):
            outer.update(node.names)
        elif isinstance(node, ast.Nonlocal):
            outside.update(node.names)
        todo.extend(ast.iter_child_nodes(node))
    return local - outside, outer
