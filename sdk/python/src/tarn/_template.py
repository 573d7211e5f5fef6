"""A template: one interpreter that imports what many have in common, and forks for each.

Runs in a sandbox of its own as `python -S -B -m tarn._template MODULE...`; the modules are third-party ones, and nothing of the
user's is ever imported here. A module that leaves a thread, a descriptor, a child or shared memory behind cannot be forked
with: then the interpreter starts again without it. One that cannot be imported is left to whoever needs it.

Requests come over the socket `TARN_FORKS_FD`, with descriptors: see `docs/formats/template.md`. For each, a child enters the
namespaces that were made for it and forks once more: the second fork is the first one's child and lives inside of them.
It gives up every right that entering gave it, and waits for what it is to be: a module of `tarn` of this interpreter, or any other
program.
"""

from __future__ import annotations

import array
import base64
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
import time
from typing import Any, List, NoReturn, Optional, Set, Tuple

from tarn import _packages

MAX_REQUEST = 1 << 17
MAX_DESCRIPTORS = 64
LEAVING = 0.5  # seconds that a thread which has ended may take to be gone
START = ["-S", "-B", "-m"]
# Among the modules to import: what the packages' `.pth` files say.
PTH = ".pth"

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECCOMP, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS = 4, 24, 22, 28, 38
SECCOMP_MODE_FILTER = 2
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446  # of every architecture
# Root's number gives no capabilities, nor can they be kept; locked.
NO_ROOT = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5
CAPABILITY_VERSION = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


# What modules leave behind


def _left() -> List[str]:
    """What would not survive a fork, or be shared by forks that must not share it."""
    found = []
    if _has_threads():
        found.append("a thread")
    if set(_descriptors()) - _own():
        found.append("a descriptor")
    if _shares_memory():
        found.append("shared memory")
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
        found.append("a child")
    return found


def _has_threads() -> bool:
    """Whether there is another thread. One that was joined is there for a moment longer."""
    until = time.monotonic() + LEAVING
    while len(os.listdir("/proc/self/task")) > 1:
        if time.monotonic() > until:
            return True
        time.sleep(0.001)
    return False


def _shares_memory() -> bool:
    """Whether there is memory that one fork could write to and another read, across their sandboxes."""
    with open("/proc/self/maps", "rb") as maps:
        return any(line.split(maxsplit=2)[1] in (b"rw-s", b"rwxs", b"-w-s") for line in maps)


def _descriptors() -> List[int]:
    """The open descriptors above the standard ones."""
    listed = [int(n) for n in os.listdir("/proc/self/fd")]
    open_ones = []
    for fd in listed:
        with contextlib.suppress(OSError):  # the one that the list was read through
            os.fstat(fd)
            open_ones.append(fd)
    return [fd for fd in open_ones if fd > 2]


def _own() -> Set[int]:
    """The descriptors for messages and requests."""
    return {int(os.environ["TARN_MESSAGES_FD"]), int(os.environ["TARN_FORKS_FD"])}


def preload(names: List[str]) -> Optional[str]:
    """Import modules. The name of one after which this interpreter must not be forked, else None."""
    for name in names:
        try:
            if name == PTH:
                _packages.activate()
            else:
                importlib.import_module(name)
        except BaseException as error:  # whoever needs it meets the same error, and can show it
            print(f"{name} is not preloaded: {type(error).__name__}: {error}", file=sys.stderr)
        left = _left()
        if left:
            print(f"{name} is not preloaded: it leaves {' and '.join(left)} behind", file=sys.stderr)
            return name
    return None


def _again_without(name: str, names: List[str]) -> NoReturn:
    """Begin anew, in a clean interpreter."""
    with contextlib.suppress(ChildProcessError):
        while True:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                with contextlib.suppress(ProcessLookupError):  # it ends by itself
                    os.kill(-1, signal.SIGKILL)  # in this sandbox that is all there are
                os.waitpid(-1, 0)
    for fd in _descriptors():
        os.set_inheritable(fd, fd in _own())
    os.execv(sys.executable, [sys.executable, *START, "tarn._template", *(n for n in names if n != name)])


# Forks


class Request:
    """One fork to make, with the descriptors for it."""

    def __init__(self, text: bytes, fds: List[int]) -> None:
        fields = json.loads(text)
        names = fields["namespaces"]
        self.scopes = int(fields["scopes"])
        self.filter = base64.b64decode(fields["filter"])
        self.fds = fds
        self.stdout, self.stderr, self.messages, self.start, self.exit = fds[:5]
        self.groups = fds[5 : 5 + fields["groups"]]
        self.namespaces = fds[5 + fields["groups"] :]
        if len(self.namespaces) != len(names):
            raise ValueError(f"{len(fds)} descriptors came with {fields}")


def _receive(requests: socket.socket) -> Optional[Request]:
    text, extra, _, _ = requests.recvmsg(MAX_REQUEST, socket.CMSG_SPACE(4 * MAX_DESCRIPTORS))
    if not text:
        return None
    fds = array.array("i")
    for level, kind, data in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return Request(text, list(fds))


def _outside(request: Request) -> None:
    """The first fork: enter, fork, wait for the fork inside and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for group in request.groups:
        os.write(group, b"0")
    for namespace in request.namespaces:
        _check(libc.setns(namespace, 0), "enter a namespace")
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = _inside(request)
        finally:
            os._exit(code)
    for fd in request.fds:
        if fd != request.exit:
            os.close(fd)
    _, status, used = os.wait4(pid, 0)
    end = {"status": status, "cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024}
    os.write(request.exit, json.dumps(end).encode())


def _inside(request: Request) -> int:
    """The fork inside: give up all rights, wait for the job, become it."""
    _seal(request.filter, request.scopes)
    start = socket.socket(fileno=fcntl.fcntl(request.start, fcntl.F_DUPFD_CLOEXEC, 100))
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 101) for fd in (request.stdout, request.stderr, request.messages)]
    null = os.open(os.devnull, os.O_RDWR)
    for target, fd in enumerate([fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, 101), *high]):
        os.dup2(fd, target)
    keep = start.fileno()
    os.closerange(4, keep)
    os.closerange(keep + 1, 65536)
    os.setsid()
    size = _exactly(start, 4)
    if size is None:
        return 0  # there is no job after all
    job = json.loads(_exactly(start, struct.unpack(">I", size)[0]) or b"")
    argv, env = ([base64.b64decode(v) for v in job[name]] for name in ("argv", "env"))
    folder = base64.b64decode(job["dir"])
    variables = dict(_variable(v) for v in env)
    if job["stdin"]:
        _, passed, _, _ = start.recvmsg(1, socket.CMSG_SPACE(4))
        given = int.from_bytes(passed[0][2][:4], sys.byteorder)
        os.dup2(given, 0)
        os.close(given)
    if b"TARN_MESSAGES_FD" not in variables:
        os.close(3)
    try:
        os.chdir(folder)
        module = _own_module(argv)
        if module is None:
            start.sendall(b"begun")  # and the end of the socket says that it was so
            os.execve(argv[0], argv, variables)
    except OSError as error:
        start.sendall(b"%d" % (error.errno or 5))
        return 127
    os.environb.clear()
    os.environb.update(variables)
    sys.argv = [module.__file__ or "", *map(os.fsdecode, argv[5:])]
    sys.path[0] = os.fsdecode(folder)
    start.sendall(b"begun")
    start.close()
    code = int(module.main())
    with contextlib.suppress(OSError, ValueError):  # the user closed it
        sys.stdout.flush()
    return code


def _variable(text: bytes) -> Tuple[bytes, bytes]:
    name, _, value = text.partition(b"=")
    return name, value


def _own_module(argv: List[bytes]) -> Any:
    """The module that this interpreter can run itself, if it would be started just as this one was."""
    text = [os.fsdecode(a) for a in argv]
    if text[:4] != [sys.executable, *START] or len(text) < 5 or not text[4].startswith("tarn._"):
        return None
    return importlib.import_module(text[4])


def _exactly(source: socket.socket, count: int) -> Optional[bytes]:
    data = b""
    while len(data) < count:
        part = source.recv(count - len(data))
        if not part:
            return None
        data += part
    return data


def _seal(program: bytes, scopes: int) -> None:
    """Become the sandbox's user, without any right, for good: what `seal.go` does to a command that is started."""
    os.setresgid(0, 0, 0)
    with contextlib.suppress(PermissionError):  # where groups cannot be set there are none
        os.setgroups([])
    os.setresuid(0, 0, 0)
    _check(libc.prctl(PR_SET_SECUREBITS, NO_ROOT, 0, 0, 0), "lock securebits")
    capability = 0
    while libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if capability < 30:  # far below the number of any kernel
        _check(-1, f"drop capability {capability}")
    header = struct.pack("=Ii", CAPABILITY_VERSION, 0)
    _check(libc.capset(header, bytes(24)), "drop capabilities")
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "refuse new privileges")
    if scopes:
        attributes = struct.pack("=QQQ", 0, 0, scopes)
        ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
        _check(min(ruleset, 0), "make a Landlock ruleset")
        _check(libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "restrict by Landlock")
        os.close(ruleset)
    # Its own files in /proc are its own again: changing users hid them.
    _check(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "show its own files")
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    _check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(fprog), 0, 0), "filter system calls")


def serve(requests: socket.socket) -> None:
    """Fork for each request until the socket ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the first forks
    while True:
        request = _receive(requests)
        if request is None:
            return
        if os.fork() == 0:
            code = 3
            try:
                requests.close()
                _outside(request)
                code = 0
            finally:
                os._exit(code)
        for fd in request.fds:
            os.close(fd)


def main() -> int:
    """Import the modules named as arguments, say so, and serve."""
    names = sys.argv[1:]
    importlib.import_module("tarn._runner")
    unfit = preload(names)
    if unfit is not None:
        _again_without(unfit, names)
    requests = socket.socket(fileno=int(os.environ["TARN_FORKS_FD"]))
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page that holds an object
    os.write(int(os.environ["TARN_MESSAGES_FD"]), b'{"type": "ready"}\n')
    serve(requests)
    return 0


if __name__ == "__main__":
    sys.exit(main())
