"""Every Python that a function may ask for runs discovery, the runner and the client alike."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

import pytest
from conftest import BINARY, SRC

ALL = "import tarn, pkgutil, importlib; [importlib.import_module('tarn.' + m.name) for m in pkgutil.iter_modules(tarn.__path__) if m.name not in ('_runner', '_discover')]"
ASK = "import sys; print(sys.version_info[0], sys.version_info[1], sys.executable)"
PIPELINE = """
from __future__ import annotations
from typing import Annotated
from pathlib import Path
import pandas as pd
import tarn

LIMIT = 3

@tarn.asset(env=tarn.Env(packages=["pandas"]), checks="unique(a)", retry=2)
def delays(flights: Annotated[pd.DataFrame | None, tarn.table(columns=["a"])], top: int = LIMIT) -> pd.DataFrame:
    '''Delays.'''
    return flights.head(top)

@tarn.asset
def notes(out: tarn.OutputDir, ctx: tarn.Context, text: str = "x"):
    (out / "a.txt").write_text(text)
    ctx.metric("n", 1)
"""


def others() -> List[Any]:
    """Other Pythons of this machine, one of each version. A shim is asked for what stands behind it."""
    folders = [Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions", Path.home() / ".local" / "share" / "uv" / "python"]
    found = [str(p) for folder in folders if folder.is_dir() for p in sorted(folder.glob("*/bin/python3"))]
    found += [p for p in (shutil.which(f"python3.{minor}") for minor in range(9, 16)) if p]
    by_version: Dict[Any, str] = {sys.version_info[:2]: ""}
    for python in found:
        done = subprocess.run([python, "-S", "-c", ASK], capture_output=True, text=True)
        if done.returncode == 0:
            major, minor, executable = done.stdout.split(maxsplit=2)
            if (int(major), int(minor)) >= (3, 9):
                by_version.setdefault((int(major), int(minor)), executable.strip())
    none = pytest.param("", marks=pytest.mark.skip(reason="this machine has no other Python, 3.9 or newer, in pyenv, uv or on PATH"))
    return [pytest.param(path, id=f"{v[0]}.{v[1]}") for v, path in sorted(by_version.items()) if path] or [none]


@pytest.mark.parametrize("python", others())
def test_another_python(python: str, discover: Callable[..., Dict[str, Any]], run: Callable[..., Any], tmp_path: Path) -> None:
    subprocess.run([python, "-S", "-W", "error", "-c", ALL], env={"PYTHONPATH": SRC}, check=True)
    files: Mapping[str, str] = {"pipeline.py": PIPELINE}
    here, there = discover(files), discover(files, python=python)
    assert there["errors"] == []
    assert here["functions"] == there["functions"]  # keys must not depend on who looked
    (tmp_path / "files").mkdir()
    done = run(PIPELINE, "notes", python=python, packages=False, output_dir=str(tmp_path / "files"), outputs=[], params={"text": "y"})
    assert done.code == 0, (done.messages, done.stderr)
    assert (tmp_path / "files" / "a.txt").read_text() == "y"
    assert [m["type"] for m in done.messages] == ["start", "metric", "closed"]


@pytest.mark.skipif(not os.path.exists(BINARY), reason="no tarn binary: make build, or set TARN_BIN")
@pytest.mark.parametrize("python", others())
def test_client_of_another_python(python: str, server: Callable[[str], Path]) -> None:
    program = """
import asyncio, json, tarn
c = tarn.Client()
c.files.put("a", "x")
async def work(): return (await tarn.AsyncClient().files.get("a")).decode()
try: c.table("nothing").describe()
except tarn.errors.NotFoundError as e: reason = e.reason
print(json.dumps([asyncio.run(work()), reason, c.query("create table t as select 1 as x").written().changed]))
"""
    folder = server(f"python-{Path(python).parents[1].name}".replace(".", "-"))
    done = subprocess.run([python, "-S", "-c", program], cwd=folder, env={**os.environ, "PYTHONPATH": SRC}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["x", "table.not_found", True]
