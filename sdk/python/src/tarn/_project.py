"""A project folder as importable modules, the same way in discovery and in the runner.

The root is on `sys.path` after the standard library, so that a project file cannot take the place
of a standard module, and before installed packages. A file in a package (`a/__init__.py`) is the
module `a.b`; a script in a plain folder is too, and may also import its neighbours by their bare
names, as it could when started by hand. One file is one module, whatever name it is imported by.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
import types
from typing import Any, Dict, List, Optional, Sequence

from tarn import _placeholder

HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
# Asked for once: it takes 2 ms, which a template has spent before its forks.
STANDARD = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))


class Project:
    """A project snapshot at `root`, made importable."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self.finder = _placeholder.Finder(self.owns)
        self._folders: List[str] = []
        self._names: Dict[str, str] = {}
        standard = {os.path.realpath(p) for p in STANDARD}
        paths = [p for p in sys.path if p and os.path.realpath(p) != os.path.realpath(os.getcwd())]
        first = [p for p in paths if os.path.realpath(p) in standard or p.endswith((".zip", "lib-dynload"))]
        sys.path[:] = [*first, self.root, *(p for p in paths if p not in first)]
        sys.meta_path += [_Neighbours(self), self.finder]
        _placeholder.judge_every_import()
        sys.dont_write_bytecode = True

    def owns(self, file: str) -> bool:
        """Whether a file is part of the project."""
        return bool(file) and os.path.realpath(file).startswith(self.root + os.sep)

    def relative(self, file: str) -> str:
        """The file as the user knows it."""
        return os.path.relpath(os.path.realpath(file), self.root).replace(os.sep, "/") if self.owns(file) else file

    def load(self, file: str) -> types.ModuleType:
        """Import one project file. User code runs; whatever it raises comes out."""
        name = module_name(file)
        if is_standard(name.partition(".")[0]):
            raise ImportError(f"{file} has the name of the standard module {name.partition('.')[0]!r}. Rename it.")
        path = os.path.join(self.root, *file.split("/"))
        self._names[path] = name
        folder = os.path.dirname(path)
        if folder != self.root and folder not in self._folders and not os.path.exists(os.path.join(folder, "__init__.py")):
            self._folders.append(folder)
        if name in sys.modules:
            return sys.modules[name]
        parts = name.split(".")
        if "/".join(parts) == re.sub(r"(/__init__)?\.py$", "", file):
            return importlib.import_module(name)
        spec: Any = importlib.util.spec_from_file_location(name, path)  # a path that no module name spells
        module: types.ModuleType = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    def traceback(self, error: BaseException, limit: int = 64 << 10) -> str:
        """The traceback without frames of ours and with the project's own file names."""
        report = traceback.TracebackException(type(error), error, error.__traceback__)
        self._trim(report, set())
        text = "".join(report.format())
        return text if len(text) <= limit else f"{text[: limit // 2]}\n... {len(text) - limit:,} characters left out ...\n{text[-limit // 2 :]}"

    def _trim(self, report: Any, seen: set) -> None:  # type: ignore[type-arg]
        if report is None or id(report) in seen:
            return
        seen.add(id(report))
        kept = [f for f in report.stack if not is_ours(f.filename)]
        for frame in kept:
            frame.filename = self.relative(frame.filename)
        report.stack[:] = kept
        if getattr(report, "filename", None):  # of a SyntaxError
            report.filename = self.relative(report.filename)
        for linked in (report.__cause__, report.__context__, *(getattr(report, "exceptions", None) or ())):
            self._trim(linked, seen)

    def place(self, error: BaseException) -> Optional[Sequence[Any]]:
        """The innermost project file and line of an error's traceback."""
        if isinstance(error, SyntaxError) and error.filename and self.owns(error.filename):
            return self.relative(error.filename), error.lineno or 0
        found = None
        step = error.__traceback__
        while step is not None:
            file = step.tb_frame.f_code.co_filename
            if self.owns(file):
                found = self.relative(file), step.tb_lineno
            step = step.tb_next
        return found


def module_name(file: str) -> str:
    """The module that a project's file is, by its relative path."""
    parts = [re.sub(r"[^\w-]", "_", part) for part in re.sub(r"\.py$", "", file).split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def is_ours(file: str) -> bool:
    """Whether a stack frame is Tarn's or the import system's."""
    return file.startswith((HERE, "<frozen importlib", "<frozen runpy")) or file.endswith("importlib/__init__.py")


def is_standard(name: str) -> bool:
    """Whether the standard library has a module of that name."""
    folders = [f for path in STANDARD for f in (path, os.path.join(path, "lib-dynload"))]
    return name in sys.builtin_module_names or (importlib.machinery.PathFinder.find_spec(name, folders) is not None and name != "site-packages")


class _Neighbours:
    """Finds a module beside a script in a plain folder, under the one name that its file has."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def find_spec(self, fullname: str, path: Optional[Sequence[str]], target: Any = None) -> Optional[importlib.machinery.ModuleSpec]:
        if path is not None:
            return None
        for folder in self.project._folders:
            found = importlib.machinery.PathFinder.find_spec(fullname, [folder])
            if found is not None and found.origin and found.has_location:
                loader: Any = self
                return importlib.machinery.ModuleSpec(fullname, loader, origin=found.origin)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        module = self.project.load(self.project.relative(spec.origin or ""))
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._own_spec
