"""Discovery: import the project's files, write down what they declare.

Runs in a sandbox as `python -S -m tarn._discover`. `TARN_DISCOVER` names a JSON file with the
project snapshot's root, the files that mention tarn, and where to put the manifest. A file that
cannot be imported is an error of that file alone.
"""

from __future__ import annotations

import ast
import functools
import json
import linecache
import os
import re
import sys
from difflib import get_close_matches
from typing import Any, Dict, List, Optional, Tuple

from tarn import _declare, _function, _hash, _params, _placeholder
from tarn._project import Project

CELLS = "tarn_cell.py"


class Discovery:
    """One pass over a project."""

    def __init__(self, root: str, files: List[str]) -> None:
        self.project = Project(root)
        self.files = files
        self.errors: List[Dict[str, Any]] = []
        self.opened: Dict[str, None] = {}
        self.closures = _hash.Closures(self.project.root)
        _placeholder.explain = self._explain

    def run(self) -> Dict[str, Any]:
        """The manifest."""
        sys.addaudithook(self._audit)
        for file in self.files:
            self._load(file)
        functions, reserved = [], []
        for decl in list(_function.declared):
            where = self._where(decl)
            if where is None:
                continue
            if decl.kind == "cls":
                reserved.append({"kind": decl.kind, "name": decl.name, "file": where[0], "line": where[1]})
                continue
            described = self._describe(decl, *where)
            if described is not None:
                functions.append(described)
        self._refuse_twice(functions)
        functions.sort(key=lambda f: (f["file"], f["line"], f["name"]))
        self.errors.sort(key=lambda e: (e["file"], e["line"]))
        trace = sorted({*self.files, *self.opened, *self.closures.read})
        return {"version": 1, "functions": functions, "declared": reserved, "errors": self.errors, "trace": trace}

    def _audit(self, event: str, args: Tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str) and self.project.owns(args[0]) and os.path.isfile(args[0]):
            self.opened[self.project.relative(args[0])] = None

    def _explain(self, dotted: str, use: str, place: str) -> str:
        file = place.rpartition(":")[0]
        top = dotted.partition(".")[0]
        return (
            f"{dotted} is {use} while {self.project.relative(file)} is imported, and {top} is not installed there. "
            f"Do it inside the function that needs it, or import {top} inside try."
        )

    def _error(self, file: str, line: int, reason: str, message: str, detail: str = "") -> None:
        if f"{file}:{line}" not in message:
            message = f"{file}:{line}: {message}"
        self.errors.append({"file": file, "line": line, "reason": reason, "message": message, "traceback": detail})

    def _load(self, file: str) -> None:
        count = len(_function.declared)
        argv, sys.argv = sys.argv, [file]
        try:
            self.project.load(file)
        except BaseException as error:  # also SystemExit: a file must not end discovery
            del _function.declared[count:]
            place = self.project.place(error) or (file, 0)
            reason = "discover.syntax" if isinstance(error, SyntaxError) else "discover.import_failed"
            reason = "discover.placeholder_use" if isinstance(error, _placeholder.Missing) else reason
            message = str(error) if isinstance(error, _placeholder.Missing) else self._import_message(error)
            self._error(place[0], place[1], reason, message, self.project.traceback(error))
        finally:
            sys.argv = argv

    def _import_message(self, error: BaseException) -> str:
        if isinstance(error, SystemExit):
            return "SystemExit: the file ends the interpreter while it is imported. Put that under: if __name__ == '__main__'."
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, FileNotFoundError):
            return f"{text}. The project's files are not there while it is imported: open them inside the function that needs them."
        found = re.search(r"(\w+)\(\) got an unexpected keyword argument '(\w+)'", str(error))
        maker = getattr(_function, found[1], None) or getattr(_declare, found[1], None) if found else None
        if found and maker is not None and "Did you mean" not in text:
            import inspect

            near = get_close_matches(found[2], list(inspect.signature(maker).parameters), 1)
            text += f". Did you mean {near[0]!r}?" if near else f". It takes: {', '.join(inspect.signature(maker).parameters)}."
        elif found and "Did you mean" not in text:
            near = get_close_matches(found[2], ["outputs", "mode", "key", "checks", "env", "retry", "timeout", "network", "fresh", "resources", "priority"], 1)
            text += f". Did you mean {near[0]!r}?" if near else ""
        return text

    def _where(self, decl: Any) -> Optional[Tuple[str, int]]:
        """File and line of a declaration; None for one that is not the project's."""
        if isinstance(decl, _function.Command):
            file, line = decl.file, decl.line
        elif isinstance(decl, _function.Class):
            file = getattr(sys.modules.get(decl.cls.__module__), "__file__", None) or ""
            line = next((n.lineno for n in ast.walk(_tree(file)) if isinstance(n, ast.ClassDef) and n.name == decl.name), 0) if file else 0
        else:
            code = decl._plain().__code__
            file, line = code.co_filename, code.co_firstlineno
            node = _node(file, decl._plain())
            line = node.lineno if node is not None else line
        return (self.project.relative(file), line) if self.project.owns(file) else None

    def _describe(self, decl: Any, file: str, line: int) -> Optional[Dict[str, Any]]:
        command = isinstance(decl, _function.Command)
        try:
            params = [] if command else _params.of(decl)
        except TypeError as error:
            at = _param_line(self.project.root, file, decl, getattr(error, "param", None)) or line
            self._error(file, at, "discover.parameter", str(error))
            return None
        module = decl.__module__
        output = getattr(decl, "output", None) or _function.Output(())
        doc = "" if command else (decl.__doc__ or "")
        lines = {p.name: _param_line(self.project.root, file, decl, p.name) or line for p in params}
        inputs = [entry for entry in (_input(p, lines[p.name]) for p in params) if entry is not None]
        if command:
            inputs = [
                {"param": name, "kind": "table", "table": name, "ref": None, "columns": None, "where": None, "format": form, "rows": None, "line": line, "each": None}
                for name, form in decl.inputs.items()
            ]
        env = _declare.as_spec(decl.options.env) or self._script_env(file)
        code = self.closures.of_command(decl.argv) if command else self.closures.of(module, file, decl._plain().__qualname__)
        return {
            "name": decl.name,
            "kind": decl.kind,
            "file": file,
            "line": line,
            "qualname": "" if command else _function.qualname(decl),
            "module": module,
            "description": doc.strip(),
            "env": env,
            "inputs": inputs,
            "params": [{"name": p.name, "default": _params.to_json(p.default), "type": p.type, "required": p.default is _params.MISSING} for p in params if p.kind == "param"],
            "outputs": _tables(decl, params),
            "out_formats": dict(output.formats),
            "mode": output.mode,
            "key": list(output.key),
            "checks": list(output.checks),
            "warn": list(output.warn),
            "check_of": getattr(decl, "of", None),
            "severity": getattr(decl, "severity", "fail"),
            "partitions": _partitions(output.partitions),
            "items": None if output.items is None else {"kind": output.items.kind, "on": list(output.items.on), "how": output.items.how},
            "options": _options(decl.options, output, decl.kind),
            "command": list(decl.argv) if command else None,
            "code": code,
        }

    def _script_env(self, file: str) -> Optional[Dict[str, Any]]:
        with open(os.path.join(self.project.root, file), encoding="utf-8", errors="replace") as f:
            block = re.search(r"(?m)^# /// script$\n((?:#(?: .*)?\n)+?)# ///$", f.read())
        if block is None:
            return None
        text = "\n".join(line[2:] for line in block[1].splitlines())
        python = re.search(r"(?m)^requires-python\s*=\s*[\"'](.*?)[\"']", text)
        packages = _string_list(text, "dependencies")
        if packages is None:
            self._error(file, 1, "discover.script_block", "the dependencies of the `# /// script` block are no list of strings.")
            return None
        return {"python": python[1] if python else None, "packages": packages, "vars": {}, "build": False}

    def _refuse_twice(self, functions: List[Dict[str, Any]]) -> None:
        seen: Dict[Tuple[str, str, str], Dict[str, Any]] = {}
        for f in functions:
            if f["file"] == CELLS:  # a notebook may try another version of what a file has
                continue
            for name in f["outputs"] or [f["name"]]:
                where = f["file"] if f["kind"] in ("function", "entrypoint") else ""  # those are called by file and name
                key = (f["kind"], where, name)
                first = seen.setdefault(key, f)
                if first is not f:
                    self._error(
                        f["file"],
                        f["line"],
                        "discover.duplicate",
                        f"{f['kind']} {name} is declared twice: {first['file']}:{first['line']} and {f['file']}:{f['line']}. Rename one.",
                    )


def _tables(decl: Any, params: List[_params.Param]) -> List[str]:
    """The tables that a function makes. One with an OutputDir makes none, unless it says so by
    `outputs=` or by what it declares to return."""
    if decl.kind != "asset":
        return []
    if not decl.output.names and any(p.kind == "output_dir" for p in params):
        if decl._plain().__annotations__.get("return") in (None, "None"):
            return []
    return list(decl.outputs)


def _string_list(toml: str, key: str) -> Optional[List[str]]:
    """A TOML array of strings, which Python's own syntax covers; tomllib is newer than the oldest
    Python we run on. [] when the key is absent, None when it is something else."""
    start = re.search(rf"(?m)^{key}\s*=\s*(?=\[)", toml)
    if start is None:
        return None if re.search(rf"(?m)^{key}\s*=", toml) else []
    rest = toml[start.end() :]
    for end in (m.end() for m in re.finditer(r"\]", rest)):
        try:
            found = ast.literal_eval(rest[:end])
        except (SyntaxError, ValueError):
            continue
        return found if isinstance(found, list) and all(isinstance(f, str) for f in found) else None
    return None


def _input(p: _params.Param, line: int) -> Optional[Dict[str, Any]]:
    marker: Any = p.marker
    if p.kind == "table":
        return {
            "param": p.name, "kind": "table", "table": marker.name or p.name, "ref": marker.ref,
            "columns": None if marker.columns is None else list(marker.columns), "where": marker.where,
            "format": p.format, "rows": marker.rows, "line": line, "each": marker.each, "batch": marker.batch,
        }  # fmt: skip
    if p.kind == "files":
        return {"param": p.name, "kind": "files", "glob": marker.glob, "each": marker.each, "group_by": marker.group_by, "batch": marker.batch, "line": line}
    if p.kind == "local":
        return {"param": p.name, "kind": "local", "glob": marker.glob, "line": line}
    if p.kind == "secret":
        return {"param": p.name, "kind": "secret", "secret": marker.name, "line": line}
    if p.kind in ("output_dir", "context", "partition"):
        return {"param": p.name, "kind": p.kind, "line": line}
    return None


def _options(o: _function.Options, output: _function.Output, kind: str) -> Dict[str, Any]:
    r, t = o.resources, o.retry
    return {
        "resources": None if r is None else {"cpu": r.cpu, "memory": r.memory, "gpu": r.gpu, "disk": r.disk},
        "retry": None if t is None else {"times": t.times, "on": [k.__name__ for k in t.on], "delay": t.delay, "backoff": t.backoff, "max_delay": t.max_delay, "jitter": t.jitter},
        "timeout": o.timeout,
        "network": kind == "function" if o.network is None else o.network,
        "fresh": o.fresh,
        "cache": o.cache,
        "secrets": list(o.secrets),
        "start_timeout": o.start_timeout,
        "priority": o.priority,
        "concurrency": o.concurrency.limit if isinstance(o.concurrency, _declare.Concurrency) else o.concurrency,
        "concurrency_key": o.concurrency.key if isinstance(o.concurrency, _declare.Concurrency) else None,
        "tags": list(o.tags),
        "owners": list(o.owners),
        "allow_failed": output.allow_failed,
        "isolate": output.isolate,
        "isolation": output.isolation,
    }


def _partitions(p: Optional[_declare.Partitions]) -> Optional[Dict[str, Any]]:
    if p is None:
        return None
    return {"kind": p.kind, "start": p.start, "by": p.by, "timezone": p.timezone, "lookback": p.lookback, "keys": list(p.keys), "name": p.name}


def _tree(file: str) -> ast.AST:
    return _parsed("".join(linecache.getlines(file)))


@functools.lru_cache(maxsize=64)  # each function of a file asks for it
def _parsed(source: str) -> ast.AST:
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])


@functools.lru_cache(maxsize=64)
def _definitions(tree: ast.AST) -> Dict[Tuple[str, int], Any]:
    """Functions by name and by each line that may be their first: that of a decorator, or of the `def`."""
    found: Dict[Tuple[str, int], Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for line in (node.lineno, *(d.lineno for d in node.decorator_list)):
                found.setdefault((node.name, line), node)
    return found


def _node(file: str, fn: Any) -> Any:
    """The definition of a function in its file."""
    return _definitions(_tree(file)).get((fn.__code__.co_name, fn.__code__.co_firstlineno))


def _param_line(root: str, file: str, decl: Any, param: Optional[str]) -> Optional[int]:
    if param is None or isinstance(decl, _function.Command):
        return None
    node = _node(decl._plain().__code__.co_filename, decl._plain())
    if node is None:
        return None
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return next((arg.lineno for arg in every if arg.arg == param), None)


def main() -> int:
    """Read the request, write the manifest."""
    with open(os.environ["TARN_DISCOVER"], encoding="utf-8") as f:
        request = json.load(f)
    manifest = Discovery(request["root"], list(request["files"])).run()
    part = request["out"] + ".part"
    with open(part, "w", encoding="utf-8") as f:
        json.dump(manifest, f, ensure_ascii=True, allow_nan=False)
    os.replace(part, request["out"])
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads that user modules started do not keep discovery alive
