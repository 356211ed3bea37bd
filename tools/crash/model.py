"""What a disk holds while programs write to it: what is durable, and what is still pending. Knows no SQLite.

Contents and names are apart. A flush of a file settles what was written to it and its size, never its name; a flush of
a directory settles the names in it, never a file's content. Everything else is pending, and `states` says what a crash
may make of it. A call takes effect somewhere between its beginning and its end: a write counts as pending from its
beginning on, and a flush settles only what had ended when it began.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from crash.strace import Call, Moment

__all__ = ["SECTOR", "Directory", "Disk", "File", "FileOp", "NameOp", "Piece"]

SECTOR = 512  # bytes that a disk writes whole or not at all


@dataclass
class FileOp:
    """A pending change of a file's content or size: ``write``, ``truncate`` or ``extend``."""

    number: int
    kind: str
    offset: int
    data: bytes
    size: int
    done: bool


@dataclass(frozen=True)
class Piece:
    """The part of a pending write that falls into one sector. `op` is its place among the file's pending changes."""

    op: int
    offset: int
    data: bytes


@dataclass
class NameOp:
    """A pending change of a name: it comes to stand for `node`, or for nothing.

    `after` is the change without which this one cannot be: a rename never removes the old name before it makes the new.
    """

    number: int
    name: str
    node: int | None
    done: bool
    after: tuple[int, NameOp] | None = None  # the directory of the other change, and the change


@dataclass
class File:
    """A file: its durable content, and the changes since, in order."""

    number: int
    durable: bytearray = field(default_factory=bytearray)
    pending: list[FileOp] = field(default_factory=list)
    size: int = 0  # as programs see it
    version: int = 0  # counts the flushes
    pieces: list[Piece] = field(default_factory=list)
    sizes: list[int] = field(default_factory=lambda: [0])  # durable, then after each pending change
    _touched: set[int] = field(default_factory=set)

    def add(self, op: FileOp) -> None:
        """Put a change behind those that are pending."""
        place = len(self.pending)
        self.pending.append(op)
        if op.kind == "write":
            self.size = max(self.size, op.offset + len(op.data))
            self._cut(place, op)
        elif op.kind == "truncate":
            self.size = op.size
            # What stood behind the cut is gone, so a write of the same bytes there is no longer without effect.
            self._touched.update(range(op.size // SECTOR, len(self.durable) // SECTOR + 1))
        else:
            self.size = max(self.size, op.size)
        self.sizes.append(self.size)

    def _cut(self, place: int, op: FileOp) -> None:
        """Split a write at the sectors' borders; a part that changes nothing is left out."""
        start = op.offset
        end = op.offset + len(op.data)
        while start < end:
            stop = min(end, (start // SECTOR + 1) * SECTOR)
            data = op.data[start - op.offset : stop - op.offset]
            if start // SECTOR in self._touched or self.durable[start:stop] != data:
                self._touched.add(start // SECTOR)
                self.pieces.append(Piece(place, start, data))
            start = stop

    def settle(self, ops: Sequence[FileOp]) -> None:
        """Make pending changes durable, in order."""
        if not ops:
            return
        for op in ops:
            apply(self.durable, op)
        chosen = {id(op) for op in ops}
        left = [op for op in self.pending if id(op) not in chosen]
        self.pending, self.pieces, self._touched = [], [], set()
        self.size = len(self.durable)
        self.sizes = [self.size]
        self.version += 1
        for op in left:
            self.add(op)


def apply(content: bytearray, op: FileOp) -> None:
    """Do one change to a content."""
    if op.kind == "write":
        grow(content, op.offset)
        content[op.offset : op.offset + len(op.data)] = op.data
    elif op.kind == "truncate":
        del content[op.size :]
        grow(content, op.size)
    else:
        grow(content, op.size)


def grow(content: bytearray, size: int) -> None:
    """Make a content at least so long; what nobody wrote reads as zeros."""
    if len(content) < size:
        content.extend(bytes(size - len(content)))


@dataclass
class Directory:
    """A directory: its durable names, the changes since, and the names as programs see them."""

    number: int
    durable: dict[str, int] = field(default_factory=dict)
    pending: list[NameOp] = field(default_factory=list)
    live: dict[str, int] = field(default_factory=dict)

    def add(self, op: NameOp) -> None:
        """Put a change behind those that are pending."""
        self.pending.append(op)
        put(self.live, op)

    def settle(self, op: NameOp) -> None:
        """Make a pending change durable."""
        put(self.durable, op)
        self.pending = [each for each in self.pending if each is not op]


def put(names: dict[str, int], op: NameOp) -> None:
    """Do one change to a table of names."""
    if op.node is None:
        names.pop(op.name, None)
    else:
        names[op.name] = op.node


class Disk:
    """All files below one directory, which itself is durable.

    Args:
        flushes: what a flush settles: ``"all"``; ``"files"`` (those of directories do nothing); ``"none"``. All but
            the first are controls.
    """

    def __init__(self, flushes: str = "all") -> None:
        self.nodes: dict[int, File | Directory] = {0: Directory(0)}
        self._next = 1
        self._flushes = flushes
        self._snapshots: dict[int, tuple[int, Sequence[FileOp | NameOp]]] = {}  # flush -> node, what it settles
        self._begun: dict[int, list[FileOp | NameOp]] = {}

    @property
    def root(self) -> Directory:
        """The directory that everything is below."""
        return self.directory(0)

    def directory(self, number: int) -> Directory:
        """Return a directory by its number."""
        node = self.nodes[number]
        assert isinstance(node, Directory)
        return node

    def find(self, path: str) -> File | Directory | None:
        """Return what a path stands for, as programs see it now."""
        node: File | Directory = self.root
        for name in path.split("/") if path else ():
            if not isinstance(node, Directory) or name not in node.live:
                return None
            node = self.nodes[node.live[name]]
        return node

    def make(self, path: str, content: bytes | None) -> None:
        """Put a durable file there, or a directory (None), with those above it: where a recording begins."""
        directory = self.root
        *above, name = path.split("/")
        for each in above:
            if each not in directory.live:
                self._enter(directory, each, Directory(self._next))
            directory = self.directory(directory.live[each])
        if content is not None:
            size = len(content)
            self._enter(directory, name, File(self._next, bytearray(content), size=size, sizes=[size]))
        elif name not in directory.live:
            self._enter(directory, name, Directory(self._next))

    def _enter(self, directory: Directory, name: str, node: File | Directory) -> None:
        self.nodes[self._next] = node
        directory.live[name] = directory.durable[name] = self._next
        self._next += 1

    def apply(self, moment: Moment) -> None:
        """Take in the beginning or the end of a call."""
        call, phase = moment
        if phase in ("begin", "both"):
            self._begin(call, phase == "both")
        if phase in ("end", "both"):
            self._end(call)

    def _begin(self, call: Call, done: bool) -> None:
        begun: list[FileOp | NameOp] = []
        if call.kind == "sync":
            self._snapshot(call)
        elif call.kind in ("write", "truncate", "extend"):
            begun = self._change(call, done)
        elif call.kind != "mark":
            begun = list(self._name(call, done))
        if not done and begun:
            self._begun[call.number] = begun

    def _end(self, call: Call) -> None:
        for op in self._begun.pop(call.number, ()):
            op.done = True
        number, settled = self._snapshots.pop(call.number, (-1, []))
        node = self.nodes.get(number)
        if isinstance(node, File):
            still = {id(op) for op in node.pending}
            node.settle([op for op in settled if isinstance(op, FileOp) and id(op) in still])
        elif isinstance(node, Directory):
            for op in settled:
                if isinstance(op, NameOp):
                    self._settle_name(node, op)
            self._collect()

    def _snapshot(self, call: Call) -> None:
        node = self.find(call.path)
        wanted = {"all": (File, Directory), "files": (File,), "none": ()}[self._flushes]
        if isinstance(node, wanted):
            done: list[FileOp | NameOp] = [op for op in node.pending if op.done]
            self._snapshots[call.number] = node.number, done

    def _settle_name(self, directory: Directory, op: NameOp) -> None:
        """Make a change of a name durable, and before it those that it stands on."""
        if not any(each is op for each in directory.pending):
            return
        for earlier in [each for each in directory.pending if each.name == op.name]:
            if earlier.after is not None:
                self._settle_name(self.directory(earlier.after[0]), earlier.after[1])
            directory.settle(earlier)
            if earlier is op:
                return

    def _change(self, call: Call, done: bool) -> list[FileOp | NameOp]:
        node = self.find(call.path)
        if not isinstance(node, File):
            return []
        op = FileOp(call.number, call.kind, call.offset, call.data, max(call.size, 0), done)
        node.add(op)
        return [op]

    def _name(self, call: Call, done: bool) -> Iterator[FileOp | NameOp]:
        parent, name = self._place(call.path)
        if call.kind == "create":
            node = self.find(call.path)
            if node is None:
                yield self._new(parent, name, File(self._next), call, done)
            elif isinstance(node, File) and call.size == 0 and node.size:
                op = FileOp(call.number, "truncate", 0, b"", 0, done)
                node.add(op)
                yield op
        elif call.kind == "mkdir":
            yield self._new(parent, name, Directory(self._next), call, done)
        elif call.kind == "remove":
            yield self._add(parent, NameOp(call.number, name, None, done))
        else:
            target, new_name = self._place(call.target)
            made = self._add(target, NameOp(call.number, new_name, parent.live[name], done))
            yield made
            if call.kind == "rename":
                yield self._add(parent, NameOp(call.number, name, None, done, (target.number, made)))

    def _place(self, path: str) -> tuple[Directory, str]:
        above, _, name = path.rpartition("/")
        directory = self.find(above)
        assert isinstance(directory, Directory), path
        return directory, name

    def _new(self, parent: Directory, name: str, node: File | Directory, call: Call, done: bool) -> NameOp:
        self.nodes[self._next] = node
        self._next += 1
        return self._add(parent, NameOp(call.number, name, node.number, done))

    def _add(self, directory: Directory, op: NameOp) -> NameOp:
        directory.add(op)
        return op

    def _collect(self) -> None:
        """Forget what no name can stand for any more."""
        reached: set[int] = set()
        waiting = [0]
        while waiting:
            number = waiting.pop()
            if number in reached:
                continue
            reached.add(number)
            node = self.nodes[number]
            if isinstance(node, Directory):
                waiting += [*node.durable.values(), *node.live.values()]
                waiting += [op.node for op in node.pending if op.node is not None]
        for number in set(self.nodes) - reached:
            del self.nodes[number]
