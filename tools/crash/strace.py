"""Run a program under strace, and read the system calls that change files, in order. Knows Linux, no files' meaning."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from crash.marks import MARK

__all__ = ["Call", "Moment", "Unmodelled", "missing", "read", "run"]

# What can change files on the way that SQLite and Python take. Those that the model does not know (`_UNKNOWN`) are
# listed so that a program that begins to use one is noticed.
_UNKNOWN = (
    "pwritev", "pwritev2", "writev", "sendfile", "copy_file_range", "splice", "truncate", "symlink", "symlinkat",
    "sync_file_range", "msync", "lseek",
)  # fmt: skip
_KNOWN = (
    "open", "openat", "creat", "pwrite64", "write", "fsync", "fdatasync", "ftruncate", "fallocate", "rename",
    "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "link", "linkat",
    "stat", "newfstatat",
)  # fmt: skip
# One call may go by several names; which one depends on the processor and the C library.
_SPELLINGS = {
    "rename": ("rename", "renameat", "renameat2"), "unlink": ("unlink", "unlinkat"), "mkdir": ("mkdir", "mkdirat"),
    "chmod": ("chmod", "fchmodat"), "open": ("open", "openat"), "rmdir": ("rmdir",),
}  # fmt: skip
_STRING_LIMIT = 1 << 24  # bytes of one write that strace prints


class Unmodelled(Exception):
    """The program did something to its files that the model does not know."""


@dataclass(frozen=True)
class Call:
    """One system call that matters.

    `kind` is one of write, truncate, extend, sync, create, mkdir, remove, rename, link, mark. Of a mark, `path` is the
    message; of a create, `size` is 0 when the file is cut.
    """

    kind: str
    path: str
    number: int
    time: float
    thread: int
    target: str = ""
    offset: int = 0
    data: bytes = b""
    size: int = -1
    text: str = field(default="", compare=False)  # name of the system call, for people


#: A call and which end of it: calls of several threads overlap.
Moment = tuple[Call, "str"]  # "begin", "end" or "both"


def missing() -> str | None:
    """Return why programs cannot be traced here, or None when they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True, text=True)
    if done.returncode:
        return f"strace may not trace here: {done.stderr.strip()[:200]}"
    return None


def run(
    command: Sequence[str],
    output: str,
    *,
    kill: tuple[str, int] | None = None,
    paths: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    timeout: float = 300.0,
) -> tuple[int, str]:
    """Run a command under strace; return its exit status and what it printed.

    Args:
        command: what to run.
        output: where strace writes.
        kill: the name of a call, and which one: the program is killed by SIGKILL where the first of its threads would
            make it.
        paths: trace, and count, only the calls that touch these.
        environment: of the command.
        timeout: seconds.
    """
    options = ["-f", "-ttt", "-y", "-xx", "-s", str(_STRING_LIMIT), "-o", output, "-e", "signal=none"]
    traced = [f"?{name}" for name in (*_KNOWN, *_UNKNOWN)]
    if kill is None:
        options.append("--seccomp-bpf")
    else:
        names = [f"?{name}" for name in _SPELLINGS.get(kill[0], (kill[0],))]
        traced += names
        options += ["-e", f"inject={','.join(names)}:signal=SIGKILL:when={kill[1]}"]
    options += ["-e", "trace=" + ",".join(traced)]
    for path in paths:
        options += ["-P", path]
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(
            ["strace", *options, *command], stdout=said, stderr=subprocess.STDOUT, env=environment, timeout=timeout
        )
        said.seek(0)
        return done.returncode, said.read()


def read(output: str, root: str, first: int = 0) -> list[Moment]:
    """Return the calls that touch files below `root`, and the marks, in the order in which they began and ended.

    Args:
        output: what strace wrote.
        root: a directory; paths are given relative to it.
        first: the number of the first call.

    Raises:
        Unmodelled: a call changed a file in a way that the model does not know.
    """
    with open(output, encoding="ascii", errors="replace") as file:
        return list(_Reader(root, first).moments(file))


_LINE = re.compile(r"(\d+) +(\d+\.\d+) (.*)")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?)(.*)", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_FD = re.compile(r"(\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")
_SHM = "-shm"  # memory shared by those who have the queue open; thrown away at the first opening after a crash


@dataclass
class _Line:
    thread: int
    time: float
    text: str
    end: int = -1  # the line on which the call returned; -1: the same


class _Reader:
    def __init__(self, root: str, first: int) -> None:
        self._root = os.path.abspath(root)
        self._number = first
        self._positions: dict[tuple[str, str], int] = {}  # (descriptor, path) -> where `write` goes on

    def moments(self, lines: Iterator[str] | Sequence[str]) -> Iterator[Moment]:
        starts = self._pair(lines)
        ends: dict[int, Call] = {}
        last = max((max(position, line.end) for position, line in starts.items()), default=-1)
        for position in range(last + 1):
            begun = starts.get(position)
            if begun is not None:
                call = self._call(begun)
                if call is not None:
                    if begun.end < 0:
                        yield call, "both"
                    else:
                        yield call, "begin"
                        ends[begun.end] = call
            ended = ends.get(position)
            if ended is not None:
                yield ended, "end"

    def _pair(self, lines: Iterator[str] | Sequence[str]) -> dict[int, _Line]:
        """Return each call under the line on which it began, put together when strace split it."""
        starts: dict[int, _Line] = {}
        open_calls: dict[int, _Line] = {}
        for position, raw in enumerate(lines):
            match = _LINE.match(raw)
            if match is None:
                continue
            thread, time, rest = int(match[1]), float(match[2]), match[3]
            resumed = _RESUMED.match(rest)
            if resumed is not None:
                line = open_calls.pop(thread, None)
                if line is not None:
                    line.text += resumed[2]
                    line.end = position
            elif rest.endswith(_UNFINISHED):
                starts[position] = open_calls[thread] = _Line(thread, time, rest.removesuffix(_UNFINISHED))
            else:
                starts[position] = _Line(thread, time, rest)
        return starts

    def _call(self, line: _Line) -> Call | None:
        match = _CALL.match(line.text)
        if match is None:
            return None  # a signal, an exit, or a call that never returned: it is taken for not made
        name, arguments, result, rest = match[1], match[2].split(", "), match[3], match[4]
        if name in ("stat", "newfstatat"):
            path = _text(arguments[1] if name == "newfstatat" else arguments[0])
            return self._make("mark", path[len(MARK) :], line, name) if path.startswith(MARK) else None
        if result == "?" or int(result) < 0:
            return None
        return self._change(name, arguments, int(result), rest, line)

    def _make(self, kind: str, path: str, line: _Line, name: str, **more: object) -> Call:
        self._number += 1
        return Call(kind, path, self._number, line.time, line.thread, text=name, **more)  # type: ignore[arg-type]

    def _inside(self, path: str) -> str | None:
        """Return a path relative to the root; None when it is elsewhere, or of no interest."""
        if path == self._root:
            return ""
        if not path.startswith(self._root + "/") or path.endswith(_SHM):
            return None
        return os.path.normpath(path[len(self._root) + 1 :])

    def _descriptor(self, argument: str) -> tuple[str, str | None]:
        match = _FD.match(argument)
        if match is None or match[1] == "AT_FDCWD" or match[3]:
            return "", None
        return match[1], self._inside(_decode(match[2]).decode("utf-8", "surrogateescape"))

    def _at(self, directory: str, path: str) -> str | None:
        name = _text(path)
        match = _FD.match(directory)
        if not name.startswith("/") and match is not None:
            name = os.path.join(_decode(match[2]).decode("utf-8", "surrogateescape"), name)
        return self._inside(os.path.normpath(name))

    def _change(self, name: str, given: Sequence[str], result: int, rest: str, line: _Line) -> Call | None:
        if name in ("open", "creat", "openat"):
            return self._open(name, given, result, line)
        if name in ("pwrite64", "write", "fsync", "fdatasync", "ftruncate", "fallocate"):
            return self._to_descriptor(name, given, result, line)
        if name in ("rename", "renameat", "renameat2", "link", "linkat"):
            plain = name in ("rename", "link")
            old = self._at("", given[0]) if plain else self._at(given[0], given[1])
            new = self._at("", given[1]) if plain else self._at(given[2], given[3])
            if old is None and new is None:
                return None
            if old is None or new is None or (name == "renameat2" and given[4] not in ("0", "RENAME_NOREPLACE")):
                raise Unmodelled(line.text[:200])
            return self._make("rename" if "rename" in name else "link", old, line, name, target=new)
        if name in ("unlink", "rmdir", "mkdir", "unlinkat", "mkdirat"):
            path = self._at(given[0], given[1]) if name.endswith("at") else self._at("", given[0])
            kind = "mkdir" if name.startswith("mkdir") else "remove"
            return None if path is None else self._make(kind, path, line, name)
        if name == "lseek":
            descriptor, path = self._descriptor(given[0])
            if path is not None and (descriptor, path) in self._positions:
                self._positions[descriptor, path] = result
            return None
        touched = [self._descriptor(each)[1] for each in given]
        touched += [self._inside(_text(each)) for each in given if each.startswith('"')]
        if any(each is not None for each in touched):
            raise Unmodelled(line.text[:200])
        return None

    def _open(self, name: str, given: Sequence[str], result: int, line: _Line) -> Call | None:
        path = self._at(given[0], given[1]) if name == "openat" else self._at("", given[0])
        flags = "O_CREAT|O_TRUNC|O_WRONLY" if name == "creat" else given[2 if name == "openat" else 1]
        if path is None:
            return None
        self._positions[str(result), path] = 0
        if "O_APPEND" in flags or "O_TMPFILE" in flags:
            raise Unmodelled(line.text[:200])
        cut = 0 if "O_TRUNC" in flags else -1
        if "O_CREAT" in flags:
            return self._make("create", path, line, name, size=cut)
        return self._make("truncate", path, line, name, size=0) if cut == 0 else None

    def _to_descriptor(self, name: str, given: Sequence[str], result: int, line: _Line) -> Call | None:
        descriptor, path = self._descriptor(given[0])
        if path is None:
            return None
        if name in ("fsync", "fdatasync"):
            return self._make("sync", path, line, name)
        if name == "ftruncate":
            return self._make("truncate", path, line, name, size=int(given[1]))
        if name == "fallocate":
            if given[1] != "0":
                raise Unmodelled(line.text[:200])
            return self._make("extend", path, line, name, size=int(given[2]) + int(given[3]))
        if given[1].endswith("..."):
            raise Unmodelled("strace cut a write short")
        data = _decode(given[1].strip('"'))[:result]
        if name == "pwrite64":
            return self._make("write", path, line, name, offset=int(given[3]), data=data)
        offset = self._positions.get((descriptor, path), 0)
        self._positions[descriptor, path] = offset + len(data)
        return self._make("write", path, line, name, offset=offset, data=data)


def _decode(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _text(argument: str) -> str:
    return _decode(argument.strip('"').removesuffix('"...')).decode("utf-8", "surrogateescape")
