"""Type hints survive every decorator, for mypy and pyright, and wrong calls are found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "typing"
ROOT = Path(__file__).parents[1]


def mypy(file: Path) -> set[int]:
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(file)], cwd=ROOT, capture_output=True, text=True)
    return {int(m[1]) for m in re.finditer(rf"(?m)^\S*{file.name}:(\d+): error", done.stdout)}


def pyright(file: Path) -> set[int]:
    done = subprocess.run([sys.executable, "-m", "pyright", "--outputjson", "-p", str(ROOT), str(file)], cwd=ROOT, capture_output=True, text=True, env=None)
    report = json.loads(done.stdout)
    return {d["range"]["start"]["line"] + 1 for d in report["generalDiagnostics"] if d["severity"] == "error" and d["file"].endswith(file.name)}


@pytest.mark.parametrize("checker", [mypy, pyright])
@pytest.mark.parametrize("name", ["positive", "negative"])
def test_types(checker: object, name: str) -> None:
    pytest.importorskip(checker.__name__)  # type: ignore[attr-defined]
    file = HERE / f"{name}.py"
    marked = {i for i, line in enumerate(file.read_text().splitlines(), 1) if line.endswith("# error")}
    assert checker(file) == marked  # type: ignore[operator]
    assert bool(marked) == (name == "negative")
