"""Calls one function of a project with the arguments of a command line: `tarn run FILE::NAME --n 5`.

Runs in the caller's terminal and folder as `python -S -B -m tarn._entry PROJECT FILE NAME ARGUMENTS...`.
An entrypoint runs here; a plain function runs in its sandbox, and its result is printed.
"""

from __future__ import annotations

import argparse
import collections.abc
import datetime
import inspect
import os
import signal
import sys
import typing
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Optional, Sequence, Tuple

from tarn import _function, _packages, _params, _placeholder
from tarn._project import Project

TYPES = {int: "a whole number", float: "a number", str: "text", Path: "a path", datetime.date: "a date like 2024-01-31", datetime.datetime: "a time like 2024-01-31T12:00"}
WRONG = 4  # the exit code of invalid_argument
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


def main(argv: Sequence[str]) -> int:
    """Load the file, read the arguments, call the function."""
    root, file, name, *words = argv
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores one
            signal.signal(number, _ended)
    _packages.keep()
    _packages.activate()
    _packages.add_programs()
    project = Project(root)
    _placeholder.explain = lambda dotted, use, place: (
        f"{dotted.partition('.')[0]} is not in the environment of {name}. Add it to the `# /// script` block of {file}, or to [env.default] of tarn.toml."
    )
    try:
        module = project.load(file)
        project.finder.in_functions = False
        decl = _find(module, name, file)
        arguments = read(decl, f"tarn run {file}::{name}", words)
        result = _call(decl, arguments)
    except KeyboardInterrupt:
        return 130
    except SystemExit:
        raise
    except BaseException as error:
        sys.stderr.write(project.traceback(error))
        return 1
    if decl.kind == "function" and result is not None:
        print(result)
    return 0


def _ended(number: int, _: Any) -> NoReturn:
    """A terminal that is closed cancels calls, as Ctrl-C does: without it they keep their cores until the server misses the caller."""
    raise SystemExit(128 + number)


def _find(module: Any, name: str, file: str) -> Any:
    for decl in _function.declared:
        if isinstance(decl, _function.Function) and decl.name == name and decl.__module__ == module.__name__ and decl.kind in ("entrypoint", "function"):
            return decl
    raise LookupError(f"{file} declares no entrypoint or function {name}.")


def _call(decl: Any, arguments: Tuple[List[Any], Dict[str, Any]]) -> Any:
    args, kwargs = arguments
    if decl.kind == "function":
        return decl.remote(*args, **kwargs)
    result = decl(*args, **kwargs)
    if inspect.iscoroutine(result):
        import asyncio

        return asyncio.run(result)
    return result


def read(decl: Any, program: str, words: Sequence[str]) -> Tuple[List[Any], Dict[str, Any]]:
    """The arguments of a call, from what was typed; `SystemExit` with usage when it does not fit."""
    fn = decl._plain()
    doc = inspect.getdoc(fn)
    parser = _Parser(prog=program, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parameters = inspect.signature(fn).parameters.values()
    for p in parameters:
        if p.kind is p.VAR_KEYWORD:
            continue
        annotation = _params.annotation_of(fn, p.annotation)
        if p.kind is p.VAR_POSITIONAL:
            of = _one(annotation, inspect.Parameter.empty)
            parser.add_argument(p.name, nargs="*", type=_reader(of), help=_described(of))
        else:
            _add(parser, p, annotation)
    given = vars(parser.parse_args(words))
    args = [given[p.name] for p in parameters if p.kind is p.POSITIONAL_ONLY]
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL and given[p.name]:
            args = [*(given[q.name] for q in parameters if q.kind in (q.POSITIONAL_ONLY, q.POSITIONAL_OR_KEYWORD)), *given[p.name]]
            return args, {q.name: given[q.name] for q in parameters if q.kind is q.KEYWORD_ONLY}
    return args, {p.name: given[p.name] for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _add(parser: argparse.ArgumentParser, p: inspect.Parameter, annotation: Any) -> None:
    """The flag of one parameter."""
    kind, _ = _params.split(annotation)
    flag = "--" + p.name.strip("_").replace("_", "-")
    required = p.default is p.empty
    more: Dict[str, Any] = {"dest": p.name, "required": required, "default": None if required else p.default}
    shown = "required" if required else f"default {_show(p.default)}"
    many = _many(kind, p.default)
    of = _one(kind, p.default)
    if of is bool and not many:
        parser.add_argument(flag, nargs=0, action=_Flag, value=True, help=f"or --no-{flag[2:]}; {shown}", **more)
        parser.add_argument("--no-" + flag[2:], nargs=0, action=_Flag, value=False, **{**more, "required": False}, help=argparse.SUPPRESS)
        return
    more["metavar"] = p.name.upper()
    if many:
        more.update(nargs="*", action=_Many, of=tuple if isinstance(p.default, tuple) or typing.get_origin(kind) is tuple else list)
    parser.add_argument(flag, type=_reader(of), help=f"{_described(of)}{', several' if many else ''}; {shown}", **more)


class _Parser(argparse.ArgumentParser):
    """Ends with Tarn's exit code for what was typed wrong."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(WRONG, f"{self.prog}: {message}\n")


class _Flag(argparse.Action):
    """`--x` and `--no-x` of a parameter that is true or false; either one satisfies `required`."""

    def __init__(self, *args: Any, value: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.value = value

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Optional[str] = None) -> None:
        setattr(namespace, self.dest, self.value)
        for action in parser._actions:
            if action.dest == self.dest:
                action.required = False


class _Many(argparse.Action):
    """Several values, behind one flag or behind several of it."""

    def __init__(self, *args: Any, of: type, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.of, self.got = of, []  # type: ignore[var-annotated]

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Optional[str] = None) -> None:
        self.got += values
        setattr(namespace, self.dest, self.of(self.got))


def _many(kind: Any, default: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    return origin in (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable) or (kind is inspect.Parameter.empty and isinstance(default, (list, tuple)))


def _one(kind: Any, default: Any) -> Any:
    """The type of one value."""
    if _many(kind, default):
        inner = next(iter(typing.get_args(kind)), None) or (type(default[0]) if isinstance(default, (list, tuple)) and default else str)
        return _params.split(inner)[0]
    if kind is inspect.Parameter.empty or kind is Any:
        return str if default is inspect.Parameter.empty or default is None else type(default)
    return kind


def _reader(of: Any) -> Any:
    """What makes a value of that type from text; its `ValueError` says what is accepted."""

    def convert(text: str) -> Any:
        try:
            if typing.get_origin(of) is typing.Literal:
                return next(v for v in typing.get_args(of) if str(v) == text)
            if of is bool:
                return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[text.lower()]
            if of in (datetime.date, datetime.datetime):
                return of.fromisoformat(text)
            if isinstance(of, type) and hasattr(of, "__members__"):
                return of[text]  # type: ignore[index]
            return of(text) if of in TYPES else _literal(text)
        except (ValueError, KeyError, StopIteration):
            raise argparse.ArgumentTypeError(f"{text!r} is not accepted. It takes {_described(of)}.") from None

    return convert


def _literal(text: str) -> Any:
    """A value of a type that text has no form for: Python's own syntax of it, else the text."""
    import ast

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _described(of: Any) -> str:
    if typing.get_origin(of) is typing.Literal:
        return " or ".join(map(str, typing.get_args(of)))
    if isinstance(of, type) and hasattr(of, "__members__"):
        return " or ".join(of.__members__)
    return "true or false" if of is bool else TYPES.get(of, "a value")


def _show(default: Any) -> str:
    text = str(default) if isinstance(default, (Path, datetime.date)) else repr(default)
    return text.replace("%", "%%")


if __name__ == "__main__":
    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
