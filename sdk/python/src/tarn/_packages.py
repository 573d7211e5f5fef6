"""The folder of installed packages, for an interpreter that was started without `site`.

A `.pth` file in it may add folders to `sys.path`, or be a line of Python that begins with `import`: that is how namespace
packages of old and editable installs work. Such lines are code of the packages, so they run only where their modules
do: in the sandbox of a function or of a template, and for `tarn debug` and entrypoints in the user's terminal. Nothing
that installs packages runs them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from typing import List

_done = False


def activate() -> None:
    """Do what the `.pth` files say, once in an interpreter. What one of them raises is printed, as `site` does."""
    global _done
    if _done:
        return
    _done = True
    for folder in _folders():
        try:
            names = os.listdir(folder)
        except OSError:
            continue  # a folder that is not there has nothing to say
        if any(name.endswith(".pth") for name in names):
            import site  # only then: it takes 3 ms

            site.addsitedir(folder, {os.path.realpath(p) for p in sys.path})


def keep() -> None:
    """Keep the packages on the disk while this process lives, which no sandbox does for it: see docs/design/packages.md."""
    for folder in _folders():
        with contextlib.suppress(OSError):  # a folder that is not there, or a file system without locks
            held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)


def add_programs() -> None:
    """Let subprocesses find the programs of the packages, before those of the host."""
    programs = [os.path.join(folder, "bin") for folder in _folders()]
    programs = [p for p in programs if os.path.isdir(p)]
    if programs:
        os.environ["PATH"] = os.pathsep.join([*programs, os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])


def _folders() -> List[str]:
    """What the path has beside this very package."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and os.path.realpath(p) != os.path.realpath(here)]
