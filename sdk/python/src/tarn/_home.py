"""Which server and project a client means: `TARN_URL` and `TARN_TOKEN`, or what the `tarn` binary says
about this folder. Asking it also starts the local server if there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Optional

from tarn import errors
from tarn._wire import Address, make_error


class Place(NamedTuple):
    """A server, a project in it, its current branch, and the folder here that says so, if one does."""

    address: Address
    project: str
    branch: str
    folder: str = ""


def above(start: Optional[str]) -> str:
    """The nearest folder upwards with tarn.toml, or nothing."""
    folder = os.path.abspath(start or os.getcwd())
    while not os.path.exists(os.path.join(folder, "tarn.toml")):
        if folder == os.path.dirname(folder):
            return ""
        folder = os.path.dirname(folder)
    return folder


def folder_of(path: Optional[str], folder: Optional[str]) -> str:
    """The project folder that a run is of: the one that was named, or the one around here."""
    if path:
        return os.path.abspath(path)
    found = above(folder)
    if not found:
        raise errors.PreconditionError(f"no tarn.toml in {folder or os.getcwd()} or a folder above it", reason="cli.no_project", next=("tarn init",))
    return found


def command(project: Optional[str]) -> List[str]:
    """The command that finds the local server."""
    if "TARN_DISCOVER" in os.environ:
        text = "this asks the server while the file is imported to see what it declares, where there is none. Put it into a function, or under: if __name__ == '__main__'"
        raise errors.PreconditionError(text, reason="client.at_import")
    binary = os.environ.get("TARN_BIN") or shutil.which("tarn") or shutil.which("tarn", path=os.path.dirname(sys.executable))
    if not binary:
        raise errors.UnavailableError(
            "the tarn binary is not on PATH, and TARN_URL names no server", reason="client.no_binary", next=("export TARN_BIN=/path/to/tarn", "export TARN_URL=https://...")
        )
    return [binary, "status", "--json", *(["--project", project] if project else [])]


def remote(url: str, token: Optional[str], project: Optional[str]) -> Place:
    """The place that a URL names."""
    if not url.startswith(("http://", "https://")):
        raise errors.InvalidArgumentError(f"{url!r} is not an http or https address", reason="client.url")
    name = project or os.environ.get("TARN_PROJECT")
    if not name:
        raise errors.InvalidArgumentError("a server elsewhere needs the project's name: tarn.Client(project='flights')", reason="client.project")
    return Place(Address(url, None, token), name, os.environ.get("TARN_BRANCH") or "main")


def local(argv: List[str], folder: Optional[str], project: Optional[str]) -> Place:
    """The place of this host's server."""
    try:
        done = subprocess.run(argv, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.UnavailableError(f"{argv[0]} does not run: {error}", reason="client.no_binary") from None
    return understood(done.returncode, done.stdout, done.stderr, folder, project)


def understood(code: int, stdout: str, stderr: str, folder: Optional[str], project: Optional[str]) -> Place:
    """The place that `tarn status --json` describes, or the error it ended with."""
    said: Dict[str, Any] = {}
    for text in (stdout, stderr):
        try:
            found = json.loads(text)
        except ValueError:
            continue
        said = {**found, **said} if isinstance(found, dict) else said
    if "error" in said:
        error = dict(said["error"])
        error["detailsJson"] = json.dumps(error.pop("details", None) or {})
        raise make_error(error)
    if code != 0 or "server" not in said:
        raise errors.UnavailableError(f"tarn status failed: {stderr.strip() or stdout.strip()}", reason="client.no_server")
    name = project or said.get("project")
    if not name:
        raise errors.PreconditionError(
            "no project here", reason="cli.no_project", next=("tarn init", "tarn.Client(project='NAME')"), details={"projects": said.get("projects", [])}
        )
    # The rules of a folder are those of the project that it names, not of one that was asked for by name.
    place = Place(Address("http://tarn", said["server"]["socket"], None), name, said.get("branch") or os.environ.get("TARN_BRANCH") or "main")
    return place if project else place._replace(folder=above(folder))
