"""The reference is what the docstrings say, and what it shows as code runs."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from conftest import BINARY, write_files

import tarn

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def reference() -> Any:
    sys.path.insert(0, str(ROOT))
    try:
        import reference

        return reference
    finally:
        sys.path.remove(str(ROOT))


def test_the_page_is_current(reference: Any) -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "write it again: python sdk/python/reference.py"


def test_every_public_name_is_on_the_page(reference: Any) -> None:
    page = reference.page()
    missing = [name for name in tarn.__all__ if name not in ("Error", "RemoteError", "RunFailed", "errors") and f"### `tarn.{name}`" not in page]
    assert not missing
    assert not re.findall(r"#### `[^`]+`\n\n(?:```python\n[^`]*```\n\n)?(?=#)", page), "a member without a docstring"


@pytest.mark.skipif(not os.path.exists(BINARY), reason="no tarn binary: make build, or set TARN_BIN")
def test_examples_run(reference: Any, server: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    folder = write_files(server("examples"), {"pipeline.py": "import tarn\n@tarn.asset\ndef delays(flights: list[dict], top: int = 3) -> list[dict]: return flights[:top]\n"})
    monkeypatch.chdir(folder)
    c = tarn.Client()
    c.table("flights").write(pd.DataFrame({"origin": ["a", "a", "b"], "delay": [10, 50, 40]}))
    c.branches.create("dev")
    saved = list(tarn._function.declared)
    blocks = [b for b in re.findall(r"```python\n(.*?)```", reference.page(), re.S) if re.search(r"^(@tarn|c = |c\.|frame = )", b)]
    assert len(blocks) >= 6
    try:
        for block in blocks:
            scope: Dict[str, Any] = {"tarn": tarn, "pd": pd, "c": tarn.AsyncClient() if "await" in block else c, "__name__": "example"}
            code = compile(block, "<example>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            done = eval(code, scope)
            if inspect.iscoroutine(done):
                asyncio.run(_run(done))
            if "delays" in scope:
                frame = scope["delays"].local(top=1)
                assert frame.to_dict("records") == [{"origin": "a", "delay": 30.0}]
    finally:
        tarn._function.declared[:] = saved
    assert c.table("t", ref="dev").to_dicts() == [{"id": 1, "n": 2}]


async def _run(done: Any) -> None:
    await done
