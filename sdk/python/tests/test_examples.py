"""The examples that call functions run, with few inputs."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Callable

import pytest
from conftest import BINARY

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
pytestmark = pytest.mark.skipif(not os.path.exists(BINARY), reason="no tarn binary: make build, or set TARN_BIN")


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run([BINARY, "run", *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def example(server: Callable[[str], Path]) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(EXAMPLES / name, server(f"copy-of-{name}"), dirs_exist_ok=True))

    return copy


def test_sweep(example: Callable[[str], Path]) -> None:
    said = run(example("sweep"), "sweep.py::main", "--fits", "8").splitlines()
    assert said[0].startswith("8 fits, errors from ")
    best = [float(line.split()[0]) for line in said[1:]]
    assert best == sorted(best) and len(best) == 3
    assert 10 < best[0] < 40  # minutes


def test_images(example: Callable[[str], Path]) -> None:
    folder = example("images")
    assert run(folder, "images.py::main", "--count", "5", "--out", "s.png") == "5 pictures on s.png: 180 x 120\n"
    assert struct.unpack(">II", (folder / "s.png").read_bytes()[16:24]) == (180, 120)
