"""Type hints survive every decorator, for mypy and pyright, and wrong calls are found."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "typing"
ROOT = Path(__file__).parents[1]
# pyright is a program of node, which `make test` puts on PATH.
PYRIGHT = shutil.which("pyright") or shutil.which("pyright", path=str(ROOT.parents[1] / ".cache" / "node" / "node_modules" / ".bin"))


def mypy(file: Path) -> set[int]:
    pytest.importorskip("mypy", reason="mypy is not installed: tools/setup dev")
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(file)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return {int(m[1]) for m in re.finditer(rf"(?m)^\S*{file.name}:(\d+): error", done.stdout)}


def pyright(file: Path) -> set[int]:
    if PYRIGHT is None:
        pytest.skip("pyright is not installed: tools/setup dev")
    # "-p" and files exclude each other, so the project's settings come by a configuration of these files.
    done = subprocess.run([PYRIGHT, "--outputjson", "-p", str(HERE)], cwd=ROOT, capture_output=True, text=True)
    report = json.loads(done.stdout)
    return {d["range"]["start"]["line"] + 1 for d in report["generalDiagnostics"] if d["severity"] == "error" and d["file"].endswith(file.name)}


@pytest.mark.parametrize("checker", [mypy, pyright])
@pytest.mark.parametrize("name", ["positive", "negative"])
def test_types(checker: object, name: str) -> None:
    file = HERE / f"{name}.py"
    marked = {i for i, line in enumerate(file.read_text().splitlines(), 1) if line.endswith("# error")}
    assert checker(file) == marked  # type: ignore[operator]
    assert bool(marked) == (name == "negative")
