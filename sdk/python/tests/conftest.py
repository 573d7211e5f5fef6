"""Helpers: a project folder from a dict of files, discovery and the runner as real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

import pytest

SRC = str(Path(__file__).resolve().parents[1] / "src")
BINARY = os.environ.get("TARN_BIN") or str(Path(__file__).resolve().parents[3] / "bin" / "tarn")
PACKAGES = [p for p in sys.path if p.endswith("site-packages")]


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
    return root


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    def make(files: Mapping[str, str]) -> Path:
        root = tmp_path / "project"
        root.mkdir(exist_ok=True)
        return write_files(root, files)

    return make


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Makes folders whose commands and clients share a server of this module's own."""
    base = tmp_path_factory.mktemp("sdk")
    saved = dict(os.environ)
    for name in ("TARN_URL", "TARN_TOKEN", "TARN_BRANCH", "TARN_PROJECT"):
        os.environ.pop(name, None)
    os.environ.update(TARN_HOME=str(base / "home"), TARN_BIN=BINARY, XDG_RUNTIME_DIR=str(base))
    os.environ.setdefault("TARN_CACHE", str(Path(__file__).resolve().parents[3] / ".cache" / "tarn"))  # packages are fetched once

    def make(name: str) -> Path:
        folder = base / name
        folder.mkdir()
        (folder / "tarn.toml").write_text(f'[project]\nname = "{name}"\n')
        return folder

    try:
        yield make
        subprocess.run([BINARY, "server", "stop"], cwd=base, check=False, capture_output=True)
    finally:
        os.environ.clear()
        os.environ.update(saved)


@pytest.fixture
def branch(request: pytest.FixtureRequest) -> str:
    """A branch name of this test's own."""
    return "".join(ch if ch.isalnum() else "-" for ch in request.node.name).strip("-")


@pytest.fixture
def discover(project: Callable[..., Path], tmp_path: Path) -> Callable[..., Dict[str, Any]]:
    """Run discovery as the product does, without any third-party package."""

    def run(files: Mapping[str, str], mention: Optional[List[str]] = None, python: str = sys.executable) -> Dict[str, Any]:
        root = project(files)
        if mention is None:
            mention = [name for name, text in files.items() if name.endswith(".py") and "tarn" in text]
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        out = tmp_path / "manifest.json"
        request = tmp_path / "request.json"
        request.write_text(json.dumps({"root": str(root), "files": mention, "out": str(out)}))
        env = {"PYTHONPATH": SRC, "TARN_DISCOVER": str(request), "PYTHONHASHSEED": "0"}
        done = subprocess.run([python, "-S", "-B", "-m", "tarn._discover"], env=env, cwd=home, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(out.read_text())  # type: ignore[no-any-return]

    return run


class Run:
    """What a runner did."""

    def __init__(self, done: subprocess.CompletedProcess[str], messages: List[Dict[str, Any]]) -> None:
        self.code, self.stdout, self.stderr, self.messages = done.returncode, done.stdout, done.stderr, messages

    def of(self, kind: str) -> List[Dict[str, Any]]:
        return [m for m in self.messages if m["type"] == kind]

    @property
    def error(self) -> Dict[str, Any]:
        (found,) = self.of("error")
        return found


@pytest.fixture
def run(project: Callable[..., Path], tmp_path: Path) -> Callable[..., Run]:
    """Run one function of `pipeline.py` through the real runner process."""

    def start(
        source: str,
        qualname: str,
        kind: str = "asset",
        files: Optional[Mapping[str, str]] = None,
        packages: bool = True,
        env: Optional[Mapping[str, str]] = None,
        python: str = sys.executable,
        **context: Any,
    ) -> Run:
        root = project({"pipeline.py": source, **(files or {})})
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        (tmp_path / "out").mkdir(exist_ok=True)
        context.setdefault("outputs", [{"name": qualname, "path": str(tmp_path / "out" / f"{qualname}.arrow")}])
        full = {
            "version": 1, "run": "r-1", "step": qualname, "attempt": 1, "item": None, "seed": "ab12", "project": str(root),
            "entry": {"file": "pipeline.py", "module": "pipeline", "qualname": qualname, "kind": kind},
            "inputs": [], "output_dir": None, "params": {}, "partition": None, "allowed_packages": [], "env_name": qualname, "local_files": [], **context,
        }  # fmt: skip
        (tmp_path / "context.json").write_text(json.dumps(full))
        log = tmp_path / "messages"
        with open(log, "wb") as sink:
            variables = {
                "PYTHONPATH": os.pathsep.join([SRC, *(PACKAGES if packages else [])]),
                "TARN_CONTEXT": str(tmp_path / "context.json"),
                "TARN_MESSAGES_FD": str(sink.fileno()),
                "PYTHONHASHSEED": "0",
                **(env or {}),
            }
            done = subprocess.run([python, "-S", "-B", "-m", "tarn._runner"], env=variables, cwd=home, capture_output=True, text=True, pass_fds=[sink.fileno()], timeout=60)
        return Run(done, [json.loads(line) for line in log.read_text().splitlines()])

    return start
