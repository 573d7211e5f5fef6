"""The runner: call one function of the project with what its context file says.

Runs in a sandbox as `python -S -B -m tarn._runner`. `TARN_CONTEXT` names a JSON file (entry, inputs,
outputs, parameters); messages go to the descriptor `TARN_MESSAGES_FD`, and nothing else does.
Tables come and go as Arrow IPC files. With `TARN_DEBUG=1` nobody listens, and an error opens pdb where
it was raised. Without `TARN_CONTEXT`, `python -m tarn._runner FILE` runs a script by itself.

Exit codes: 0 success, 1 the user's code failed, 3 the runner failed.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import fcntl
import json
import os
import pickle
import random
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from tarn import _frames, _function, _packages, _params, _placeholder
from tarn._context import Context, Messages, clip
from tarn._declare import CheckResult, OutputDir, Partition
from tarn._project import Project

OK, USER, RUNNER = 0, 1, 3
RETURNED = 64  # added by the process of an item: whoever ends it without that is the user's code


class UndeclaredFileError(RuntimeError):
    """A project file was read that is no part of the function's key."""


class Runner:
    """One interpreter, one function; one invocation, or a fork for each item."""

    def __init__(self, context: Mapping[str, Any], messages: Messages, secrets: Mapping[str, str]) -> None:
        self.context = context
        self.messages = messages
        self.secrets = secrets
        self.entry = context["entry"]
        _packages.activate()  # before the project's own finders: those of packages go first
        self.project = Project(context["project"])
        origin = context.get("project_origin") or ""
        self.origins = sorted({os.path.abspath(origin), os.path.realpath(origin)}) if origin else []
        self.declared = None if context.get("local_files") is None else set(context["local_files"])
        self.seen: Dict[str, None] = {}
        self.undeclared: Dict[str, None] = {}
        self.decl: Any = None
        self.watching = False
        self.debugging = os.environ.get("TARN_DEBUG") == "1"
        if self.debugging:
            _packages.keep()
            _packages.add_programs()
        _placeholder.explain = self._explain

    def _explain(self, dotted: str, use: str, place: str) -> str:
        top = dotted.partition(".")[0]
        package = _placeholder.DISTRIBUTIONS.get(top, top)
        allowed = list(self.context.get("allowed_packages") or ())
        name = self.context.get("env_name") or self.context.get("step") or self.entry.get("qualname")
        packages = ", ".join(f'"{p}"' for p in [*allowed, package])
        return f"{top} is not in the environment of {name} ({', '.join(allowed) or 'no packages'}). Add it: tarn.Env(packages=[{packages}])"

    # Invocations

    def run(self) -> int:
        """Load the module once and do all invocations."""
        items = self.context.get("items")
        try:
            self.load()
        except BaseException as error:
            for item in [None] if items is None else items:
                self._report(error, self.messages if item is None else Messages(self.messages.fd, str(item["item"])))
            return USER
        if items is None:
            return self.invoke(self.context, self.messages)
        codes = [self._fork({**self.context, **item}, Messages(self.messages.fd, str(item["item"]))) for item in items]
        return max(codes, default=OK)

    def load(self) -> None:
        """Import the module and find the function in it."""
        self.messages.send("start")
        self._link_files()
        sys.addaudithook(self._audit)
        self.watching = True  # also while the module is imported: what it reads then is part of the result
        self._seed_numpy_later()
        module = self.project.load(self.entry["file"])
        self.project.finder.in_functions = False
        self.decl = self._find(module)

    def _find(self, module: Any) -> Any:
        name = self.entry["qualname"]
        value: Any = module
        if not name.startswith(":"):
            for part in name.split("."):
                value = getattr(value, part, None)
        if isinstance(value, _function.Function):
            return value
        name = name.lstrip(":")
        for decl in _function.declared:
            if isinstance(decl, _function.Function) and decl.name == name and decl.kind == self.entry.get("kind", decl.kind):
                return decl
        raise LookupError(f"{self.entry['file']} declares no {self.entry.get('kind', 'function')} {name}.")

    def _fork(self, context: Mapping[str, Any], messages: Messages) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            code = RUNNER
            try:
                code = self.invoke(context, messages)
                code += RETURNED
            finally:
                _leave(code)
        _, status, used = os.wait4(pid, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) in (RETURNED + OK, RETURNED + USER):
            if os.WEXITSTATUS(status) == RETURNED + OK:
                cpu = used.ru_utime + used.ru_stime
                peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
                usage = {"wall_seconds": time.monotonic() - began, "cpu_seconds": cpu, "peak_bytes": peak}
                messages.send("ended", usage=usage)
            return os.WEXITSTATUS(status) - RETURNED
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
        text = f"the process of this item ended by {how} before it finished"
        messages.send("error", **{"class": "ProcessEnded", "module": "tarn", "message": text, "traceback": "", "pickle": None, "reason": "runner.process_ended"})
        return USER

    def invoke(self, context: Mapping[str, Any], messages: Messages) -> int:
        """One call of the function, from its inputs to its reported outputs."""
        pid = os.getpid()
        if messages.item is not None:
            messages.send("start")
        try:
            seed(str(context.get("seed") or "0"))
            arguments = self.arguments(context, messages)
            result = self._call(*arguments)
            if os.getpid() != pid:  # the user's code forked and the child came back here
                os._exit(OK)
            if self.decl.kind == "check":
                self._judge(result, context, messages)
            else:
                self._publish(result, context, messages)
            _join_threads()
            if self.undeclared:
                raise UndeclaredFileError(self._undeclared_text(next(iter(self.undeclared))))
        except BaseException as error:  # SystemExit and KeyboardInterrupt are the function's failure too
            if os.getpid() != pid:
                os._exit(USER)
            self._opened(messages)
            self._report(error, messages)
            return USER
        self._opened(messages)
        return OK

    def _call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        result = self.decl._fn(*args, **kwargs)
        if hasattr(result, "__await__"):
            import asyncio

            async def awaited() -> Any:
                return await result

            return asyncio.run(awaited())
        return result

    def arguments(self, context: Mapping[str, Any], messages: Messages) -> Tuple[List[Any], Dict[str, Any]]:
        """The function's arguments, from the context."""
        given = {i["param"]: i for i in context.get("inputs") or ()}
        values = context.get("params") or {}
        args: List[Any] = []
        kwargs: Dict[str, Any] = {}
        positional_only = self.decl._plain().__code__.co_posonlyargcount
        for index, p in enumerate(_params.of(self.decl)):
            if p.kind == "fixed" or (p.kind == "param" and p.name not in values):
                if index < positional_only:
                    args.append(p.default)
                continue
            if p.kind == "param":
                value = _params.from_json(p, values[p.name])
            else:
                value = self._input(p, given.get(p.name), context, messages)
            if index < positional_only:
                args.append(value)
            else:
                kwargs[p.name] = value
        return args, kwargs

    def _input(self, p: _params.Param, given: Optional[Mapping[str, Any]], context: Mapping[str, Any], messages: Messages) -> Any:
        if p.kind == "context":
            return Context(context, messages)
        if p.kind == "output_dir":
            return OutputDir(_needed(context.get("output_dir"), "output_dir"))
        if p.kind == "partition":
            found = context.get("partition")
            return Partition(**found) if isinstance(found, Mapping) else Partition(str(_needed(found, "partition")))
        found = _needed(given, f"input {p.name}")
        if p.kind == "table":
            return _frames.read(found["path"], found.get("format") or p.format)
        if p.kind == "secret":
            return _needed(self.secrets.get(found["name"]), f"secret {found['name']}")
        paths = [Path(f["path"] if isinstance(f, Mapping) else f) for f in found["paths"]]
        if p.many:
            return paths
        if len(paths) != 1:
            raise RuntimeError(f"{self.decl.name} takes one file as {p.name!r}, and {len(paths)} match {getattr(p.marker, 'glob', '')!r}. Annotate it as list[Path].")
        return paths[0]

    # Results

    def _publish(self, result: Any, context: Mapping[str, Any], messages: Messages) -> None:
        outputs = list(context.get("outputs") or ())
        if result is None:
            if context.get("output_dir") is None:
                raise _frames.ResultError(f"{self.decl.name} returned None. Accepted: {_frames.ACCEPTED}.")
            return
        if isinstance(self.decl, _function.Asset) and len(self.decl.outputs) > 1:
            names = set(self.decl.outputs)
            if not isinstance(result, dict) or set(result) != names:
                got = f"a dict of {', '.join(map(str, result)) or 'nothing'}" if isinstance(result, dict) else _frames._kind(result)
                raise _frames.ResultError(f"{self.decl.name} returned {got}. It has several outputs, so it returns a dict of {', '.join(self.decl.outputs)}.")
            values = result
        elif not outputs:
            raise _frames.ResultError(f"{self.decl.name} returned {_frames._kind(result)}, but it publishes only its files. For a table too: outputs=[{self.decl.name!r}].")
        else:
            values = {outputs[0]["name"]: result}
        for output in outputs:
            value = values[output["name"]]
            written = _frames.write(value, output["path"], self.decl.name)
            # An item may have nothing to say, and so may what is put onto a table that is there.
            if written.columns == 0 and messages.item is None and getattr(getattr(self.decl, "output", None), "mode", "replace") == "replace":
                if _frames.is_frame(value):
                    raise _frames.ResultError(f"{self.decl.name} returned a {type(value).__name__} without columns. A table needs at least one.")
                raise _frames.ResultError(f"{self.decl.name} returned no rows, and a list has no columns of its own. Return a DataFrame or pa.Table with its columns.")
            messages.send("output", name=output["name"], rows=written.rows, bytes=written.bytes, path=output["path"])

    def _judge(self, result: Any, context: Mapping[str, Any], messages: Messages) -> None:
        """Turn what a check returned into a verdict. A failed verdict is no error of the check."""
        passed, message, rows = True, "", None
        facts: Mapping[str, Any] = {}
        if isinstance(result, CheckResult):
            passed, message, rows, facts = bool(result.passed), result.message, result.rows, result.metadata
        elif type(result).__name__ in ("bool", "bool_"):
            passed = bool(result)
        elif result is not None:
            if not _frames.is_rows(result):
                raise _frames.ResultError(
                    f"{self.decl.name} returned {_frames._kind(result)}. Accepted of a check: the offending rows as a frame, a bool, tarn.CheckResult, None after assert."
                )
            rows = result
        self._verdict(passed, message, rows, facts, context, messages)

    def _verdict(self, passed: bool, message: str, rows: Any, facts: Mapping[str, Any], context: Mapping[str, Any], messages: Messages) -> None:
        path, found = None, 0
        if rows is not None:
            outputs = context.get("outputs") or ()
            path = outputs[0]["path"] if outputs else os.path.abspath("offenders.arrow")
            found = _frames.write(rows, path, self.decl.name).rows
            passed = passed and found == 0
        fields = {"metadata": dict(facts)} if facts else {}
        messages.send("check", name=self.decl.name, passed=passed, severity=self.decl.severity, message=message, offenders_path=path if found else None, offenders=found, **fields)

    def _debug(self, error: BaseException) -> None:
        """Open the debugger where the user's code raised, in this terminal or on what is piped in."""
        import bdb
        import pdb

        if isinstance(error, bdb.BdbQuit):  # the user left a breakpoint() with q
            return
        print(self.project.traceback(error), file=sys.stderr, end="", flush=True)
        pdb.post_mortem(error.__traceback__)

    def _report(self, error: BaseException, messages: Messages) -> None:
        if self.debugging:
            self._debug(error)
        self.watching = False
        if self._is_verdict(error):
            self._verdict(False, clip(_said(error)) or "assertion failed", None, {}, self.context, messages)
            return
        reason, not_found = None, None
        kind, message = type(error).__name__, _said(error)
        if isinstance(error, _frames.ResultError):
            reason, kind = "runner.return_type", "TypeError"
        elif isinstance(error, _placeholder.Missing):
            reason, kind, message = "runner.module_missing", "ModuleNotFoundError", f"ModuleNotFoundError: {error}"
        elif isinstance(error, ModuleNotFoundError) and error.name and not self.project.owns(str(error.path or "")):
            reason, message = "runner.module_missing", f"ModuleNotFoundError: {self._explain(error.name, 'imported', '')}"
        elif isinstance(error, UndeclaredFileError):
            reason = "runner.undeclared_file"
        elif isinstance(error, FileNotFoundError):
            not_found = self._not_found(error)
            undeclared = next(filter(None, map(self._in_project, not_found)), None)
            if undeclared is not None:
                reason, message = "runner.undeclared_file", self._undeclared_text(undeclared)
        elif isinstance(error, SystemExit):
            message = f"the function ended the interpreter with {error.code!r}"
        elif isinstance(error, MemoryError):
            reason = "runner.memory"
        messages.send(
            "error",
            **{"class": kind, "module": "builtins" if reason and kind != type(error).__name__ else type(error).__module__},
            bases=[c.__name__ for c in type(error).__mro__],
            message=message,
            traceback=self.project.traceback(error),
            pickle=_pickled(error),
            reason=reason,
            not_found=not_found if reason is None else None,
        )

    def _is_verdict(self, error: BaseException) -> bool:
        """Whether an error is a check's own `assert`."""
        return isinstance(error, AssertionError) and self.decl is not None and self.decl.kind == "check"

    # Project files

    def _link_files(self) -> None:
        """Make declared project files readable by their relative names from the working folder."""
        for name in sorted(self.declared or ()):
            source, target = os.path.join(self.project.root, name), os.path.abspath(name)
            if os.path.isfile(source) and not os.path.lexists(target) and not self.project.owns(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.symlink(source, target)

    def _audit(self, event: str, args: Tuple[Any, ...]) -> None:
        if event != "open" or not self.watching:
            return
        file, mode = args[0], args[1]
        try:
            name = os.fsdecode(file) if not isinstance(file, int) else ""
        except TypeError:
            return
        if not name or name.endswith((".py", ".pyc")) or (isinstance(mode, str) and mode[:1] in "wax"):
            return
        if self.project.owns(name) and os.path.isfile(name):
            relative = self.project.relative(name)
            self.seen[relative] = None
            if self.declared is None or relative in self.declared:
                return
        else:
            found = self._in_origin(name) if os.path.isabs(name) else None
            if found is None:
                return
            relative = found
        self.undeclared[relative] = None
        raise UndeclaredFileError(self._undeclared_text(relative))

    def _in_origin(self, name: str) -> Optional[str]:
        """What the user calls a file of the folder that the project was copied from; None for any other.
        An environment or a store that lies in that folder is no part of the project."""
        path = os.path.abspath(name)
        for origin in self.origins:
            if not path.startswith(origin + os.sep) or not os.path.isfile(path):
                continue
            if any(path.startswith(os.path.abspath(p) + os.sep) for p in (os.getcwd(), self.project.root, sys.base_prefix, *sys.path) if p):
                return None
            relative = os.path.relpath(path, origin).replace(os.sep, "/")
            folders = relative.split("/")[:-1]
            if any(f.startswith(".") or f in ("__pycache__", "node_modules") for f in folders):
                return None
            inside = [os.path.join(origin, *folders[: i + 1]) for i in range(len(folders))]
            return None if any(map(_is_apart, inside)) else relative
        return None

    def _not_found(self, error: FileNotFoundError) -> List[str]:
        """What could not be found. Readers that are no Python say its name in the message alone."""
        if isinstance(error.filename, (str, bytes)):
            return [os.fsdecode(error.filename)]
        return [word for word in re.split(r"['\"\s]+", str(error)) if word][:100]

    def _in_project(self, name: str) -> Optional[str]:
        """What the user calls a file of the project that could not be found from the working folder."""
        if not os.path.isabs(name) and os.path.isfile(os.path.join(self.project.root, name)):
            return os.path.normpath(name).replace(os.sep, "/")
        return next(filter(None, (self._in_origin(os.path.join(origin, name)) for origin in self.origins)), None)

    def _undeclared_text(self, name: str) -> str:
        folder, dot, ending = name.rpartition("/")[0], *name.rpartition(".")[1:]
        pattern = f"{folder}/" if folder else ""
        pattern += f"*.{ending}" if dot and "/" not in ending else "*"
        owner = self.decl.name if self.decl is not None else self.entry["qualname"].lstrip(":")
        return f'{owner} read {name}, which is not in its key. Write its name as a literal, or declare tarn.local("{pattern}").'

    def _opened(self, messages: Messages) -> None:
        for name in self.seen:
            messages.send("opened", path=name)

    def _seed_numpy_later(self) -> None:
        """Seed numpy also when the function imports it first: it seeds itself from the system then."""
        sys.meta_path.insert(0, _SeedsNumpy(self))


class _SeedsNumpy:
    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != "numpy.random":
            return None
        sys.meta_path.remove(self)
        import importlib.util

        spec: Any = importlib.util.find_spec(fullname)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                module.seed(_SEED & 0xFFFFFFFF)

            spec.loader.exec_module = exec_module
        return spec


_SEED = 0


def seed(text: str) -> None:
    """Seed the random generators that have a global state."""
    global _SEED
    _SEED = int(text, 16)
    random.seed(_SEED)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(_SEED & 0xFFFFFFFF)


def _is_apart(folder: str) -> bool:
    """Whether a folder is an environment, or a store of Tarn's. Called while a file is opened, so it opens none."""
    return os.path.exists(os.path.join(folder, "pyvenv.cfg")) or all(os.path.isfile(os.path.join(folder, f)) for f in ("format", "meta.db"))


def _needed(value: Any, what: str) -> Any:
    if value is None:
        raise RuntimeError(f"the context has no {what}")
    return value


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as other:  # the user's class cannot say it, which is no reason to lose what was raised
        return f"its text is not to be had, for str() raised {type(other).__name__}"


def _pickled(error: BaseException) -> Optional[str]:
    try:
        raw = pickle.dumps(error)
    except Exception:  # user classes may refuse in any way
        return None
    return base64.b64encode(raw).decode() if len(raw) <= 32 << 10 else None


def _join_threads() -> None:
    """Wait for the function's own threads: their work belongs to it. Daemons are left behind."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def take_secrets() -> Dict[str, str]:
    """The secrets of parameters, by name. No process that the function starts is to find them in its environment."""
    prefix = "TARN_SECRET_"
    return {name[len(prefix) :]: os.environ.pop(name) for name in list(os.environ) if name.startswith(prefix)}


def _leave(code: int) -> None:
    """End now: nothing that user code left behind may hold the process up or change its verdict."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # the user closed it
            continue
    os._exit(code)


def main() -> int:
    """Run what `TARN_CONTEXT` says, or the script named on the command line."""
    if not os.environ.get("TARN_CONTEXT"):
        if len(sys.argv) < 2:
            print("tarn._runner needs TARN_CONTEXT, or the script to run", file=sys.stderr)
            return RUNNER
        import runpy

        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
        return OK
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    # A debugger's user is at the terminal: nobody listens to messages.
    listener = os.open(os.devnull, os.O_WRONLY) if os.environ.get("TARN_DEBUG") == "1" else int(os.environ["TARN_MESSAGES_FD"])
    # A high descriptor of our own: user code that closes or reuses low numbers does not hit it.
    fd = fcntl.fcntl(listener, fcntl.F_DUPFD_CLOEXEC, 200)
    messages = Messages(fd)
    try:
        with open(os.environ["TARN_CONTEXT"], encoding="utf-8") as f:
            context = json.load(f)
        messages.item = context.get("item")
        code = Runner(context, messages, take_secrets()).run()
    except BaseException as error:
        import traceback

        messages.send(
            "error",
            **{
                "class": type(error).__name__,
                "module": type(error).__module__,
                "message": str(error),
                "traceback": traceback.format_exc(),
                "pickle": None,
                "reason": "runner.internal",
            },
        )
        code = RUNNER
    with contextlib.suppress(BaseException):  # it has printed what went wrong
        atexit._run_exitfuncs()
    messages.item = None
    messages.send("closed")
    _leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
