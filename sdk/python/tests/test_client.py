"""The clients against the real binary, which they start by themselves."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import BINARY

import tarn

pytestmark = pytest.mark.skipif(not os.path.exists(BINARY), reason="no tarn binary: make build, or set TARN_BIN")


@pytest.fixture(scope="module")
def folder(server: Callable[[str], Path]) -> str:
    return str(server("shop"))


@pytest.fixture
def client(folder: str, branch: str) -> tarn.Client:
    """A client on a branch of its own."""
    c = tarn.Client(folder=folder)
    c.branches.create(branch, base="main")
    return c.at(branch)


def test_branches_tags_log(client: tarn.Client) -> None:
    assert client.project == "shop"
    branch = client._ref
    assert branch in [b.name for b in client.branches.list()]
    written = client.files.put("a.txt", "x", message="first")
    assert (written.branch, written.changed, written.commit.message) == (branch, True, "first")
    assert not client.files.put("a.txt", "x").changed
    assert client.log(limit=1) == [written.commit]
    assert client.resolve() == written.commit
    tag = client.tags.create(f"t-{branch}")
    assert tag.commit == written.commit
    assert client.tags.delete(tag.name) == tag
    client.branches.create("gone")
    assert client.branches.delete("gone").commit == written.commit
    with pytest.raises(tarn.errors.NotFoundError):
        client.branches.delete("gone")


def test_secrets_go_in_and_stay_there(client: tarn.Client) -> None:
    assert client.secrets.ls() == []
    made = client.secrets.set("TOKEN", "s3cret ü\n")
    assert made.name == "TOKEN" and made.set > "2026"
    assert client.secrets.ls() == [made]
    with pytest.raises(tarn.errors.InvalidArgumentError, match="my key"):
        client.secrets.set("my key", "s3cret")
    with pytest.raises(tarn.errors.NotFoundError, match="Did you mean TOKEN"):
        client.secrets.rm("TOKEN", "TOKENN")
    assert client.secrets.rm("TOKEN") == [made] and client.secrets.ls() == []


def test_files(client: tarn.Client, tmp_path: Path) -> None:
    big = os.urandom(3_000_001)
    (tmp_path / "local").write_bytes(big)
    client.files.put("d/big", tmp_path / "local")
    client.files.put("d/é ü.txt", "hällo")
    client.files.put("d/empty", b"")
    with open(tmp_path / "local", "rb") as f:
        client.files.put("d/again", f)
    assert client.files.get("d/big") == client.files.get("d/again") == big
    assert client.files.get("d/é ü.txt").decode() == "hällo"
    assert client.files.get("d/empty") == b""
    with client.files.open("d/big") as f:
        assert f.read(5) + f.read() == big
    with client.files.open("d/big") as f:
        f.read(1)  # the rest is never asked for
    assert [(e.name, e.size) for e in client.files.ls("d/")] == [("d/again", len(big)), ("d/big", len(big)), ("d/empty", 0), ("d/é ü.txt", 6)]
    assert client.files.rm("d/b*").changed
    with pytest.raises(tarn.errors.NotFoundError, match="d/big"):
        client.files.get("d/big")
    with pytest.raises(tarn.errors.NotFoundError):
        client.files.open("d/big")


def test_a_refusal_comes_before_the_last_byte(client: tarn.Client, folder: str) -> None:
    big = b"x" * 20_000_000  # more than a connection holds
    with pytest.raises(tarn.errors.NotFoundError, match="no branch 'nope'"):
        client.files.put("big", big, into="nope")

    async def put() -> None:
        await tarn.AsyncClient(folder=folder).files.put("big", big, into="nope")

    with pytest.raises(tarn.errors.NotFoundError, match="no branch 'nope'"):
        asyncio.run(put())

    class Broken:
        def read(self, size: int) -> bytes:
            raise KeyError("the caller's own")

    async def broken() -> None:
        await tarn.AsyncClient(folder=folder).files.put("big", Broken())  # type: ignore[arg-type]

    with pytest.raises(KeyError):
        client.files.put("big", Broken())  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        asyncio.run(broken())


def test_what_an_asset_makes_is_not_for_clients(server: Callable[[str], Path]) -> None:
    folder = server("owned")
    (folder / "numbers.sql").write_text("SELECT 1 AS one\n")
    (folder / "thumbs.py").write_text("import tarn\n\n@tarn.asset\ndef thumbs(out: tarn.OutputDir):\n    (out / 'a').write_text('a')\n")
    c = tarn.Client(folder=str(folder))
    c.run(str(folder)).wait()
    for write in (
        lambda: c.files.put("thumbs/b", b"b"),
        lambda: c.files.rm("thumbs/a"),
        lambda: c.table("numbers").write([{"one": 2}]),
        lambda: c.tables.delete("numbers"),
        lambda: c.query("delete from numbers").written,
    ):
        with pytest.raises(tarn.errors.PreconditionError, match=r"made by the asset (thumbs|numbers)") as refused:
            write()
        assert refused.value.reason == "asset.owned"


def test_diff_and_merge(client: tarn.Client) -> None:
    branch = client._ref or ""
    client.files.put("m/a.txt", "1")
    client.branches.create(branch + "-b")
    other = client.at(branch + "-b")
    other.files.put("m/a.txt", "2")
    other.files.put("m/b.txt", "3")
    changes = client.diff(f"{branch}..{branch}-b")
    assert [(c.key, c.before is None) for c in changes] == [("file/m/a.txt", False), ("file/m/b.txt", True)]
    assert client.merge(branch + "-b", dry_run=True).changes == tuple(changes)
    client.files.put("m/a.txt", "4")
    with pytest.raises(tarn.errors.ConflictError, match=r"m/a\.txt") as e:
        client.merge(branch + "-b")
    assert e.value.details["conflicts"][0]["key"] == "file/m/a.txt"
    assert client.files.get("m/a.txt") == b"4"
    merged = client.merge(branch + "-b", prefer={"m/a.txt": "source"}, message="take it")
    assert merged.written is not None and merged.written.commit.message == "take it"
    assert client.files.get("m/a.txt") == b"2"
    client.revert(merged.written.commit.id)
    assert client.files.get("m/a.txt") == b"4"


def test_many_threads(client: tarn.Client) -> None:
    failed = []

    def put(i: int) -> None:
        try:
            client.files.put(f"t/{i}", str(i))
        except tarn.Error as error:
            failed.append(error)

    threads = [threading.Thread(target=put, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed
    assert len(client.files.ls("t/")) == 8


def test_asynchronous(client: tarn.Client, folder: str) -> None:
    async def work() -> Any:
        c = tarn.AsyncClient(folder=folder).at(client._ref or "")
        await asyncio.gather(*(c.files.put(f"a/{i}", os.urandom(10_000 * i)) for i in range(8)))
        found = await c.files.ls("a/")
        sizes = [len(await c.files.get(e.name)) for e in found]
        assert b"".join([piece async for piece in c.files.open("a/7")]) == await c.files.get("a/7")
        with pytest.raises(tarn.errors.NotFoundError):
            await c.files.get("nothing")
        with pytest.raises(tarn.errors.NotFoundError):
            await c.files.open("nothing").__anext__()
        with pytest.raises(tarn.errors.NotFoundError):
            await c.log(ref="nowhere")
        return [e.size for e in found], sizes, len(await c.log())

    listed, sizes, commits = asyncio.run(work())
    assert listed == sizes == [10_000 * i for i in range(8)]
    assert commits >= 8


def test_a_server_that_died_is_started_again(client: tarn.Client, folder: str) -> None:
    client.files.put("k.txt", "kept")
    subprocess.run([BINARY, "server", "stop"], cwd=folder, check=True, capture_output=True)
    assert tarn.Client(folder=folder).at(client._ref or "").files.get("k.txt") == b"kept"


def test_no_project_here(folder: str, tmp_path: Path) -> None:
    with pytest.raises(tarn.errors.PreconditionError, match="no project"):
        tarn.Client(folder=str(tmp_path)).branches.list()


def test_no_binary(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("TARN_BIN", "/nowhere/tarn")
    with pytest.raises(tarn.errors.UnavailableError, match="/nowhere/tarn does not run"):
        tarn.Client(folder=folder).branches.list()
    monkeypatch.delenv("TARN_BIN")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(tarn.errors.UnavailableError, match="not on PATH"):
        tarn.Client(folder=folder).branches.list()


def test_a_url_that_nobody_serves() -> None:
    with pytest.raises(tarn.errors.UnavailableError, match="cannot be reached"):
        tarn.Client("shop", url="http://127.0.0.1:9").branches.list()
    with pytest.raises(tarn.errors.InvalidArgumentError, match="project"):
        tarn.Client(url="http://127.0.0.1:9").branches.list()
    with pytest.raises(tarn.errors.InvalidArgumentError, match="not an http"):
        tarn.Client("shop", url="ftp://x").branches.list()


def test_nothing_is_connected_before_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TARN_BIN", "/nowhere/tarn")
    c = tarn.Client().at("dev")
    assert c.table("x") is not None


def test_runs(folder: str, tmp_path: Path) -> None:
    (tmp_path / "tarn.toml").write_text('[project]\nname = "runs"\n')
    source = "import tarn\n@tarn.asset\ndef notes(out: tarn.OutputDir, text: str = 'x'):\n  if text == 'bad': raise ValueError('no ' + text)\n  (out / 'a.txt').write_text(text)\n"
    (tmp_path / "pipeline.py").write_text(source)
    client = tarn.Client(folder=str(tmp_path))
    first = client.run(params={"text": "hello"}, id="nightly-1")
    done = first.wait()
    assert (done.state, [s.state for s in done.steps]) == ("succeeded", ["succeeded"])
    assert client.files.get("notes/a.txt") == b"hello"
    again = client.run(params={"text": "hello"}, id="nightly-1")
    assert (again.id, again.wait().commit) == (first.id, done.commit)
    with pytest.raises(tarn.RunFailed, match="no bad") as e:
        client.run(params={"text": "bad"}).wait()
    assert e.value.details["failed"] == ["notes"]
    assert client.files.get("notes/a.txt") == b"hello"
    with pytest.raises(tarn.RunFailed, match="nope"):
        client.run(select="nope").wait()

    async def work() -> Any:
        return await (await tarn.AsyncClient(folder=str(tmp_path)).run(params={"text": "hello"}, select=["notes"])).wait()

    assert [s.state for s in asyncio.run(work()).steps] == ["cached"]
